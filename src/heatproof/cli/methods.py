"""`heatproof methods`: the catalogue, from `index.json`, so that it needs no torch."""

from typing import Annotated, Any

import typer

from heatproof import index


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this method in full.")
    ] = None,
) -> None:
    """List all methods and what they change in the model.

    Example: heatproof methods grad-eclip
    """
    entries = index.methods()
    if name is not None:
        index.check("method", name, {})
        _describe(entries[name])
        return
    width = max(map(len, entries))
    for method, entry in entries.items():
        typer.echo(f"{method:<{width}}  {entry.card['summary']}")
        typer.echo(f"{'':<{width}}  changes: {entry.card['changes']}")
        for key, option in entry.options.items():
            typer.echo(f"{'':<{width}}  --set {key}={_allowed(option)}")


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
