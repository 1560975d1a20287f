"""The documentation is true: its commands parse, its formats page names every file and field that is written."""

import ast
import errno
import json
import os
import re
import shlex

import pytest

from sharding import layout
from tests.conftest import ROOT, all_commands

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


COMMAND = re.compile(r"^\s*(?:python cli\.py|cli\.py|alexstream) (?=[a-z])(.+)$", re.MULTILINE)
COMMANDS = [(page.name, line) for page in PAGES for line in COMMAND.findall(page.read_text())]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_documented_command_exists_with_its_options(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('data = "shards"\n')  # what a page's --config names
    words, commands = shlex.split(re.sub(r" >>? .*", "", line), comments=True), all_commands()
    name = " ".join(words[:2]) if " ".join(words[:2]) in commands else words[0]
    commands[name].make_context(name, words[len(name.split()) :])


def test_readme_lists_every_command():
    readme = (ROOT / "README.md").read_text()
    assert all(
        f"| `{name}` |" in readme for name, command in all_commands().items() if not hasattr(command, "commands")
    )


def test_readme_lists_every_module():
    readme = (ROOT / "README.md").read_text()
    for package in ("commands", "report", "sharding", "pipeline", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem in ("__init__", "errors") or re.search(rf"^ +{path.name} ", readme, re.MULTILINE), path


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
    assert all(f"`{column}`" in page for column in layout.CATALOG_COLUMNS)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def messages():
    """Every text in the program, with … where a value stands."""
    for package in ("commands", "report", "sharding", "pipeline", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


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
