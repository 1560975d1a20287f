"""What many tests share: the drawn sample set, its shards, real images where they are at hand, an S3 server."""

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from commands import group
from sharding.pack import ShardRequest, shard_all
from sharding.sample_set import write_sample_set

ROOT = Path(__file__).parent.parent


def all_commands():
    """Every command by what is typed: ``shard``, ``bench``, ``bench shard``."""
    return dict(group.all_commands(main))


def children(pid):
    """Process ids of a process's children, oldest first; empty if it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture(scope="session")
def sample_images(tmp_path_factory):
    """The sample set in small: 8 classes, 8 + 2 images each, odd files among them."""
    folder = tmp_path_factory.mktemp("sample") / "images"
    write_sample_set(folder, train_per_class=8, val_per_class=2, quiet=True)
    return folder


@pytest.fixture(scope="session")
def sample_shards(sample_images, tmp_path_factory):
    """``sample_images`` as DATASET v1: ``train/`` and ``val/``."""
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        list(shard_all(ShardRequest(source=sample_images / split, folder=folder / split), quiet=True))
    return folder


@pytest.fixture(scope="session")
def trained_run(sample_shards, tmp_path_factory):
    """A run folder: one epoch on ``sample_shards``, in this process."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    words = ["train", "--data", sample_shards, "--run", folder, "--devices", 1, "--device", "cpu", "--epochs", 1]
    words += ["--width", 0.125, "--batch-size", 32, "--quiet"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def position_cards(tmp_path_factory):
    """A data set of 256x256 images whose red is the column and whose green is the row, so that pixels tell places."""
    source, folder = tmp_path_factory.mktemp("cards"), tmp_path_factory.mktemp("card-shards") / "train"
    ramp = np.arange(256, dtype=np.uint8)
    for label in range(2):
        (source / f"class{label}").mkdir()
        for i in range(64):
            card = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(100 + i)), axis=-1)
            Image.fromarray(card).save(source / f"class{label}" / f"{i:03d}.png")
    list(shard_all(ShardRequest(source=source, folder=folder), quiet=True))
    return folder


@pytest.fixture(scope="session")
def real_images():
    """Folder of real images (``imagenet-sample/``, ``photos/``, ``hazards/``); skips where there is none."""
    folder = Path(os.environ.get("ALEXSTREAM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real test images here: set ALEXSTREAM_TEST_DATA to a folder that holds them")
    return folder


_S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests end, however they end
"""
_buckets = count()


@pytest.fixture(scope="session")
def s3_server():
    """Address of an S3 server on this machine; while it runs, the environment names it and its key."""
    for name in ("moto", "flask", "flask_cors", "s3fs", "upath"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed (extra: dev)")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", _S3_SERVER], **pipes) as server, pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield address
        server.stdin.close()


@pytest.fixture
def s3_folder(s3_server):
    """``s3://…`` text of an empty folder in a bucket of its own."""
    import s3fs

    bucket = f"bucket-{next(_buckets)}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/folder"
