"""Every command line of the documentation is run, in a folder that has what it names: little data, few steps.

In the short run those of a few pages; tests/test_docs.py reads every line by the command line's own parser there, too.
"""

import re
import shlex
import shutil

import pytest

from alexstream.pipeline import doctor
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest
from tests.support.commands import call
from tests.support.doc_pages import COMMANDS
from tests.support.imagenet_miniature import write_archives

SHORT = {
    "train": ["--devices", 1, "--device", "cpu", "--batch-size", 16, "--log-every", 1, "--width", 0.125],
    "bench overlap": ["--devices", 1, "--device", "cpu", "--batch-size", 4, "--steps", 2, "--rounds", 1],
    "bench stream": ["--batch-size", 8, "--steps", 2, "--rounds", 1],
    "bench step": ["--device", "cpu", "--classes", 3, "--batch-size", 2, "--steps", 1, "--rounds", 1],
    "bench shard": ["--limit", 6, "--rounds", 1],
    "shard": ["--workers", 1],
    "sample": ["--train-per-class", 4, "--val-per-class", 1],
}
SESSIONS: dict[str, list[str]] = {}  # page → its lines, those that came on a page before left out
for page, line in COMMANDS:
    line = re.sub(r" >>? .*| +#.*", "", line)
    if page != "quickstart.md" and not any(line in lines for lines in SESSIONS.values()):
        SESSIONS.setdefault(page, []).append(line)


FIRST = ("README.md", "commands.md", "index.md", "install.md", "own-data.md")  # what a newcomer types


@pytest.fixture(scope="module")
def world(sample_images, sample_shards, tmp_path_factory):
    """What the pages suppose: images, archives, shards, finished runs."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("shards", "fall2011"):
        shutil.copytree(sample_shards, folder / name)
    shutil.copytree(sample_images, folder / "photos")
    request = ShardRequest(source=sample_images / "val", folder=folder / "heldout" / "val", split="val", seed=5)
    list(shard_all(request, quiet=True))
    for name in ("imagenet", "data/imagenet"):
        write_archives(folder / name)
    words = ["--data", folder / "shards", "--run", folder / "runs" / "alexnet", "--epochs", 1]
    trained = call("train", *words, *SHORT["train"])
    assert trained.exit_code == 0, trained.output
    for name in ("a", "b", "other"):
        shutil.copytree(folder / "runs" / "alexnet", folder / "runs" / name)
    image = next((folder / "photos" / "val").rglob("*.jp*g"))
    (folder / "new").mkdir()
    for name in ("cat.jpg", "dog.png", "new/cat.jpg"):
        shutil.copy(image, folder / name)
    (folder / "run.toml").write_text('data = "shards"\nno-lighting = true\nprecision = "bf16"\n')
    return folder


@pytest.fixture(scope="module")
def bucket(world, s3_server):
    """Fill a bucket with photos and shards of them; its address."""
    import s3fs

    store = s3fs.S3FileSystem()
    store.mkdir("documented")
    for name in ("photos", "shards"):
        store.put(str(world / name), f"documented/{name}", recursive=True)
    return "s3://documented"


def typed(line, world, bucket, number):
    """The line's words, with this world's places, and short."""
    words = [word.replace("s3://bucket", bucket) for word in shlex.split(line, comments=True)]
    words = [re.sub(r"^/(data|scratch)\b", rf"{world}/\1", word) for word in words]
    name = " ".join(words[:2]) if words[0] == "bench" else words[0]
    if name == "train":
        words += [] if "--run" in words else ["--run", f"runs/{number}"]
        words += ["--epochs", "2" if "--resume" in words else "1"]
    if name == "sample":  # its folder is in the world already, and one with files in it is refused
        words += ["--out", f"made/{number}"]
    if "--val-share" in words:  # a folder without a validation split
        words += ["--src", "photos/train"]
    if name == "shard" and "/data/" not in line:
        words += ["--out", f"{bucket}/{number}" if any(bucket in word for word in words) else f"made/{number}"]
    return [*words, *map(str, SHORT.get(name, ()))]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page in FIRST else pytest.mark.soak) for page in SESSIONS]
)
def test_the_commands_of_a_page_do_what_it_says(page, world, request, monkeypatch):
    bucket = (
        request.getfixturevalue("bucket") if any("s3://bucket" in line for line in SESSIONS[page]) else "s3://bucket"
    )
    monkeypatch.chdir(world)
    monkeypatch.setattr(doctor, "DISK_MIB", 2)
    for number, line in enumerate(SESSIONS[page]):
        result = call(*typed(line, world, bucket, f"{page}-{number}"))
        assert result.exit_code == 0, f"{line}\n{result.output}"
