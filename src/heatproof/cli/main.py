"""The command line: `heatproof explain photo.jpg "a dog"`. No torch until a command needs it."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from heatproof import __version__, checking, index, specs
from heatproof.cli import terminal
from heatproof.cli.audit import audit
from heatproof.cli.benchmark import benchmark
from heatproof.cli.prove import prove
from heatproof.cli.reproduce import reproduce
from heatproof.errors import HeatproofError, InputError, Interrupted

if TYPE_CHECKING:
    from heatproof.certificate import Certificate
    from heatproof.explanation import Explanation, WordExplanation
    from heatproof.methods.base import Method
    from heatproof.models.model import Model

# Exit codes: done; done, but a certificate fails; bad input; done, but not established; Ctrl-C.
DONE, FAILED, AT_FAULT, UNESTABLISHED, INTERRUPTED = 0, 1, 2, 3, 130

DEFAULT_METHOD = "attention-x-gradient"

UsageProblem = cast(type[Exception], typer.BadParameter.__mro__[2])
"""click's ClickException, which typer keeps elsewhere from one version to the next."""

app = typer.Typer(
    name="heatproof",
    help="Heat maps that come with proof: explain what a CLIP-like model saw and read.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Only looked for, not imported, where it is not there: the package may come without training.
if importlib.util.find_spec("heatproof.recipes.scenes") is not None:
    from heatproof.recipes.scenes.commands import app as scenes

    app.add_typer(scenes, name="scenes")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Bad input is one line on stderr."""
    command = typer.main.get_command(app)
    asked = list(arguments) or ["--help"]
    try:
        code = command.main(asked, prog_name="heatproof", standalone_mode=False)
    except Interrupted as error:
        return _say(str(error), INTERRUPTED)
    except HeatproofError as error:
        return _say(str(error), AT_FAULT)
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted; no report was written", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not checking.memory_is_full(error):
            raise
        what = f"not enough memory ({terminal.one_line(str(error))[:200]})"
        return _say(f"{what}; try --memory, a smaller model or --image-size", AT_FAULT)
    except UsageProblem as error:
        return _usage(error)
    if code == INTERRUPTED:
        return _say("interrupted; no report was written", INTERRUPTED)
    if not arguments:
        return AT_FAULT
    return code if isinstance(code, int) else DONE


def _usage(error: Any) -> int:
    """A wrong command line: one line, or the help where nothing was asked."""
    context: Any = getattr(error, "ctx", None)
    where = context.command_path if context else "heatproof"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help(), err=True)
        return AT_FAULT
    text = error.format_message().strip().rstrip(".")
    return _say(f"{text[:1].lower()}{text[1:]}; try '{where} --help'", AT_FAULT)


def _say(text: str, code: int) -> int:
    typer.echo(f"heatproof: {terminal.one_line(text)}", err=True)
    return code


def _version(asked: bool | None) -> None:
    if asked:
        typer.echo(f"heatproof {__version__}")
        raise typer.Exit


@app.callback()
def heatproof(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which it is."),
    ] = None,
) -> None:
    """Heat maps that come with proof: explain what a CLIP-like model saw and read."""
    del version


# explain


@dataclass(frozen=True)
class Order:
    """What `explain` was asked for, checked as far as it can be before a model is loaded."""

    photo: Path
    prompts: tuple[str, ...]
    model: str
    methods: tuple["Method", ...]
    score: str | None
    image_size: tuple[int, int] | str | None
    words: bool
    certify: bool
    seed: int
    memory: str | None = None


@dataclass(frozen=True)
class Result:
    """One method's answer."""

    explanation: "Explanation"
    words: "WordExplanation | None"

    @property
    def certificates(self) -> list[tuple[str, "Certificate"]]:
        """The maps' and, where words were asked for, the words'."""
        words = [("words: ", self.words.certificate)] if self.words else []
        return [("", self.explanation.certificate), *words]

    @property
    def holds(self) -> bool | None:
        """The worse of both."""
        from heatproof.certificate import worst

        return worst([certificate.holds for _, certificate in self.certificates])


@app.command()
def explain(
    photo: Annotated[Path, typer.Argument(help="The picture.", show_default=False)],
    prompts: Annotated[
        list[str] | None, typer.Argument(help="One or more prompts.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="See `heatproof models`.", show_default="scenes, the embedded model"),
    ] = None,
    method: Annotated[
        str, typer.Option(help="See `heatproof methods`; several with commas, or `all`.")
    ] = DEFAULT_METHOD,
    switches: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SWITCH=VALUE", help="A switch of the method; repeatable."),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="cosine, logit, margin, contrast:OTHER, sigmoid-logit or class-logit.",
            show_default="cosine, or a classifier's class-logit",
        ),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Explain by the words as well.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("out"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    image_size: Annotated[
        str,
        typer.Option(
            metavar="HxW|native|keep",
            help="Size of the model's input; keep: the photograph's own aspect ratio, uncropped.",
        ),
    ] = "native",
    seed: Annotated[int, typer.Option(help="Decides whatever is left to chance.")] = 0,
    allow_uncertified: Annotated[
        bool,
        typer.Option(
            "--allow-uncertified",
            help="Exit with 0 although the certificate fails or is not established.",
        ),
    ] = False,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify/--no-certify",
            help="Check what the maps explain; without it, nothing is established (exit code 3).",
        ),
    ] = True,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What explaining may take beside the model: 2GiB, 500MB.",
            show_default="whatever it takes",
        ),
    ] = None,
) -> None:
    """Draw a heat map of PHOTO for each of PROMPTS, with a certificate.

    Writes report.html, explanation.json, maps.safetensors and one overlay per prompt. Exit codes:
    0, the certificate holds; 1, it fails; 3, nothing is established (with --no-certify, for
    example); 2, bad input. With several methods the worst counts.
    """
    asked = _prompts(prompts, photo)
    size = checking.image_size(image_size)
    checking.memory(memory)
    given = terminal.switches(switches)
    index.chosen_methods(method, given)
    index.check_score(score or "cosine")
    specs.check(model or "scenes")
    with terminal.working("checking the input"):
        from heatproof.images import open_image
        from heatproof.pages.folder import check_folder

        check_folder(out)
        open_image(photo)
        order = Order(
            photo,
            asked,
            model or "scenes",
            _methods(method, given),
            score,
            size,
            words,
            certify,
            seed,
            memory,
        )
    with terminal.working(f"loading {order.model}"):
        from heatproof.models import load

        loaded = load(order.model, device=device)
    results = _explained(loaded, order)
    with terminal.working("drawing"):
        report = _saved(results, out)
    _summarise(results, order, report)
    from heatproof.certificate import worst

    outcome = worst([result.holds for result in results])
    if outcome is not True and not allow_uncertified:
        raise typer.Exit(FAILED if outcome is False else UNESTABLISHED)


def _prompts(given: list[str] | None, photo: Path) -> tuple[str, ...]:
    texts = checking.prompts(given or [])
    ending = photo.suffix or ".jpg"
    checking.no_files(
        texts,
        f"one image is explained at a time; for many: for f in *{ending}; "
        'do heatproof explain "$f" "a dog" -o "out/$f"; done',
    )
    return tuple(texts)


def _methods(names: str, switches: dict[str, str]) -> tuple["Method", ...]:
    """The methods of a comma list or of `all`; there, each takes the switches that it has."""
    from heatproof import methods

    chosen = index.chosen_methods(names, switches)
    return tuple(methods.create(name, **own) for name, own in chosen.items())


def _explained(model: "Model", order: Order) -> list[Result]:
    """One result a method. Of several, those that this model does not allow are left out."""
    results: list[Result] = []
    refused: list[HeatproofError] = []
    for number, method in enumerate(order.methods, 1):
        name = method.card.name
        which = f" ({number} of {len(order.methods)})" if len(order.methods) > 1 else ""
        try:
            with terminal.working(f"explaining with {name}{which}: {method.card.cost}"):
                results.append(_result(model, order, method))
        except HeatproofError as error:
            if len(order.methods) == 1:
                raise
            refused.append(error)
            typer.echo(f"notice: {name} is left out: {terminal.one_line(str(error))}", err=True)
    if not results:
        raise refused[0]
    return results


def _result(model: "Model", order: Order, method: "Method") -> Result:
    from heatproof.engine.api import explain, explain_words

    asked: dict[str, Any] = {
        "method": method,
        "score": order.score,
        "image_size": order.image_size,
        "certify": order.certify,
        "seed": order.seed,
        "memory": order.memory,
    }
    explanation = explain(model, order.photo, order.prompts, **asked)
    words = None
    if order.words and (len(order.methods) == 1 or "text" in method.card.sides):
        words = explain_words(model, order.photo, order.prompts, **asked)
    return Result(explanation, words)


def _saved(results: list[Result], out: Path) -> Path:
    """One method's files in `out`; several methods' in a folder each, led to by a contact sheet."""
    from heatproof.certificate import worst_kind
    from heatproof.pages import bundle
    from heatproof.plots.contact_sheet import row, sheet
    from heatproof.plots.overlay import pictured

    if len(results) == 1:
        return bundle.save(results[0].explanation, results[0].words, out)
    rows: list[tuple[str, str, str]] = []
    for result in results:
        name = result.explanation.record.method
        bundle.save(result.explanation, result.words, out / name)
        kind = worst_kind([certificate.kind for _, certificate in result.certificates])
        rows.append((name, f"{name}/report.html", kind))
    first = results[0].explanation
    drawn = sheet(*pictured(first), [row(result.explanation) for result in results])
    title = f"{Path(first.photos[0].source).name}: {len(results)} methods"
    return bundle.save_contents(title, rows, out, drawn)


def _summarise(results: list[Result], order: Order, report: Path) -> None:
    """Notices on stderr; scores, verdicts and the report's place on stdout."""
    from heatproof.pages.explanation_page import notices
    from heatproof.plots.overlay import score_text

    lines = [f"notice: {text}" for result in results for text in notices(result.explanation)]
    lines += [
        f"warning: {_named(result, results)}{text}"
        for result in results
        for text in result.explanation.certificate.warnings
    ]
    for line in dict.fromkeys(lines):
        typer.echo(terminal.one_line(line), err=True)
    first = results[0].explanation
    typer.echo(f"{terminal.one_line(str(order.photo))} · {first.record.model}")
    for number, prompt in enumerate(first.record.prompts):
        typer.echo(f"  {score_text(first, 0, number)}  {terminal.one_line(prompt)}")
    for result in results:
        for side, certificate in result.certificates:
            name = f"{result.explanation.record.method}: {side}"
            sentence = terminal.one_line(certificate.sentence)
            typer.echo(f"{name}{SAID[certificate.kind].format(sentence)}")
            if len(results) > 1:
                short = (f"{light.name}: {light.state}" for light in certificate.lights)
                typer.echo(f"  {' · '.join(short)}")
                continue
            for light in certificate.lights:
                typer.echo(f"  {light.name}: {light.state} · {terminal.one_line(light.evidence)}")
    typer.echo(f"report: {report}")
    typer.echo(_last_line(results))


SAID: dict[str, str] = {
    "holds": "certificate holds",
    "holds with limits": "certificate holds, with limits: {}",
    "another backward rule": "certificate fails: {}",
    "fails": "CERTIFICATE FAILS: {}",
    "not established": "{}",
}


def _last_line(results: list[Result]) -> str:
    """What the exit code stands for, and whose fault it is where there are several methods."""
    from heatproof.certificate import worst

    outcome = worst([result.holds for result in results])
    text = {
        True: "certificate: holds",
        False: "certificate: FAILS",
        None: "certificate: not established",
    }[outcome]
    names = [result.explanation.record.method for result in results if result.holds is outcome]
    if outcome is True or len(results) == 1:
        return text
    return f"{text} for {len(names)} of {len(results)}: {', '.join(names)}"


def _named(result: Result, results: list[Result]) -> str:
    return f"{result.explanation.record.method}: " if len(results) > 1 else ""


# catalogues


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
) -> None:
    """List the methods: what each computes and what it changes in the model."""
    entries = index.methods()
    if name is not None:
        index.check("method", name, {})
        _describe(entries[name])
        return
    wide = max(map(len, entries))
    for each, entry in entries.items():
        typer.echo(f"{each:<{wide}}  {entry.card['summary']}")
        typer.echo(f"{'':<{wide}}  changes: {entry.card['changes']}")
        for key, switch in entry.switches.items():
            typer.echo(f"{'':<{wide}}  --set {key}={_allowed(switch)}")


def _describe(entry: index.Listed) -> None:
    keys = ("name", "summary", "source", "reads", "changes", "values", "cost", "notes")
    for key in (key for key in keys if entry.card[key]):
        typer.echo(f"{key + ':':<9} {entry.card[key]}")
    low, high = entry.card.get("signs") or ("low", "high")
    typer.echo(f"{'legend:':<9} negative: {low}; positive: {high}")
    typer.echo(f"{'explains:':<9} {' and '.join(entry.card['sides'])} side")
    for key, switch in entry.switches.items():
        typer.echo(f"{'switch:':<9} {key}={_allowed(switch)}")


def _allowed(switch: Any) -> str:
    values = "|".join(switch.allowed) or switch.values
    return values if switch.default is None else f"{values}  (default {switch.default})"


@app.command()
def models(
    word: Annotated[str | None, typer.Argument(help="Names that hold this word.")] = None,
) -> None:
    """List what --model takes; with a WORD, the names that hold it."""
    if word is None:
        wide = max(map(len, specs.MODELS))
        for spec, meaning in specs.MODELS.items():
            typer.echo(f"{spec:<{wide}}  {meaning}")
        typer.echo("heatproof models WORD lists names, such as: heatproof models vit-b-16")
        return
    found = [spec for spec in _specs() if word.lower() in spec.lower()]
    if not found:
        raise InputError(f"no model name holds {word!r}; see heatproof models")
    for spec in found:
        typer.echo(spec)


def _specs() -> Iterator[str]:
    import open_clip
    import timm

    yield "scenes"
    for name in open_clip.list_models():
        yield f"open_clip:{name}"
        for tag in open_clip.list_pretrained_tags_by_model(name):
            yield f"open_clip:{name}/{tag}"
    for name in timm.list_models("vit_*", pretrained=True):
        yield f"timm:{name}"


app.command()(audit)
app.command()(benchmark)
app.command()(prove)
app.command()(reproduce)
