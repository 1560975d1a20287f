"""Write the tree of all modules into ``docs/architecture.md``, from the first sentence of each module's docstring.

Run after a module was added, moved or described anew::

    python docs/tree.py

``tests/test_docs.py`` fails while the page says anything else than the modules do.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("commands", "report", "trainer", "pipeline", "sharding", "core")  # in the order in which they import
BEGIN, END = "<!-- tree: docs/tree.py -->", "<!-- end of the tree -->"


def main():
    """Rewrite the page."""
    PAGE.write_text(replace_tree(PAGE.read_text(), make_tree()))


def replace_tree(page, tree):
    """Return the text of the page with ``tree`` between its two markers. Raises ValueError if they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE}: expected {BEGIN} and, after it, {END}")
    return f"{before}{BEGIN}\n\n{tree}\n{end}{after}"


def make_tree():
    """Return all packages and modules as nested Markdown lists, files before folders."""
    return "".join(line for package in PACKAGES for line in _list_package(ROOT / package, 0))


def _list_package(folder, depth):
    yield _format_line(f"{folder.name}/", folder / "__init__.py", depth)
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield _format_line(path.name, path, depth + 1)
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").is_file() and not inner.is_symlink():
            yield from _list_package(inner, depth + 1)


def _format_line(name, path, depth):
    return f"{'    ' * depth}- `{name}`: {_describe_module(path)}\n"


def _describe_module(path):
    """Return the first paragraph of the module's docstring on one line. Raises ValueError if it has none."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)}: has no docstring to describe it by")
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(docstring.split("\n\n")[0].split()))


if __name__ == "__main__":
    main()
