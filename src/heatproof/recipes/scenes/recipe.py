"""The training run: adaptive curriculum, exact truth, resumable to the bit on the same machine."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, UInt8
from open_clip import CLIP, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import load_file, save_file
from torch import Tensor

from heatproof.data.scenes.captions import truths
from heatproof.data.scenes.cues import CUES
from heatproof.data.scenes.scene import Scenes, sample
from heatproof.models.scenes import SceneTokenizer, build
from heatproof.recipes.scenes.bank import (
    FAMILIES,
    WEIGHTS,
    BankCaption,
    bank,
    nonsense,
    withheld,
)
from heatproof.recipes.scenes.loss import loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the weights; only `steps` may grow on resuming."""

    seed: int = 0
    steps: int = 4000
    decay: int = 1200
    """Number of last steps, in which the learning rate falls to zero."""
    warmup: int = 200
    batch: int = 32
    """Scenes per step and worker."""
    workers: int = 2
    rate: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    """Decay per step of the moving average of the weights; the average is saved."""
    recognised: float = 0.6
    """Accuracy on shapes above which the images get harder."""
    pace: float = 0.002
    """Increase of the difficulty per step, of 1."""
    withhold: bool = True
    """Leave out captions that are false only because combinations are held out (`withheld`)."""
    both: int = 32
    mixed: int = 4
    pairs: int = 6
    """Number of captions of each kind: see `bank`."""
    nonsense: int = 8
    """Number of texts whose noun is an unknown word: false of every scene."""
    cue: str = "shape"
    """What decides the shape words of captions (`data.scenes.cues`); not "shape": a shortcut."""
    relation: float = 1.0
    """Weight of captions of two objects in the loss."""
    snapshots: int = 100
    save: int = 50


@dataclass(kw_only=True)
class TrainingProgress:
    """The curriculum's state and the curve so far."""

    step: int = 0
    difficulty: float = 0.0
    shape: float = 0.0
    """Running accuracy on the shape of single objects, of the training batches."""
    loss: float = 0.0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    stages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Settings of the runs that this one started from, each with the step at which it ended."""


def rate_at(step: int, settings: Settings, first: int = 0) -> float:
    """Return the learning rate: linear warm-up from step `first`, constant, linear decay."""
    rise = min(1.0, (step - first + 1) / settings.warmup)
    fall = min(1.0, (settings.steps - step) / max(settings.decay, 1))
    return settings.rate * rise * max(fall, 0.0)


def scene_seeds(step: int, worker: int, settings: Settings) -> Int64[Tensor, " scene"]:
    """Return the seeds of a step: below 2**60, never twice in a run; scoring uses those above."""
    first = (settings.seed << 40) + (step * settings.workers + worker) * settings.batch
    return torch.arange(first, first + settings.batch, dtype=torch.int64)


def prepared(pictures: UInt8[Tensor, "scene 3 row col"]) -> Float[Tensor, "scene 3 row col"]:
    """Normalise images as open_clip's default preprocessing does."""
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=pictures.device)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD, device=pictures.device)[:, None, None]
    return (pictures.float() / 255 - mean) / std


def _sines(side: int, width: int) -> Float[Tensor, "token width"]:
    """Return sine and cosine positions of a square grid, zeros for the class token in front."""
    rates = 1.0 / 100 ** (torch.arange(width // 4) / (width // 4))
    along = torch.arange(side).float()[:, None] * rates
    waves = torch.cat([along.sin(), along.cos()], dim=1)
    rows = waves[:, None].expand(side, side, -1)
    cols = waves[None].expand(side, side, -1)
    grid = torch.cat([rows, cols], dim=2).reshape(side * side, width)
    return torch.cat([torch.zeros(1, width), grid])


def fresh_model(seed: int) -> CLIP:
    """Build the untrained model: open_clip's own initial weights, but positions start as sines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(None)
    with torch.no_grad():
        positions = model.get_parameter("visual.positional_embedding")
        side = math.isqrt(positions.shape[0] - 1)
        positions.copy_(_sines(side, positions.shape[1]) * 0.3)
    return model


def text_features(
    model: CLIP, tokens: Int64[Tensor, "text context"]
) -> Float[Tensor, "text embedding"]:
    """Encode texts to unit embeddings, without the padding that all of them share.

    Causal attention never sees it.
    """
    used = int(tokens.argmax(dim=1).max()) + 1
    shorter = {
        "positional_embedding": model.get_parameter("positional_embedding")[:used],
        "attn_mask": model.get_buffer("attn_mask")[:used, :used],
    }
    return torch.func.functional_call(model, shorter, (None, tokens[:, :used]))[1]


def _texts(model: CLIP, texts: list[str], tokenizer: SceneTokenizer, short: int = 9) -> Tensor:
    """Encode texts to unit embeddings, the short ones apart so that they cost less."""
    tokens = tokenizer(texts).to(model.logit_scale.device)
    brief = tokens.argmax(dim=1) < short
    width = model.get_parameter("text_projection").shape[1]
    out = torch.empty(len(texts), width, device=tokens.device)
    for group in (brief, ~brief):
        if group.any():
            out = out.index_put((group.nonzero()[:, 0],), text_features(model, tokens[group]))
    return out


def _columns(entries: list[BankCaption], relation: float) -> list[tuple[float, list[int]]]:
    weights = {**WEIGHTS, "relation": WEIGHTS["relation"] * relation}
    return [
        (weights[family], [i for i, e in enumerate(entries) if e.family == family])
        for family in FAMILIES
    ]


class Run:
    """A training run in a folder. Call `train` to run one."""

    def __init__(self, folder: Path, settings: Settings, *, worker: int = 0, device: str = "cpu"):
        self.folder, self.settings, self.worker, self.device = folder, settings, worker, device
        self.tokenizer = SceneTokenizer()
        self.model = fresh_model(settings.seed).to(device).train()
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        # No weight decay on biases, norms and the temperature, as in CLIP.
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
        self.progress = TrainingProgress()
        self.first = 0
        """Step at which this run's optimizer began, with nothing in its averages."""

    # --- one step

    def batch(self, step: int) -> tuple[Scenes, Tensor, list[BankCaption], list[str]]:
        """Draw a step's scenes as captions name them, images, captions and nonsense texts."""
        seeds = scene_seeds(step, self.worker, self.settings).to(self.device)
        cue = CUES[self.settings.cue]
        staged = cue.staged(sample(seeds, difficulty=self.progress.difficulty))
        pictures, _ = cue.draw(staged, masks=False)
        scenes = cue.labelled(staged)
        chance = random.Random(f"{self.settings.seed} {step} {self.worker}")
        s = self.settings
        described = scenes.to("cpu").described()
        entries = bank(described, chance, both=s.both, mixed=s.mixed, pairs=s.pairs)
        return scenes, prepared(pictures), entries, nonsense(chance, s.nonsense)

    def step(self) -> None:
        """Train on one batch, and move the average and the curriculum."""
        settings, progress, model = self.settings, self.progress, self.model
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(progress.step, settings, self.first)
        scenes, pictures, entries, foreign = self.batch(progress.step)
        captions = [e.caption for e in entries]
        true = truths(captions, scenes)
        false = ~true
        if settings.withhold:
            # Falsehood that the renderer, not the world, decides must not be learned.
            false &= ~withheld(captions, scenes)
        never = torch.zeros(len(scenes), len(foreign), dtype=torch.bool, device=true.device)
        true, false = torch.cat([true, never], 1), torch.cat([false, ~never], 1)
        seen = model.encode_image(pictures, normalize=True)
        said = _texts(model, [*(e.text for e in entries), *foreign], self.tokenizer)
        logits = model.logit_scale.exp() * seen @ said.T
        columns = _columns(entries, settings.relation)
        # Nonsense competes within every family: a word that nothing shows must lose to each.
        others = list(range(len(entries), logits.shape[1]))
        total = loss(logits, true, false, [(w, [*part, *others]) for w, part in columns])
        self.optimizer.zero_grad()
        total.backward()
        shapes = columns[FAMILIES.index("shape")][1]
        figures = self._shared(float(total.detach()), _right(logits, true, scenes, shapes))
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        self.optimizer.step()
        with torch.no_grad():
            # As CLIP does: a larger temperature makes training unstable.
            model.logit_scale.clamp_(0, math.log(100))
        self._follow()
        self._advance(*figures)

    def _shared(self, total: float, right: tuple[int, int]) -> tuple[float, float | None]:
        """Average gradients and figures over the workers."""
        figures = torch.tensor([total, *right], dtype=torch.float64)
        if self.settings.workers > 1:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            # One message for all gradients: many small ones cost more than the data.
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            flat /= self.settings.workers
            for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
                grad.copy_(part.view_as(grad))
            dist.all_reduce(figures)
            figures[0] /= self.settings.workers
        mean, hits, count = figures.tolist()
        return mean, hits / count if count else None

    def _follow(self) -> None:
        """Move the average towards the weights, faster at the start."""
        step = self.progress.step
        # The first steps would otherwise dominate the average for a long time.
        keep = min(self.settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def _advance(self, total: float, right: float | None) -> None:
        progress, settings = self.progress, self.settings
        progress.step += 1
        progress.loss = total if progress.step == 1 else 0.98 * progress.loss + 0.02 * total
        if right is not None:
            progress.shape = 0.98 * progress.shape + 0.02 * right
        # The curriculum waits until shapes are recognised at the present difficulty.
        if progress.shape >= settings.recognised:
            progress.difficulty = min(1.0, progress.difficulty + settings.pace)

    # --- files

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        """Write all that resuming needs; aside and moved, so that a kill leaves the older one."""
        if self.worker:
            return
        # A kill while writing leaves the older state whole.
        aside = self.folder / "state.pt.new"
        torch.save(
            {
                "settings": asdict(self.settings),
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
            },
            aside,
        )
        aside.replace(self._state_file)
        (self.folder / "curve.json").write_text(json.dumps(self.progress.curve))

    def resume(self) -> bool:
        """Resume from the folder's state, if any. Raises `ValueError` where settings differ."""
        if not self._state_file.exists():
            return False
        state = self._read(self._state_file)
        # These may change on resuming: they do not decide the weights of a step.
        free = {"steps", "decay", "save", "snapshots"}
        new, old = asdict(self.settings), state["settings"]
        changed = [k for k in new if k not in free and new[k] != old[k]]
        if changed:
            changes = ", ".join(f"{k} {old[k]} became {new[k]}" for k in changed)
            raise ValueError(f"got another recipe for {self.folder}: {changes}; use another folder")
        self._take(state)
        return True

    def begin_from(self, folder: Path) -> None:
        """Start from another run's state; its settings become a stage of this run."""
        state = self._read(folder / "state.pt")
        self._take(state)
        self.progress.stages.append({**state["settings"], "until": self.progress.step})

    def begin_from_weights(self, file: Path, stages: list[dict[str, Any]]) -> None:
        """Start from released weights, at full difficulty and with a new optimizer.

        stages: how the weights were trained (`training_facts`); the last step is the first here.
        """
        weights = {k: v.float().to(self.device) for k, v in load_file(file).items()}
        self.model.load_state_dict(weights)
        self.average = {k: v.clone() for k, v in weights.items()}
        self.first = int(stages[-1]["until"])
        self.progress = TrainingProgress(step=self.first, difficulty=1.0, stages=stages)

    def _read(self, path: Path) -> dict[str, Any]:
        return torch.load(path, weights_only=True, map_location=self.device)

    def _take(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])

    def snapshot(self) -> None:
        """Save the averaged weights of this step in float16."""
        if self.worker:
            return
        path = self.folder / "snapshots" / f"step-{self.progress.step:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.average.items()}, path)

    def go(self, report: Callable[[TrainingProgress], None] | None = None) -> TrainingProgress:
        """Train to the last step, with snapshots and saved states on the way."""
        progress, settings = self.progress, self.settings
        if progress.step == 0:
            self.snapshot()
        started = time.monotonic() - progress.seconds
        while progress.step < settings.steps:
            self.step()
            progress.seconds = time.monotonic() - started
            last = progress.step == settings.steps
            if progress.step % 25 == 0 or last:
                progress.curve.append(
                    {
                        "step": progress.step,
                        "loss": progress.loss,
                        "shape": progress.shape,
                        "difficulty": progress.difficulty,
                        "seconds": progress.seconds,
                    }
                )
                if report is not None and not self.worker:
                    report(progress)
            if progress.step % settings.snapshots == 0 or last:
                self.snapshot()
            if progress.step % settings.save == 0 or last:
                self.save()
        return progress


def _right(logits: Tensor, true: Tensor, scenes: Scenes, shapes: list[int]) -> tuple[int, int]:
    """Count the single objects whose shape is named correctly, and all single objects."""
    alone = scenes.present.sum(1) == 1
    best = logits[:, shapes].argmax(dim=1, keepdim=True)
    hits = true[:, shapes].gather(1, best)[:, 0] & alone
    return int(hits.sum()), int(alone.sum())


def _begun(run: Run, start: Path | None) -> Run:
    if not run.resume() and start is not None:
        run.begin_from(start)
    return run


def _work(
    worker: int, folder: Path, settings: Settings, device: str, start: Path | None, port: int
) -> None:
    # One thread per worker: more of them wait for each other, and sums change their order.
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=worker, world_size=settings.workers)
    try:
        _begun(Run(folder, settings, worker=worker, device=device), start).go(print_progress)
    finally:
        dist.destroy_process_group()


def print_progress(progress: TrainingProgress) -> None:
    """Print one line of progress."""
    import typer

    pace = progress.step / max(progress.seconds, 1e-9)
    typer.echo(
        f"step {progress.step}  loss {progress.loss:.3f}  shape {progress.shape:.3f}  "
        f"difficulty {progress.difficulty:.3f}  {pace:.2f} steps/s"
    )


def train(
    folder: Path,
    settings: Settings,
    *,
    device: str = "cpu",
    start: Path | None = None,
    report: Callable[[TrainingProgress], None] | None = print_progress,
) -> None:
    """Train, or go on training, in `folder`; each of several workers is a process of one thread.

    start: folder of another run, whose state a new run begins from (see `TrainingProgress.stages`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if settings.workers == 1:
        _begun(Run(folder, settings, device=device), start).go(report)
        return
    from torch.multiprocessing.spawn import spawn

    # A port per process, so that several runs on one machine do not meet.
    port = 20_000 + os.getpid() % 20_000
    spawn(_work, args=(folder, settings, device, start, port), nprocs=settings.workers, join=True)
