"""Write the pages that are tables: the methods from the catalogue, the others from results; and
`heatproof/index.json`, which the command line reads in place of the catalogues.

python docs/generate.py
"""

import ast
import json
from dataclasses import asdict, fields
from math import inf
from pathlib import Path
from typing import Any

import heatproof
from heatproof import data as sets
from heatproof import statistics
from heatproof.auditing.result import from_json, league_rows
from heatproof.index import FILE
from heatproof.metrics import Entry as MetricEntry
from heatproof.metrics import catalogue, imputers
from heatproof.options import Switch

DOCS = Path(__file__).parent
TRUTHS = (
    "test_metrics_catalogue",
    "test_metrics_perturbation_curves",
    "test_metrics_following",
    "test_metrics_planted_maps",
)
RESULTS = DOCS.parent / "benchmarks" / "results"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


CARD = {"method": {each.name for each in fields(heatproof.methods.Card)}, "metric": {"name"}}
"""Of each catalogue's cards, the fields that the command line shows."""


def index() -> str:
    """`heatproof.index` in plain values: what the command line checks before torch is imported."""
    every = {"method": heatproof.methods.catalogue(), "metric": catalogue()}
    plain = {
        kind: {
            name: {
                "card": {k: v for k, v in vars(entry).items() if k in CARD[kind]},
                "switches": {key: asdict(switch) for key, switch in entry.switches.items()},
            }
            for name, entry in entries.items()
        }
        for kind, entries in every.items()
    }
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def switches(of: dict[str, Switch]) -> str:
    shown = [f"`{key}` = {switch.values} (default {switch.default})" for key, switch in of.items()]
    return "; ".join(shown) or "none"


def methods() -> str:
    rows: list[list[str]] = []
    for name, entry in heatproof.methods.catalogue().items():
        rows.append(
            [f"`{name}`", entry.summary, entry.reads, entry.changes, entry.values, entry.cost,
             ", ".join(entry.sides), switches(entry.switches), entry.source]
        )  # fmt: skip
    head = ["method", "what", "reads", "changes", "values", "cost", "sides", "switches", "source"]
    text = "# Methods\n\n`heatproof methods` prints the same.\n\n" + table(head, rows)
    notes = [
        f"- `{name}`: {entry.notes}"
        for name, entry in heatproof.methods.catalogue().items()
        if entry.notes
    ]
    if notes:
        text += "\n## The authors' defaults, and where paper and code differ\n\n"
        text += "\n".join(notes) + "\n"
    if (RESULTS / "methods.json").exists():
        text += "\n" + _checked()
    return text


def _checked() -> str:
    """What `benchmarks/methods.py` measured."""
    found = json.loads((RESULTS / "methods.json").read_text())
    rows: list[list[str]] = []
    for name, entry in heatproof.methods.catalogue().items():
        if name not in found:
            continue
        hand, families = found[name]["by hand"], found[name]["families"]
        ran, refused = families["ran"], families["refused"]
        total = sum(len(each) for each in ran.values())
        failed = ", ".join(f"{check} {n}" for check, n in families["violated"].items())
        rows.append(
            [f"`{name}`", f"{hand['largest difference']:.1g}", str(hand["cases"]),
             *(_runs(side, entry.sides, ran, refused) for side in ("image", "text")),
             "; ".join(dict.fromkeys(f for each in refused.values() for f in each)) or "none",
             f"{families['held']} of {total} hold" + (f" (violated: {failed})" if failed else "")]
        )  # fmt: skip
    head = ["method", "by hand", "cases", "families, image", "families, text", "refused by",
            "certificates"]  # fmt: skip
    return (
        "## How each was checked\n\nFrom `benchmarks/methods.py`. By hand: the largest difference "
        "from a slow twin written beside the paper's equation, in float64, relative to the largest "
        "value, over every setting and side (cases). Families: the tests' two-block models that it "
        "ran on; the others refuse it, because its mathematics does not apply to them. "
        "Certificates: of the bare name's runs.\n\n" + table(head, rows)
    )


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


def metrics() -> str:
    every = catalogue()
    rows = [
        [f"[`{name}`](#{name})", entry.summary, entry.better, ", ".join(map(_code, entry.needs))]
        for name, entry in every.items()
    ]
    text = (
        "# Metrics\n\nA metric is a card and a function of a trial: one method's maps of some "
        "items, an item being a picture with one prompt. Every metric gives a value an item (NaN "
        "where it has no meaning), so that intervals and paired differences can be given. In "
        "formulas m is the map, c the share of each patch that the mask covers, s the score.\n\n"
        + table(["metric", "what", "better", "needs"], rows)
        + "\n"
    )
    for name, entry in every.items():
        text += f"## {name}\n\n{entry.summary[0].upper()}{entry.summary[1:].rstrip('?')}"
        text += "?\n\n" if entry.summary.endswith("?") else ".\n\n"
        text += "".join(f"- **{label}**: {said}\n" for label, said in _card(entry) if said) + "\n"
    head = imputers.__doc__ or ""
    text += "## Imputers\n\n" + head[head.index("| imputer") : head.index("`scored`")].strip()
    if (RESULTS / "metrics_cost.json").exists():
        text += "\n\n" + _metrics_cost()
    return text + "\n\n" + _left_out() + "\n\n" + _truths()


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


def _left_out() -> str:
    rows = [[name, why] for name, why in LEFT_OUT.items()]
    head = "## Left out on purpose\n\nWhat others measure and this catalogue does not.\n\n"
    return head + table(["metric", "why it is not here"], rows).rstrip()


def _metrics_cost() -> str:
    found = json.loads((RESULTS / "metrics_cost.json").read_text())
    rows = [
        [
            name,
            f"{row['median']:.2f}",
            f"{row['lower quartile']:.2f} to {row['upper quartile']:.2f}",
        ]
        for name, row in found["throughput"].items()
    ]
    memory = found["memory"]
    grown = [
        [label, str(count), f"{size:.1f}"]
        for label, sizes in memory["MiB"].items()
        for count, size in sizes.items()
    ]
    return (
        f"## What deletion costs\n\nFrom `benchmarks/metrics_cost.py`: {found['model']}, "
        f"{found['steps']} steps, batch {found['batch']}, {found['runs']} alternating runs on "
        f"{found['device']} ({found['threads']} threads): pictures scored a second, as a ratio to "
        "bare `encode_image` on as many (1: nothing is lost).\n\n"
        + table(["imputer", "ratio", "quartiles"], rows)
        + f"\nHow far the process grows over what its first two batches took ({memory['model']}, "
        f"batch {memory['batch']}; what the allocator keeps is in it):\n\n"
        + table(["", "count", "MiB"], grown).rstrip()
    )


def _card(entry: MetricEntry) -> list[tuple[str, str]]:
    low, high = entry.bounds
    bounds = f"{low:g} to {high:g}" if high < inf else f"{low:g} or more"
    invariant = {"scale": "a positive factor", "shift": "a number added", "sign": "a factor of -1"}
    return [
        ("formula", entry.formula),
        ("better", entry.better),
        ("bounds", bounds if low > -inf else ""),
        ("a map that knows nothing", entry.chance),
        ("no value (NaN) where", entry.undefined),
        ("unchanged by", ", ".join(invariant[each] for each in entry.invariant)),
        ("endpoints", entry.endpoints),
        ("imputer", entry.imputer),
        ("steps", entry.steps),
        ("score", entry.space),
        ("ties", entry.ties),
        ("switches", switches(entry.switches)),
        ("needs of a trial", ", ".join(map(_code, entry.needs)) or "the maps alone"),
        ("variants", "; ".join(entry.variants)),
        ("where others differ", entry.differs),
        ("source", entry.source),
    ]


def _code(name: str) -> str:
    return f"`{name}`"


def _truths() -> str:
    """The tests of the metrics and, from their docstrings, what makes each of them fail."""
    text = (
        "## What is known of them\n\nThe planted model is a sum: each patch adds its weight times "
        "its mean brightness, so that the perfect map, every area and every change are known. Each "
        "test, and the breaks of the code that make it fail:\n"
    )
    for file in TRUTHS:
        tree = ast.parse((DOCS.parent / "tests" / "metrics" / f"{file}.py").read_text())
        rows: list[list[str]] = []
        for each in tree.body:
            said = ast.get_docstring(each) if isinstance(each, ast.FunctionDef) else None
            if isinstance(each, ast.FunctionDef) and said and "Break:" in said:
                name = each.name.removeprefix("test_").replace("_", " ")
                breaks = " ".join(said.partition("Break:")[2].split())
                rows.append([name, breaks.replace("|", "\\|")])
        text += f"\n`tests/metrics/{file}.py`\n\n" + table(["test", "break"], rows)
    return text


def families() -> str:
    text = (
        "# Model families\n\nRandom weights, one picture and two prompts. "
        "Parity: the largest gap between the cosine (or class logit) of the pass that was read\n"
        "and that of the untouched model, image and text side. A method run is one method of the "
        "catalogue on one side; its certificate must come out as the catalogue says "
        "(`grad-eclip` and `attention-eclip` as published fail, and so do the controls).\n"
    )
    for title, file in (
        ("Two-block models of every family (`benchmarks/families.py --tiny`)", "families_tiny"),
        ("The libraries' own configurations, true size (`benchmarks/families.py`)", "families"),
    ):
        if (RESULTS / f"{file}.json").exists():
            text += f"\n## {title}\n\n{_families(file)}"
    return text


def _families(file: str) -> str:
    found = json.loads((RESULTS / f"{file}.json").read_text())
    dtypes = ("float64", "float32", "bfloat16")
    rows = [
        [name, *(f"{row['parity'][dtype]:.1g}" for dtype in dtypes), str(row["methods"]),
         str(row["as expected"]), str(len(row["refused"]))]
        for name, row in found.items()
    ]  # fmt: skip
    head = ["model", *dtypes, "method runs", "certificates as expected", "refused"]
    return table(head, rows)


def cost() -> str:
    found = json.loads((RESULTS / "explain_cost.json").read_text())
    rows = [
        [
            name,
            f"{row['median']:.2f}",
            f"{row['lower quartile']:.2f} to {row['upper quartile']:.2f}",
        ]
        for name, row in found["ratios"].items()
    ]
    text = (
        f"# What a map costs\n\n{found['model']}, batch {found['batch']}, 1 prompt, float32, "
        f"torch {found['torch']}, {found['threads']} threads ({found['processor']}): times bare "
        f"`encode_image` in inference mode, medians of {found['runs']} alternating runs "
        "(`make bench`).\nA certificate runs the untouched model once more. These times were "
        "measured without its check named input, which on photos costs one more pass: see below."
        "\n\n"
    )
    text += table(["method", "ratio", "quartiles"], rows)
    certified = json.loads((RESULTS / "certificate_cost.json").read_text())
    ways = [[name, f"{ratio:.2f}"] for name, ratio in certified["ratios"].items()]
    return (
        f"{text}\n## What the certificate costs\n\nattention-x-gradient on {certified['model']}, "
        f"{certified['images']} images, 1 prompt, medians of {certified['runs']} rounds "
        "(`benchmarks/certificate_cost.py`).\n\n" + table(["images as", "ratio"], ways)
    )


PARTS = {
    "prompts": ("prompts", "prompts"),
    "batch": ("batch", "pictures together"),
    "size": ("size", "side of the picture, pixels"),
    "layers": ("layers", "last layers read by gae, 1 prompt"),
}


def speed() -> str:
    """What `benchmarks/speed.py` measured; the plots lie beside the page."""
    found = json.loads((RESULTS / "speed.json").read_text())
    text = _speed_of_prompts(found) + _speed_of_all_layers(found["gae"]) + _speed_of_peers(found)
    text += (
        "\nHow: the tower runs once without a graph; then its last block is called again on the "
        "readout's row alone, its attention answered from the keys and values that were read. That "
        "row's embedding is held against the full pass's for every input; where they differ, or "
        "the tower reads out otherwise (a mean, a pool, rotary positions), the whole pass is read "
        "with a graph from the last attention on. Beyond the embedding's width one Jacobian a "
        "picture serves any number of prompts (`heatproof.jacobian`). Where no batch size is said, "
        "8 pictures go together on a processor: more leave its caches.\n"
    )
    for part, (name, axis) in PARTS.items():
        if part in found:
            _plot(found[part], part, axis)
            text += f"\n![cost against {name}](speed-{name}.svg)\n"
    return text + _loading()


def _speed_of_prompts(found: dict[str, Any]) -> str:
    rows = found["prompts"]
    about, memory = rows["machine"], found["memory"]["ratio"]
    lines: list[list[str]] = []
    for count, row in rows["ours"].items():
        usual, script = (rows[who][count]["clock"] for who in ("by default", "script"))
        lines.append(
            [count, f"{row['clock']:.3f}", f"{row['clock, from']:.3f} to {row['clock, to']:.3f}",
             f"{row['processor']:.3f}", f"{usual:.3f}", f"{script:.2f}", f"{script / usual:.2f}",
             f"{memory[count]:.2f}"]
        )  # fmt: skip
    head = ["prompts", "ratio", "from, to", "of processor time", "by default",
            "the script's ratio", "times faster", "peak memory, ratio"]  # fmt: skip
    return (
        f"# Speed\n\n{about['model']} (random weights), attention-x-gradient, batch "
        f"{about['batch']}, float32, {about['threads']} thread(s) on {about['processor']}, torch "
        f"{about['torch']}: times bare `encode_image` in inference mode on the same pixels, "
        f"medians of {about['rounds']} alternating rounds (`benchmarks/speed.py`). *By default* is "
        "the same call without a batch size. The script is Grad-ECLIP's way, told by hand: picture "
        "by picture, one gradient a prompt, a graph over the whole tower; how many times faster is "
        "said of the default, a picture.\n\n" + table(head, lines)
    )


def _speed_of_all_layers(rows: dict[str, Any]) -> str:
    hand, layer, own = (
        rows[name]["clock"] for name in ("by hand", "by hand, a gradient a layer", "ours")
    )
    return (
        f"\nGAE over all layers, 10 prompts: {own:.1f} times bare inference. By picture and by "
        f"prompt it takes {layer:.1f} as the authors' notebook calls it, one gradient a layer "
        f"({layer / own:.1f} times as long), and {hand:.1f} with one gradient call for all "
        f"layers ({hand / own:.1f} times as long). No batching can make that three: ten prompts' "
        "gradients through eleven blocks are ten inference passes' work by themselves.\n"
    )


def _speed_of_peers(found: dict[str, Any]) -> str:
    peers, compiled, certified = (found[part] for part in ("peers", "compile", "certified"))
    lines = [
        [ours, f"{peers[ours]['clock']:.1f}", theirs, f"{peers[theirs]['clock']:.1f}",
         f"{peers[theirs]['clock'] / peers[ours]['clock']:.1f}"]
        for ours, theirs in (("input-x-gradient", "captum's InputXGradient"),
                             ("grad-cam", "pytorch-grad-cam's GradCAM"))
    ]  # fmt: skip
    return (
        "\nThe same method by packages, 10 prompts, 4 pictures together, each times bare inference "
        "of them:\n\n"
        + table(["here", "ratio", "there", "ratio", "times faster"], lines)
        + "\nWith the certificate (an untouched pass, null prompts through the text tower "
        f"and back): {certified['1']['clock']:.2f} at 1 prompt, {certified['100']['clock']:.2f} at "
        "100, a batch; the null prompts are embedded once a call.\n"
        "\nWith the tower's blocks compiled (`load(..., compile=True)`): bare inference takes "
        f"{compiled['bare']['clock']:.3f} of what it takes uncompiled, explaining one prompt "
        f"{compiled['1']['clock']:.3f}, 100 prompts {compiled['100']['clock']:.3f}.\n"
    )


def _loading() -> str:
    """What `benchmarks/loading.py` measured."""
    found = json.loads((RESULTS / "loading.json").read_text())
    about, (width, height) = found["machine"], found["size"]
    rows = [
        [name, f"{row['clock']:.2f}", f"{row['clock, from']:.2f} to {row['clock, to']:.2f}"]
        for name, row in found["rows"].items()
    ]
    counts = list(found["MiB"]["explain"])
    grown = [
        [how, *(f"{sizes[count]:.0f}" for count in counts)] for how, sizes in found["MiB"].items()
    ]
    return (
        f"\n## From JPEG files\n\n{found['files']} files of {width} x {height} pixels, "
        f"{about['model']}, {about['threads']} of {about['cores']} cores for the model, 1 prompt: "
        "times explaining the same pictures from memory (`benchmarks/loading.py`).\n\n"
        + table(["", "ratio", "from, to"], rows)
        + "\nHow far a process grows over the loaded model, MiB:\n\n"
        + table(["", *(f"{count} files" for count in counts)], grown).rstrip()
        + "\n"
    )


def _plot(rows: dict[str, Any], part: str, axis: str) -> None:
    """Ratio to bare inference against what is varied, a line a series."""
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
        figure.savefig(DOCS / f"speed-{PARTS[part][0]}.svg", metadata={"Date": None})


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


def league() -> str:
    text = (
        "# The league table\n\n"
        "`heatproof audit all`, by `benchmarks/league.py`: every method of the catalogue as its "
        "bare name runs, held to the checks of [principle 1](audit_principle_1.md) and "
        "[principle 2](audit_principle_2.md). A dash: the question does not arise. A question "
        "mark: cannot tell here. Not asked: the method's maps take more than the audit's budget. "
        "Such methods come last: what nobody asked them cannot be compared. "
        "The verdicts of principle 2 were computed before the [intervals](coverage.md) of today, "
        "and with a budget in seconds.\n"
    )
    for path in sorted(RESULTS.glob("league_*.json")):
        text += _league(json.loads(path.read_text()))
    return text


def _league(found: dict[str, Any]) -> str:
    audits = [
        from_json({"method": name, "model": found["model"], **audit})
        for name, audit in found["methods"].items()
    ]
    head, rows = league_rows(audits)
    follow = any(
        f["principle"] == 2 for each in found["methods"].values() for f in each["findings"]
    )
    size = f"; principle 2 on {found['pictures']} pictures" if follow else "; random weights"
    text = f"\n## {found['model']}\n\n{found['machine']}{size}.\n\n"
    text += table(head[:-1], [[f"`{row[0]}`", *row[1:-1]] for row in rows])
    text += "\nEach violation in a line:\n\n"
    for audit in sorted(audits, key=lambda each: each.method):
        for finding in audit.findings:
            if finding.verdict == "violated":
                text += f"- `{audit.method}`, {finding.check}: {finding.evidence}\n"
        for number, why in audit.unmeasured.items():
            text += f"- `{audit.method}`: principle {number} was not measured: {why}\n"
        for notice in audit.notices:
            if notice.startswith("principle 2 was"):
                text += f"- `{audit.method}`: {notice}\n"
    return text


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


def reproduced() -> str:
    found = json.loads((RESULTS / "reproduce.json").read_text())
    took = "" if found["seconds"] is None else f" It took {found['seconds'] / 60:.0f} minutes."
    text = (
        f"# The paper's claims on `scenes`\n\n`{found['command']}`, by `benchmarks/reproduce.py`: "
        f"{found['machine']}.{took} How each is measured: [reproduce](reproduce.md). A claim is "
        "shown where the 95 % interval lies on its side of zero, contradicted where it lies on the "
        "other, not shown where it holds zero. These intervals were computed before those of today "
        "(see [coverage](coverage.md)).\n\n"
    )
    rows = [
        [f"({each['section']})", each["claim"], each["verdict"], each["evidence"]]
        for each in found["conclusions"]
    ]
    text += table(["", "claim", "verdict", "figures"], rows)
    for name, title in FIGURES.items():
        if (DOCS / "reproduced" / f"{name}.png").exists():
            text += f"\n## {title}\n\n![{title}](reproduced/{name}.png)\n"
    return text


def _what_masks_mean() -> str:
    marks = table(
        ["values of a mask of one object", "the object", "not judged"],
        [
            ["0 alone", "none (counted in a notice)", ""],
            ["white alone (1 bit, 255, 65535 or 1.0)", "everywhere", ""],
            ["0 and one other value", "that value", ""],
            ["0, a number up to 32, and 255 or 65535", "the number", "the largest value (void)"],
            ["0, 127 or 128, and 255", "255", "the middle (a trimap)"],
            ["0 to white, with few pixels between (soft rims, JPEG)", "over half of white", ""],
            ["anything else: no 0, several numbers, several colours", "refused", ""],
        ],
    )
    return (
        "## What a mask means\n\n"
        "A mask is read by its values, by these rules. What can be meant in two ways is refused in "
        "one line that names the file, the values and what to save instead.\n\n"
        f"{marks}\n"
        "- A palette whose colours are all grey is read by these greys (`quantize(2)` orders its "
        "indices by their number of pixels). Any other palette is read by its indices, unless "
        "index 0 is not its darkest colour. An image that is clear in part is read by its "
        "opacity. Of two colours, black is the background.\n"
        "- In one set, 255 is an object or void, not both: such a set is refused.\n"
        "- In masks of numbers, 0 is the background, and 255 and 65535 are not judged, unless a "
        "class has that number. JPEG files are refused, and so are palettes whose greys may be the "
        "numbers.\n\n"
        "## Which names are classes\n\n"
        "- `classes.txt` has one name per line, numbered from 1. If the first line is the "
        "background, it is number 0. labelme's `__ignore__` before it is number -1, saved as 255. "
        "If all lines begin with a number (`3: cat`), these numbers are taken. Empty lines, a "
        "class with number 0, and `void` on the first line without a number are refused.\n"
        "- `background`, `_background_`, `bg` are no prompts. `void`, `__ignore__`, `ignore`, "
        "`unlabeled`, `dontcare` are no prompts, and their pixels are not judged.\n"
        "- Classes of one name are one prompt. An underscore in a name is a space. A category that "
        "has no annotation and is the `supercategory` of others is no prompt; one that has "
        "annotations is named in a notice.\n\n"
        "## Annotations in COCO's format\n\n"
        "- Polygons have the pixels that COCO's own program (pycocotools) gives them. They may be "
        "lists of numbers, or nested points (`[[x, y], ...]`). Parts of one or two points are left "
        "out and counted; an annotation of only such parts is refused.\n"
        "- An annotation with a `bbox` and no segmentation is the whole box, and counted.\n"
        "- Coordinates from 0 to 1, odd counts of numbers, and polygons outside of the image are "
        "refused when the set is opened. What reaches out of the image is cut off, and counted if "
        "it is more than 2 pixels.\n"
        "- If images have `neg_category_ids` or `not_exhaustive_category_ids` (LVIS), the set is "
        "not complete: only the categories in `neg_category_ids` are absent. Objects of "
        "categories that are listed in part are left out and counted.\n\n"
        "## Sets\n\n"
    )


def coverage() -> str:
    """What intervals cover and how many claims are false, by `benchmarks/coverage.py`."""
    found = json.loads((RESULTS / "coverage.json").read_text())
    counts = list(next(iter(found["alone"].values())))
    few = f"below {statistics.FEWEST}"

    def rows(part: str, key: str) -> list[list[str]]:
        return [
            [name if found["promised"][name] else f"{name} *"]
            + [f"{100 * each[n][key]:.1f}" for n in counts]
            for name, each in found[part].items()
        ]

    head = ["values", *(f"n = {n}" for n in counts)]
    text = (
        "# What the intervals cover\n\n"
        "`python benchmarks/coverage.py` draws values whose mean is known, and counts. "
        f"{found['draws']} samples per cell; {found['tables per cell']} tables per cell, of 8 "
        "methods and the 4 controls. All numbers are percent. A share of 95 % is known to "
        f"{100 * 2 * (0.95 * 0.05 / found['draws']) ** 0.5:.1f} points. How intervals are made: "
        "[the rule](benchmark.md#the-rule-of-claims).\n\n"
        "Values marked * are more skewed than the intervals are meant for.\n\n"
        "## 95 % intervals of a mean that hold the true mean\n\n"
        + table(head, rows("alone", "coverage"))
        + "\nThe percentile bootstrap, which made the intervals of earlier versions:\n\n"
        + table(head, rows("alone", "before"))
        + "\n## 95 % intervals of a paired difference that hold 0, where two methods do not differ"
        "\n\n"
        + table(head, rows("paired", "coverage"))
        + "\n## Comparisons of two methods that do not differ, marked as better or worse\n\n"
        f"None {few} pictures.\n\n"
        + table(head, rows("paired", "marks"))
        + "\nThe percentile bootstrap:\n\n"
        + table(head, rows("paired", "before"))
        + "\n## Tables in which no method differs\n\n"
    )
    kinds = {
        "marks": "Methods that are marked as better than every control, or worse than one",
        "next": 'Tables with a false "better than the next one"',
        "first": 'Tables with a false "first"',
    }
    for key, title in kinds.items():
        text += f"{title}:\n\n{table(head, rows('tables', key))}\n"
    return text.rstrip() + "\n"


def data() -> str:
    text = (
        "# Data\n\n"
        "`heatproof.data.open` takes `scenes`, `scenes:colour`, a folder's path, or `KIND:PATH`. "
        "Sets are read as they lie on disk: nothing is downloaded, "
        "copied or unpacked, and an image is opened when its turn comes, so that memory does not "
        "grow with their number. A wrong path or a missing part is named in one line. If it lies "
        "one level off (`images/val2017`, `annotations.json` in the root, `train.txt` where "
        "`val.txt` is missing), the line says where, with the command or the path that works.\n\n"
        "```python\n"
        'found = heatproof.data.open("voc:VOCdevkit/VOC2012", most=500, seed=0)\n'
        "found.photos[0]      # a PIL image, upright RGB\n"
        "found.things[0]      # its objects: label, mask, judged (which pixels anybody judged)\n"
        "found.prompts        # prompts[thing.label] names the object\n"
        "found.complete       # whether a prompt that is not listed for an image is false of it\n"
        "found.absent         # else: the labels that are known to be absent (None: not known)\n"
        "found.notices        # what was left out, counted\n"
        "```\n\n"
        "`most` images are drawn by `seed` and stay in the set's own order. Prompts of classes "
        "are made by a template (`a photo of a {}.`, `a {}` for your own folders); expressions and "
        "phrases are taken verbatim.\n\n"
        "A photograph that a camera has marked as turned (EXIF) is shown upright, and so are its "
        "masks: those that fit the stored pixels are turned with them. A mask file with an EXIF "
        "tag of its own is turned by that.\n\n"
    )
    text += _what_masks_mean()
    rows = [[f"`{kind.spec}`", kind.title, kind.tree] for kind in sets.kinds().values()]
    text += table(["spec", "set", "what must be there"], rows)
    for kind in sets.kinds().values():
        text += f"\n## {kind.title}\n\n`{kind.spec}`\n\n{kind.about}\n"
    return text


def main() -> None:
    for page in (methods, families, cost, league, reproduced, data, metrics, speed, coverage):
        (DOCS / f"{page.__name__}.md").write_text(page())
    FILE.write_text(index(), "utf-8")


if __name__ == "__main__":
    main()
