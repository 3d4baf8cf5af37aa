"""The values of the pages that hold methods and metrics against a known truth."""

from collections.abc import Callable
from typing import Any

Figure = dict[str, Any]


def _figure(found: Figure | None, digits: int = 2) -> str:
    if found is None or found.get("value") is None:
        return "-"
    ends = [found["low"], found["high"]]
    if None in ends:
        return f"{found['value']:.{digits}f}"
    low, high = (f"{end:.{digits}f}" for end in ends)
    return f"{found['value']:.{digits}f} [{low}, {high}]"


def _share(found: Figure) -> str:
    return f"{100 * found['value']:.1f} %"


def shortcuts(results: Callable[[str], Any]) -> dict[str, Any]:
    """Return the values of shortcuts.md, methods with the best worst figure first."""
    measured = results("shortcuts")
    cues = list(measured["naming"])
    rows: list[tuple[float, list[str]]] = []
    left_out: list[str] = []
    for name, row in measured["methods"].items():
        known = [row["cues"].get(cue, {}) for cue in cues]
        left_out += [
            f"`{name}`, {cue}: {one['reason']}"
            for cue, one in zip(cues, known, strict=True)
            if "reason" in one
        ]
        values = [one.get("value") for one in known]
        worst = min((v for v in values if v is not None), default=-1.0)
        rows.append((-worst, [f"`{name}`", *(_figure(one) for one in known)]))
    naming = [
        [f"`{cue}`", *(_share(found[by]) for found in models.values() for by in ("cue", "shape"))]
        for cue, models in measured["naming"].items()
    ]
    return {
        "images": measured["images"],
        "hardware": measured["hardware"],
        "naming": naming,
        "head": ["method", *cues],
        "rows": [row for _, row in sorted(rows)],
        "left_out": left_out,
    }


def inside(results: Callable[[str], Any]) -> dict[str, Any]:
    """Return the values of inside.md."""
    measured = results("inside")
    known = {name: row for name, row in measured["methods"].items() if "reason" not in row}
    model = measured["model"]
    follow = sorted(known, key=lambda name: -(known[name]["with the cause"]["value"] or -2))
    first = sorted(known, key=lambda name: -(known[name]["right is first"]["value"] or -2))
    grades = list(model["likeness"])
    shares = [
        f"{what} {_figure(model[what][part])} ({part})"
        for what in ("accuracy", "cause")
        for part in ("trained", "held out")
    ]
    ceiling = model["reliability"]
    enough = ceiling["low"] is not None and ceiling["low"] > 0
    verdict = (
        "The pairs differ enough for the question to be asked."
        if enough
        else "That is not above 0: the model uses all pairs about alike, and nothing is "
        "established here about any method. The choices themselves are."
    )
    return {
        "images": measured["images"],
        "graded": measured["graded"],
        "hardware": measured["hardware"],
        "model_line": "; ".join(shares) + ", above chance for the cause.",
        "reliability": _figure(ceiling),
        "verdict": verdict,
        "pair_head": [
            "method",
            "with the cause",
            "with accuracy",
            "choice above chance, trained",
            "held out",
        ],
        "pair_rows": [
            [
                f"`{name}`",
                *(_figure(known[name][key]) for key in ("with the cause", "with accuracy")),
                *(_figure(known[name]["choice"][part]) for part in ("trained", "held out")),
            ]
            for name in follow
        ],
        "grade_head": ["", "right prompt is first", *grades],
        "grade_rows": [
            [
                "*score*",
                _figure(model["right is first"]),
                *(_figure(model["likeness"][g]) for g in grades),
            ],
            *(
                [
                    f"`{name}`",
                    _figure(known[name]["right is first"]),
                    *(_figure(known[name]["likeness"][g]) for g in grades),
                ]
                for name in first
            ),
        ],
    }


def metrics_truth(results: Callable[[str], Any]) -> dict[str, Any]:
    """Return the values of metrics_truth.md; the verdict is by the script's rule."""
    measured = results("metrics_truth")
    ranked = {k: v for k, v in measured["metrics"].items() if v["value"] is not None}
    names = list(ranked)
    best = ranked[names[0]]["value"]
    reach = [name for name in names if ranked[name]["high"] >= best]
    first = names[:3]
    others = [ranked[name]["value"] for name in names[3:]]
    apart = others and min(ranked[name]["low"] for name in first) > max(others)
    shown = first if apart or len(reach) <= 3 else reach
    text = ", ".join(f"`{name}`" for name in shown)
    if apart or len(reach) <= 3:
        verdict = f"Trust, of these: {text}."
    else:
        verdict = (
            f"No three can be singled out. The intervals of these reach the best value: {text}."
        )
    return {
        "images": measured["images"],
        "methods": len(measured["truth"]),
        "hardware": measured["hardware"],
        "verdict": verdict,
        "rows": [[f"`{name}`", _figure(ranked[name])] for name in names],
        "truth": [
            [f"`{name}`", f"{value:.3f}"]
            for name, value in sorted(measured["truth"].items(), key=lambda item: -item[1])
        ],
    }


PAGES = (shortcuts, inside, metrics_truth)
