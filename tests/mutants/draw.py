"""Draws errors at random places of the code by a fixed seed and prints them as entries of the list.

Usage: python tests/mutants/draw.py [--seed 17] [--count 100]. A comparison, an operator, a number, an ``and`` or a
``not`` is changed. What it printed was looked through and committed as ``automatic.toml``; the list does not depend on
what it would draw of later code.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from planted import ROOT

FOLDERS = ("core", "sharding", "pipeline", "trainer", "report", "commands")
COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
}  # fmt: skip
JOINED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"), ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """On line ``line`` (0: the first), the text from ``start`` to ``end`` becomes ``text``."""

    line: int
    start: int
    end: int
    text: str


def changes(tree: ast.AST, lines: list[str]) -> Iterator[Change]:
    """Every change that could be made to a file."""
    for node in ast.walk(tree):
        if getattr(node, "lineno", 0) != getattr(node, "end_lineno", -1):
            continue
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
            yield from _between(lines, node.left, node.comparators[0], *COMPARED[type(node.ops[0])])
        elif isinstance(node, ast.BinOp) and type(node.op) in JOINED and not _is_text(node):
            yield from _between(lines, node.left, node.right, *JOINED[type(node.op)])
        elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
            both = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield from _between(lines, *node.values, *both)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield Change(line=node.lineno - 1, start=node.col_offset, end=node.operand.col_offset, text="")
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            text = str(node.value + 1)
            yield Change(line=node.lineno - 1, start=node.col_offset, end=node.end_col_offset or 0, text=text)


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str | bytes)
               for side in (node.left, node.right))  # fmt: skip


def _between(lines: list[str], left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Change]:
    line, start = left.lineno - 1, left.end_col_offset or 0
    at = lines[line].find(f" {old} ", start, right.col_offset)
    if left.end_lineno == right.lineno and at >= 0:
        yield Change(line=line, start=at + 1, end=at + 1 + len(old), text=new)


def entry(name: str, text: str, change: Change) -> tuple[str, str] | None:
    """Old and new text: the line that is changed, with lines before it until that comes once in the file."""
    lines = text.split("\n")
    if not lines[change.line].isascii():  # columns count bytes
        return None
    changed = lines[change.line][: change.start] + change.text + lines[change.line][change.end :]
    for first in range(change.line, max(-1, change.line - 6), -1):
        old = "\n".join(lines[first : change.line + 1]).lstrip()
        if text.count(old) == 1:
            new = "\n".join([*lines[first : change.line], changed]).lstrip()
            return (old, new) if "'''" not in old and name else None
    return None


def main() -> int:
    """Print ``--count`` entries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--count", type=int, default=100)
    asked = parser.parse_args()
    places = []
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text("utf-8")
        lines = [line.encode().decode("latin-1") for line in text.split("\n")]
        name = path.relative_to(ROOT).as_posix()
        places += [(name, text, change) for change in changes(ast.parse(text), lines)]
    chosen = random.Random(asked.seed).sample(places, min(len(places), 2 * asked.count))
    entries = [(name, *found) for name, text, change in chosen if (found := entry(name, text, change))]
    for number, (name, old, new) in enumerate(sorted(entries[: asked.count]), 1):
        print(f"[[mutant]]\nid = \"auto-{number:03d}\"\nfile = \"{name}\"\nold = '''{old}'''\nnew = '''{new}'''\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
