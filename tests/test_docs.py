"""The documentation is true: its commands parse, its formats page names every file and field that is written."""

import ast
import errno
import importlib
import json
import os
import re
import runpy
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

import alexstream
from alexstream.commands.flags import _FLAGS
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import CATALOG_COLUMNS
from tests.support import ROOT
from tests.support.commands import all_commands
from tests.support.doc_pages import COMMANDS, PAGES

PACKAGES = ("commands", "report", "trainer", "pipeline", "sharding", "core")
FOLDERS = (*PACKAGES, "tests", "docs", "benchmarks", "requirements")


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_documented_command_exists_with_its_options(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('data = "shards"\n')  # what a page's --config names
    words, commands = shlex.split(re.sub(r" >>? .*", "", line), comments=True), all_commands()
    name = " ".join(words[:2]) if " ".join(words[:2]) in commands else words[0]
    commands[name].make_context(name, words[len(name.split()) :])


def test_commands_page_lists_every_command():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert all(f"| `{name}` |" in page for name, command in all_commands().items() if not hasattr(command, "commands"))


def test_readme_is_one_screen_with_the_ten_lines_of_the_home_page():
    readme, home = (ROOT / "README.md").read_text(), (ROOT / "docs" / "index.md").read_text()
    assert len(readme.split()) <= 700
    (program,), (same,) = (
        re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for text in (readme, home)
    )
    assert program == same  # which tests/test_examples.py runs


def test_numbers_of_the_readme_are_those_of_the_results_it_names():
    rows = re.findall(r"^\|[^|]+\|([^|]+)\| \[.*\]\((.+)\) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) > 5
    for cell, result in rows:
        there = set(re.findall(r"[\d.]*\d", (ROOT / result).read_text().replace(",", "")))
        assert set(re.findall(r"[\d.]*\d", cell.replace(",", ""))) <= there, (cell, result)


def test_architecture_page_has_the_tree_of_todays_modules():
    tree = runpy.run_path(str(ROOT / "docs" / "tree.py"))
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert page == tree["replace_tree"](page, tree["make_tree"]()), "run: python docs/tree.py"
    listed = page[page.index(tree["BEGIN"]) :]
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            *folders, name = path.relative_to(ROOT).parts
            depth = len(folders) - (name == "__init__.py")
            shown = f"{folders[-1]}/" if name == "__init__.py" else name
            assert f"\n{'    ' * depth}- `{shown}`: " in listed, path


def test_journeys_of_the_architecture_page_have_at_most_eight_steps():
    page = (ROOT / "docs" / "architecture.md").read_text()
    journeys = [part for part in page.split("\n## ") if "\n1. " in part]
    assert [len(re.findall(r"^\d\. \*\*", part, re.MULTILINE)) for part in journeys] == [8, 8, 8]


def test_python_names_in_the_pages_exist():
    for page in PAGES:
        for name in re.findall(r"(?<![\w/.-])alexstream(?:\.[A-Za-z_]\w*)+", page.read_text()):
            assert find_object(name) is not None, f"{page.name}: {name}"


def find_object(name):
    """The module, class or function of a dotted name, or None."""
    found, words = alexstream, name.split(".")
    for count, word in enumerate(words[1:], 2):
        with suppress(ModuleNotFoundError):
            importlib.import_module(".".join(words[:count]))
        found = getattr(found, word, None)
    return found


def test_a_python_name_that_does_not_exist_is_noticed():
    assert find_object("alexstream.pipeline.stream.ShardedData.training") is not None
    assert find_object("alexstream.pipeline.loader") is None and find_object("alexstream.Stills.missing") is None


def test_files_that_the_pages_name_exist():
    for page in PAGES:
        if page.name == "log.md":  # dated findings name files of their day
            continue
        for name in re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/.-]+\.(?:py|c)\b", page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_tests_that_hold_promises_exist():
    page = (ROOT / "docs" / "reliability.md").read_text()
    table = page[page.index("## Which test holds each promise") : page.index("## The promises")]
    cells = re.findall(r"^\| .+ \| (`.+) \|$", table, re.MULTILINE)
    assert len(cells) > 25
    for cell in cells:
        folder = ROOT
        for name in re.findall(r"`([^`]+)`", cell):
            folder = (ROOT / name).parent if "/" in name else folder  # a name alone lies beside the one before
            assert list(folder.glob(Path(name).name)), (name, cell)


def test_api_page_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    assert all(f"`alexstream.{name}`" in page for name in alexstream.__all__)


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)) == {"demo", "test"}
    assert {"setup", "demo", "check", "test", "docs", "bench", "bench-check"} <= targets


def test_formats_page_names_every_file_of_a_data_set(sample_shards):
    page = (ROOT / "docs" / "formats.md").read_text()
    for path in (sample_shards / "train").iterdir():
        name = re.sub(r"-\d{6}", "-NNNNNN", path.name).replace("train", "<split>")
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("name", [layout.MANIFEST, layout.STATS])
def test_formats_page_names_every_field(sample_shards, name):
    page = (ROOT / "docs" / "formats.md").read_text()
    written = json.loads((sample_shards / "train" / name).read_text())
    fields = set(written) | set(written.get("encode", {})) | set(written.get("shards", [{}])[0])
    assert all(f"`{field}`" in page for field in fields)


def test_formats_page_names_every_catalog_column():
    page = (ROOT / "docs" / "formats.md").read_text()
    assert all(f"`{column}`" in page for column in CATALOG_COLUMNS)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def messages():
    """Every text in the program as the command line shows it, with … where a value stands."""
    options = {f"`{name}`": flags[0] for name, flags in _FLAGS.items()}
    for text in literals():
        yield re.sub(r"`[\w.]+`", lambda found: options.get(found[0], found[0]), text)


def literals():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


OF_OTHERS = {
    "ClassLabel",
    "IterableDataset",
    "LocalResponseNorm",
    "S3FileSystem",
    "Thumbs",
}  # Hugging Face's, torch's, s3fs', Windows'


def names_in_code(trees):
    """Every name of a function, class, variable, attribute, parameter or module of the project."""
    for path, tree in trees.items():
        yield path.stem
        for node in ast.walk(tree):
            for field in ("id", "attr", "arg", "name", "asname"):
                if isinstance(name := getattr(node, field, None), str):
                    yield from name.split(".")


def test_classes_that_docstrings_name_exist():
    """A class that was renamed stays in no sentence about it."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in files}
    known = {*names_in_code(trees), *OF_OTHERS}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for quoted in re.findall(r"``([\w.]+)(?:\(.*?\))?``", ast.get_docstring(node) or ""):
                    missing = {w for w in quoted.split(".") if re.fullmatch("_?(?:[A-Z][a-z0-9]+)+", w)} - known
                    assert not missing, f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}: {missing}"


def test_options_that_messages_name_exist():
    known = {word for command in all_commands().values() for option in command.params for word in option.opts}
    of_others = {"--abbrev", "--always", "--concatenate", "--dirty", "--help", "--nproc-per-node"}  # git, tar, torchrun
    of_others |= {"--shm-size", "--standalone", "--version"}  # docker
    named = {word for text in messages() for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert named <= known | of_others, named - known - of_others


def test_messages_of_the_troubleshooting_page_are_those_of_the_program():
    said = "\n".join(messages()) + os.strerror(errno.ENOSPC) + "No module named 'nvidia'"
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for quoted in (text for row in rows for text in re.findall(r"`([^`]+)`", row)):
        for piece in filter(None, (part.strip(" ,") for part in quoted.split("…"))):
            assert piece in said, piece
