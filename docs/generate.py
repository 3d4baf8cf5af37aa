"""Write the pages that hold tables, and `heatproof/index.json`: python docs/generate.py

Prose is in `docs/templates`; this file computes what goes between. Pages of methods, metrics and
data come from the code's own cards, the others from `benchmarks/results`. The command line reads
`index.json` in place of the catalogues, so that it checks names and options without torch.
"""

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from math import inf
from pathlib import Path
from typing import Any

import jinja2
import method_choice
import truth_pages

import heatproof
from heatproof import data as sets
from heatproof import imputers, statistics
from heatproof.auditing.league import league_rows
from heatproof.auditing.result import from_json
from heatproof.index import FILE
from heatproof.metrics import MetricCard, catalogue
from heatproof.registry import Option

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
FOLLOWING = RESULTS / "following.json"
TRUTHS = (
    "test_metrics_catalogue",
    "test_metrics_perturbation_curves",
    "test_metrics_following",
    "test_metrics_planted_maps",
)
"""Test files of the metrics whose docstrings name the breaks that make them fail."""
CARD = {
    "method": {field.name for field in fields(heatproof.methods.MethodCard)} - {"options"},
    "metric": {"name"},
}
"""Of each catalogue's cards, the fields that the command line shows."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(DOCS / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown, not HTML: the pages hold our own texts and numbers alone
)
TEMPLATES.globals["table"] = table


def results(name: str) -> Any:
    """Return what a benchmark left in `benchmarks/results`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def index() -> str:
    """Return `index.json`: the catalogues in plain values."""
    every = {"method": heatproof.methods.catalogue(), "metric": catalogue()}
    plain = {
        kind: {
            name: {
                "card": {k: v for k, v in vars(entry).items() if k in CARD[kind]},
                "options": {key: asdict(option) for key, option in entry.options.items()},
            }
            for name, entry in entries.items()
        }
        for kind, entries in every.items()
    }
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def options(known: Mapping[str, Option]) -> str:
    """Describe the options of a method or metric: name, values, default."""
    texts = [f"`{key}` = {each.values} (default {each.default})" for key, each in known.items()]
    return "; ".join(texts) or "none"


def quartiles(row: dict[str, float]) -> list[str]:
    """Return a median and its quartiles as two cells."""
    return [f"{row['median']:.2f}", f"{row['lower quartile']:.2f} to {row['upper quartile']:.2f}"]


def methods() -> dict[str, Any]:
    """Return the values of methods.md."""
    entries = heatproof.methods.catalogue()
    rows = [
        [f"`{name}`", entry.summary, entry.reads, entry.changes, entry.values, entry.cost,
         ", ".join(entry.sides), options(entry.options), entry.source]
        for name, entry in entries.items()
    ]  # fmt: skip
    notes = [(name, entry.notes) for name, entry in entries.items() if entry.notes]
    measured = results("methods")
    checked = [
        _checked(name, entry.sides, measured[name])
        for name, entry in entries.items()
        if name in measured
    ]
    return {"rows": rows, "notes": notes, "checked": checked, "banzhaf": banzhaf()}


def banzhaf() -> dict[str, Any]:
    """Return what `benchmarks/banzhaf.py` measured; nothing of parts that were not run."""
    values: dict[str, Any] = {}
    if (RESULTS / "banzhaf_compare.json").exists():
        compare = results("banzhaf_compare")
        columns = ("SRG, mean", "SRG, blur", "SRG, tokens", "average precision")
        values["scenes"] = compare["scenes"]
        values["head"] = ["method", *columns, "hottest object"]
        values["rows"] = sorted(
            [
                f"`{name}`",
                *(_difference(row[column]) for column in columns),
                f"{row['hottest object']['mean']['value']:.3f}",
            ]
            for name, row in compare["rows"].items()
        )
    if (RESULTS / "banzhaf_coverage.json").exists():
        values["coverage"] = [
            [samples, *(interval(row[name]) for name in ("coverage", "coverage, hottest tenth")),
             f"{row['signs established']['value']:.0%}",
             f"{row['wrong signs, of the established']:.1%}"]
            for samples, row in results("banzhaf_coverage")["by samples"].items()
        ]  # fmt: skip
    if (RESULTS / "banzhaf_speed.json").exists():
        values["speed"] = results("banzhaf_speed")
    return values


def _difference(cell: dict[str, Any]) -> str:
    """Return a mean, and the interval of banzhaf's lead over it."""
    lead = cell["banzhaf less this"]
    text = f"{cell['mean']['value']:.3f}"
    if not lead["value"]:
        return text
    return f"{text} (lead {lead['value']:+.3f} [{lead['low']:+.3f}, {lead['high']:+.3f}])"


def interval(plain: dict[str, Any]) -> str:
    """Return a share with its interval, in percent."""
    return f"{plain['value']:.1%} [{plain['low']:.1%}, {plain['high']:.1%}]"


def _checked(name: str, sides: tuple[str, ...], measured: dict[str, Any]) -> list[str]:
    """Return a method's row of the table that says how it was checked."""
    hand, families = measured["by hand"], measured["families"]
    ran, refused = families["ran"], families["refused"]
    total = sum(len(models) for models in ran.values())
    failed = ", ".join(f"{check} {count}" for check, count in families["violated"].items())
    return [
        f"`{name}`", f"{hand['largest difference']:.1g}", str(hand["cases"]),
        *(_runs(side, sides, ran, refused) for side in ("image", "text")),
        "; ".join(dict.fromkeys(name for models in refused.values() for name in models)) or "none",
        f"{families['held']} of {total} hold" + (f" (violated: {failed})" if failed else ""),
    ]  # fmt: skip


def _runs(
    side: str,
    sides: tuple[str, ...],
    ran: dict[str, list[str]],
    refused: dict[str, dict[str, str]],
) -> str:
    if side not in sides:
        return "no"
    count = len(ran.get(side, []))
    return f"{count} of {count + len(refused.get(side, {}))}"


def metrics() -> dict[str, Any]:
    """Return the values of metrics.md."""
    entries = catalogue()
    cost = results("metrics_cost")
    head = imputers.__doc__ or ""
    return {
        "rows": [
            [
                f"[`{name}`](#{name})",
                entry.summary,
                entry.better,
                ", ".join(map(_code, entry.needs)),
            ]
            for name, entry in entries.items()
        ],
        "cards": [
            (name, _sentence(entry.summary), [line for line in _card(entry) if line[1]])
            for name, entry in entries.items()
        ],
        "imputers": head[head.index("| imputer") :].strip(),
        "cost": cost,
        "throughput": [[name, *quartiles(row)] for name, row in cost["throughput"].items()],
        "memory": [
            [label, str(count), f"{size:.1f}"]
            for label, sizes in cost["memory"]["MiB"].items()
            for count, size in sizes.items()
        ],
        "left_out": [[name, reason] for name, reason in LEFT_OUT.items()],
        "truths": [(file, _truths(file)) for file in TRUTHS],
    }


def _sentence(summary: str) -> str:
    text = summary[0].upper() + summary[1:]
    return text if text.endswith(("?", ")")) else f"{text}."


LEFT_OUT = {
    "ROAR (arXiv 1806.10758), F-Fidelity (arXiv 2410.02970)": "They train or fine-tune another "
    "model. The number is then about that model.",
    "faithfulness correlation and estimate, monotonicity, sensitivity-n, IROF, selectivity "
    "(Quantus)": "Each removes parts and looks at the score, as `infidelity`, `deletion` and `srg` "
    "do. They differ in the summary (a correlation, a count of rises) and in the imputer.",
    "sufficiency (Quantus)": "It compares the predicted classes of images with similar maps. CLIP "
    "has no fixed set of classes.",
    "`AUC` (Quantus), relevance rank accuracy, top-k intersection, attribution localisation": (
        "The first is the area under the ROC of map and mask, which hides errors where the object "
        "is small. `average-precision`, `mean-iou`, `pointing` and `energy-pointing` ask the same "
        "of a map."
    ),
    "focus (Quantus)": "It needs mosaics of images. `multi-object-pointing` asks the same of one "
    "image with several objects.",
    "effective complexity (Quantus)": "It counts values above a threshold in the map's own unit. "
    "Units differ between methods.",
    "non-sensitivity, input invariance (Quantus)": "The first compares single values with 0, which "
    "no patch's value equals. The second shifts the input and the first layer's bias: CLIP's patch "
    "embedding has none.",
    "random logit (Quantus)": "`prompt-sensitivity` does it, with prompts that mean nothing.",
    "local Lipschitz estimate, average sensitivity, continuity, consistency, relative stability "
    "(Quantus)": "`sensitivity-max` asks how far a map moves under a change that nobody sees. The "
    "others are means or ratios of the same.",
    "ADCC, ARCC (pytorch-grad-cam)": "Each is one mean of a perturbation score, coherence and "
    "complexity, which have no common unit.",
    "AID, p-faithfulness (FIxLIP, arXiv 2508.05430)": "They measure interactions of words and "
    "regions, not maps.",
    "human judgement of maps": "It is no property of the map and the model.",
}


def _card(entry: MetricCard) -> list[tuple[str, str]]:
    low, high = entry.bounds
    bounds = f"{low:g} to {high:g}" if high < inf else f"{low:g} or more"
    invariant = {"scale": "a positive factor", "shift": "a number added", "sign": "a factor of -1"}
    return [
        ("formula", entry.formula),
        ("better", entry.better),
        ("bounds", bounds if low > -inf else ""),
        ("value of an uninformative map", entry.chance),
        ("no value (NaN) where", entry.undefined),
        ("unchanged by", ", ".join(invariant[each] for each in entry.invariant)),
        ("endpoints", entry.endpoints),
        ("imputer", entry.imputer),
        ("steps", entry.steps),
        ("score", entry.space),
        ("ties", entry.ties),
        ("options", options(entry.options)),
        ("needs", ", ".join(map(_code, entry.needs)) or "the maps alone"),
        ("variants", "; ".join(entry.variants)),
        ("where others differ", entry.differs),
        ("source", entry.source),
    ]


def _code(name: str) -> str:
    return f"`{name}`"


def _truths(file: str) -> list[list[str]]:
    """Return the tests of a file, each with the break that makes it fail, by its docstring."""
    tree = ast.parse((DOCS.parent / "tests" / "metrics" / f"{file}.py").read_text())
    rows: list[list[str]] = []
    for test in tree.body:
        text = (isinstance(test, ast.FunctionDef) and ast.get_docstring(test)) or ""
        if isinstance(test, ast.FunctionDef) and "Break:" in text:
            name = test.name.removeprefix("test_").replace("_", " ")
            breaks = " ".join(text.partition("Break:")[2].split())
            rows.append([name, breaks.replace("|", "\\|")])
    return rows


def families() -> dict[str, Any]:
    """Return the values of families.md."""
    titles = {
        "families_tiny": "Two-block models of every family (`benchmarks/families.py --tiny`)",
        "families": "The libraries' own configurations, true size (`benchmarks/families.py`)",
    }
    # The run at true size takes hours: it may not have been made.
    parts = [
        (title, [_family(name, row) for name, row in results(file).items()])
        for file, title in titles.items()
        if (RESULTS / f"{file}.json").exists()
    ]
    return {"parts": parts}


def _family(name: str, row: dict[str, Any]) -> list[str]:
    parity = (f"{row['parity'][dtype]:.1g}" for dtype in ("float64", "float32", "bfloat16"))
    return [name, *parity, str(row["methods"]), str(row["as expected"]), str(len(row["refused"]))]


def cost() -> dict[str, Any]:
    """Return the values of cost.md."""
    explain, certificate = results("explain_cost"), results("certificate_cost")
    return {
        "explain": explain,
        # With a certificate: in the other table.
        "ratios": [
            [name, *quartiles(row)]
            for name, row in explain["ratios"].items()
            if "certified" not in name
        ],
        "certificate": certificate,
        "certified": [
            [images, name, f"{row['median']:.2f}", f"{row['from']:.2f} to {row['to']:.2f}"]
            for images, rows in certificate["images"].items()
            for name, row in rows.items()
        ],
    }


PARTS = {
    "prompts": "prompts",
    "batch": "images per batch",
    "size": "side of the image, pixels",
    "layers": "last layers used by gae, 1 prompt",
}
"""The plots of speed.md, and the label of each one's x axis."""


def speed() -> dict[str, Any]:
    """Return the values of speed.md, and draw its plots beside the page."""
    measured, loading = results("speed"), results("loading")
    plots = [part for part in PARTS if part in measured]
    for part in plots:
        _plot(measured[part], part, PARTS[part])
    counts = list(loading["MiB"]["explain"])
    names = {"hand": "by hand", "layer": "by hand, a gradient a layer", "own": "ours"}
    peers = {
        "input-x-gradient": "captum's InputXGradient",
        "grad-cam": "pytorch-grad-cam's GradCAM",
    }
    return {
        "machine": measured["prompts"]["machine"],
        "prompts": _speed_of_prompts(measured["prompts"], measured["memory"]["ratio"]),
        "gae": {key: measured["gae"][name]["clock"] for key, name in names.items()},
        "peers": [_peer(ours, theirs, measured["peers"]) for ours, theirs in peers.items()],
        "certified": measured["certified"],
        "compile": measured["compile"],
        "plots": plots,
        "loading": loading,
        "from_files": [
            [name, f"{row['clock']:.2f}", f"{row['clock, from']:.2f} to {row['clock, to']:.2f}"]
            for name, row in loading["rows"].items()
        ],
        "grown_head": ["", *(f"{count} files" for count in counts)],
        "grown": [
            [name, *(f"{sizes[count]:.0f}" for count in counts)]
            for name, sizes in loading["MiB"].items()
        ],
    }


def _speed_of_prompts(rows: dict[str, Any], memory: dict[str, float]) -> list[list[str]]:
    lines: list[list[str]] = []
    for count, row in rows["ours"].items():
        default, script = (rows[name][count]["clock"] for name in ("by default", "script"))
        lines.append(
            [count, f"{row['clock']:.3f}", f"{row['clock, from']:.3f} to {row['clock, to']:.3f}",
             f"{row['processor']:.3f}", f"{default:.3f}", f"{script:.2f}",
             f"{script / default:.2f}", f"{memory[count]:.2f}"]
        )  # fmt: skip
    return lines


def _peer(ours: str, theirs: str, rows: dict[str, Any]) -> list[str]:
    own, other = rows[ours]["clock"], rows[theirs]["clock"]
    return [ours, f"{own:.1f}", theirs, f"{other:.1f}", f"{other / own:.1f}"]


def _plot(rows: dict[str, Any], part: str, axis: str) -> None:
    """Draw the ratio to bare inference against what is varied, one line per series."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    series = _series(rows, part)
    with mpl.rc_context({"svg.hashsalt": part}):
        figure = Figure(figsize=(5.5, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, points in series.items():
            counts, rows_of = zip(*points, strict=True)
            middle = [row["clock"] for row in rows_of]
            ends = [[r["clock"] - r["clock, from"] for r in rows_of],
                    [r["clock, to"] - r["clock"] for r in rows_of]]  # fmt: skip
            axes.errorbar(counts, middle, ends, marker="o", capsize=3, label=name)
        axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel(axis)
        axes.set_ylabel("times bare encode_image")
        if part == "prompts":
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.legend()
        figure.savefig(DOCS / f"speed-{part}.svg", metadata={"Date": None})


def _series(rows: dict[str, Any], part: str) -> dict[str, list[tuple[int, dict[str, float]]]]:
    rows = {name: row for name, row in rows.items() if name != "machine"}
    if part == "layers":
        return {"gae": [(int(count), row) for count, row in rows.items()]}
    if part == "prompts":
        names = {"ours": "attention-x-gradient", "script": "Grad-ECLIP's script, by hand"}
        return {
            name: [(int(count), row) for count, row in rows[who].items()]
            for who, name in names.items()
        }
    return {
        f"{count} prompt{'s' if count != '1' else ''}": [
            (int(at), row[count]) for at, row in rows.items()
        ]
        for count in ("1", "100")
    }


MARKS = {
    "equal": "=",
    "equal under a switch": "s",
    "same up to a factor": "~",
    "refuted": "·",
    "not comparable": "?",
}
"""What stands for each relation in the matrix."""


def equal_methods() -> dict[str, Any]:
    """Return the values of equal_methods.md."""
    measured = results("equal_methods")
    pairs = measured["pairs"]
    relation = {frozenset(pair["names"]): pair["relation"] for pair in pairs}
    names = sorted({name for pair in pairs for name in pair["names"]})
    matrix = [
        [f"{n} `{one}`", *(MARKS[relation[frozenset((one, other))]] if one != other else ""
                           for other in names)]
        for n, one in enumerate(names, 1)
    ]  # fmt: skip
    agreeing = [p for p in pairs if p["relation"] not in ("refuted", "not comparable")]
    return {
        "counts": {mark: sum(p["relation"] == mark for p in pairs) for mark in MARKS},
        "head": ["", *(str(n) for n in range(1, len(names) + 1))],
        "matrix": matrix,
        "agreeing": [
            [
                " and ".join(f"`{name}`" for name in pair["names"]),
                pair["relation"],
                " and ".join(f"`{text}`" for text in pair["settings"] if text) or "defaults",
                "proved for all sizes" if pair["proved"] else f"on {pair['models']} models",
                pair["witness"] or "-",
            ]
            for pair in agreeing
        ],
        "followers": [
            [
                row["name"],
                f"`{row['against']}`",
                row["relation"] + (f" (factor ${row['factor']}$)" if row["factor"] else ""),
                row["witness"] or "-",
                row["note"],
                row["read"],
            ]
            for row in measured["followers"]
        ],
        "theorems": measured["theorems"],
        "refuted": [
            [" and ".join(f"`{name}`" for name in pair["names"]), pair["witness"]]
            for pair in pairs
            if pair["relation"] == "refuted" and "grad-eclip" in pair["names"]
        ],
    }


def league() -> dict[str, Any]:
    """Return the values of league.md."""
    paths = sorted(RESULTS.glob("league_*.json"))
    parts = [_league(json.loads(path.read_text())) for path in paths]
    return {"parts": parts, "following": following()["methods"] if FOLLOWING.is_file() else None}


def _league(measured: dict[str, Any]) -> dict[str, Any]:
    audits = [
        from_json({"method": name, "model": measured["model"], **audit})
        for name, audit in measured["methods"].items()
    ]
    head, rows = league_rows(audits)
    second = any(finding.principle == 2 for audit in audits for finding in audit.findings)
    size = f"; principle 2 on {measured['pictures']} images" if second else "; random weights"
    lines: list[str] = []
    for audit in sorted(audits, key=lambda audit: audit.method):
        lines += [
            f"`{audit.method}`, {finding.check}: {finding.evidence}"
            for finding in audit.findings
            if finding.verdict == "violated"
        ]
        lines += [
            f"`{audit.method}`: principle {number} was not measured: {reason}"
            for number, reason in audit.unmeasured.items()
        ]
        lines += [
            f"`{audit.method}`: {notice}"
            for notice in audit.notices
            if notice.startswith("principle 2 was")
        ]
    return {
        "model": measured["model"],
        "setting": f"{measured['machine']}{size}",
        "head": head[:-1],
        "rows": [[f"`{row[0]}`", *row[1:-1]] for row in rows],
        "lines": lines,
    }


FIGURES = {
    "a-maps": "(a) Equivalence",
    "b-six-prompts": "(b) Scores of the original and of the explained model",
    "b-accuracy": "(b) One head in place of many",
    "c-causes": "(c) The causes",
    "d-family": "(d) A graded family of models",
    "d-right-wrong": "(d) Right and wrong",
    "e-curves": "(e) Insertion and deletion",
    "e-areas": "(e) Areas with intervals",
    "e-text": "(e) Deletion of words",
}


def reproduced() -> dict[str, Any]:
    """Return the values of reproduced.md."""
    measured = results("reproduce")
    seconds = measured["seconds"]
    return {
        "command": measured["command"],
        "machine": measured["machine"],
        "took": "" if seconds is None else f" It took {seconds / 60:.0f} minutes.",
        "rows": [
            [f"({claim['section']})", claim["claim"], claim["verdict"], claim["evidence"]]
            for claim in measured["conclusions"]
        ],
        "figures": [
            (name, title)
            for name, title in FIGURES.items()
            if (DOCS / "reproduced" / f"{name}.png").exists()
        ],
    }


def coverage() -> dict[str, Any]:
    """Return the values of coverage.md."""
    measured = results("coverage")
    counts = list(next(iter(measured["alone"].values())))

    def rows(part: str, key: str) -> list[list[str]]:
        return [
            [name if measured["promised"][name] else f"{name} *"]
            + [f"{100 * cells[count][key]:.1f}" for count in counts]
            for name, cells in measured[part].items()
        ]

    return {
        "draws": measured["draws"],
        "tables_per_cell": measured["tables per cell"],
        "precision": 100 * 2 * (0.95 * 0.05 / measured["draws"]) ** 0.5,
        "fewest": statistics.FEWEST,
        "head": ["values", *(f"n = {count}" for count in counts)],
        "rows": rows,
    }


def data() -> dict[str, Any]:
    """Return the values of data.md."""
    kinds = list(sets.kinds().values())
    return {"kinds": kinds, "rows": [[f"`{kind.spec}`", kind.title, kind.tree] for kind in kinds]}


# --- following ------------------------------------------------------------------------------------

SIGN = {"holds": "constant", "violated": "**shows**", "cannot tell": "?", "refused": "refused"}


def following() -> dict[str, Any]:
    """Return the values of following.md."""
    found = results("following")
    ladders, methods = list(found["cause"]), found["methods"]
    return {
        "setting": f"Models: {', '.join(found['models'])}; {found['images']} scenes each, fewer "
        f"for methods of many passes; {found['machine']}",
        "rungs": {
            "head": ["ladder", "rung", "accuracy", "cause", "F of the cause"],
            "rows": [row for name in ladders for row in _rungs(name, found["cause"][name])],
        },
        "methods": {
            "head": [
                "method",
                "blind, image",
                "phantom",
                "blind, words",
                *(f"F, {n}" for n in ladders),
            ],
            "rows": [
                [f"`{name}`", *_blind(name, row, found), *_f(row, ladders, "following")]
                for name, row in methods.items()
            ],
        },
        "rest": {
            "head": ["method", *ladders],
            "rows": _asked_rows(methods, lambda row: _f(row, ladders, "without the first rung")),
        },
        "slopes": {
            "head": ["method", *ladders],
            "rows": _asked_rows(methods, lambda row: _slopes(row, ladders)),
        },
        "families": _families(found["families"]),
        "words": _families(found["families, text"]),
        "text": _text(found["text"]),
        "alarms": _alarms(found["alarms"], found["random models"]),
    }


def _rungs(name: str, ladder: dict[str, Any]) -> list[list[str]]:
    models = list(ladder["models"].values())
    course = zip(*(m["cause"] for m in models), strict=True)
    accuracies = zip(*(m["accuracy"] for m in models), strict=True)
    rows = zip(models[0]["rungs"], accuracies, course, strict=True)
    return [
        [
            name if n == 0 else "",
            rung,
            _mean(accuracy),
            _mean(cause),
            _estimate(ladder["following"]) if n == 0 else "",
        ]
        for n, (rung, accuracy, cause) in enumerate(rows)
    ]


def _mean(intervals: Any) -> str:
    values = [one["value"] for one in intervals]
    return f"{sum(values) / len(values):.3f}"


def _estimate(interval: dict[str, Any] | None) -> str:
    if interval is None or interval["value"] is None:
        return "-"
    if interval["low"] is None:
        return f"{interval['value']:.2f}"
    return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def _blind(name: str, row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    verdicts = {one["verdict"] for one in row["blind"].values()}
    first = next(iter(row["blind"].values()), {})
    phantom = first.get("blind in", {}).get("every layer", {}).get("phantom localisation")
    shown = (
        f"{_estimate(phantom['value'])}, intact {phantom['before']['value']:.2f}" if phantom else ""
    )
    words = {
        one["methods"].get(name, {}).get("verdict", "-") for one in found["blind text"].values()
    }
    return [_signs(verdicts), shown, _signs(words)]


def _signs(verdicts: set[str]) -> str:
    return " / ".join(sorted(SIGN.get(one, one) for one in verdicts))


def _f(row: dict[str, Any], ladders: list[str], key: str) -> list[str]:
    return [_estimate(row["ladders"].get(name, {}).get(key)) for name in ladders]


def _slopes(row: dict[str, Any], ladders: list[str]) -> list[str]:
    first = [next(iter(row["ladders"].get(n, {}).get("models", {}).values()), {}) for n in ladders]
    return [_estimate(one.get("accuracy slope")) for one in first]


def _asked_rows(
    methods: dict[str, Any], values: Callable[[dict[str, Any]], list[str]]
) -> list[list[str]]:
    rows = [[f"`{name}`", *values(row)] for name, row in methods.items()]
    return [row for row in rows if set(row[1:]) != {"-"}]


def _families(found: dict[str, Any]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for one in found.values() for name in one["methods"]))
    kinds = ("holds", "violated", "cannot tell", "refused", "failed")
    rows: list[list[str]] = []
    for name in names:
        by_kind = {
            kind: [
                f for f, one in found.items() if one["methods"].get(name, {}).get("verdict") == kind
            ]
            for kind in kinds
        }
        rows.append([f"`{name}`", *(str(len(by_kind[kind])) for kind in kinds[:3])])
        rows[-1].append(", ".join(by_kind["refused"]))
    return {"head": ["method", "constant", "shows", "?", "refused by"], "rows": rows}


def _text(found: dict[str, Any]) -> dict[str, Any]:
    ladders = list(next(iter(found.values()), {"ladders": {}})["ladders"])
    rows = [
        [f"`{name}`", *(_text_cell(one["ladders"][ladder]) for ladder in ladders)]
        for name, one in found.items()
    ]
    return {"head": ["method", *ladders], "rows": rows}


def _text_cell(one: dict[str, Any]) -> str:
    course = ", ".join(f"{interval['value']:.2f}" for interval in one["quality"])
    if one["why not"]:
        return f"{course} ({one['why not'].split(':')[0].split(',')[0]})"
    return f"F {_estimate(one['following'])}; {course}"


def _alarms(blind: dict[str, Any], random: dict[str, Any]) -> str:
    verdicts = [verdict for one in blind.values() for verdict, _ in one["blind model"].values()]
    steps = [verdict for one in random.values() for verdict, _ in one["following"].values()]
    return (
        f"Blind model, on {len(blind)} random models of differing sizes, methods and user code "
        f"(captum, pytorch-grad-cam, layers called one by one) that substitute nothing: "
        f"{verdicts.count('violated')} of {len(verdicts)} verdicts are violated "
        f"({verdicts.count('holds')} hold, {verdicts.count('cannot tell')} cannot tell). Following "
        f"the cause, on {len(random)} models of scenes whose image tower is random: "
        f"{steps.count('violated')} of {len(steps)}."
    )


def main() -> None:
    """Write all generated pages and `index.json`."""
    pages = [methods, families, cost, league, reproduced, data, metrics, speed, coverage]
    pages.append(equal_methods)
    pages += [following] if FOLLOWING.is_file() else []
    for page in pages:
        name = f"{page.__name__}.md"
        text = TEMPLATES.get_template(f"{name}.jinja").render(page())
        (DOCS / name).write_text(text.rstrip() + "\n")
    for known in (*truth_pages.PAGES, *method_choice.PAGES):
        # A page is written once its benchmark has been run.
        if not (RESULTS / f"{known.__name__}.json").exists():
            continue
        text = TEMPLATES.get_template(f"{known.__name__}.md.jinja").render(known(results))
        (DOCS / f"{known.__name__}.md").write_text(text.rstrip() + "\n")
    FILE.write_text(index(), "utf-8")


if __name__ == "__main__":
    main()
