"""The files of a benchmark: the page, benchmark.json, and the tables as Markdown and LaTeX."""

import json
from pathlib import Path

from heatproof.benchmarking import summary_text
from heatproof.benchmarking.page import page
from heatproof.benchmarking.summary_text import LEGEND, Summary
from heatproof.benchmarking.text_tables import text_tables


def write(summary: Summary, folder: Path) -> Path:
    """Write all files but the Parquet ones; returns the path of the page."""
    texts = {
        # NaN is no JSON: a reader in another language would refuse the file.
        "benchmark.json": json.dumps(summary, indent=1, allow_nan=False) + "\n",
        "table.md": markdown(summary),
        "table.tex": latex(summary),
        "report.html": page(summary),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return folder / "report.html"


def markdown(summary: Summary) -> str:
    """Return table.md."""
    lines = [*summary_text.headline(summary), *summary_text.stable(summary)]
    parts = [
        "\n".join(f"- {_pipe(line)}" for line in lines),
        f"{LEGEND} {summary_text.compared(summary)}",
    ]
    for table in text_tables(summary):
        head, *rows = table.plain
        rows = [head, ["---"] * len(head), *rows]
        body = "\n".join("| " + " | ".join(map(_pipe, row)) + " |" for row in rows)
        parts.append(f"**{_pipe(table.title)}**\n\n{body}")
    return "\n\n".join(parts) + "\n"


def _pipe(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


# What plain LaTeX takes for a command, or has no letter for.
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "▲": r"$^{+}$",
    "▼": r"$^{-}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"\textperiodcentered{}",
    "\u00d7": r"$\times$",
    "\u2013": "--",
}


def as_latex(text: str) -> str:
    """Return LaTeX that prints `text`; letters that plain LaTeX cannot print become a "?"."""
    return "".join(SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def latex(summary: Summary) -> str:
    """Return table.tex: needs booktabs and longtable."""
    lines = [
        *summary_text.headline(summary),
        *summary_text.stable(summary),
        LEGEND,
        summary_text.compared(summary),
    ]
    parts = ["% \\usepackage{booktabs,longtable}", *(f"% {_ascii(line)}" for line in lines)]
    for table in text_tables(summary):
        head, *rows = table.plain
        parts.append(
            "\n".join(
                [
                    f"\\begin{{longtable}}{{{'l' + 'r' * (len(head) - 1)}}}",
                    f"\\caption{{{as_latex(table.title)}}}\\\\",
                    "\\toprule",
                    " & ".join(map(as_latex, head)) + " \\\\",
                    "\\midrule\\endhead",
                    *(" & ".join(map(as_latex, row)) + " \\\\" for row in rows),
                    "\\bottomrule",
                    "\\end{longtable}",
                ]
            )
        )
    return "\n".join(parts) + "\n"


def _ascii(text: str) -> str:
    plain = text.replace("▲", "+").replace("▼", "-")
    return " ".join(c if c.isascii() else "?" for c in plain.split(" "))
