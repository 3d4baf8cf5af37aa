"""The one place where forward passes are read: `torch.nn.functional.scaled_dot_product_attention`.

A `reading` is a context manager. While at least one is open, the torch function is replaced by a
dispatcher that serves the readings of its own thread and passes every other call on untouched.
Forward hooks tell which module is calling; a `TorchFunctionMode`, pushed while a read module runs,
turns `nn.MultiheadAttention`'s fast path off there alone and recognises attention that is written
out as softmax and product. All of it is gone when the context ends, whatever ended it.
"""

import threading
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.reading.call import (
    Attention,
    AttentionCall,
    Kernel,
    at_least_float32,
    merge_heads,
    split_heads,
)
from heatproof.reading.interventions import Intervention
from heatproof.reading.written_out import Recogniser

_native = F.scaled_dot_product_attention
_lock = threading.Lock()
_open_readings = 0
_thread = threading.local()


class Trace(Mapping[str, Attention]):
    """The attention calls of one forward pass by module path, in the order in which they ran.

    A module that calls attention again within the pass appears again as `path#1`, `path#2`, ...
    """

    def __init__(self) -> None:
        self._layers: dict[str, Attention] = {}

    def __getitem__(self, path: str) -> Attention:
        return self._layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def layers(self) -> tuple[Attention, ...]:
        return tuple(self._layers.values())

    def add(self, layer: Attention) -> None:
        self._layers[layer.path] = layer


@contextmanager
def reading(
    module: nn.Module,
    paths: Collection[str] | None = None,
    *,
    weights: bool = False,
    start: str | None = None,
    interventions: Mapping[str, Intervention] | None = None,
) -> Generator[Trace]:
    """Read the attention calls of `module`'s own forward pass, run once inside this context.

    Args:
        paths: which calls to read, by module path (all of them by default, which also turns off
            every fast path). Only calls that are read or intervened on leave the fused kernels.
        weights: materialise the weights of the calls that are read.
        start: the path of the first call that gradients must reach. Everything before it runs
            without a graph; its weights (its output, where no weights are asked for) are the
            leaves. Without it, the caller's grad mode stands.
        interventions: what is done to a call, by path. Readings may be nested: the outer one's
            interventions are part of the model that the inner one reads.

    Raises:
        ReadingError: compiled, scripted or training modules; a path that no attention passed.
    """
    refuse_unreadable(module)
    session = _Session(module, paths, weights, start, interventions or {})
    with ExitStack() as stack:
        stack.enter_context(_dispatching(session))
        stack.enter_context(session.hooked())
        if start is not None:
            stack.enter_context(torch.no_grad())
        yield session.trace
        session.check_reached()


def refuse_unreadable(module: nn.Module) -> None:
    """Raise a `ReadingError` for modules whose forward pass python does not run, or trains."""
    for name, part in module.named_modules():
        where = f"module {name!r}" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule):
            raise ReadingError(
                f"{where} is TorchScript, which cannot be read; pass the python model"
            )
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise ReadingError(
                f"{where} is compiled by torch.compile, which hides its attention; "
                "pass the module that was given to torch.compile"
            )
    if module.training:
        raise ReadingError("the model is in training mode (dropout is on); call model.eval() first")


class _Session:
    """What one open reading holds: where the pass is now, and what was read so far."""

    def __init__(
        self,
        module: nn.Module,
        paths: Collection[str] | None,
        weights: bool,
        start: str | None,
        interventions: Mapping[str, Intervention],
    ) -> None:
        self.module = module
        self.paths = None if paths is None else set(paths)
        self.weights = weights
        self.start = start
        self.interventions = interventions
        self.trace = Trace()
        self.thread = threading.get_ident()
        self.running: list[tuple[str, nn.Module]] = []
        self.calls: dict[str, int] = {}
        self.mode: Recogniser | None = None
        self.reached: set[str] = set()
        self.owed_weights: dict[str, bool] = {}

    # --- which module runs -----------------------------------------------------------------

    @contextmanager
    def hooked(self) -> Generator[None]:
        named = dict(self.module.named_modules())
        wanted = None if self.paths is None else self.paths | set(self.interventions)
        chosen = named if wanted is None else {_module_path(p) for p in wanted}
        missing = sorted(set(chosen) - set(named))
        if missing:
            raise ReadingError(
                f"the model has no module {missing[0]!r} whose attention could be read"
            )
        with ExitStack() as stack:
            # A KeyboardInterrupt skips the modules' own post-hooks: close what they would have.
            stack.callback(self._close_mode)
            for path in chosen:
                part = named[path]
                before = part.register_forward_pre_hook(self._before(path), with_kwargs=True)
                stack.callback(before.remove)
                after = part.register_forward_hook(
                    self._after(path), with_kwargs=True, always_call=True
                )
                stack.callback(after.remove)
            yield

    def _before(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != self.thread:
                return None
            self._open_mode()
            self.running.append((path, module))
            if isinstance(module, nn.MultiheadAttention):
                return self._ask_for_no_weights(path, args, kwargs)
            return None

        return hook

    def _ask_for_no_weights(self, path: str, args: Any, kwargs: Any) -> Any:
        """With weights, `nn.MultiheadAttention` leaves the function that is read: ask for none."""
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask",
                 "average_attn_weights", "is_causal")  # fmt: skip
        asked = dict(zip(names, args, strict=False)) | kwargs
        if not asked.get("need_weights", True):
            return None
        self.owed_weights[path] = asked.get("average_attn_weights", True)
        return (), asked | {"need_weights": False}

    def _after(self, path: str) -> Any:
        def hook(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
            if threading.get_ident() != self.thread:
                return None
            while self.running:
                if self.running.pop()[1] is module:
                    break
            if not self.running:
                self._close_mode()
            if output is None or path not in self.owed_weights:
                return None
            average, weights = self.owed_weights.pop(path), self._last_weights
            return output[0], weights.mean(1) if average else weights

        return hook

    def _open_mode(self) -> None:
        if self.mode is None:
            self.mode = Recogniser(_serve_written_out)
            self.mode.__enter__()

    def _close_mode(self) -> None:
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None

    # --- one call ---------------------------------------------------------------------------

    @property
    def path(self) -> str | None:
        """The key of the call being made; None where this reading's model is not running."""
        if not self.running:
            return None
        path = self.running[-1][0]
        count = self.calls.get(path, 0)
        return f"{path}#{count}" if count else path

    def reads(self, path: str) -> bool:
        return self.paths is None or path in self.paths

    def intervene(self, call: AttentionCall) -> AttentionCall:
        path = cast(str, self.path)
        change = self.interventions.get(path)
        if change is None:
            return call
        self.reached.add(path)
        try:
            return change(call)
        except ValueError as error:
            raise ReadingError(f"intervention on {path!r}: {error}") from error

    def wants_weights(self) -> bool:
        path = cast(str, self.path)
        return (self.weights and self.reads(path)) or self.running[-1][0] in self.owed_weights

    def starts(self) -> bool:
        return self.start is not None and self.path == self.start

    def record(self, call: AttentionCall, weights: Tensor | None, output: Tensor) -> None:
        path, (name, module) = cast(str, self.path), self.running[-1]
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.owed_weights and weights is not None:
            self._last_weights = weights
        if self.reads(path):
            kept = weights if self.weights else None
            self.trace.add(Attention(path, module, call.query, call.key, call.value, kept, output))

    def check_reached(self) -> None:
        missed = (self.paths or set()) - set(self.trace)
        missed |= set(self.interventions) - self.reached
        if missed and (self.calls or self.paths):
            raise ReadingError(
                f"no attention passed through {min(missed)!r} in this forward pass; "
                f"calls were seen at: {', '.join(self.trace) or 'no other path'}"
            )


# --- the dispatcher -------------------------------------------------------------------------


@contextmanager
def _dispatching(session: _Session) -> Generator[None]:
    global _open_readings
    sessions: list[_Session] = _thread.__dict__.setdefault("sessions", [])
    with _lock:
        _open_readings += 1
        F.scaled_dot_product_attention = _dispatch
    sessions.append(session)
    try:
        yield
    finally:
        sessions.remove(session)
        with _lock:
            _open_readings -= 1
            if _open_readings == 0:
                F.scaled_dot_product_attention = _native


def _running_sessions() -> list[_Session]:
    sessions: list[_Session] = _thread.__dict__.get("sessions", [])
    return [session for session in sessions if session.running]


def _dispatch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Stands in for torch's function: same operands, same result."""
    if not _running_sessions():
        return _native(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if dropout_p > 0:
        raise ReadingError(f"attention dropout of {dropout_p} is on; call model.eval() first")
    if query.is_nested or query.dim() not in (3, 4):
        shape = "a nested tensor" if query.is_nested else tuple(query.shape)
        raise ReadingError(f"got queries of shape {shape}, expected (batch, head, query, channel)")
    call = _as_call(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    output = _serve(call, _fused_kernel)
    return output.squeeze(1) if query.dim() == 3 else output


def _as_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    grouped: bool,
) -> AttentionCall:
    if query.dim() == 3:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        mask = mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask
    if grouped:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return AttentionCall(query, key, value, mask, is_causal, factor, query.shape[1])


def _fused_kernel(call: AttentionCall) -> Tensor:
    mask = call.mask
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(call.query.dtype)
    return _native(
        call.query, call.key, call.value, mask, is_causal=call.is_causal, scale=call.scale
    )


def _written_out_kernel(call: AttentionCall) -> Tensor:
    return call.softmax().to(call.value.dtype) @ call.value


def _serve_written_out(call: AttentionCall) -> Tensor:
    return _serve(call, _written_out_kernel)


def _serve(call: AttentionCall, kernel: Kernel) -> Tensor:
    """Intervene, compute once, record: for every reading whose model makes this call."""
    sessions = _running_sessions()
    dtype = _returned_dtype(call)
    with _recognisers_paused(sessions):
        for session in sessions:
            call = session.intervene(call)
        leaf = any(session.starts() for session in sessions)
        if leaf:
            torch.set_grad_enabled(True)
        with_weights = any(session.wants_weights() for session in sessions)
        weights, output = _compute(call, kernel, with_weights, leaf)
        for session in sessions:
            session.record(call, weights, output)
        return split_heads(output, call.heads_out).to(dtype)


@contextmanager
def _recognisers_paused(sessions: Collection[_Session]) -> Generator[None]:
    """Our own softmax and product must not be taken for the model's."""
    modes = [session.mode for session in sessions if session.mode is not None]
    for mode in modes:
        mode.paused = True
    try:
        yield
    finally:
        for mode in modes:
            mode.paused = False


def _compute(
    call: AttentionCall, kernel: Kernel, with_weights: bool, leaf: bool
) -> tuple[Tensor | None, Tensor]:
    """Weights (or None) and output by head, at least in float32; leaves of the graph if asked."""
    if not with_weights and call.weights is None:
        output = at_least_float32(kernel(call))
        return None, output.detach().requires_grad_() if leaf else output
    with torch.autocast(call.query.device.type, enabled=False):
        weights = call.softmax() if call.weights is None else call.weights
        value = at_least_float32(call.value)
        if leaf:
            weights = weights.detach().requires_grad_()
        return weights, weights.to(value.dtype) @ value


def _returned_dtype(call: AttentionCall) -> torch.dtype:
    device = call.query.device.type
    if torch.is_autocast_enabled(device) and call.query.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return call.query.dtype


def _module_path(path: str) -> str:
    return path.split("#")[0]


__all__ = ["Trace", "merge_heads", "reading", "refuse_unreadable"]
