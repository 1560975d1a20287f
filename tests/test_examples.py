"""The examples of the documentation run."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from site import getsitepackages as site_packages

import pytest
import torch

from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.support import ROOT, forked_commands

LIBRARY, HOME = ROOT / "docs" / "library.md", ROOT / "docs" / "index.md"


@pytest.fixture(scope="module")
def kept(sample_images, tmp_path_factory):
    """The sample set as original files, ``train/`` and ``val/``."""
    folder = tmp_path_factory.mktemp("kept")
    for split in ("train", "val"):
        request = ShardRequest(
            source=sample_images / split, folder=folder / split, encode=EncodeRecipe(encoding="keep")
        )
        shard_split(request, quiet=True)
    return folder


def run_script(path, *words):
    """Run a script where this process is, as a fork of one that has loaded torch; what it prints."""
    done = forked_commands.run((path, *words), main="tests.support.script")
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(*arguments, cwd, interpreter=sys.executable, path=()):
    """Run a script in a new Python, of this environment or another; what it prints."""
    paths = os.pathsep.join(map(str, (ROOT, *path)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [interpreter, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_resnet_example_trains_on_kept_shards_and_resumes(kept, tmp_path, monkeypatch):
    script = ROOT / "docs" / "examples" / "train_resnet.py"
    options = ["--data", kept, "--batch-size", "32", "--width", "4"]
    monkeypatch.chdir(tmp_path)
    first = run_script(script, *options, "--epochs", "1")
    second = run_script(script, *options, "--epochs", "2")
    assert re.findall(r"^epoch (\d)", first + second, re.MULTILINE) == ["1", "2"]


PRELUDE = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.LazyLinear(8))
model(torch.zeros(1, 3, 224, 224))
optimizer, criterion = torch.optim.SGD(model.parameters(), 1e-4), nn.CrossEntropyLoss()
"""


def python_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def blocks(library=None):
    """The page's pieces that need no other library, or those that import ``library``."""
    pieces = python_of(LIBRARY)
    others = {piece: re.findall(r"^import (lightning|accelerate)", piece, re.MULTILINE) for piece in pieces}
    return [piece for piece in pieces if others[piece] == ([library] if library else [])]


def write_pieces(pieces, shards, folder):
    """Write pieces as one program, beside the shards that they name; its path."""
    (folder / "shards").symlink_to(shards)
    code = "".join(f"exec({PRELUDE + piece!r}, {{}})\n" for piece in pieces)
    (folder / "pieces.py").write_text(code)
    return folder / "pieces.py"


def without_torchvision(folder):
    """This environment but for torchvision, which Lightning loads if it is there, and which may not fit the torch."""
    for site in map(Path, site_packages()):
        for entry in site.iterdir():
            if not entry.name.startswith(("torchvision", "__editable__")) and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return {"interpreter": sys._base_executable, "path": [folder]}


def test_every_piece_of_python_in_the_library_page_runs(sample_shards, tmp_path, monkeypatch):
    assert len(blocks()) == 6
    monkeypatch.chdir(tmp_path)
    run_script(write_pieces(blocks(), sample_shards, tmp_path))


def test_the_ten_lines_of_the_home_page_are_a_whole_program(sample_shards, tmp_path):
    (program,) = python_of(HOME)
    assert len([line for line in program.splitlines() if line]) == 10
    (tmp_path / "shards").symlink_to(sample_shards)
    saving = '\ntorch.save({"model": model.state_dict(), "loader": loader.state_dict()}, "checkpoint.pt")\n'
    (tmp_path / "program.py").write_text(program + saving)
    python(tmp_path / "program.py", cwd=tmp_path)  # a new Python: it must load what it needs itself
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    whole_batches = load_manifest(sample_shards / "train").num_samples // 16
    assert saved["loader"]["step"] == 2 * whole_batches > 2
    assert all(values.isfinite().all() for values in saved["model"].values())


@pytest.mark.soak
@pytest.mark.parametrize("library", ["lightning", "accelerate"])
def test_the_pieces_for_other_libraries_run_where_they_are_installed(library, sample_shards, tmp_path):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    assert len(blocks(library)) == 1
    (tmp_path / "site").mkdir()
    program = write_pieces(blocks(library), sample_shards, tmp_path)
    python(program, cwd=tmp_path, **without_torchvision(tmp_path / "site"))
