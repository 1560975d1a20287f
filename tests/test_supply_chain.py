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

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CODE = ("cli.py", "alexstream", "core", "commands", "sharding", "pipeline", "trainer", "report", "benchmarks", "docs")
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
    pairs = [line.partition(" ; ")[0].split("==") for line in lines]
    assert len(dict(pairs)) == len(pairs)
    return {canonicalize_name(name): wanted for name, wanted in pairs}


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
    assert not wrong, f"(installed, pinned) of {wrong}; run make lock"


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
        if called.endswith("Image.open") and "formats" not in given:
            yield node.lineno, "Image.open without formats=: Pillow has some that run programs"
        if re.fullmatch(r"(np|numpy)\.load", called) and given.get("allow_pickle") is not False:
            yield node.lineno, "numpy.load without allow_pickle=False"


def test_loaders_that_could_run_code_are_told_not_to():
    for path in [file for name in CODE for file in (ROOT / name).rglob("*.py") or [ROOT / name]]:
        found = list(unsafe(ast.parse(path.read_text())))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "np.load(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "x.read(f, allow_pickle=True)",
        "PIL.Image.open(f)",
    ],
)
def test_that_check_sees_what_it_should(code):
    assert list(unsafe(ast.parse(code)))


DECODERS = re.compile(r"(simplejpeg\.decode_jpeg|cv2\.im\w+|fn\.(experimental\.)?decoders\.\w+|HeifImageFile)$")
BEHIND_THE_GATE = {
    "sharding/images/decode.py",
    "sharding/images/jpeg.py",
    "sharding/images/formats.py",
    "pipeline/decode/dali.py",
}


def decoding(tree):
    """Calls of decoders that take any bytes."""
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [called for called in calls if DECODERS.search(called)]


def test_decoders_are_called_where_their_bytes_were_checked_and_nowhere_else():
    """By ``stored_sample.SampleChecker`` for what is stored, by ``formats`` and ``jpeg`` for what is converted."""
    calling = {
        file.relative_to(ROOT).as_posix()
        for name in ("commands", "core", "sharding", "pipeline", "trainer", "report")
        for file in (ROOT / name).rglob("*.py")
        if decoding(ast.parse(file.read_text()))
    }
    assert calling == BEHIND_THE_GATE


# Packages whose messages hold text of a stranger's files, and files of others whose texts are typed by the user.
QUOTING = ("core", "sharding", "pipeline", "trainer", "report", "commands")
TYPED = {
    "commands/group.py", "commands/options.py", "commands/streams.py", "pipeline/transforms/lighting.py",
    "pipeline/stream.py",
    "pipeline/sampling/order.py", "report/compose.py", "trainer/distributed/launch.py", "trainer/loop.py",
    "trainer/evaluation/pictures.py",
    "trainer/evaluation/predictions.py", "trainer/recipe.py", "trainer/distributed/store.py",
}  # fmt: skip


def unbounded(tree):
    """Values written with ``repr`` into text: of any length, and in time that a nested one can make exponential."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
            yield node.lineno, ast.unparse(node.value)
        if isinstance(node, ast.Call) and "repr" in (getattr(one, "id", "") for one in (node.func, *node.args)):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search("%r", node.value):
            yield node.lineno, node.value


def test_text_of_a_strangers_file_is_quoted_by_what_bounds_it():
    seen = {}
    for path in [file for name in QUOTING for file in (ROOT / name).rglob("*.py")]:
        if found := list(unbounded(ast.parse(path.read_text()))):
            seen[str(path.relative_to(ROOT))] = found
    ours = seen.pop("sharding/listing.py")  # a digest of class names, which nobody reads
    assert [text for _, text in ours] == ["repr(self.classes)"]
    assert seen.keys() <= TYPED, {name: found for name, found in seen.items() if name not in TYPED}


@pytest.mark.parametrize("code", ['f"{x!r}"', "repr(x)", "', '.join(map(repr, x))", '"%r" % x'])
def test_that_check_sees_every_way_to_write_so(code):
    assert list(unbounded(ast.parse(code)))


IMAGE, RUN, DEV = (ROOT / "requirements" / name for name in ("image.txt", "run.txt", "dev.txt"))
CUDA = re.compile(r"torch|triton|cuda-\w+|nvidia-[\w-]+")


def hashed(path):
    """Version and hashes by name, of a file for ``pip install --require-hashes -r``."""
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if line[0] != "#")
    found = {}
    for line in text.replace("\\\n", " ").splitlines():
        required = Requirement(line.partition(" --hash=")[0])
        (exactly,) = required.specifier
        assert exactly.operator == "==" and canonicalize_name(required.name) not in found, line
        found[canonicalize_name(required.name)] = (exactly.version, re.findall(r"--hash=(\S+)", line))
    return found


@pytest.mark.parametrize(("path", "at_least"), [(IMAGE, 80), (RUN, 30), (DEV, 80)], ids=["image", "run", "dev"])
def test_hashed_versions_are_those_of_the_constraints(path, at_least):
    versions, found = pinned(), hashed(path)
    assert len(found) > at_least
    for name, (version, hashes) in found.items():
        assert versions[name] == version, name
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), name


def test_a_file_has_the_same_hashes_for_the_image_and_for_developers():
    image, dev = hashed(IMAGE), hashed(DEV)
    assert len(image.keys() & dev.keys()) > 50
    assert {name: image[name] for name in image.keys() & dev.keys()} == {
        name: dev[name] for name in image if name in dev
    }
    assert hashed(RUN).items() <= dev.items()


def test_what_make_demo_brings_is_what_running_needs_and_no_more():
    found = {canonicalize_name(one.name): one for one in distributions()}
    run, used = hashed(RUN).keys(), needed([("alexstream", ("report",))], found) - {"alexstream", "torch"}
    assert run >= {name for name in used if not CUDA.fullmatch(name) or "dali" in name}
    assert len(run) < len(hashed(DEV)) / 3
    for_other_pythons = {"pyyaml-ft"}
    assert run - used - for_other_pythons == set()


def test_what_has_a_hash_is_what_is_installed():
    """By the metadata of what is here; what differs is what torch's build for CUDA needs beyond that for CPUs."""
    found = {canonicalize_name(one.name): one for one in distributions()}
    image, dev = hashed(IMAGE).keys(), hashed(DEV).keys()
    assert "torch" in image and "torch" not in dev
    assert image | dev >= needed([("alexstream", ("dev",))], found) - {"alexstream"}
    assert dev >= needed([("nvidia-dali-cuda130", ())], found)
    used = needed([("alexstream", ("s3", "tensorboard", "report"))], found) - {"alexstream"}
    assert image >= used
    for_other_pythons = {"pyyaml-ft"}
    assert not [name for name in image - used - for_other_pythons if not CUDA.fullmatch(name)]


def test_every_range_of_the_project_has_its_version_in_the_constraints():
    versions = pinned()
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        required = Requirement(text)
        assert required.name == "alexstream" or versions[canonicalize_name(required.name)] in required.specifier, text


def test_no_file_names_an_index_or_a_place():
    for path in (ROOT / "constraints.txt", IMAGE, RUN, DEV):
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        assert not re.search(r"://|@|index|find-links|(^|\s)/|\.whl", text), path.name


def test_pip_takes_the_hashed_files_of_what_is_installed():
    """Nothing is fetched: all of them are here, in these versions."""
    words = ["install", "--dry-run", "--no-index", "--no-deps", "--require-hashes", "--requirement", DEV]
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_make_setup_and_the_image_ask_for_hashes():
    makefile = (ROOT / "Makefile").read_text()
    run, setup = makefile[makefile.index("$(RUNS): ") :].split("$(READY): ", 1)
    assert "--no-deps --require-hashes -r requirements/run.txt" in run and "--no-build-isolation" in run
    assert "--no-deps --require-hashes -r requirements/dev.txt" in setup[: setup.index("demo: ")]
    fetches = re.findall(r"\$\(PIP\) (.+)", run + setup[: setup.index("demo: ")])
    assert len(fetches) == 3 and all("--require-hashes" in one or "-e " in one for one in fetches)
