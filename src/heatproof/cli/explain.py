"""`heatproof explain PHOTO PROMPT ...`. Input is checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import checking, index, specs
from heatproof.certificate import AGREEMENT, Certificate, worst, worst_kind
from heatproof.cli import options, terminal
from heatproof.cli.explain_many import ManyRequest, explain_many, photos_of
from heatproof.display import STRENGTH, Display
from heatproof.errors import HeatproofError, InputError

if TYPE_CHECKING:
    from heatproof.engine.inputs import Prompts
    from heatproof.explanation import Explanation, WordExplanation
    from heatproof.methods.base import Method
    from heatproof.models.model import Model


@dataclass(frozen=True, kw_only=True)
class ExplainRequest:
    """The arguments of `explain`, checked as far as possible before a model is loaded."""

    photo: Path
    prompts: tuple[str, ...]
    methods: tuple["Method | str", ...]
    """As objects, or a name that stands for a method on each side (`index.PURPOSES`)."""
    words_method: "Method | str | None"
    """Where it is another one."""
    words: bool
    referee: bool
    reading: "ReadingRequest"
    options: dict[str, Any]
    """Keyword arguments of `heatproof.explain` that are the same for all methods."""
    embedded: "Prompts | None" = None
    """The prompts as ensembles of templates, where these were asked for."""


@dataclass(frozen=True)
class ReadingRequest:
    """What scores are read against: `--classes`, `--templates` and `--top`."""

    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    top: int = 0
    options: tuple[str, ...] = ()

    @property
    def asked(self) -> bool:
        """Whether anything was asked for."""
        return bool(self.classes or self.templates)


@dataclass(frozen=True)
class MethodResult:
    """The maps of one method, and its values of words where they were asked for."""

    explanation: "Explanation"
    words: "WordExplanation | None"

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.explanation.record.method

    @property
    def certificates(self) -> list[tuple[str, Certificate]]:
        """The certificate of the maps and, if there is one, of the words, each with its title."""
        words = [("words: ", self.words.certificate)] if self.words else []
        return [("", self.explanation.certificate), *words]

    @property
    def holds(self) -> bool | None:
        """The worst verdict of its certificates."""
        return worst([certificate.holds for _, certificate in self.certificates])


def explain(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Image file.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="One or more texts.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="A text, repeatable; all arguments are then images or folders."
        ),
    ] = None,
    model: options.ModelSpec = options.DEFAULT_MODEL,
    method: Annotated[
        str,
        typer.Option(
            help="default, fast, or a name of `heatproof methods`; several with commas, or `all`."
        ),
    ] = index.PURPOSES[0],
    settings: options.MethodOptions = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="What to explain: cosine, logit, margin, contrast:OTHER, sigmoid-logit or "
            "class-logit.",
            show_default="cosine; class-logit for a classifier",
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Also explain by the words of the prompt.")
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|imagenet",
            help="Give each score's rank among these classes (a file: one per line).",
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            metavar="openai80|FILE",
            help="Explain each prompt as the mean of these templates (`a photo of a {}.`).",
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            metavar="K", min=0, help="List the K best classes; without a PROMPT, explain them."
        ),
    ] = 0,
    referee: Annotated[
        bool,
        typer.Option(
            "--referee",
            help="Put each map's rank agreement with `banzhaf` into its certificate.",
        ),
    ] = False,
    words_method: Annotated[
        str | None,
        typer.Option(help="Method for the words.", show_default="the same name as --method"),
    ] = None,
    out: options.OutputFolder = Path("out"),
    device: options.Device = "cpu",
    image_size: Annotated[
        str,
        typer.Option(
            metavar="HxW|native|keep",
            help="Input size of the model. keep: the photo's aspect ratio, nothing cropped.",
        ),
    ] = "native",
    seed: options.Seed = 0,
    allow_uncertified: Annotated[
        bool,
        typer.Option(
            "--allow-uncertified",
            help="Exit with 0 even if the certificate fails or is not established.",
        ),
    ] = False,
    certify: Annotated[
        str,
        typer.Option(
            metavar="sample|full|none",
            help="Check what the maps explain: of more than 4 images, a random eighth or all.",
        ),
    ] = "sample",
    no_certify: Annotated[
        bool,
        typer.Option(
            "--no-certify", help="Same as --certify none: faster, but the exit code is then 3."
        ),
    ] = False,
    background: Annotated[
        str, typer.Option(metavar="gray|color", help="The photo under the maps.")
    ] = "gray",
    alpha: Annotated[
        float, typer.Option(help="Opacity of a map at the end of its scale, up to 1.")
    ] = STRENGTH,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory limit, on top of the model: 2GiB, 500MB.",
            show_default="no limit",
        ),
    ] = None,
) -> None:
    """Draw a heat map of PHOTO for each prompt, with a certificate.

    The certificate says whether the maps explain this model and not another one. Writes
    report.html, explanation.json, maps.safetensors and one overlay image per prompt.

    Example: heatproof explain photo.jpg "a dog" "a car" -o out/
    Several: heatproof explain a.jpg b.jpg folder/ -p "a dog" -o out/

    Exit codes; with several methods, the worst counts:

    \b
      0  the certificate holds
      1  the certificate fails
      2  bad input
      3  not established (with --no-certify, for example)
    """
    several = bool(prompt) or photo.is_dir()
    _check_top(top, classes, prompts)
    if prompt:
        texts = tuple(checking.prompts(prompt))
    else:
        texts = () if top and not prompts else _prompts(prompts, photo)
    size = checking.image_size(image_size)
    certified = checking.certify_word("none" if no_certify else certify)
    checking.memory(memory)
    display = Display(background, alpha)
    chosen = index.chosen_methods(method, terminal.parse_options(settings))
    of_words = None if words_method is None else index.chosen_methods(words_method, {})
    index.check_score(score or "cosine")
    specs.check(model)
    with terminal.working("checking the input"):
        from heatproof.images import open_image
        from heatproof.pages.folder import check_folder

        # Before the model is loaded, which takes seconds: bad input is reported at once.
        check_folder(out)
        photos = photos_of([photo, *(Path(name) for name in (prompts or []) if prompt)])
        if not several:
            open_image(photo)
        elif len(chosen) > 1 or words or referee or classes or templates:
            raise InputError(
                "got several images, for which one method is run and no --words, --referee, "
                "--classes or --templates; give one image, or leave these out"
            )
        request = ExplainRequest(
            photo=photo,
            prompts=texts,
            methods=_create(chosen),
            words=words or of_words is not None,
            words_method=None if of_words is None else _create(of_words)[0],
            referee=referee,
            reading=_reading(classes, templates, top),
            options={
                "score": score,
                "image_size": size,
                "certify": certified,
                "seed": seed,
                "memory": memory,
            },
        )
    with terminal.working(f"loading {model}"):
        from heatproof.models import load

        loaded = load(model, device=device)
    if several:
        outcome = explain_many(
            loaded,
            ManyRequest(
                photos=photos,
                prompts=texts,
                method=request.methods[0],
                out=out,
                options=request.options,
                display=display,
            ),
        )
        _exit(outcome, allow_uncertified)
        return
    results = _read(loaded, request) if request.reading.asked else _explain_all(loaded, request)
    with terminal.working("drawing"):
        report = _save(results, out, display)
    _summarise(results, request, report)
    _exit(_worst(results), allow_uncertified)


def _exit(outcome: bool | None, allow_uncertified: bool) -> None:
    if outcome is not True and not allow_uncertified:
        raise typer.Exit(terminal.FAILED if outcome is False else terminal.NOT_ESTABLISHED)


def _prompts(texts: list[str] | None, photo: Path) -> tuple[str, ...]:
    """Check the prompts. `explain *.jpg "a dog"` hands in images as prompts: say how to loop."""
    prompts = checking.prompts(texts or [])
    ending = photo.suffix or ".jpg"
    checking.no_files(
        prompts,
        f'for several images: heatproof explain *{ending} -p "a dog"',
    )
    return tuple(prompts)


def _check_top(top: int, classes: str | None, prompts: list[str] | None) -> None:
    if top and classes is None:
        raise InputError(f"got --top {top} without classes; add --classes imagenet, or a file")
    if not top and not prompts and classes is not None:
        raise InputError("got no prompt, expected one or more, or --top K to explain the K best")


def _reading(classes: str | None, templates: str | None, top: int) -> ReadingRequest:
    from heatproof.engine import readings

    asked = {"--classes": classes, "--templates": templates}
    return ReadingRequest(
        () if classes is None else readings.class_names(classes),
        () if templates is None else readings.templates(templates),
        top,
        tuple(part for name, source in asked.items() if source for part in (name, source)),
    )


def _read(model: "Model", request: ExplainRequest) -> list[MethodResult]:
    """Explain prompts or ensembles, and say how their scores are to be read."""
    from heatproof.engine import inputs, readings

    reading, own = request.reading, dict[str, Any]()
    shown = inputs.images(model, request.photo, request.options["image_size"])
    patterns = reading.templates or (readings.PLACE,)
    classes = None
    if reading.classes:
        count = len(reading.classes) * len(patterns)
        with terminal.working(f"embedding {count} texts of {len(reading.classes)} classes"):
            classes = readings.ensembles(model, reading.classes, patterns)
    texts = request.prompts
    if classes is not None and reading.top:
        best = readings.top(shown, classes, reading.top)
        typer.echo(f"the {len(best)} best of {len(reading.classes)} classes:")
        for number, value in best:
            typer.echo(f"  cosine {value:+.4f}  {terminal.one_line(reading.classes[number])}")
        texts = texts or tuple(reading.classes[number] for number, _ in best)
    prompts = readings.ensembles(model, texts, patterns)
    if reading.templates:
        own["embedded"] = prompts
    request = replace(request, prompts=texts, **own)
    rows = readings.readings(model, shown, prompts, classes)
    notices = (
        (f"each prompt is the mean of {len(patterns)} templates, such as {patterns[0]!r}",)
        if reading.templates
        else ()
    )
    results = _explain_all(model, request)
    for number, result in enumerate(results):
        record = result.explanation.record
        record = replace(record, options=reading.options, notices=(*record.notices, *notices))
        results[number] = MethodResult(
            replace(result.explanation, readings=rows, record=record), result.words
        )
    return results


def _create(chosen: dict[str, dict[str, str]]) -> tuple["Method | str", ...]:
    """Create methods by name, each with its own options; purposes stay names."""
    from heatproof import methods

    return tuple(
        name if name in index.PURPOSES else methods.create(name, **settings)
        for name, settings in chosen.items()
    )


def _explain_all(model: "Model", request: ExplainRequest) -> list[MethodResult]:
    """Explain by each method; of several, those that do not apply to this model are left out."""
    from heatproof.methods import method_of

    results: list[MethodResult] = []
    errors: list[HeatproofError] = []
    count = len(request.methods)
    for number, method in enumerate(request.methods, 1):
        card = method_of(method).card
        name = card.name
        place = f" ({number} of {count})" if count > 1 else ""
        try:
            with terminal.working(f"explaining with {name}{place}: {card.cost}"):
                results.append(_explain(model, request, method))
        except HeatproofError as error:
            if count == 1:
                raise
            errors.append(error)
            terminal.notice(f"{name} is left out: {error}")
    if not results:
        raise errors[0]
    return _refereed(model, request, results) if request.referee else results


def _refereed(
    model: "Model", request: ExplainRequest, results: list[MethodResult]
) -> list[MethodResult]:
    """Put each map's agreement with the referee into its certificate; the referee has none."""
    from heatproof.engine import api
    from heatproof.engine.referee import REFEREE, refereed

    own = [result.explanation for result in results if result.method == REFEREE]
    if not own:
        with terminal.working(f"explaining with the referee, {REFEREE}"):
            options: dict[str, Any] = {**request.options, "certify": False}
            prompts = request.embedded or request.prompts
            own = [api.explain(model, request.photo, prompts, method=REFEREE, **options)]
    return [
        result
        if result.method == REFEREE
        else MethodResult(refereed(result.explanation, own[0]), result.words)
        for result in results
    ]


def _explain(model: "Model", request: ExplainRequest, method: "Method | str") -> MethodResult:
    from heatproof.engine import api
    from heatproof.methods import Method

    arguments = (model, request.photo, request.embedded or request.prompts)
    explanation = api.explain(*arguments, method=method, **request.options)
    # Of several methods, those without a text side explain the image alone; a single one is asked
    # all the same, so that its refusal is shown.
    of_words = request.words_method or method
    both = not isinstance(of_words, Method) or "text" in of_words.card.sides
    words = request.words and (len(request.methods) == 1 or both)
    return MethodResult(
        explanation,
        api.explain_words(*arguments, method=of_words, **request.options) if words else None,
    )


def _save(results: list[MethodResult], out: Path, display: Display) -> Path:
    """Write one method's files into `out`; of several, a folder per method and a contact sheet."""
    from heatproof.pages import bundle
    from heatproof.plots.contact_sheet import sheet, sheet_row

    if len(results) == 1:
        return results[0].explanation.save(out, words=results[0].words, **asdict(display))
    # Every method has files of the same names, hence a folder each.
    rows: list[tuple[str, str, str]] = []
    for result in results:
        result.explanation.save(out / result.method, words=result.words, **asdict(display))
        kind = worst_kind([certificate.kind for _, certificate in result.certificates])
        rows.append((result.method, f"{result.method}/report.html", kind))
    images = [result.explanation.for_image(0, display) for result in results]
    photo, view = images[0].photo, images[0].view
    title = f"{Path(photo.source).name}: {len(results)} methods"
    drawing = sheet(photo, view, [sheet_row(maps) for maps in images])
    return bundle.save_contents(title, rows, out, drawing)


def _summarise(results: list[MethodResult], request: ExplainRequest, report: Path) -> None:
    """Print notices on stderr; scores, verdicts and the report's path on stdout."""
    # Several methods repeat the notices of the same model and photo.
    for line in dict.fromkeys(_notices(results)):
        typer.echo(terminal.one_line(line), err=True)
    first = results[0].explanation.for_image()
    typer.echo(f"{terminal.one_line(str(request.photo))} · {first.record.model}")
    for number, prompt in enumerate(first.record.prompts):
        typer.echo(f"  {first.score_text(number)}  {terminal.one_line(prompt)}")
    for result in results:
        for side, certificate in result.certificates:
            sentence = terminal.one_line(certificate.sentence)
            typer.echo(f"{result.method}: {side}{VERDICTS[certificate.kind].format(sentence)}")
            if check := certificate.check(AGREEMENT):
                typer.echo(f"  {check.name}: {check.verdict} · {check.evidence}")
            # The evidence of many methods would fill the screen; it is in each report.
            if len(results) > 1:
                short = (f"{light.name}: {light.state}" for light in certificate.lights)
                typer.echo(f"  {' · '.join(short)}")
                continue
            for light in certificate.lights:
                typer.echo(f"  {light.name}: {light.state} · {terminal.one_line(light.evidence)}")
    # Last, where the eye falls: what the exit code means.
    typer.echo(f"report: {report}")
    typer.echo(_last_line(results))


VERDICTS = {
    "holds": "certificate holds",
    "holds with limits": "certificate holds, with limits: {}",
    "another backward rule": "certificate fails: {}",
    "fails": "CERTIFICATE FAILS: {}",
    "not established": "{}",
}
"""What each kind of certificate is on the terminal; the braces take its sentence."""


def _notices(results: Sequence[MethodResult]) -> list[str]:
    """List the notices of all results, and the warnings of their certificates."""
    images = [result.explanation.for_image() for result in results]
    lines = [f"notice: {text}" for maps in images for text in maps.notices]
    for result in results:
        name = f"{result.method}: " if len(results) > 1 else ""
        lines += [f"warning: {name}{text}" for text in result.explanation.certificate.warnings]
    return lines


def _last_line(results: list[MethodResult]) -> str:
    """State the verdict behind the exit code, and which methods it is due to."""
    outcome = _worst(results)
    text = {
        True: "certificate: holds",
        False: "certificate: FAILS",
        None: "certificate: not established",
    }[outcome]
    if outcome is True or len(results) == 1:
        return text
    names = [result.method for result in results if result.holds is outcome]
    return f"{text} for {len(names)} of {len(results)}: {', '.join(names)}"


def _worst(results: list[MethodResult]) -> bool | None:
    return worst([result.holds for result in results])
