"""What many tests share: the drawn sample set, its shards, real images where they are at hand, an S3 server."""

import fcntl
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import count
from pathlib import Path

# Threads of the processes beside this one wait for each other; to spin meanwhile took half of all processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexstream.commands.main import main
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.pack import shard_all
from alexstream.sharding.sample_set import write_sample_set
from alexstream.sharding.split_plans import ShardRequest
from tests.support import ROOT

# Each is a unit of work for one process of the test run; one that begins last would be waited for by the others.
LONGEST = (
    "tests/environments/test_waits.py",
    "tests/sharding/test_forms_to_shards.py",
    "tests/faults/test_hostile_archives.py",
    "tests/test_end_to_end.py",
    "tests/trainer/bench/test_overlap.py",
    "tests/faults/test_conversion_kills.py",
    "tests/faults/test_training_data.py",
    "tests/environments/test_streams.py",
    "tests/test_quickstart.py",
    "tests/test_documented_commands.py",
    "tests/faults/test_training_kills.py",
    "tests/faults/test_fuzz.py",
)


def pytest_collection_modifyitems(items):
    """Order the files, the longest first and all others as they were; skip in the short run what is marked ``soak``."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(LONGEST)))
    if os.environ.get("ALEXSTREAM_TRIALS", "short") == "short":
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="at length: make soak"))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """``made_once(name, make)``: a folder that ``make`` filled, once for all processes of the test run; to be read."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"

    def made(name, make):
        folder, done = place / name, place / f"{name}.done"
        folder.mkdir(parents=True, exist_ok=True)
        with open(place / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def sample_images(made_once):
    """The sample set in small: 8 classes, 8 + 2 images each, odd files among them."""

    def draw(folder):
        write_sample_set(folder / "images", train_per_class=8, val_per_class=2, quiet=True)

    return made_once("sample", draw) / "images"


@pytest.fixture(scope="session")
def sample_shards(sample_images, made_once):
    """``sample_images`` as DATASET v1: ``train/`` and ``val/``."""

    def convert(folder):
        for split in ("train", "val"):
            list(shard_all(ShardRequest(source=sample_images / split, folder=folder / split), quiet=True))

    return made_once("shards", convert)


@pytest.fixture(scope="session")
def raw_shards(sample_images, made_once):
    """The training split of ``sample_images``, without compression."""

    def convert(folder):
        encode = EncodeRecipe(encoding="raw")
        list(
            shard_all(ShardRequest(source=sample_images / "train", folder=folder / "train", encode=encode), quiet=True)
        )

    return made_once("raw-shards", convert) / "train"


@pytest.fixture(scope="session")
def trained_run(sample_shards, made_once):
    """A run folder: one epoch on ``sample_shards``, in a test process."""

    def train(folder):
        words = ["train", "--data", sample_shards, "--run", folder / "tiny", "--devices", 1, "--device", "cpu"]
        words += ["--epochs", 1, "--width", 0.125, "--batch-size", 32, "--quiet"]
        result = CliRunner().invoke(main, list(map(str, words)))
        assert result.exit_code == 0, result.output

    return made_once("run", train) / "tiny"


@pytest.fixture(scope="session")
def short_run(sample_shards, made_once):
    """A training of nine steps on two ranks that nothing disturbed; tests/faults/training.py has its command."""
    from tests.faults import training

    def train(folder):
        training.finish(training.command(sample_shards, folder / "run"))

    return made_once("undisturbed", train) / "run"


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
