"""Does a map follow the model? The blind model and the ladders, every method, several models.

    python benchmarks/following.py --out FILE [--workers 16] [--models scenes ...] [--images 500]

Parts (--parts): "ladders", F of every method on every ladder and model; "blind", the blind model
with phantom localisation on the same models; "families", the blind model on random weights of every
family, image and text side; "text", both on the words of prompts; "alarms", both checks on random
models, with methods and user code that substitute nothing. What is done is kept in the folder
--work, so that a run that was stopped goes on. Each model has images of its own, so that the
models' figures are independent.
"""

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import false_alarms
import heatproof
import heatproof.auditing.checks
from heatproof import methods, specimens, statistics
from heatproof.auditing.base import CheckContext
from heatproof.auditing.blind_reader import blind_words
from heatproof.auditing.checks.blind_model import BlindModelCheck
from heatproof.auditing.checks.following_the_cause import (
    FollowingTheCauseCheck,
    track_ladder,
    usable_ladder,
)
from heatproof.auditing.cost import forward_passes
from heatproof.auditing.task import EQUAL_HEAT, AuditTask
from heatproof.data.scenes.single_attribute import asked
from heatproof.engine import inputs
from heatproof.errors import HeatproofError
from heatproof.evaluation.ladders import LADDERS
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.tracking import track
from heatproof.evaluation.variants import UNTOUCHED, Variant, noised, one_headed
from heatproof.models import Model
from heatproof.statistics import Interval

PARTS = ("ladders", "blind", "families", "text", "alarms")
RANDOM_MODELS = 20
SEED = 2400
"""Of the first model's images; further models take the next ones, fresh images 50 further on."""
# Settings beside the catalogue's defaults: which part of Grad-ECLIP does what.
MORE = (
    ("grad-eclip", {"heads": "model"}),
    ("grad-eclip", {"heads": "model", "spatial": "none"}),
    ("grad-eclip", {"heads": "one", "spatial": "attention"}),
    ("grad-eclip", {"heads": "model", "spatial": "attention"}),
)
FEWER = {"rise": {"masks": 100}, "integrated-gradients": {"steps": 20}}
WORDS = (("red", "circle", "square"), ("blue", "star", "cross"))
# Passes per map above which a method is asked about fewer images, ladders and models.
DEAR, VERY_DEAR = 4, 30
DEAR_TEXT = ("rise", "m2ib", "integrated-gradients", "occlusion", "second-order")
SHORT, SHORTEST = ("one head", "blindness", "noise"), ("one head", "blindness")


@dataclass(frozen=True)
class Job:
    """One piece of work of one process; `cost` orders them, the longest first."""

    kind: str
    key: str
    cost: float
    arguments: dict[str, Any]


def label(name: str, settings: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items())])


@cache
def model_of(spec: str, device: str) -> Model:
    return heatproof.load(spec, device=device)


@cache
def task_of(spec: str, images: int, seed: int, device: str) -> AuditTask:
    return AuditTask(model_of(spec, device), asked(images, seed=seed))


# --- jobs -----------------------------------------------------------------------------------------


def cause(spec: str, images: int, seed: int, device: str, ladder: str) -> dict[str, Any]:
    """Return scores and cause on the rungs of one ladder."""
    task = task_of(spec, images, seed, device)
    rungs = usable_ladder(task, ladder)
    outscored = [task.outscored(rung) for rung in rungs.rungs]
    return {
        "rungs": [rung.name for rung in rungs.rungs],
        "why not": rungs.why_not,
        "cause": [task.cause(rung).tolist() for rung in rungs.rungs],
        "accuracy": [statistics.mean(row, bounds=statistics.SHARE).plain for row in outscored],
        "outscored": [row.tolist() for row in outscored],
    }


def followed(
    spec: str,
    images: int,
    seed: int,
    device: str,
    ladder: str,
    name: str,
    settings: dict[str, Any],
    causes: str,
) -> dict[str, Any]:
    """Return a method's course down one ladder."""
    task = task_of(spec, images, seed, device)
    known = json.loads(Path(causes).read_text())
    for rung, values in zip(known["rungs"], known["cause"], strict=True):
        # The first images of a larger draw: the same images, with the same questions.
        task.cached(("cause", rung), lambda v=values: _numbers(v)[:images])
    subject = Subject.of(name, **settings)
    rungs = usable_ladder(task, ladder)
    course = track_ladder(task, subject, rungs, level=statistics.LEVEL)
    found = {"images": images, "rungs": [rung.name for rung in rungs.rungs], **course.plain}
    if not course.why_not:
        quality = torch.stack([task.quality(subject, rung) for rung in rungs.rungs])
        outscored = torch.stack([_numbers(row)[:images] for row in known["outscored"]])
        found["accuracy slope"] = accuracy_slope(outscored, quality).plain
    forget(task)
    return found


def accuracy_slope(outscored: torch.Tensor, quality: torch.Tensor) -> Interval:
    """Return the slope of choice above chance on accuracy: a description without a verdict."""
    known = ~(outscored.isnan() | quality.isnan()).any(0)
    x, y = outscored[:, known].double(), quality[:, known].double()

    def slope(rows: torch.Tensor) -> torch.Tensor:
        a, b = (side[:, rows].mean(-1).T for side in (x, y))
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / a.square().sum(1)

    return statistics.bootstrap(slope, x.shape[1])


def blinded(
    spec: str, images: int, seed: int, device: str, name: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the finding of the blind model."""
    task = task_of(spec, images, seed, device)
    context = CheckContext(model=task.model, labelled=task)
    found = BlindModelCheck().measure(Subject.of(name, **settings), context)
    forget(task)
    return {"images": images, **plain(found)}


def family(name: str) -> dict[str, Any]:
    """Return the finding of the blind model, for every method, on random weights of one family."""
    model = specimens.model_of(name)
    prompts = specimens.prompts_for(name)
    context = CheckContext(model=model, images=specimens.picture(model), prompts=prompts)
    rows: dict[str, Any] = {}
    for method, settings in entries():
        try:
            found = BlindModelCheck().measure(Subject.of(method, **settings), context)
            rows[label(method, settings)] = plain(found)
        except HeatproofError as error:
            rows[label(method, settings)] = {"verdict": "refused", "evidence": str(error)}
        except Exception as error:  # noqa: BLE001  one method must not cost the family
            rows[label(method, settings)] = {"verdict": "failed", "evidence": repr(error)}
    return {"readout": model.image.readout.name, "methods": rows}


def family_text(name: str) -> dict[str, Any]:
    """Return what every method makes of words, the readout blind, on random weights."""
    model = specimens.model_of(name)
    return words_of(model, specimens.picture(model), specimens.ids_for(name)[1:])


def scenes_text(spec: str, device: str) -> dict[str, Any]:
    """Return what every method makes of words, the readout blind, on a model of scenes."""
    task = task_of(spec, 4, SEED, device)
    assert task.model.text is not None
    texts = [f"a {one} {two} and a {three}" for one, two, three in WORDS]
    return words_of(task.model, task.pixels, task.model.text.tokenize(texts).ids)


def words_of(model: Model, pixels: torch.Tensor, ids: torch.Tensor) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, settings in entries(side="text"):
        try:
            found = blind_words(methods.create(name, **settings), model, pixels, ids)
            rows[label(name, settings)] = found.plain
        except HeatproofError as error:
            rows[label(name, settings)] = {"verdict": "refused", "why not": str(error)}
        except Exception as error:  # noqa: BLE001  one method must not cost the others
            rows[label(name, settings)] = {"verdict": "failed", "why not": repr(error)}
    return {"methods": rows}


# --- words ----------------------------------------------------------------------------------------


def text_followed(
    spec: str, images: int, seed: int, device: str, name: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return a method's course on words: which of two is the higher, the present one?

    Prompts are "a X and a Y": one shape is in the image and one is not, in drawn order. The cause
    is the score that deleting either word costs.
    """
    task = task_of(spec, images, seed, device)
    asked_of = [n for n in range(images) if min(task.named[n], task.absent[n]) >= 0]
    pairs = [pair_of(task, n) for n in asked_of]
    ladders: dict[str, Any] = {}
    for ladder, rungs in text_ladders(task.model).items():
        cause = torch.stack([text_cause(task, asked_of, pairs, rung) for rung in rungs])
        method = methods.create(name, **settings)
        quality = torch.stack([text_quality(task, asked_of, pairs, method, r) for r in rungs])
        course = track(cause, quality)
        ladders[ladder] = {"rungs": [rung.name for rung in rungs], **course.plain}
    return {"images": len(pairs), "ladders": ladders}


def pair_of(task: AuditTask, row: int) -> tuple[str, str, bool]:
    """Return the present shape, an absent one, and whether the present one stands first."""
    present, absent = (
        task.data.prompts[int(t[row])].split()[-1] for t in (task.named, task.absent)
    )
    return present, absent, bool(torch.rand(1, generator=torch.Generator().manual_seed(row)) < 0.5)


def text_ladders(model: Model) -> dict[str, list[Variant]]:
    assert model.text is not None
    layers = model.attention_layers("text")
    depths = [one_headed(model, layers, n) for n in range(1, len(layers) + 1)]
    shares = [noised(model, share, path=model.text.path) for share in (0.3, 0.5, 0.7, 1.0)]
    return {"one head": [UNTOUCHED, *depths], "noise": [UNTOUCHED, *shares]}


def text_cause(
    task: AuditTask, rows: list[int], pairs: list[tuple[str, str, bool]], rung: Variant
) -> torch.Tensor:
    """Return 1 where deleting the present word costs more than deleting the absent one."""
    with rung.enter(), torch.no_grad():
        images = task.encode(task.pixels[rows])

        def scores(texts: list[str]) -> torch.Tensor:
            embeddings = inputs.prompts(task.model, texts).embeddings
            pairs = torch.nn.functional.normalize(images, dim=-1) * embeddings
            return pairs.sum(-1).double().cpu()

        without_present = scores([f"a {b} and a" if not f else f"a and a {b}" for a, b, f in pairs])
        without_absent = scores([f"a {a} and a" if f else f"a and a {a}" for a, b, f in pairs])
    # Both costs are of one score: the lower score is of the dearer deletion.
    gap = without_absent - without_present
    return torch.where(gap == 0, 0.5, (gap > 0).double())


def text_quality(
    task: AuditTask,
    rows: list[int],
    pairs: list[tuple[str, str, bool]],
    method: methods.Method,
    rung: Variant,
) -> torch.Tensor:
    """Return 1 where the present word's value is the higher, a half where both are equal."""
    values: list[float] = []
    with rung.enter():
        for row, (present, absent, first) in zip(rows, pairs, strict=True):
            texts = (present, absent) if first else (absent, present)
            found = heatproof.explain_words(
                task.model,
                task.pixels[row : row + 1],
                [f"a {texts[0]} and a {texts[1]}"],
                method=method,
                certify=False,
                seed=row,
            )
            by_word = {word.text: word.value for word in found.words[0][0]}
            gap = by_word[present] - by_word[absent]
            scale = EQUAL_HEAT * max(abs(value) for value in by_word.values())
            values.append(0.5 if abs(gap) <= scale else float(gap > 0))
    return torch.tensor(values, dtype=torch.float64)


def plain(found: Any) -> dict[str, Any]:
    return {"verdict": found.verdict, "evidence": found.evidence, **found.numbers}


def forget(task: AuditTask) -> None:
    """Drop a method's maps: a process serves many methods."""
    for key in [key for key in task._cache if key[0] == "maps"]:
        del task._cache[key]


def _numbers(values: list[float | None]) -> torch.Tensor:
    nan = float("nan")
    return torch.tensor([nan if v is None else v for v in values], dtype=torch.float64)


# --- false alarms ---------------------------------------------------------------------------------


def alarms(seed: int) -> dict[str, Any]:
    """Return the verdicts on a random model, of what substitutes nothing: none may be violated."""
    model = false_alarms.random_model(seed)
    height, width = model.module.visual.image_size
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, height, width, generator=generator).to(model.dtype)
    prompts = torch.randn(3, false_alarms.EMBED, generator=generator).to(model.dtype)
    context = CheckContext(model=model, images=pixels, prompts=prompts)
    found: dict[str, Any] = {}
    cheap = [name for name in false_alarms.honest() if name not in FEWER]
    every = false_alarms.subjects(model, prompts, cheap)
    every += [methods.create(name, **settings) for name, settings in FEWER.items()]
    for method in every:
        try:
            finding = BlindModelCheck().measure(Subject(method), context)
            found[method.card.name] = [finding.verdict, finding.evidence]
        except HeatproofError as error:
            found[method.card.name] = ["refused", str(error)]
    return {"blind model": found}


def random_ladders(seed: int) -> dict[str, Any]:
    """Return F's verdicts on a model of scenes whose image tower is random."""
    model = heatproof.load("scenes")
    with noised(model, 1.0, seed=100 + seed).enter():
        task = AuditTask(model, asked(100, seed=SEED + 100 + seed))
        context = CheckContext(model=model, labelled=task)
        check = FollowingTheCauseCheck(ladders="one head, blindness")
        found = {
            name: check.measure(Subject.of(name), context)
            for name in ("attention-x-gradient", "gae", "grad-cam", "libragrad")
        }
    return {"following": {name: [one.verdict, one.evidence] for name, one in found.items()}}


# --- the plan -------------------------------------------------------------------------------------


def entries(
    names: str = "all", side: methods.Side = "image"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield methods of one side with their settings."""
    wanted = None if names == "all" else [name.strip() for name in names.split(",")]
    for name, card in methods.catalogue().items():
        if side in card.sides and (wanted is None or name in wanted):
            yield name, FEWER.get(name, {})
    for name, settings in MORE:
        if wanted is None or name in wanted:
            yield name, settings


def cause_jobs(options: argparse.Namespace) -> Iterator[Job]:
    for number, spec in enumerate(options.models):
        for ladder in options.ladders:
            for fresh in (0, 50):
                seed = SEED + number + fresh
                yield Job(
                    "cause",
                    f"cause {spec} {ladder} {seed} {options.images}",
                    1,
                    {"spec": spec, "images": options.images, "seed": seed}
                    | {"device": options.device, "ladder": ladder},
                )


def method_jobs(options: argparse.Namespace) -> Iterator[Job]:
    probe = asked(1)
    model = model_of(options.models[0], options.device)
    for name, settings in entries(options.methods):
        subject = Subject.of(name, **settings)

        def one_map(subject: Subject = subject) -> object:
            return subject.maps(model, list(probe.photos), probe.prompts[:1])

        one_map()  # what is computed once is not counted
        passes = forward_passes(model, one_map)
        dear, very_dear = passes > DEAR, passes > VERY_DEAR
        images = min(options.images, options.few if very_dear else options.some if dear else 10**9)
        for number, spec in enumerate(options.models[:1] if dear else options.models):
            base = {"spec": spec, "images": images, "seed": SEED + number}
            base |= {"device": options.device, "name": name, "settings": settings}
            key = f"{label(name, settings)} {spec} {images}"
            if "blind" in options.parts:
                yield Job("blind", f"blind {key}", passes * images, base)
            if "ladders" not in options.parts:
                continue
            for ladder in options.ladders:
                if dear and ladder not in (SHORTEST if very_dear else SHORT):
                    continue
                causes = f"cause {spec} {ladder} {SEED + number} {options.images}"
                yield Job(
                    "followed",
                    f"{ladder} {key}",
                    5 * passes * images,
                    base | {"ladder": ladder, "causes": str(path_of(options.work, causes))},
                )


def text_jobs(options: argparse.Namespace) -> Iterator[Job]:
    for spec in options.models:
        given = {"spec": spec, "device": options.device}
        yield Job("scenes text", f"scenes text {spec}", 1e8, given)
    first = {"spec": options.models[0], "seed": SEED, "device": options.device}
    for name, settings in entries(options.methods, "text"):
        dear = name in DEAR_TEXT
        given = {"images": min(options.few if dear else options.some, options.images)}
        given |= {"name": name, "settings": settings}
        yield Job("text", f"text {label(name, settings)}", 1e7 if dear else 1e5, first | given)


RUN: dict[str, Callable[..., dict[str, Any]]] = {
    "cause": cause,
    "followed": followed,
    "blind": blinded,
    "family": family,
    "family text": family_text,
    "scenes text": scenes_text,
    "text": text_followed,
    "alarms": alarms,
    "random": random_ladders,
}


def path_of(work: Path, key: str) -> Path:
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return work / f"{digest}.json"


def start() -> None:
    torch.set_num_threads(1)


def done(job: Job, work: Path) -> dict[str, Any]:
    """Return a job's result, from its file where it was done before."""
    path = path_of(work, job.key)
    if not path.exists():
        began = time.process_time()
        result = RUN[job.kind](**job.arguments) | {"cpu seconds": time.process_time() - began}
        text = json.dumps(no_nan(result))
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)
    return json.loads(path.read_text())


def no_nan(value: Any) -> Any:
    """Return plain values in which NaN, which JSON does not know, is None."""
    if isinstance(value, dict):
        return {key: no_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [no_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def run_all(jobs: list[Job], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run jobs in processes, the longest first; a job that fails is printed and left out."""
    results: dict[str, dict[str, Any]] = {}
    jobs = sorted(jobs, key=lambda job: -job.cost)
    with ProcessPoolExecutor(options.workers, get_context("spawn"), start) as pool:
        futures = {pool.submit(done, job, options.work): job for job in jobs}
        for number, future in enumerate(as_completed(futures), 1):
            job = futures[future]
            try:
                results[job.key] = future.result()
            except Exception as error:  # noqa: BLE001  one job must not cost the others
                print(f"FAILED {job.key}: {type(error).__name__}: {error}", flush=True)
                continue
            if number % 20 == 0 or number == len(jobs):
                print(f"{number} of {len(jobs)} jobs, last {job.key}", flush=True)
    return results


# --- the result -----------------------------------------------------------------------------------


def table(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, settings in entries(options.methods):
        row: dict[str, Any] = {"blind": {}, "ladders": {}}
        for spec in options.models:
            for key, found in results.items():
                if key.startswith(f"blind {label(name, settings)} {spec} "):
                    row["blind"][spec] = found
        for ladder in options.ladders:
            by_model = {
                spec: found
                for spec in options.models
                for key, found in results.items()
                if key.startswith(f"{ladder} {label(name, settings)} {spec} ")
            }
            if by_model:
                row["ladders"][ladder] = {"models": by_model, **joined(by_model)}
        if row["blind"] or row["ladders"]:
            rows[label(name, settings)] = row
    return rows


def joined(by_model: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return F over images and models, with and without the first rung."""
    return {
        key: statistics.combined([interval(one[key]) for one in by_model.values()]).plain
        for key in ("following", "without the first rung")
    }


def interval(plain: dict[str, Any]) -> Interval:
    nan = float("nan")
    value, low, high = (nan if plain[k] is None else plain[k] for k in ("value", "low", "high"))
    return Interval(value, low, high, plain["count"])


def causes_of(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return each model's course, and F of the cause itself on fresh images: it must be near 1."""
    found: dict[str, Any] = {}
    for number, spec in enumerate(options.models):
        for ladder in options.ladders:
            keys = [
                f"cause {spec} {ladder} {SEED + number + fresh} {options.images}"
                for fresh in (0, 50)
            ]
            if not all(key in results for key in keys):
                continue
            one, fresh = (results[key] for key in keys)
            rungs = [torch.stack([_numbers(row) for row in side["cause"]]) for side in (one, fresh)]
            course = track(*rungs)
            found.setdefault(ladder, {})[spec] = {
                "rungs": one["rungs"],
                "accuracy": one["accuracy"],
                **course.plain,
            }
    return {ladder: {"models": by_model, **joined(by_model)} for ladder, by_model in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("out/following"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=["scenes"])
    parser.add_argument("--methods", default="all")
    parser.add_argument("--ladders", nargs="+", default=list(LADDERS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--some", type=int, default=200, help="images of dear methods")
    parser.add_argument("--few", type=int, default=100, help="images of very dear methods")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began = time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    if "ladders" in options.parts:
        results |= run_all(list(cause_jobs(options)), options)
    jobs = list(method_jobs(options)) if {"ladders", "blind"} & {*options.parts} else []
    if "families" in options.parts:
        # Few and long: they go first, so that no process is left with one at the end.
        jobs += [
            Job(kind, f"{kind} {name}", 1e9, {"name": name})
            for name in specimens.SPECIMENS
            for kind in ("family", "family text")
            if kind == "family" or specimens.model_of(name).text is not None
        ]
    if "text" in options.parts:
        jobs += text_jobs(options)
    if "alarms" in options.parts:
        jobs += [
            Job(kind, f"{kind} {seed}", 1e8, {"seed": seed})
            for seed in range(RANDOM_MODELS)
            for kind in ("alarms", "random")
        ]
    results |= run_all(jobs, options)
    result = {
        "models": options.models,
        "images": options.images,
        "seconds": round(time.monotonic() - began),
        "cpu seconds": round(sum(one["cpu seconds"] for one in results.values())),
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}",
        "cause": causes_of(results, options),
        "methods": table(results, options),
        **{
            title: {
                key.removeprefix(kind): one
                for key, one in sorted(results.items())
                if key.startswith(kind) and (kind != "family " or "family text " not in key)
            }
            for title, kind in (
                ("families", "family "),
                ("families, text", "family text "),
                ("blind text", "scenes text "),
                ("text", "text "),
                ("alarms", "alarms "),
                ("random models", "random "),
            )
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{options.out}: {result['seconds']} s, {result['cpu seconds']} CPU s", flush=True)


if __name__ == "__main__":
    main()
