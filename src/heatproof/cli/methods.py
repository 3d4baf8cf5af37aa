"""`heatproof methods`: the catalogue by purpose, from files, so that it needs no torch.

What a method is good for, and what it costs, comes from `method_study.json`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from heatproof import index

Row = Mapping[str, Any]
NEW = "not measured yet"
GROUPS = {
    "forward": "Explain your model, for about the price of a forward pass, any number of prompts",
    "few": "Explain your model, with gradients or a few passes",
    "many": "Explain your model, with many passes",
    NEW: "Explain your model; not measured yet",
    "changed": "Explain a changed model, or use other gradients than its own, as published",
    "control": "Depend on no model: controls to compare with",
}
FORWARD, FEW = (2.0, 3.0), 10.0
"""The most bare passes of a group: for 1 and for 100 prompts; for 1 prompt."""


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this method in full.")
    ] = None,
) -> None:
    """List all methods by purpose and cost.

    Example: heatproof methods grad-eclip
    """
    entries = index.methods()
    if name in index.PURPOSES:
        for side in ("image", "text"):
            typer.echo(f"{name}, {side} side: {_order(index.meant(name, side))}")
        return
    if name is not None:
        index.check("method", name, {})
        _describe(entries[name])
        return
    for purpose in index.PURPOSES:
        sides = (f"{side}s: {_order(index.meant(purpose, side))}" for side in ("image", "text"))
        typer.echo(f"--method {purpose:<8} {'; '.join(sides)}")
    width = max(map(len, entries))
    for group, title in GROUPS.items():
        own = [name for name in entries if _group(name, entries[name]) == group]
        if not own:
            continue
        typer.echo(f"\n{title}")
        typer.echo(f"  {'':<{width}}  {'certificate':<12} {'SRG':>5} {'pairs':>6}  passes (1, 100)")
        for name in own:
            typer.echo(f"  {name:<{width}}  {_figures(name)}")
            typer.echo(f"    {entries[name].card['summary']}")
    typer.echo(f"\n{_legend()}")


def _order(names: tuple[str, ...]) -> str:
    return ", then ".join(names) + (" (where a model refuses the first)" if names[1:] else "")


def _group(name: str, entry: index.Listed) -> str:
    """Return the purpose of a method: by its card, and among those that fit by its cost."""
    changes = str(entry.card["changes"])
    if entry.card["reads"].startswith("nothing"):
        return "control"
    if not changes.startswith(("nothing", "the input")):
        return "changed"
    study = index.study()["methods"].get(name, {}).get("image")
    if study is None:
        return NEW
    one, hundred = (study["passes"].get(n) for n in ("1", "100"))
    if one is None:
        return NEW
    if one <= FORWARD[0] and hundred is not None and hundred <= FORWARD[1]:
        return "forward"
    return "few" if one <= FEW else "many"


def _figures(name: str) -> str:
    """Return certificate, quality and cost as they were measured; a dash where nothing was."""
    study = index.study()["methods"].get(name, {})
    image, text = study.get("image", {}), study.get("text", {})
    known = [side.get("certificate") for side in (image, text)]
    holds = [verdict for verdict in known if verdict is not None]
    certificate = "-" if not holds else "holds" if all(holds) else "fails"
    passes = [_number(image.get("passes", {}).get(n), 1) for n in ("1", "100")]
    quality = f"{_number(image.get('quality'), 2):>5} {_number(text.get('quality'), 2):>6}"
    return f"{certificate:<12} {quality}  {', '.join(passes)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _legend() -> str:
    study = index.study()
    if study["date"] is None:
        return "Nothing of this list is measured yet (benchmarks/default.py)."
    images = ", ".join(f"{count} on {model}" for model, count in study["images"].items())
    return (
        "certificate: can it hold, on every model family that was tried?\n"
        "SRG: how well a map of an image orders its patches, by removing them (0 random).\n"
        "pairs: how often a map of a prompt marks the present word above an absent one (0.5 "
        "random).\n"
        f"passes: cost for 1 and for 100 prompts, in bare passes of {study['costed']}.\n"
        f"Measured {study['date']} on scenes ({images}), {study['hardware']}; docs/which_method.md."
    )


def _describe(entry: index.Listed) -> None:
    keys = ("name", "summary", "source", "reads", "changes", "values", "cost", "notes")
    for key in (key for key in keys if entry.card[key]):
        typer.echo(f"{key + ':':<9} {entry.card[key]}")
    # Only cards whose values have a meaning of their own name the ends of the legend.
    low, high = entry.card.get("signs") or ("low", "high")
    typer.echo(f"{'legend:':<9} negative: {low}; positive: {high}")
    typer.echo(f"{'explains:':<9} {' and '.join(entry.card['sides'])} side")
    for key, option in entry.options.items():
        typer.echo(f"{'option:':<9} {key}={_allowed(option)}")


def _allowed(option: Any) -> str:
    values = "|".join(option.allowed) or option.values
    return values if option.default is None else f"{values}  (default {option.default})"
