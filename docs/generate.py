"""Write the pages that are tables: the methods from the catalogue, the others from results.

python docs/generate.py
"""

import json
from pathlib import Path

import heatproof

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def methods() -> str:
    rows: list[list[str]] = []
    for name, entry in heatproof.methods.catalogue().items():
        switches = "; ".join(
            f"`{key}` = {' or '.join(map(str, switch.allowed)) or switch.kind} "
            f"(default {switch.default})"
            for key, switch in entry.switches.items()
        )
        rows.append(
            [f"`{name}`", entry.summary, entry.reads, entry.changes, entry.values, entry.cost,
             ", ".join(entry.sides), switches or "none", entry.source, entry.notes]
        )  # fmt: skip
    head = [
        "method",
        "what",
        "reads",
        "changes",
        "values",
        "cost",
        "sides",
        "switches",
        "source",
        "notes",
    ]
    return "# Methods\n\n`heatproof methods` prints the same.\n\n" + table(head, rows)


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
        "(`make bench`).\nA certificate runs the untouched model once more: that is its price.\n\n"
    )
    return text + table(["method", "ratio", "quartiles"], rows)


def main() -> None:
    for page in (methods, families, cost):
        (DOCS / f"{page.__name__}.md").write_text(page())


if __name__ == "__main__":
    main()
