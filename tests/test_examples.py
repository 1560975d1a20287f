"""The examples of the documentation run."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from site import getsitepackages as site_packages

import pytest

from sharding.layout import EncodeRecipe
from sharding.pack import ShardRequest, shard
from tests.conftest import ROOT

LIBRARY = ROOT / "docs" / "library.md"


@pytest.fixture(scope="module")
def kept(sample_images, tmp_path_factory):
    """The sample set as original files, ``train/`` and ``val/``."""
    folder = tmp_path_factory.mktemp("kept")
    for split in ("train", "val"):
        request = ShardRequest(
            source=sample_images / split, folder=folder / split, encode=EncodeRecipe(encoding="keep")
        )
        shard(request, quiet=True)
    return folder


def python(*arguments, cwd, interpreter=sys.executable, path=()):
    paths = os.pathsep.join(map(str, (ROOT, *path)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [interpreter, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_resnet_example_trains_on_kept_shards_and_resumes(kept, tmp_path):
    script = ROOT / "docs" / "examples" / "train_resnet.py"
    options = ["--data", kept, "--batch-size", "32", "--width", "4"]
    first = python(script, *options, "--epochs", "1", cwd=tmp_path)
    second = python(script, *options, "--epochs", "2", cwd=tmp_path)
    assert re.findall(r"^epoch (\d)", first + second, re.MULTILINE) == ["1", "2"]


PRELUDE = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.LazyLinear(8))
model(torch.zeros(1, 3, 224, 224))
optimizer, criterion = torch.optim.SGD(model.parameters(), 1e-4), nn.CrossEntropyLoss()
"""


def blocks(library=None):
    """The page's pieces that need no other library, or those that import ``library``."""
    pieces = re.findall(r"^```python\n(.*?)^```", LIBRARY.read_text(), re.MULTILINE | re.DOTALL)
    others = {piece: re.findall(r"^import (lightning|accelerate)", piece, re.MULTILINE) for piece in pieces}
    return [piece for piece in pieces if others[piece] == ([library] if library else [])]


def run_pieces(pieces, shards, folder, **how):
    (folder / "shards").symlink_to(shards)
    code = "".join(f"exec({PRELUDE + piece!r}, {{}})\n" for piece in pieces)
    (folder / "pieces.py").write_text(code)
    return python(folder / "pieces.py", cwd=folder, **how)


def without_torchvision(folder):
    """This environment but for torchvision, which Lightning loads if it is there, and which may not fit the torch."""
    for site in map(Path, site_packages()):
        for entry in site.iterdir():
            if not entry.name.startswith(("torchvision", "__editable__")) and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return {"interpreter": sys._base_executable, "path": [folder]}


def test_every_piece_of_python_in_the_library_page_runs(sample_shards, tmp_path):
    assert len(blocks()) == 5
    run_pieces(blocks(), sample_shards, tmp_path)


@pytest.mark.parametrize("library", ["lightning", "accelerate"])
def test_the_pieces_for_other_libraries_run_where_they_are_installed(library, sample_shards, tmp_path):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    assert len(blocks(library)) == 1
    (tmp_path / "site").mkdir()
    run_pieces(blocks(library), sample_shards, tmp_path, **without_torchvision(tmp_path / "site"))
