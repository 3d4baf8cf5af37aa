"""Measure what a newcomer must read: one table of figures about a source tree.

    python benchmarks/house.py [--src DIR] [--list] [--json FILE]

`DIR` holds the package (this repository's `src` by default), so that two states of the code are
measured by one script. Rules of counting:

- One `explain`: the default method on `scenes`, one image, one prompt, traced after a first call
  has imported everything. A call is counted where the nearest library frame above lies in another
  file, so that calls through torch and through generated code count too.
- Import circles: strongly connected groups of modules. Every import counts, also one inside a
  function, but not under `TYPE_CHECKING`. `from package import module` imports the module.
- Code lines: lines with a token that is neither comment nor docstring.
- Comment lines: a line with a comment, alone or behind code; directives (`type:`, `noqa`,
  `pyright:`, `fmt:`) and rulers (`# --- title ---`) are none. In brackets: comments that stand
  alone, rulers included, as other projects are usually counted.
- Public definitions: modules, classes, functions, methods and properties without a leading
  underscore in their path. Left out are overloads and setters, and methods that override one of a
  base class in the library, whose docstring they inherit. In brackets: all that have no docstring
  and no underscore of their own, functions inside functions included, modules not.
- Recipes (formerly `paper/` and `training/`) are built on the library and counted apart.
"""

import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGE = "heatproof"
RECIPES = ("recipes", "paper", "training")
NAMELESS = {"each", "found", "kept", "made", "told"}
# Here imports inside functions keep the command line quick to start.
LAZY_ON_PURPOSE = ("cli", "commands", "__init__", "__main__")
RULER = re.compile(r"#\s*-{3,}|#.*-{5,}\s*$")
DIRECTIVE = re.compile(r"#\s*(type:|noqa|pyright:|fmt:|ruff:|!|pragma)")
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


# --- one file ---------------------------------------------------------------------------------


@dataclass
class Source:
    """One module: its dotted name, text and syntax tree."""

    name: str
    path: Path
    text: str = field(repr=False)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        """The package below the library's root, or the root itself."""
        parts = self.name.split(".")[1:]
        return parts[0] if len(parts) > 1 or (parts and self.is_package) else "(root)"

    @cached_property
    def physical(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def docstring_lines(self) -> set[int]:
        lines: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
                expression = node.body[0]
                lines.update(range(expression.lineno, (expression.end_lineno or 0) + 1))
        return lines

    @cached_property
    def comment_lines(self) -> dict[int, str]:
        """Comments but directives, by the number of their line."""
        return {
            token.start[0]: token.string
            for token in self.tokens
            if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string)
        }

    @cached_property
    def code_lines(self) -> set[int]:
        """Numbers of the lines that hold code."""
        lines: set[int] = set()
        for token in self.tokens:
            if token.type not in LAYOUT:
                lines.update(range(token.start[0], token.end[0] + 1))
        return lines - self.docstring_lines

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    @property
    def code(self) -> int:
        return len(self.code_lines)

    @property
    def comments(self) -> int:
        """Count the lines with a comment that says something."""
        return sum(not RULER.match(text) for text in self.comment_lines.values())

    @property
    def comments_alone(self) -> int:
        """Count the lines that hold a comment alone, rulers too."""
        return len(self.comment_lines.keys() - self.code_lines)


@dataclass(frozen=True)
class Tree:
    """Every module of the package below `folder`."""

    folder: Path
    modules: dict[str, Source]

    def __iter__(self) -> Iterator[Source]:
        return iter(self.modules.values())


def read(folder: Path) -> Tree:
    root = folder / PACKAGE
    if not root.is_dir():
        sys.exit(f"{folder} holds no package {PACKAGE}; try --src DIR, the folder above it")
    modules: dict[str, Source] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Source(name, path, path.read_text())
    return Tree(folder, modules)


# --- imports ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    inside_function: bool


def imports(source: Source, modules: Iterable[str]) -> Iterator[Import]:
    """Imports of the library's own modules, but those for type checkers alone."""
    known = set(modules)

    def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
            return
        base = node.module or ""
        if node.level:
            up = source.name.split(".")
            up = up[: len(up) - node.level + source.is_package]
            base = ".".join([*up, base] if base else up)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            if inner in known:
                yield inner
            elif base in known:
                yield base

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in dict.fromkeys(targets(node)):
                yield Import(target, node.lineno, inside)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, inside)
        else:
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inside or isinstance(node, Function | ast.Lambda))

    yield from walk(source.tree, inside=False)


def circles(tree: Tree) -> list[list[str]]:
    """Strongly connected groups of more than one module, by Tarjan's algorithm."""
    arrows = {
        source.name: sorted({i.target for i in imports(source, tree.modules)} - {source.name})
        for source in tree
    }
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in arrows[name]:
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                groups.append(group)

    sys.setrecursionlimit(10_000)
    for name in arrows:
        if name not in order:
            visit(name)
    return sorted(groups)


def local_imports(tree: Tree) -> list[str]:
    """Imports of the library inside functions, outside the command line and `__init__`."""
    lines: list[str] = []
    for source in tree:
        parts = [*source.name.split("."), source.path.stem]
        if not any(part in LAZY_ON_PURPOSE for part in parts):
            lines += [
                f"{source.name}:{i.line} {i.target}"
                for i in imports(source, tree.modules)
                if i.inside_function
            ]
    return lines


# --- names and docstrings ---------------------------------------------------------------------


def classes(tree: Tree) -> dict[str, list[tuple[str, ast.ClassDef]]]:
    places: dict[str, list[tuple[str, ast.ClassDef]]] = defaultdict(list)
    for source in tree:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append((source.name, node))
    return places


def duplicates(tree: Tree) -> list[str]:
    return [
        f"{name}: {', '.join(module for module, _ in places)}"
        for name, places in sorted(classes(tree).items())
        if len(places) > 1
    ]


def decorators(node: Definition) -> set[str]:
    return {ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list}


def public(name: str) -> bool:
    return not name.startswith("_")


def base_names(node: ast.ClassDef) -> list[str]:
    """Names of the bases, without their type arguments and modules."""
    return [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]


def inherited(node: ast.ClassDef, places: dict[str, list[tuple[str, ast.ClassDef]]]) -> set[str]:
    """Names of the methods that the library's base classes of a class define."""
    names: set[str] = set()
    for base in base_names(node):
        for _, parent in places.get(base, []):
            if parent is not node:
                names |= {part.name for part in parent.body if isinstance(part, Function)}
                names |= inherited(parent, places)
    return names


@dataclass(frozen=True)
class Docs:
    """Public definitions and those without docstring; the same with functions inside functions."""

    public: int
    without: list[str]
    every: int
    every_without: int


def docs(tree: Tree) -> Docs:
    places = classes(tree)
    count, without = 0, list[str]()

    def note(node: ast.AST, label: str, line: int) -> None:
        nonlocal count
        count += 1
        if not ast.get_docstring(node):  # pyright: ignore[reportArgumentType]
            without.append(f"{label}:{line}")

    def walk(body: list[ast.stmt], label: str, parents: set[str]) -> None:
        for node in body:
            if isinstance(node, ast.If | ast.Try):
                walk(node.body, label, parents)
            if not isinstance(node, Definition) or not public(node.name):
                continue
            if isinstance(node, Function):
                marks = decorators(node)
                if node.name in parents or marks & {"overload", "override", "setter"}:
                    continue
            note(node, f"{label}.{node.name}", node.lineno)
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{label}.{node.name}", inherited(node, places))

    for source in tree:
        parts = source.name.split(".")
        if all(public(part) or part == "__main__" for part in parts):
            note(source.tree, source.name, 1)
            walk(source.tree.body, source.name, set())
    every = [
        node
        for source in tree
        for node in ast.walk(source.tree)
        if isinstance(node, Definition) and public(node.name)
    ]
    return Docs(count, without, len(every), sum(not ast.get_docstring(node) for node in every))


def nameless(tree: Tree) -> list[str]:
    """Parameters and attributes named by a word that names nothing."""
    lines: list[str] = []
    for source in tree:
        for node in ast.walk(source.tree):
            if isinstance(node, Function | ast.Lambda):
                a = node.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                lines += [f"{source.name}:{p.lineno} {p.arg}" for p in every if p.arg in NAMELESS]
            elif isinstance(node, ast.ClassDef):
                lines += [f"{source.name}:{n} {node.name}.{x}" for x, n in attributes(node)]
    return lines


def attributes(node: ast.ClassDef) -> Iterator[tuple[str, int]]:
    """Nameless fields, methods and attributes that a class sets on itself: name and line."""
    for part in node.body:
        if isinstance(part, Function):
            if part.name in NAMELESS:
                yield part.name, part.lineno
            for inner in ast.walk(part):
                is_own = isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
                if is_own and ast.unparse(inner.value) == "self" and inner.attr in NAMELESS:
                    yield inner.attr, inner.lineno
        elif isinstance(part, ast.AnnAssign | ast.Assign):
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id in NAMELESS:
                    yield target.id, part.lineno


# --- one explain ------------------------------------------------------------------------------

TRACED = Path(__file__).with_name("one_explain.py")


def traced(folder: Path) -> dict[str, Any]:
    """Trace one `explain` of that tree in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(TRACED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"explain does not run on {folder}:\n{done.stderr[-2000:]}")
    trace: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if Path(trace.pop("root")) != (folder / PACKAGE).resolve():
        sys.exit(f"another {PACKAGE} than that of {folder} was imported")
    return trace


# --- the table --------------------------------------------------------------------------------


def sizes(sources: Iterable[Source]) -> tuple[int, int, int]:
    """Files, physical lines and code lines."""
    listed = list(sources)
    return len(listed), sum(s.physical for s in listed), sum(s.code for s in listed)


def lines_of(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


@dataclass(frozen=True)
class House:
    """All figures of one tree, and the lists behind them."""

    figures: dict[str, str]
    lists: dict[str, list[str]]
    rooms: list[tuple[str, int, int, int]]


def measure(folder: Path) -> House:
    tree = read(folder)
    library = [source for source in tree if source.room not in RECIPES]
    recipes = [source for source in tree if source.room in RECIPES]
    trace, documented = traced(folder), docs(tree)
    lists = {
        "files of one explain": trace["files"],
        "import circles": [" <-> ".join(group) for group in circles(tree)],
        "duplicate class names": duplicates(tree),
        "public definitions without docstring": documented.without,
        "parameters or attributes each/found/made/kept/told": nameless(tree),
        "imports of the library inside functions": local_imports(tree),
    }
    code, comments = sum(s.code for s in tree), sum(s.comments for s in tree)
    alone = sum(s.comments_alone for s in tree)
    docstrings = sum(len(s.docstring_lines) for s in tree)
    longest = max(tree, key=lambda source: source.physical)
    tests = folder.parent / "tests"
    count, physical, in_code = sizes(library)
    recipe_count, recipe_physical, recipe_code = sizes(recipes)
    figures = {
        "files of one explain": str(len(trace["files"])),
        "functions of one explain": str(trace["functions"]),
        "cross-file calls of one explain": str(trace["calls"]),
        "file pairs of one explain": str(trace["pairs"]),
        "import circles": str(len(lists["import circles"])),
        "duplicate class names": str(len(lists["duplicate class names"])),
        "library: files, lines, code lines": f"{count}, {physical:,}, {in_code:,}",
        "recipes: files, lines, code lines": (
            f"{recipe_count}, {recipe_physical:,}, {recipe_code:,}"
        ),
        "together: files, lines, code lines": (
            f"{count + recipe_count}, {physical + recipe_physical:,}, {in_code + recipe_code:,}"
        ),
        "comment lines / code lines": (
            f"{comments:,} = {comments / code:.1%} (alone: {alone:,} = {alone / code:.1%})"
        ),
        "docstring lines / code lines": f"{docstrings:,} = {docstrings / code:.2f}",
        "public definitions": f"{documented.public:,} (all: {documented.every:,})",
        "public definitions without docstring": (
            f"{len(documented.without):,} (all: {documented.every_without:,})"
        ),
        "parameters or attributes each/found/made/kept/told": str(
            len(lists["parameters or attributes each/found/made/kept/told"])
        ),
        "longest file": f"{longest.physical} ({longest.name})",
        "imports of the library inside functions": str(
            len(lists["imports of the library inside functions"])
        ),
        "test lines": f"{lines_of(tests):,}" if tests.is_dir() else "no tests beside it",
    }
    rooms = Counter(source.room for source in tree)
    by_room = [(room, *sizes(s for s in tree if s.room == room)) for room in sorted(rooms)]
    return House(figures, lists, by_room)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--list", action="store_true", help="print what is behind the figures too")
    parser.add_argument("--json", type=Path, help="write figures and lists to this file too")
    request = parser.parse_args()
    house = measure(request.src.resolve())
    for label, figure in house.figures.items():
        print(f"{label:52} {figure}")
    print(f"\n{'package':20} {'files':>6} {'lines':>7} {'code':>7}")
    for room, count, physical, code in house.rooms:
        print(f"{room:20} {count:6} {physical:7,} {code:7,}")
    short = {"import circles", "duplicate class names"}
    for title, lines in house.lists.items():
        if lines and (request.list or title in short):
            print(f"\n{title}:")
            print(*(f"  {line}" for line in lines), sep="\n")
    if request.json:
        content = {"figures": house.figures, "lists": house.lists}
        request.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
