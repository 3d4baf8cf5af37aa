"""What `benchmarks/default.py` measures of one method; every function runs in a process of its own.

Results are plain values. A method that a model refuses has a "reason" in place of its figures.
"""

import itertools
import random
import resource
import signal
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import heatproof
from heatproof import specimens
from heatproof.benchmarking.request import identity, method_entries, metric_entries
from heatproof.benchmarking.run import BenchmarkRun
from heatproof.benchmarking.store import ResultStore
from heatproof.data import open as opened
from heatproof.data.dataset import LabelledImages
from heatproof.engine import inputs
from heatproof.errors import HeatproofError
from heatproof.evaluation.encoding import encode_images, score_pairs
from heatproof.evaluation.task import EvaluationTask
from heatproof.methods import Side
from heatproof.metrics.text_deletion import without
from heatproof.models import Model
from heatproof.reading import reading
from heatproof.reading.attention_call import AttentionCall

SEED = 17
"""Of the scenes and of what is asked about them: no other table has it."""
STEPS = 5
METRICS = (
    *(f"{name}:imputer={imputer}:steps={STEPS}"
      for name in ("srg", "mif") for imputer in ("mean", "blur", "tokens")),
    "pointing",
    "multi-object-pointing",
    "average-precision",
)  # fmt: skip
FEWER: dict[str, dict[str, Any]] = {
    "rise": {"masks": 200},
    "integrated-gradients": {"steps": 10},
    "second-order": {"steps": 5},
    "m2ib": {"batch": 2},
}
"""Options for methods of many passes. Their cost is measured with their own defaults."""
QUICK: dict[str, dict[str, Any]] = {
    **FEWER,
    "rise": {"masks": 24},
    "integrated-gradients": {"steps": 6},
    "m2ib": {"steps": 3, "batch": 2},
    "smoothgrad": {"samples": 4},
}
"""Options with which certificates are asked for: no check depends on them."""
PROMPTS = (1, 10, 100, 1000)
MOST_PASSES, MOST_SECONDS = 150, 2.0
"""What a timed run may take: in bare passes; and seconds that a bare pass may."""
PLACES = ("first word", "last word")
"""Controls of the text side beside `random`: they prefer a word for its place alone."""


def created(name: str, settings: dict[str, dict[str, Any]]) -> heatproof.methods.Method:
    """Return the method with its settings of a table, as far as it has these options."""
    options = heatproof.methods.catalogue()[name].options
    wanted = {k: v for k, v in settings.get(name, {}).items() if k in options}
    return heatproof.methods.create(name, **wanted)


# --- quality ------------------------------------------------------------------------------------


def image_quality(spec: str, name: str, images: int, device: str, work: Path) -> str | None:
    """Measure all columns of the image side into `work`; return why there is nothing to measure."""
    torch.set_num_threads(1)
    model = heatproof.load(spec, device=device)
    data = opened("scenes", most=images, seed=SEED)
    entry = next(e for e in method_entries({name: created(name, FEWER)}) if e.label == name)
    metrics = metric_entries(list(METRICS))
    task = EvaluationTask(model, data, seed=SEED, batch_size=64)
    order = identity([entry], metrics, model, data, images, SEED, 64)
    store = ResultStore(work / "parts", order)
    run = BenchmarkRun(task=task, methods=[entry], metrics=metrics, count=images, store=store)
    try:
        run.run()
    except HeatproofError as error:
        return str(error)
    return None


def pairs(data: LabelledImages) -> list[tuple[str, int]]:
    """Return for each image a prompt of two shapes in drawn order, and the present one's place."""
    words = [prompt.split()[-1] for prompt in data.prompts]
    drawn: list[tuple[str, int]] = []
    for number, things in enumerate(data.things):
        chance = random.Random(SEED * 1_000_003 + number)
        shown = {thing.label for thing in things}
        present = words[chance.choice(sorted(shown))]
        absent = words[chance.choice(sorted(set(range(len(words))) - shown))]
        place = chance.randrange(2)
        first, second = (present, absent) if place == 0 else (absent, present)
        drawn.append((f"a {first} and a {second}", place))
    return drawn


def text_quality(spec: str, name: str, images: int) -> dict[str, Any]:
    """Measure both columns of the text side: a list of one value per image."""
    torch.set_num_threads(1)
    model = heatproof.load(spec)
    data = opened("scenes", most=images, seed=SEED)
    asked = pairs(data)
    try:
        values = _word_values(model, name, data, [prompt for prompt, _ in asked])
    except HeatproofError as error:
        return {"reason": str(error)}
    chosen: list[float] = []
    for (_, place), row in zip(asked, values, strict=True):
        present, absent = (row[1], row[4]) if place == 0 else (row[4], row[1])
        chosen.append(float(present > absent) + 0.5 * float(present == absent))
    return {"pairs": chosen, "word deletion": _deletion(model, data, asked, values)}


def _word_values(
    model: Model, name: str, data: LabelledImages, prompts: list[str]
) -> list[list[float]]:
    if name in PLACES:
        sign = -1 if name == "first word" else 1
        return [[float(sign * n) for n in range(5)] for _ in prompts]
    method = created(name, FEWER)
    values: list[list[float]] = [[] for _ in prompts]
    for prompt in dict.fromkeys(prompts):
        rows = [n for n, other in enumerate(prompts) if other == prompt]
        photos = [data.photos[n] for n in rows]
        words = heatproof.explain_words(
            # By prompt: with one seed for all, `random` would prefer the same place every time.
            model,
            photos,
            [prompt],
            method=method,
            certify=False,
            seed=SEED + rows[0],
        )
        for row, (of_image,) in zip(rows, words.words, strict=True):
            values[row] = [word.value for word in of_image]
    return values


def _deletion(
    model: Model,
    data: LabelledImages,
    asked: list[tuple[str, int]],
    values: list[list[float]],
) -> list[float]:
    """Return the mean score over 0 to 5 deleted words, highest value first (trapezoid rule)."""
    curves: list[list[str]] = []
    for (prompt, _), row in zip(asked, values, strict=True):
        words = prompt.split()
        order = sorted(range(len(words)), key=lambda n: -row[n])
        gone = [torch.tensor([n not in order[:k] for n in range(len(words))]) for k in range(6)]
        curves.append([without(words, left) for left in gone])
    texts = list(dict.fromkeys(itertools.chain.from_iterable(curves)))
    embedded = torch.cat(
        [inputs.embed(model, texts[n : n + 256]).embeddings for n in range(0, len(texts), 256)]
    )
    process = model.image.preprocess
    seen = encode_images(model, torch.stack([process(photo) for photo in data.photos]), 64)
    scores = score_pairs(model, seen, embedded).double().cpu()
    index = {text: n for n, text in enumerate(texts)}
    heights = torch.stack([scores[row, [index[t] for t in c]] for row, c in enumerate(curves)])
    return ((heights[:, 1:] + heights[:, :-1]) / 2).mean(1).tolist()


# --- gates --------------------------------------------------------------------------------------


def certificates(name: str) -> dict[str, Any]:
    """Return, by side: the families where it ran, refused, and those where it does not hold."""
    torch.set_num_threads(1)
    method = created(name, QUICK)
    row: dict[str, Any] = {}
    for side in method.card.sides:
        found: dict[str, Any] = {"ran": 0, "refused": [], "fails": []}
        for family in ("scenes", *specimens.FAMILIES):
            model = heatproof.load("scenes") if family == "scenes" else specimens.model_of(family)
            if side == "text" and model.text is None:
                continue
            try:
                holds = _certificate_holds(model, family, method, side)
            except HeatproofError:
                found["refused"].append(family)
                continue
            found["ran"] += 1
            if holds is not True:
                found["fails"].append(family)
        row[side] = found
    return row


def _certificate_holds(
    model: Model, family: str, method: heatproof.methods.Method, side: Side
) -> bool | None:
    explain = heatproof.explain if side == "image" else heatproof.explain_words
    if family == "scenes":
        photos = list(opened("scenes", most=2, seed=SEED).photos)
        return explain(model, photos, ["a circle", "a star"], method=method).certificate.holds
    prompts = specimens.prompts_for(family) if side == "image" else specimens.ids_for(family)
    return explain(model, specimens.picture(model), prompts, method=method).certificate.holds


def blind_share(name: str, images: int = 8) -> dict[str, Any]:
    """Return the spread of maps on a model whose readout sees itself alone, over that of `scenes`.

    0: the maps of the blind model are constant, as they must be.
    """
    torch.set_num_threads(1)
    model = heatproof.load("scenes")
    photos = list(opened("scenes", most=images, seed=SEED).photos)
    explain = partial(
        heatproof.explain, model, photos, ["a circle"], method=created(name, FEWER), certify=False
    )
    changes = {layer.path: _blind for layer in model.attention_layers("image")}
    try:
        spread = float(explain().maps.std((-2, -1)).mean())
        # A reading of no layer: the interventions are part of the model that is explained inside.
        with reading(model.module, (), interventions=changes):
            blind = explain()
    except HeatproofError as error:
        return {"reason": str(error)}
    assert float(blind.scores.std(0).max()) < 1e-6, "the model is not blind"
    return {"share": float(blind.maps.std((-2, -1)).mean()) / spread}


def _blind(call: AttentionCall) -> AttentionCall:
    mask = torch.ones(call.query.shape[2], call.key.shape[2], dtype=torch.bool)
    mask[0] = False
    mask[0, 0] = True
    return call.change(mask=mask[None, None])


# --- cost ---------------------------------------------------------------------------------------


def cost_of(model: Model, job: tuple[str, Side]) -> tuple[tuple[str, Side], dict[str, Any]]:
    """Return the job, (method, side), and `cost` of it."""
    torch.set_num_threads(1)
    return job, cost(model, heatproof.methods.create(job[0]), job[1])


def cost(model: Model, method: heatproof.methods.Method, side: Side) -> dict[str, Any]:
    """Return by number of prompts: CPU seconds, ratio to a bare pass, peak memory beyond the model.

    Processor time, not the clock's: other processes do not count. A number of prompts is left out
    where it would take more than `MOST_PASSES` bare passes.
    """
    rows: dict[str, Any] = {}
    before = one = passes = 0.0
    for last, prompts in zip((0, *PROMPTS), PROMPTS, strict=False):
        # Of texts, prompts are further bare passes.
        if side == "text" and last and one * prompts / last > MOST_SECONDS:
            break
        explain, bare = _calls(model, method, side, prompts)
        bare()
        one, before = _seconds(bare), before or _peak()
        try:
            with _at_most(MOST_PASSES * one):
                times = [_seconds(explain)]
        except TimeoutError:
            return {"prompts": rows, "reason": f"{prompts} prompts: over {MOST_PASSES} passes"}
        except HeatproofError as error:
            return {"prompts": rows, "reason": str(error)}
        bares = [one, _seconds(bare)]
        if times[0] < 10 * one:  # the first run warms up
            times = [_seconds(run) for run in (explain, explain, explain)]
            bares += [_seconds(run) for run in (bare, bare)]
        passes = statistics.median(times) / statistics.median(bares)
        rows[str(prompts)] = {
            "seconds": statistics.median(times),
            "passes": passes,
            "MiB": _peak() - before,
        }
    return {"prompts": rows}


def _calls(
    model: Model, method: heatproof.methods.Method, side: Side, prompts: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    generator = torch.Generator().manual_seed(SEED)
    size = model.image.preprocess
    pixels = torch.randn(1, 3, size.height, size.width, generator=generator)
    with torch.no_grad():
        width = model.image.encode(pixels).shape[1]
    if side == "image":
        embeddings = torch.randn(prompts, width, generator=generator)
        return (
            partial(heatproof.explain, model, pixels, embeddings, method=method, certify=False),
            partial(_encode, model.image.encode, pixels),
        )
    assert model.text is not None
    tokens = torch.zeros(prompts, 77, dtype=torch.long)
    tokens[:, :9] = torch.randint(1, 40_000, (prompts, 9), generator=generator)
    tokens[:, 0], tokens[:, 8] = 49406, 49407
    return (
        partial(heatproof.explain_words, model, pixels, tokens, method=method, certify=False),
        partial(_encode_both, model, pixels, tokens),
    )


def _encode(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> None:
    with torch.inference_mode():
        encode(pixels)


def _encode_both(model: Model, pixels: Tensor, tokens: Tensor) -> None:
    assert model.text is not None
    with torch.inference_mode():
        model.image.encode(pixels)
        for part in tokens.split(32):
            model.text.encode(model.text.from_ids(part))


@contextmanager
def _at_most(seconds: float) -> Generator[None]:
    """Raise `TimeoutError` inside once so much processor time is used up."""

    def over(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
