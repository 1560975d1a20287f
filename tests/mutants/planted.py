"""The list of planted errors: read from the TOML files beside this one, and compared with the code as it is.

Each entry is one exact replacement of a text that its file holds once. ``tests.toml`` names the tests of each file;
an entry's own ``tests`` come before them.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIELDS = {"id", "file", "old", "new", "tests", "why", "equivalent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """An error: ``old`` becomes ``new`` in ``file``. One of ``tests`` must fail, unless ``equivalent`` says why."""

    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str = ""  # what it would do to a user, where that is not plain
    equivalent: str = ""

    @property
    def module(self) -> str:
        """``trainer/model`` of ``trainer/network/model.py``."""
        return self.file.removesuffix(".py")

    def applied(self, text: str) -> str:
        """The file's text with the error in it."""
        return text.replace(self.old, self.new, 1)


def load(folder: Path = HERE) -> list[Planted]:
    """Read the whole list, in the order of the files' names. Raises ValueError for an entry with unknown fields."""
    tests_of = tomllib.loads((folder / "tests.toml").read_text("utf-8"))
    found = []
    for path in sorted(folder.glob("*.toml")):
        if path.name == "tests.toml":
            continue
        for entry in tomllib.loads(path.read_text("utf-8"))["mutant"]:
            if unknown := set(entry) - FIELDS:
                raise ValueError(f"{path.name}: {entry.get('id')}: fields {sorted(unknown)}, expected {sorted(FIELDS)}")
            own = entry.get("tests", [])
            tests = dict.fromkeys([*own, *tests_of.get(entry["file"], [])])
            found.append(Planted(**{**entry, "tests": tuple(tests)}))
    return found


def stale(planted: list[Planted], root: Path = ROOT) -> list[str]:
    """One line for each entry that no longer fits the code: its text is gone or there twice, a test is missing, ..."""
    twice = [name for name, count in Counter(one.id for one in planted).items() if count > 1]
    found = [f"{name}: the id comes more than once" for name in twice]
    for one in planted:
        path = root / one.file
        wrong = _wrong_text(one, path.read_text("utf-8")) if path.is_file() else f"{one.file} does not exist"
        if not wrong and not one.tests:
            wrong = "no tests: name them in the entry, or the file's in tests.toml"
        missing = [test for test in one.tests if not _exists(test, root)]
        if not wrong and missing:
            wrong = f"{missing[0]} does not exist"
        if wrong:
            found.append(f"{one.id}: {wrong}")
    return found


def _wrong_text(one: Planted, text: str) -> str:
    count = text.count(one.old)
    if count != 1:
        return f"its text comes {count} times in {one.file}, expected once: {one.old.strip().splitlines()[0]!r}"
    if one.old == one.new:
        return "old and new text are the same"
    try:
        ast.parse(one.applied(text))
    except SyntaxError as error:
        return f"{one.file} with it is no Python: {error.msg}"
    return ""


def _exists(test: str, root: Path) -> bool:
    """Whether a test file is there and, of ``file::name``, defines a test of that name."""
    path, _, name = test.partition("::")
    if not (root / path).is_file():
        return False
    return not name or f"def {name.partition('[')[0]}(" in (root / path).read_text("utf-8")
