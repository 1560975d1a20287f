"""Sources, data sets and checkpoints that mean harm: nothing leaves --out, nothing is run, memory stays bounded."""

import contextlib
import gzip
import json
import re
import shutil
import zipfile
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from alexstream.core.errors import AlexstreamError, SourceError
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.document import json_bytes
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.describe import load_quarantine
from alexstream.sharding.pack import shard_split as make
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.tars.walk import REPLACED
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from alexstream.sharding.verify import verify
from alexstream.trainer import checkpoint
from alexstream.trainer.errors import CheckpointError
from tests.faults import hostile
from tests.faults.hostile import END, Grounds, member, named
from tests.faults.targets import sign
from tests.support import imagenet_miniature as miniature
from tests.support.crafted_images import claiming, picture
from tests.support.processes import within

PROMISE = "a hostile archive writes nothing outside --out, runs nothing and takes bounded memory"


@pytest.fixture
def grounds(tmp_path):
    return Grounds(tmp_path / "grounds")


def shards_of(grounds, answer):
    """What ``shard`` made: manifest and what it left out, after ``verify`` has looked at it."""
    code, said = answer
    assert code == 0, said
    folder = grounds.out if layout.is_dataset(grounds.out) else grounds.out / "train"
    verdict = verify(folder, num_workers=1, quiet=True)
    assert not verdict.findings, verdict.to_text()
    assert not grounds.executed.exists()
    manifest = load_manifest(folder)
    return manifest, list(load_quarantine(folder, manifest))


def shard(grounds, *words):
    return grounds.run("shard", "--src", grounds.source, "--out", grounds.out, "--workers", 1, "--quiet", *words)


@pytest.mark.promise(PROMISE, fault="names that lead out, command a terminal, or are no text", short=1, long=10)
def test_odd_names_are_text_and_nothing_else(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        names = hostile.odd_names(grounds.canary)
        chance.shuffle(names)
        parts = [member(b"n01440764/fine.jpg", picture(1)), *(named(name, picture(i)) for i, name in enumerate(names))]
        (grounds.source / "train.tar").write_bytes(b"".join(parts) + END)
        manifest, left_out = shards_of(grounds, shard(grounds, "--classes-at", 1))
        assert manifest.num_samples + len(left_out) == len(parts)
        assert any("characters" in row["reason"] for row in left_out)
        rows = load_catalog(grounds.out, manifest, ("key", "source"))
        assert all(re.fullmatch("[A-Za-z0-9_-]{1,89}", key) for key in rows["key"])
    assert grounds.run("info", grounds.out)[0] == 0
    code, _ = grounds.run("report", grounds.out, "--out", tmp_path / "page.html", most_memory=4 << 30)
    page = (tmp_path / "page.html").read_text()
    assert code == 0 and "<script>alert" not in page and not set(page) & set("\x1b\x07\x08\r\x7f\u202e")


@pytest.mark.promise(PROMISE, fault="links, devices, pipes, sparse files of terabytes", short=1, long=10)
def test_what_is_no_file_in_an_archive_is_left_out(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        parts = hostile.links(grounds.canary)
        chance.shuffle(parts)
        whole = member(b"n01440764/fine.jpg", picture(1)) + b"".join(parts) + END
        (grounds.source / "train.tar").write_bytes(whole)
        manifest, left_out = shards_of(grounds, shard(grounds))
        assert manifest.num_samples == 2  # the plain ones: fine.jpg, and one whose folder is a link elsewhere
        reasons = " ".join(row["reason"] for row in left_out)
        assert all(word in reasons for word in ("symbolic link", "hard link", "device", "pipe", "sparse", "unknown"))


@pytest.mark.promise(PROMISE, fault="member sizes: {kind}", short=1, long=5)
@pytest.mark.parametrize("kind", hostile.wrong_sizes())
def test_a_size_that_cannot_be_ends_the_listing_or_is_not_believed(kind, trials, grounds):
    for chance in trials:
        before = [member(b"n01440764/%d.jpg" % i, picture(i)) for i in range(chance.randrange(3))]
        (grounds.source / "train.tar").write_bytes(b"".join(before) + hostile.wrong_sizes()[kind] + END)
        request = ShardRequest(source=grounds.source, folder=grounds.out)
        try:
            with within(20):
                listed = sum(len(plan.listing) for plan in plan_splits(request))
        except SourceError as error:
            assert str(error).isprintable()
        else:
            assert listed <= len(before) + 1


@pytest.mark.promise(PROMISE, fault="an archive cut off by its own sizes, as a command", short=1, long=3)
def test_a_command_says_in_one_line_that_an_archive_is_damaged(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        whole = hostile.wrong_sizes()[chance.choice(["claims a terabyte", "octal, negative"])]
        (grounds.source / "train.tar").write_bytes(member(b"n01440764/\x1b[2J.jpg", picture()) + whole + END)
        code, said = shard(grounds)
        assert code == 1 and said.count("\n") == 1


@pytest.mark.promise(PROMISE, fault="equal names, archives in archives in archives", short=1, long=10)
def test_equal_names_get_keys_of_their_own_and_archives_are_opened_one_deep(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        nested = picture()
        for depth in range(50):
            nested = hostile.tar_of([(f"deep{depth}.tar", nested)])
        twice = [("n01440764_1.JPEG", picture(chance.randrange(99))) for _ in range(3)]
        inner = hostile.tar_of([*twice, ("x/n01440764_1.JPEG", picture()), ("n01440764_2.JPEG", nested)])
        (grounds.source / ilsvrc.TRAIN_TAR).write_bytes(hostile.tar_of([("n01440764.tar", inner)]))
        manifest, left_out = shards_of(grounds, shard(grounds))
        assert manifest.num_samples == 2, "the last of the equal paths, as tar unpacks it, and that in a folder"
        assert sorted(row["reason"] for row in left_out) == ["not-an-image", REPLACED, REPLACED]


@pytest.mark.promise(PROMISE, fault="images that claim billions of pixels; metadata that unpack", short=1, long=5)
def test_bombs_are_not_unpacked(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        folder = grounds.source / "a"
        folder.mkdir()
        side = chance.choice([60_000, 65_535, 100_000, 1 << 24])
        for name, data in {**claiming(side, side), **hostile.bombs(), "fine": picture()}.items():
            (folder / name).write_bytes(data)
        manifest, left_out = shards_of(grounds, shard(grounds, "--classes-at", 1))
        # Metadata are never unpacked, so that they say nothing of sound pixels; claimed sizes are believed and refused.
        assert manifest.num_samples == 1 + len(hostile.bombs()) and len(left_out) == len(claiming(side, side))


@pytest.mark.promise(PROMISE, fault="a devkit that unpacks to gigabytes", short=1, long=3)
def test_a_devkit_is_unpacked_no_further_than_any_devkit_goes(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        miniature.write_val_tar(grounds.source)
        head, zeros = gzip.compress(hostile.header(b"data/meta.mat", 1 << 31)), gzip.compress(bytes(64 << 20), 1)
        (grounds.source / ilsvrc.DEVKIT).write_bytes(head + chance.choice([20, 30]) * zeros)
        code, said = shard(grounds)
        assert code == 1 and "devkit" in said


@pytest.mark.promise(
    PROMISE, fault="a meta.mat of 100,000 matrices in each other, or packed a thousandfold", short=2, long=4
)
def test_a_meta_mat_is_not_followed_into_its_depths(trials, tmp_path):
    for _ in trials:
        root = tmp_path / str(trials.number)
        miniature.write_flat_val(root)
        path = root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
        head = path.read_bytes()[:128]
        path.write_bytes(head + (deep_cells(100_000) if trials.number % 2 == 0 else packed_matrix()))
        with pytest.raises(SourceError, match=r"no struct array|MiB") as caught:
            list(plan_splits(ShardRequest(source=root, folder=tmp_path / "out")))
        assert str(caught.value).isprintable()


def deep_cells(depth):
    """Cell arrays in cell arrays, as MATLAB stores them."""
    flags = np.array([6, 8, 1, 0], "<u4").tobytes() + np.array([5, 8, 1, 1], "<i4").tobytes()
    head = flags + np.array([1, 0], "<u4").tobytes()  # no name
    total = depth * (8 + len(head))
    return b"".join(
        np.array([14, total - 8 - i * (8 + len(head))], "<u4").tobytes() + head for i in range(depth)
    )  # fmt: skip


def packed_matrix():
    """A matrix of 256 MiB, packed."""
    packed = zlib.compress(np.array([14, 1 << 28], "<u4").tobytes() + bytes(1 << 28), 9)
    return np.array([15, len(packed)], "<u4").tobytes() + packed


@pytest.mark.promise(
    PROMISE, fault="Parquet rows that name files elsewhere, or are repeated into gigabytes", short=1, long=5
)
def test_parquet_rows_name_no_file_and_are_read_some_at_a_time(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        large = picture(1, "PNG") + bytes(16 << 20)
        rows = [(0, "/etc/passwd", None), (0, "../../canary/bird", None), (1, "fine.jpg", picture(2))]
        rows += [(1, f"{i}.png", large) for i in range(chance.randrange(30, 40))]
        table = miniature.hub_table(rows, names=["a", "b"])
        pq.write_table(table, grounds.source / "train-00000-of-00001.parquet", compression="zstd")
        words = ("shard", "--src", grounds.source, "--out", grounds.out, "--workers", 1, "--quiet")
        manifest, left_out = shards_of(grounds, grounds.run(*words, most_memory=480 << 20))  # as much as the images
        assert manifest.num_samples == len(rows) - 2 and {row["reason"] for row in left_out} == {"unreadable"}


@pytest.mark.promise(PROMISE, fault="WebDataset members: pickled code, JSON of great depth", short=1, long=5)
def test_members_of_a_webdataset_are_not_unpickled(trials, tmp_path):
    for chance in trials:
        grounds = Grounds(tmp_path / f"grounds{trials.number}")
        evil = {"pyd": hostile.pickled(grounds.executed), "pkl": hostile.pickled(grounds.executed)}
        evil |= {"npy": hostile.npy_of_objects(grounds.executed), "pth": hostile.pickled(grounds.executed)}
        members = []
        for i in range(3):
            extra = list(evil.items())
            chance.shuffle(extra)
            members += [(f"k{i}.jpg", picture(i)), (f"k{i}.cls", b"%d" % i), *((f"k{i}.{n}", d) for n, d in extra)]
        (grounds.source / "train-0.tar").write_bytes(hostile.tar_of(members))
        manifest, _ = shards_of(grounds, shard(grounds))
        assert manifest.num_samples == 3
        members += [("deep.jpg", picture(4)), ("deep.json", b'{"label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")]
        (grounds.source / "train-0.tar").write_bytes(hostile.tar_of(members))
        with pytest.raises(SourceError, match="deep"):
            list(plan_splits(ShardRequest(source=grounds.source, folder=grounds.out)))


@pytest.mark.promise(PROMISE, fault="a checkpoint with code in it: {form}", short=1, long=5)
@pytest.mark.parametrize("form", ["a plain pickle", "torch's zip", "torch's old form", "a packed zip"])
def test_code_in_a_checkpoint_is_not_run(form, trials, grounds):
    for chance in trials:
        path = grounds.folder / "checkpoint.pt"
        state = {"schema": checkpoint.SCHEMA, "step": chance.randrange(9), "recipe": hostile.Evil(grounds.executed)}
        if form == "a plain pickle":
            path.write_bytes(hostile.pickled(grounds.executed))
        else:
            torch.save(state, path, _use_new_zipfile_serialization=form != "torch's old form")
        if form == "a packed zip":
            pack(path)
        with pytest.raises(CheckpointError):
            checkpoint.load_checkpoint(path)
        assert not grounds.executed.exists()


def pack(path):
    """The parts of a zip archive, deflated, and one of a gigabyte more."""
    with zipfile.ZipFile(path) as archive:
        parts = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**parts, "archive/data/0": bytes(1 << 28)}.items():
            archive.writestr(name, content)


@pytest.mark.promise(PROMISE, fault="a checkpoint, as a command", short=1, long=2)
def test_a_command_refuses_code_in_a_checkpoint_in_one_line(trials, grounds):
    for _ in trials:
        torch.save({"schema": checkpoint.SCHEMA, "x": hostile.Evil(grounds.executed)}, grounds.folder / "c.pt")
        words = ("kernels", "--checkpoint", grounds.folder / "c.pt", "--out", grounds.out)
        code, said = grounds.run(*words, most_memory=4 << 30)
        assert code == 1 and said.count("\n") == 1 and not grounds.executed.exists()


def a_tensor_of_terabytes():
    return torch.ones(1).expand(1 << 40)


@pytest.mark.promise(PROMISE, fault="a checkpoint whose tensors claim terabytes", short=1, long=1)
def test_a_tensor_is_as_large_as_what_is_stored_of_it(trials, tmp_path):
    for _ in trials:
        state = {"schema": checkpoint.SCHEMA_WITHOUT_CHECKSUM, "step": 1, "errors": [], "data": {}, "velocity": {}}
        state |= {"recipe": {}, "parameters": {"a": a_tensor_of_terabytes()}}
        torch.save(state, tmp_path / "c.pt")
        with pytest.raises(CheckpointError, match="a tensor's numbers lie upon one another"):
            checkpoint.load_checkpoint(tmp_path / "c.pt")


SETS = ("a symbolic link", "a hard link", "a member named ../", "a shard named ../", "a shard named /")


def hostile_sets(grounds):
    """Changes to a data set, each made before all of its checksums are made right again."""
    folder = grounds.folder / "set"
    tar, manifest = folder / "train-000000.tar", folder / layout.MANIFEST

    def as_link(kind):
        raw = tar.read_bytes()
        first = hostile.header(raw[:100].rstrip(b"\0"), 0, kind, b"../../canary/bird")
        tar.write_bytes(first + raw[512:])

    def renamed():
        raw = tar.read_bytes()
        size = int(raw[124:135], 8)
        tar.write_bytes(hostile.header(b"../../canary/x.jpg", size) + raw[512:])

    def with_shard(name):
        value = json.loads(manifest.read_bytes())
        value["shards"][0]["name"] = name
        manifest.write_bytes(json_bytes(value))

    return {
        "a symbolic link": lambda: as_link(b"2"),
        "a hard link": lambda: as_link(b"1"),
        "a member named ../": renamed,
        "a shard named ../": lambda: with_shard("../canary/bird-000000"),
        "a shard named /": lambda: with_shard(str(grounds.canary / "bird")),
    }


@pytest.mark.promise(PROMISE, fault="a data set whose checksums are right and which holds {kind}", short=1, long=3)
@pytest.mark.parametrize(
    "kind", ["a symbolic link", "a hard link", "a member named ../", "a shard named ../", "a shard named /"]
)
def test_a_data_set_is_read_within_its_files_alone(kind, trials, grounds):
    for _ in trials:
        (grounds.folder / "images" / "a").mkdir(parents=True, exist_ok=True)
        (grounds.folder / "images" / "a" / "0.jpg").write_bytes(picture())
        folder = grounds.folder / "set"
        if not folder.is_dir():
            make(ShardRequest(source=grounds.folder / "images", folder=folder, num_workers=1, classes_at=1), quiet=True)
        whole = {path: path.read_bytes() for path in folder.iterdir()}
        hostile_sets(grounds)[kind]()
        with contextlib.suppress(FileNotFoundError):  # of a shard somewhere else: its sums stay what they were
            sign(grounds.folder)
        with pytest.raises(AlexstreamError) as caught:
            data = open_dataset(folder)
            data.stored(0)
        assert str(caught.value).isprintable()
        assert verify(folder, num_workers=1, quiet=True).findings
        for path, content in whole.items():
            path.write_bytes(content)


@pytest.mark.promise(PROMISE, fault="a data set with checksums that are right, as a command", short=1, long=2)
def test_preview_refuses_such_a_data_set_in_one_line(trials, grounds):
    for chance in trials:
        shutil.rmtree(grounds.folder / "set", ignore_errors=True)
        test_data = grounds.folder / "images" / "a"
        test_data.mkdir(parents=True, exist_ok=True)
        (test_data / "0.jpg").write_bytes(picture())
        make(
            ShardRequest(source=test_data.parent, folder=grounds.folder / "set", num_workers=1, classes_at=1),
            quiet=True,
        )
        hostile_sets(grounds)[chance.choice(["a symbolic link", "a member named ../"])]()
        sign(grounds.folder)
        code, said = grounds.run("preview", grounds.folder / "set", "--out", grounds.out, most_memory=4 << 30)
        assert code == 1 and said.count("\n") == 1
