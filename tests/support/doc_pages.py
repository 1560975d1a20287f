"""Read the test vectors of a page: its tables and fenced blocks, found by the heading above them."""

import re

from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a page tells the reader to type: (page, words after the program's name).
COMMAND = re.compile(r"^\s*(?:python cli\.py|cli\.py|alexstream) (?=[a-z])(.+)$", re.MULTILINE)
COMMANDS = [(page.name, line) for page in PAGES for line in COMMAND.findall(page.read_text())]


def section(page, heading):
    """The text of `docs/page` from a heading to the next one of any level."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/{page} has no heading {heading!r}"
    return found[1]


def tables(page, heading):
    """The tables below a heading: lists of rows, each a tuple of cells without backticks; the header row left out."""
    found = re.findall(r"(?:^\|.*\n)+", section(page, heading), re.MULTILINE)
    return [[_cells(line) for line in lines.splitlines()[2:]] for lines in found]


def block(page, heading, number=0):
    """The content of a fenced block below a heading, with its last line feed."""
    return re.findall(r"^```\w*\n(.*?)^```", section(page, heading), re.MULTILINE | re.DOTALL)[number]


def quoted(page, heading, pattern):
    """What the one group of `pattern` matches below a heading, in order; there must be something."""
    found = re.findall(pattern, section(page, heading))
    assert found, f"docs/{page}, {heading}: nothing like {pattern}"
    return found


def _cells(line):
    return tuple(cell.strip().strip("`") for cell in line.strip().strip("|").split("|"))
