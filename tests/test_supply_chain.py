"""What is installed is what was pinned; data is never run, unpickled, or put into a shell."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE = ("cli.py", "commands", "sharding", "pipeline", "trainer", "report", "benchmarks", "docs")
PLANTED = {
    "S102": "exec(open('plan.json').read())",
    "S301": "import pickle\npickle.loads(b'')",
    "S302": "import marshal\nmarshal.loads(b'')",
    "S307": "eval(open('plan.json').read())",
    "S202": "import tarfile\ntarfile.open('a.tar').extractall()",
    "S314": "from xml.etree import ElementTree\nElementTree.parse('a.xml')",
    "S506": "import yaml\nyaml.load(open('a.yaml'), Loader=yaml.Loader)",
    "S602": "import subprocess\nsubprocess.run(f'cat {1}', shell=True)",
    "S605": "import os\nos.system(f'cat {1}')",
}


def pinned():
    """Versions by name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): wanted for name, wanted in (line.split("==") for line in lines)}


def needed(names, found):
    """The distributions that requirements lead to, of those that are here."""
    todo, seen = [(canonicalize_name(name), frozenset(extras)) for name, extras in names], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or name not in found:
            continue
        seen.add((name, extras))
        for text in found[name].requires or ():
            required = Requirement(text)
            asked = [required.marker is None or required.marker.evaluate({"extra": extra}) for extra in ("", *extras)]
            todo += [(canonicalize_name(required.name), frozenset(required.extras))] if any(asked) else []
    return {name for name, _ in seen}


def test_everything_that_an_install_brings_is_pinned_and_here_in_that_version():
    found = {canonicalize_name(one.name): one for one in distributions()}
    needs = needed([("alexstream", ("dev",))], found) - {"alexstream"}
    assert len(needs) > 100
    wrong = {name: (found[name].version, pinned().get(name)) for name in needs}
    # A build of torch names its kind behind a plus.
    wrong = {name: pair for name, pair in wrong.items() if pair[0].split("+")[0] != pair[1]}
    assert not wrong, f"(installed, pinned) of {wrong}; mend constraints.txt"


def test_every_dependency_says_from_which_version_on():
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        required = Requirement(text)
        assert required.name == "alexstream" or {">=", "=="} & {one.operator for one in required.specifier}, text


@pytest.mark.parametrize("rule", PLANTED)
@pytest.mark.parametrize("package", ["sharding", "benchmarks"])
def test_the_lint_refuses_code_that_runs_data(rule, package):
    ruff = Path(sys.executable).parent / "ruff"
    if not ruff.is_file():
        pytest.skip("ruff is not installed (extra: dev)")
    words = [ruff, "check", "--output-format", "concise", "--stdin-filename", ROOT / package / "planted.py", "-"]
    code = f'"""Planted."""\n{PLANTED[rule]}\n'
    done = subprocess.run(words, cwd=ROOT, input=code, capture_output=True, text=True)
    assert done.returncode == 1 and f" {rule} " in done.stdout, done.stdout + done.stderr


def unsafe(tree):
    """Calls that no lint rule knows: loaders that may run what they load, by keyword or by its absence."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        called = ast.unparse(node.func)
        if given.get("allow_pickle") or given.get("trust_remote_code"):
            yield node.lineno, "allow_pickle or trust_remote_code"
        if called == "torch.load" and given.get("weights_only") is not True:
            yield node.lineno, "torch.load without weights_only=True"
        if re.fullmatch(r"(np|numpy)\.load", called) and given.get("allow_pickle") is not False:
            yield node.lineno, "numpy.load without allow_pickle=False"


def test_loaders_that_could_run_code_are_told_not_to():
    for path in [file for name in CODE for file in (ROOT / name).rglob("*.py") or [ROOT / name]]:
        found = list(unsafe(ast.parse(path.read_text())))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(
    "code", ["np.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)", "x.read(f, allow_pickle=True)"]
)
def test_that_check_sees_what_it_should(code):
    assert list(unsafe(ast.parse(code)))
