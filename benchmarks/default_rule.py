"""The rule of `benchmarks/default.py` as code: from a study to the methods that names stand for."""

from collections.abc import Mapping
from typing import Any

from scipy.stats import rankdata

Row = Mapping[str, Any]
GATES = ("certificate", "blind", "shortcuts", "controls", "level")
BLIND = 1e-3
SHORTCUT = 0.95
LEVEL = 0.47
HALF_A_RANK = 0.5
PRICES = {"default": (100.0, 1000.0), "fast": (2.0, 3.0)}
"""The most bare passes for 1 prompt, and for 100 prompts."""


def chosen(of_side: Row, side: str) -> dict[str, Any]:
    """Return, for both names, the methods in order, the gates that they fail, and all ranks."""
    controls = of_side["controls"]
    rows = {
        name: row
        for name, row in of_side["methods"].items()
        if name not in controls and "refused" not in row and row["columns"]
    }
    gates = {name: gates_of(row, of_side, side) for name, row in rows.items()}
    named = {name: _named(name, rows, gates, of_side["columns"], side) for name in PRICES}
    if not named["fast"]["methods"]:
        named["fast"]["methods"] = named["default"]["methods"]
    return named


def _named(
    purpose: str,
    rows: Mapping[str, Row],
    gates: Mapping[str, Mapping[str, bool | None]],
    columns: Mapping[str, str],
    side: str,
) -> dict[str, Any]:
    cheap = {name: row for name, row in rows.items() if affordable(row, purpose, side)}
    first, dropped, ranks = _best(cheap, gates, columns)
    names = [first] if first else []
    if first and refuses(rows[first]):
        everywhere = {name: row for name, row in cheap.items() if not refuses(row)}
        then = _best(everywhere, gates, columns)[0]
        names += [then] if then else []
    return {
        "methods": names,
        "dropped": list(dropped),
        "fails": {name: [g for g, passes in gates[name].items() if passes is False]
                  for name in names},
        # On the text side, most gates do not apply.
        "not measured": {name: [g for g, passes in gates[name].items() if passes is None]
                         for name in names} if side == "image" else {},
        "ranks": ranks,
    }  # fmt: skip


def _best(
    rows: Mapping[str, Row],
    gates: Mapping[str, Mapping[str, bool | None]],
    columns: Mapping[str, str],
) -> tuple[str | None, tuple[str, ...], dict[str, float]]:
    for last in range(len(GATES), 0, -1):
        left = {
            name: row
            for name, row in rows.items()
            if all(gates[name][gate] is not False for gate in GATES[:last])
        }
        if left:
            ranks = mean_ranks(left, columns)
            near = [n for n in left if ranks[n] < min(ranks.values()) + HALF_A_RANK]
            # The best itself is among them; a cheaper one is taken where it is as good as that.
            return (
                min(near, key=lambda name: (price(left[name], 1), ranks[name])),
                GATES[last:],
                ranks,
            )
    return None, GATES[1:], {}


def mean_ranks(rows: Mapping[str, Row], columns: Mapping[str, str]) -> dict[str, float]:
    """Return each method's mean rank over columns and models, 1 the best; a tie shares a rank."""
    totals = dict.fromkeys(rows, 0.0)
    count = 0
    for model in dict.fromkeys(model for row in rows.values() for model in row["columns"]):
        for column, better in columns.items():
            sign = -1 if better == "higher" else 1
            values = [
                sign * value if (value := _value(row, model, column)) is not None else float("inf")
                for row in rows.values()
            ]
            for name, place in zip(rows, rankdata(values), strict=True):
                totals[name] += float(place)
            count += 1
    return {name: total / count for name, total in totals.items()}


def _value(row: Row, model: str, column: str) -> float | None:
    return row["columns"].get(model, {}).get(column, {}).get("value")


# --- gates --------------------------------------------------------------------------------------


def gates_of(row: Row, of_side: Row, side: str) -> dict[str, bool | None]:
    """Return for each gate whether the method passes; None where it was not measured."""
    image = side == "image"
    return {
        "certificate": certificate_holds(row),
        "blind": is_blind(row) if image else None,
        "shortcuts": shows_shortcuts(row) if image else None,
        "controls": beats_controls(row) if image else tells_pairs(row, of_side),
        "level": reaches_level(row) if image else None,
    }


def certificate_holds(row: Row) -> bool | None:
    """Return whether the certificate holds wherever the method ran, and it ran somewhere."""
    certificate = row["certificate"]
    if certificate is None:
        return None
    return bool(certificate and certificate["ran"] and not certificate["fails"])


def refuses(row: Row) -> bool:
    """Return whether the method refuses a family."""
    return bool(row["certificate"]["refused"])


def is_blind(row: Row) -> bool | None:
    """Return whether the map of a blind model is constant."""
    share = (row["blind"] or {}).get("share")
    return None if share is None else share <= BLIND


def shows_shortcuts(row: Row) -> bool | None:
    """Return whether the map shows every shortcut that was measured."""
    lows = [cue["low"] for cue in (row["shortcuts"] or {}).values() if cue.get("low") is not None]
    return min(lows) >= SHORTCUT if lows else None


def beats_controls(row: Row) -> bool:
    """Return whether every column of the first model is better than all controls."""
    columns = _first(row)
    return bool(columns) and all(c["over controls"] == "better" for c in columns.values())


def tells_pairs(row: Row, of_side: Row) -> bool:
    """Return whether the map tells the present word from the absent one better than controls."""
    controls = [of_side["methods"][name] for name in of_side["controls"]]
    best = max(_first(control)["pairs"]["high"] for control in controls)
    return _first(row)["pairs"]["low"] > best


def reaches_level(row: Row) -> bool:
    """Return whether SRG under the mean imputer, which is the first column, is high enough."""
    return next(iter(_first(row).values()))["value"] >= LEVEL


def _first(row: Row) -> Mapping[str, Any]:
    return next(iter(row["columns"].values()))


# --- cost ---------------------------------------------------------------------------------------


def affordable(row: Row, purpose: str, side: str) -> bool:
    """Return whether a method keeps both prices of a name."""
    one, hundred = PRICES[purpose]
    return price(row, 1, side) <= one and price(row, 100, side) <= hundred


def price(row: Row, prompts: int, side: str = "image") -> float:
    """Return the cost for so many prompts in bare passes, from the largest number measured so far.

    An image's cost grows at most in proportion to its prompts. On the text side bare passes grow
    with the prompts, too, so that the ratio stays.
    """
    measured = {int(n): cost["passes"] for n, cost in row["cost"].get("prompts", {}).items()}
    known = max((n for n in measured if n <= prompts), default=0)
    growth = prompts / known if known and side == "image" else 1
    return measured[known] * growth if known else float("inf")
