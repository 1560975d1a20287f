"""The examples of the documentation run."""

import os
import re
import subprocess
import sys

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


def python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_resnet_example_trains_on_kept_shards_and_resumes(kept, tmp_path):
    script = ROOT / "docs" / "examples" / "train_resnet.py"
    options = ["--data", kept, "--batch-size", "32", "--width", "4"]
    first = python(script, *options, "--epochs", "1", cwd=tmp_path)
    second = python(script, *options, "--epochs", "2", cwd=tmp_path)
    assert re.findall(r"^epoch (\d)", first + second, re.MULTILINE) == ["1", "2"]


def blocks():
    return re.findall(r"^```python\n(.*?)^```", LIBRARY.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks()) if LIBRARY.exists() else 0))
def test_every_piece_of_python_in_the_library_page_runs(number, sample_shards, tmp_path):
    code = blocks()[number]
    wanted = re.findall(r"^(?:import|from) (lightning|accelerate)", code, re.MULTILINE)
    for name in wanted:
        pytest.importorskip(name, reason=f"{name} is not installed")
    (tmp_path / "shards").symlink_to(sample_shards)
    prelude = (
        "import torch\nfrom torch import nn\n"
        "model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.LazyLinear(8))\n"
        "model(torch.zeros(1, 3, 224, 224))\n"
        "optimizer, criterion = torch.optim.SGD(model.parameters(), 1e-4), nn.CrossEntropyLoss()\n"
    )
    (tmp_path / "piece.py").write_text(prelude + code)
    python(tmp_path / "piece.py", cwd=tmp_path)
