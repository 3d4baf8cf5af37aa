"""The one place where forward passes are read: `torch.nn.functional.scaled_dot_product_attention`.

While at least one `reading` is open, `_dispatch` stands in the place of torch's function. How one
call of attention goes through this file:

1. a hook on each followed module (`_Session._before`) notes which module runs, and switches on an
   `EagerAttention` mode, which hands calls that are written out to `_serve_eager`;
2. `_dispatch` passes calls of modules that are not followed on, and makes an `AttentionCall` of
   the others;
3. `_serve` lets each open reading intervene, computes the call once, and has each record it;
4. the hook after the module (`_Session._after`) returns the weights that the caller asked for.
"""

import threading
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.reading.attention_call import (
    Attention,
    AttentionCall,
    Trace,
    as_call,
    at_least_float32,
    split_heads,
    with_row_weights,
)
from heatproof.reading.blocks import block_path
from heatproof.reading.compiled import as_python
from heatproof.reading.eager_attention import EagerAttention
from heatproof.reading.hooks import hooked
from heatproof.reading.interventions import Intervention

_native = F.scaled_dot_product_attention  # or what stands there when the first reading opens
_lock = threading.Lock()
_open_readings = 0
_thread = threading.local()


@contextmanager
def reading(
    module: nn.Module,
    paths: Collection[str] | None = None,
    *,
    weights: bool = False,
    rows: Int[Tensor, " item"] | None = None,
    start: str | None = None,
    interventions: Mapping[str, Intervention] | None = None,
    last: bool = False,
) -> Generator[Trace]:
    """Read the attention calls of `module`'s own forward pass, run once inside this context.

    paths: which calls to read, by module path (all of them by default, which also turns off every
        fast path). Only calls that are read or intervened on leave the fused kernels, and only
        modules around them leave what `nn.Module.compile` made of them.
    weights: materialise the weights of the calls that are read.
    rows: of these weights, one query row per item is all that is asked for. The fused kernel stays
        on, and the row is a leaf of its own: see `with_row_weights`.
    start: the path of the first call that gradients must reach. Everything before it runs without
        a graph; its weights (its output, where no weights are asked for) are the leaves. Inside
        the call and after it, until the context ends, gradients are on. Without `start`, the
        caller's grad mode stands.
    interventions: what is done to the calls at a path (`path#1`: to its second one). Readings may
        be nested: the outer one's interventions are part of the model that the inner one reads.
    last: intervene after all other readings, inner ones too, so that none can undo it.

    Raises:
        ReadingError: wrapped by torch.compile, scripted or training modules; a path that no
            attention passed.
    """
    refuse_unreadable(module)
    if start is not None and torch.is_inference_mode_enabled():
        raise ReadingError(
            "gradients are asked for inside torch.inference_mode, which forbids them; "
            "leave it (torch.no_grad may stay)"
        )
    session = _Session(module, paths, weights, rows, start, interventions or {}, last)
    with ExitStack() as stack:
        # Compiled code would call the function that stood there when it was compiled.
        stack.enter_context(as_python(module, None if paths is None else session.modules()))
        stack.enter_context(_dispatching(session))
        stack.enter_context(session.hooked())
        if start is not None:
            stack.enter_context(torch.no_grad())
        yield session.trace
        session.check_reached()


def refuse_unreadable(module: nn.Module) -> None:
    """Check that Python runs the module's forward pass, and not for training.

    Raises:
        ReadingError: a part is scripted, wrapped by torch.compile, or in training mode.
    """
    for name, part in module.named_modules():
        where = f"module {name!r}" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule):
            raise ReadingError(
                f"{where} is TorchScript, which cannot be read; pass the Python model"
            )
        if hasattr(part, "_orig_mod") or hasattr(part.forward, "_torchdynamo_orig_callable"):
            raise ReadingError(
                f"{where} is compiled by torch.compile, which hides its attention; "
                "pass the module that was given to torch.compile, or call its .compile() instead"
            )
        if part.training:
            raise ReadingError(
                f"{where} is in training mode (dropout is on); call model.eval() first"
            )


class _Session:
    """One open reading: where the pass is now, and what was read so far."""

    def __init__(
        self,
        module: nn.Module,
        paths: Collection[str] | None,
        weights: bool,
        rows: Tensor | None,
        start: str | None,
        interventions: Mapping[str, Intervention],
        last: bool,
    ) -> None:
        self.module, self.last = module, last
        self.paths = None if paths is None else set(paths)
        self.weights = weights
        self.rows = rows
        self.start = start
        self.interventions = interventions
        self.trace = Trace()
        # The followed modules that are running now, the innermost one last.
        self.running: list[tuple[str, nn.Module]] = []
        # How many calls each module has made in this context.
        self.calls: dict[str, int] = {}
        self.mode: EagerAttention | None = None
        self.reached: list[str] = []
        # `nn.MultiheadAttention`s whose caller asked for weights, and whether for their average.
        self.owed_weights: dict[str, bool] = {}
        self.last_weights: Tensor | None = None

    # --- which module runs -----------------------------------------------------------------

    @contextmanager
    def hooked(self) -> Generator[None]:
        named = dict(self.module.named_modules())
        wanted = self.modules()
        for path in sorted(wanted - set(named)):
            self._refuse_path(path, named)
        # The modules inside the chosen ones are followed too: a call is its innermost module's.
        chosen = [
            path
            for path in named
            if self.paths is None or path in wanted or wanted & set(_outer_paths(path))
        ]
        with ExitStack() as stack:
            # A KeyboardInterrupt skips the hooks after modules, which would have closed the mode.
            stack.callback(self._close_mode)
            for path in chosen:
                before, after = self._before(path), self._after(path)
                stack.enter_context(hooked(named[path], before=before, after=after, always=True))
            yield

    def modules(self) -> set[str]:
        """Return the paths of the modules whose calls are asked for."""
        return {_module_path(path) for path in self._asked()}

    def _asked(self) -> set[str]:
        """Return every path that the caller names: attention must pass through each of them."""
        return {*(self.paths or ()), *self.interventions, *([self.start] if self.start else [])}

    def _refuse_path(self, path: str, named: Mapping[str, nn.Module]) -> None:
        # A module with two names is listed, and hooked, under its first one alone.
        part = dict(self.module.named_modules(remove_duplicate=False)).get(path)
        other = next((name for name, known in named.items() if known is part), None)
        hint = "" if other is None else f"; it is the same module as {other!r}: ask for that one"
        raise ReadingError(f"the model has no module {path!r} whose attention could be read{hint}")

    def _before(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            self._open_mode()
            self.running.append((path, module))
            if isinstance(module, nn.MultiheadAttention):
                return self._ask_for_no_weights(path, args, kwargs)
            return None

        return hook

    def _ask_for_no_weights(self, path: str, args: Any, kwargs: Any) -> Any:
        """Have an `nn.MultiheadAttention` give no weights; `_after` returns them in their place."""
        # Asked for weights, it computes attention itself and never calls the function that is read.
        names = ("need_weights", "attn_mask", "average_attn_weights")
        asked = dict(zip(names, args[4:], strict=False)) | kwargs
        if not asked.get("need_weights", True):
            return None
        self.owed_weights[path] = asked.get("average_attn_weights", True)
        if len(args) > 4:
            return (*args[:4], False, *args[5:]), kwargs
        return args, kwargs | {"need_weights": False}

    def _after(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            del args, kwargs
            if all(module is not part for _, part in self.running):
                return None  # somebody else's hook failed before `_before` could run
            # Modules inside this one whose forward failed, and whose error it caught, go as well.
            while self.running.pop()[1] is not module:
                pass
            if not self.running:
                self._close_mode()
            average = self.owed_weights.pop(path, None)
            weights, self.last_weights = self.last_weights, None
            if average is None or output is None or weights is None:
                return None
            return output[0], _returned_weights(weights, output[0], average)

        return hook

    def _open_mode(self) -> None:
        if self.mode is None:
            self.mode = EagerAttention(_serve_eager, _dispatch)
            self.mode.__enter__()

    def _close_mode(self) -> None:
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None

    # --- one call ---------------------------------------------------------------------------

    @property
    def path(self) -> str | None:
        """Return the key of the call being made; None where this reading's model is not running."""
        if not self.running:
            return None
        path = self.running[-1][0]
        count = self.calls.get(path, 0)
        return f"{path}#{count}" if count else path

    def reads(self, path: str) -> bool:
        return self.paths is None or path in self.paths

    def intervene(self, call: AttentionCall) -> AttentionCall:
        path = cast(str, self.path)
        # A plain path means every call there, of later passes in this context too.
        change = self.interventions.get(path, self.interventions.get(_module_path(path)))
        if change is None:
            return call
        try:
            return change(call)
        except ValueError as error:
            raise ReadingError(f"intervention on {path!r}: {error}") from error

    def wants_weights(self, call: AttentionCall, native: torch.dtype) -> bool:
        """Return whether all weights are asked for."""
        all_rows = self._reads_weights() and not self.wants_rows(call, native)
        return all_rows or self.running[-1][0] in self.owed_weights

    def wants_rows(self, call: AttentionCall, native: torch.dtype) -> bool:
        """Return whether one row of the weights of each item is all that is asked for.

        native: the dtype that the model computes this call in.
        """
        # A fused kernel in low precision rounds: its output is not the sum of these weights.
        exact = native.itemsize >= torch.float32.itemsize
        # A pool has one query, and not that of the tokens' readout.
        several = call.query.shape[2] > 1
        same = self.rows is not None and len(self.rows) == len(call.query)
        return self._reads_weights() and exact and several and same

    def _reads_weights(self) -> bool:
        return self.weights and self.reads(cast(str, self.path))

    def starts(self) -> bool:
        return self.start is not None and self.path == self.start

    def record(self, call: AttentionCall, weights: Tensor | None, output: Tensor) -> None:
        """Count a call that was computed, and add it to the trace if it is read."""
        path, (name, module) = cast(str, self.path), self.running[-1]
        self.reached.append(path)
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.owed_weights and weights is not None:
            self.last_weights = weights
        if self.reads(path):
            self.trace.add(
                Attention(
                    path=path,
                    module=module,
                    query=call.query,
                    key=call.key,
                    value=call.value,
                    weights=weights if self.weights else None,
                    output=output,
                    projection=_own_projection(module),
                    block=block_path(self.module, path),
                )
            )

    def check_reached(self) -> None:
        """Raise a `ReadingError` where a path that was named saw no attention."""
        missed = self._asked() - set(self.reached)
        if missed:
            seen = ", ".join(map(repr, self.reached))
            raise ReadingError(
                f"no attention passed through {min(missed)!r} in this forward pass; "
                f"calls were seen at: {seen or 'no other path'}"
            )


def _own_projection(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return the output projection of a module that multiplies by it itself."""
    if not isinstance(module, nn.MultiheadAttention):
        return None
    # A copy, as they are now: LoRA's wrappers put weights in for the call and take them out again.
    weight, bias = module.out_proj.weight, module.out_proj.bias
    return weight.detach().clone(), None if bias is None else bias.detach().clone()  # pyright: ignore[reportUnnecessaryComparison]


# --- the dispatcher -------------------------------------------------------------------------


@contextmanager
def _dispatching(session: _Session) -> Generator[None]:
    global _open_readings, _native
    sessions: list[_Session] = _thread.__dict__.setdefault("sessions", [])
    with _lock:
        # The first reading of any thread puts the dispatcher in, the last one takes it out: those
        # in between may close in any order.
        if _open_readings == 0:
            _native = F.scaled_dot_product_attention
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


def readings_open() -> bool:
    """Return whether this thread reads or intervenes on anything now."""
    return bool(_thread.__dict__.get("sessions"))


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
    """Stand in for torch's function: same operands, same result."""
    if not _running_sessions():
        return _native(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if dropout_p > 0:
        raise ReadingError(f"attention dropout of {dropout_p} is on; call model.eval() first")
    if query.is_nested or query.dim() not in (3, 4):
        shape = "a nested tensor" if query.is_nested else tuple(query.shape)
        raise ReadingError(f"got queries of shape {shape}, expected (batch, head, query, channel)")
    call = as_call(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    output = _serve(call)
    return output.squeeze(1) if query.dim() == 3 else output


def _serve_eager(call: AttentionCall, weights: Tensor) -> Tensor:
    return _serve(call, weights)


def _serve(call: AttentionCall, own_weights: Tensor | None = None) -> Tensor:
    """Intervene, compute once, record: for every reading whose model makes this call.

    own_weights: those that the model wrote out itself.
    """
    sessions = _running_sessions()
    dtype = _returned_dtype(call)
    with _modes_paused(sessions):
        untouched = call
        # The outer reading's interventions come first, but for those that must be last.
        for session in sorted(sessions, key=lambda one: one.last):
            call = session.intervene(call)
        if own_weights is not None and _same_weights(call, untouched):
            # Taken as they are: the model may have rounded or masked in a way of its own.
            call = call.change(weights=own_weights)
        leaf = any(session.starts() for session in sessions)
        if leaf:
            torch.set_grad_enabled(True)  # `reading` restores the caller's mode at its end
        native = call.query.dtype
        call = call.at_least_float32()
        weights = None
        several = (
            sum(session.wants_rows(call, native) for session in sessions) > 1
        )  # and not the same ones
        if several or any(session.wants_weights(call, native) for session in sessions):
            weights, output = _from_weights(call, leaf)
        else:
            output = _without_weights(call, native, leaf)
            rows = [session.rows for session in sessions if session.wants_rows(call, native)]
            if rows and rows[0] is not None:
                weights, output = with_row_weights(call, rows[0], output)
        for session in sessions:
            session.record(call, weights, output)
        return split_heads(output, call.heads_out).to(dtype)


def _same_weights(call: AttentionCall, other: AttentionCall) -> bool:
    """Return whether nothing differs that weights are made from."""
    return (
        call.query is other.query
        and call.key is other.key
        and call.mask is other.mask
        and call.weights is other.weights
        and (call.is_causal, call.scale) == (other.is_causal, other.scale)
    )


@contextmanager
def _modes_paused(sessions: Collection[_Session]) -> Generator[None]:
    """Keep the reading's own softmax and product from being taken for the model's."""
    modes = [session.mode for session in sessions if session.mode is not None]
    for mode in modes:
        mode.paused = True
    try:
        yield
    finally:
        for mode in modes:
            mode.paused = False


def _from_weights(call: AttentionCall, leaf: bool) -> tuple[Tensor, Tensor]:
    """Compute weights and output by head, at least in float32; the weights are leaves if asked."""
    with torch.autocast(call.query.device.type, enabled=False):
        weights = call.softmax() if call.weights is None else call.weights
        weights = weights.to(call.value.dtype)
        if leaf:
            weights = weights.detach().requires_grad_()
        return weights, weights @ call.value


def _without_weights(call: AttentionCall, native: torch.dtype, leaf: bool) -> Tensor:
    """Compute the output by head by the model's own kernel, in the dtype of the model."""
    if call.weights is None:
        output = at_least_float32(_fused_kernel(call, native))
    else:
        output = _from_weights(call, leaf=False)[1]
    return output.detach().requires_grad_() if leaf else output


def _fused_kernel(call: AttentionCall, native: torch.dtype) -> Tensor:
    mask, is_causal = call.mask, call.is_causal
    if mask is not None and is_causal:  # torch's kernel takes one or the other
        mask, is_causal = call.whole_mask(), False
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(native)
    query, key, value = (t.to(native) for t in (call.query, call.key, call.value))
    return _native(query, key, value, mask, is_causal=is_causal, scale=call.scale)


def _returned_weights(weights: Tensor, output: Tensor, average: bool) -> Tensor:
    """Return weights in the dtype and shape that `nn.MultiheadAttention` returns them in."""
    weights = (weights.mean(1) if average else weights).to(output.dtype)
    return weights.squeeze(0) if output.dim() == 2 else weights


def _returned_dtype(call: AttentionCall) -> torch.dtype:
    # Torch's function is on autocast's list: outside a reading it would return autocast's dtype.
    device, dtype = call.value.device.type, call.value.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


def _module_path(path: str) -> str:
    return path.split("#")[0]


def _outer_paths(path: str) -> Iterator[str]:
    """Yield the paths of the modules that hold the one at `path`, the root's (empty) included."""
    while path:
        path = path.rpartition(".")[0]
        yield path
