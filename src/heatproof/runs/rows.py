"""Rows of the store from explanations."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from heatproof.certificate import Certificate
from heatproof.explanation import Explanation
from heatproof.runs.prompts import Group
from heatproof.store.items import Item, ItemPhoto, Items
from heatproof.store.schema import FAILURES, MapType, Table, table_of


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """One explanation, and the items that its images are.

    Attributes:
        order: the number of the method among those of the run.
        seconds: what one image took.
    """

    explanation: Explanation
    group: Group
    items: Sequence[Item]
    order: int
    seconds: float


def certificate_columns(certificate: Certificate) -> dict[str, Any]:
    """Return the columns that say what was established for a row."""
    figures = {name.replace(" ", "_"): value for name, value in certificate.figures.items()}
    # Figures are rounded here, which halves the column; they have columns of their own.
    about = {
        **vars(certificate),
        "null_prompts": {kind: _rounded(own) for kind, own in certificate.null_prompts.items()},
        "common_share": _rounded(certificate.common_share),
    }
    del about["environment"]  # in the manifest and in each part, not in each row
    return {**figures, "certificate": json.dumps(about, default=_plain, ensure_ascii=False)}


def _plain(part: Any) -> dict[str, Any]:
    """Return a check, a sample or a light as JSON has it."""
    fields = dict(vars(part))
    for name in ("value", "limit"):
        if name in fields:
            fields[name] = _rounded(fields[name])
    return fields


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def table_of_rows(
    sources: Sequence[RowSource], items: Items, schema: Any, map_type: MapType
) -> Table:
    """Return the rows of several explanations of the same items, by image, method and prompt."""
    rows = sorted(
        (row for source in sources for row in _rows(source)),
        key=lambda row: (row["index"], row["order"], row["prompt_number"]),
    )
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in schema.names if name not in items.extras
    }
    indices = pa.array(columns["index"], pa.int64())
    columns |= {name: items.table.column(name).take(indices) for name in items.extras}
    kind = schema.field("map").type
    maps: list[np.ndarray] = columns["map"]
    stored = [values.astype(map_type) for values in maps]
    columns["map"] = _lists(stored, kind)
    columns["errors"] = _lists(
        [None if own is None else own.astype(map_type) for own in columns["errors"]], kind
    )
    columns["map_rounding"] = [
        _rounding(exact, own) for exact, own in zip(maps, stored, strict=True)
    ]
    return table_of(columns, schema)


def _rounding(exact: np.ndarray, stored: np.ndarray) -> float:
    """Return the largest error that rounding made, relative to the map's largest value."""
    largest = float(np.abs(exact).max())
    if not largest or exact.dtype == stored.dtype:
        return 0.0
    return float(np.abs(exact - stored.astype(exact.dtype)).max()) / largest


def _rows(source: RowSource) -> Iterator[dict[str, Any]]:
    explanation, record = source.explanation, source.explanation.record
    rows, cols = explanation.maps.shape[-2:]
    errors: Any = getattr(explanation, "errors", None)
    for image, item in enumerate(source.items):
        photo, view = explanation.photos[image], explanation.views[image]
        assert isinstance(photo, ItemPhoto)
        for number, prompt in enumerate(source.group.wanted[image]):
            key = (image, prompt)
            yield {
                "index": item.index,
                "id": item.id,
                "path": item.path,
                "content_sha256": photo.content_sha256,
                "method": record.method,
                "order": source.order,
                "prompt_number": number,
                "prompt": record.prompts[prompt],
                "score": float(explanation.scores[key]),
                "explained_score": float(explanation.explained_scores[key]),
                "map": explanation.maps[key].cpu().numpy(),
                "errors": None if errors is None else errors[key].cpu().numpy(),
                "grid_rows": rows,
                "grid_cols": cols,
                **certificate_columns(explanation.certificate_of(*key)),
                **asdict(view),
                "notices": "; ".join(photo.notices) or None,
                "seconds": source.seconds,
            }


def _lists(values: Sequence[np.ndarray | None], kind: Any) -> Any:
    """Return arrays as one column of lists, row by row."""
    value: Any = kind.value_type
    flat = [None if own is None else own.reshape(-1) for own in values]
    if not flat or any(own is None for own in flat):
        return pa.array([None if own is None else own.tolist() for own in flat], kind)
    joined = pa.array(np.concatenate([own for own in flat if own is not None]), value)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(joined, type=kind)
    ends = np.cumsum([0, *(len(own) for own in flat if own is not None)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), joined)


def table_of_failures(failures: Sequence[tuple[Item, str]]) -> Table:
    """Return the failures of a batch: which image, and why."""
    return table_of(
        {
            "index": [item.index for item, _ in failures],
            "id": [item.id for item, _ in failures],
            "path": [item.path for item, _ in failures],
            "reason": [reason for _, reason in failures],
        },
        FAILURES,
    )
