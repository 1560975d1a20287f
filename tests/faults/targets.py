"""What is fuzzed: for each parser a small whole file, the way in, and how its checksums are made right after damage.

``TARGETS`` has, by name, the reader as it is called with files of its own; those whose name ends in a whole command's
name open everything around the file too, and are slower. All files lie in one folder, at best in memory. What takes
long to load (torch above all) is loaded by those that need it.
"""

import contextlib
import ctypes
import functools
import gzip
import hashlib
import json
import os
import random
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
from PIL import Image

from alexstream.core.errors import AlexstreamError
from alexstream.sharding.convert import convert_shard
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import CATALOG_COLUMNS, load_catalog_shard
from alexstream.sharding.dataset_v1.document import SCHEMA, json_bytes, json_digest
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.describe import describe_dataset, load_quarantine
from alexstream.sharding.images.decode import decode_sample, prepare_image
from alexstream.sharding.images.formats import MAX_PIXELS
from alexstream.sharding.images.stored_sample import STORED_EXTENSIONS, SampleChecker
from alexstream.sharding.lookup import SampleLookup
from alexstream.sharding.output import open_output_folder
from alexstream.sharding.pack import shard_all
from alexstream.sharding.sources.files import list_items, open_range_file
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import find_devkit
from alexstream.sharding.sources.imagenet.kaggle import detect_kaggle
from alexstream.sharding.sources.labels.class_list import load_classes
from alexstream.sharding.sources.labels.label_table import LabelTableOptions
from alexstream.sharding.sources.labels.labeled import detect_labeled
from alexstream.sharding.sources.parquet import detect_parquet
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.sources.tars.kind import detect_tar_kind
from alexstream.sharding.sources.tars.walk import walk_tar
from alexstream.sharding.sources.tars.webdataset import detect_webdataset
from alexstream.sharding.split_plans import ShardRequest, make_jobs, plan_splits
from alexstream.sharding.verify import verify
from tests.faults.mutate import damaged_pickle
from tests.support import imagenet_miniature as miniature
from tests.support.source_splits import read_split

SECONDS = 10  # of an answer

RAW = EncodeRecipe(encoding="raw", size_px=224)


@dataclass(frozen=True)
class Target:
    """``make`` writes whole files into a folder; ``file`` is the one that is damaged; ``run`` reads them.

    ``mend`` makes sums right after the damage; ``structured``: the file is JSON, whose values are damaged too;
    ``change``: another kind of damage than that of bytes;
    ``cost``: how many executions of the quick ones one takes, about.
    """

    make: Callable[[Path], object]
    file: str
    run: Callable[[Path], object]
    mend: Callable[[Path], object] = lambda folder: None
    structured: bool = False
    change: Callable[[bytes, random.Random], bytes] | None = None
    cost: int = 1


def draw(path, kind="PNG", size=(47, 33), **options):
    """An image file."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, kind, **options)


def data_set(folder, **encode):
    """A data set of four images in one shard, one more in quarantine."""
    for label in "ab":
        for i in range(2):
            draw(folder / "images" / label / f"{i}.png", size=(9 + i, 8))
    (folder / "images" / "a" / "bad.png").write_bytes(b"")
    recipe = EncodeRecipe(size_px=224, **encode)
    request = ShardRequest(source=folder / "images", folder=folder / "set", num_workers=1, encode=recipe)
    list(shard_all(request, quiet=True))


def signed(path, value):
    """A JSON file of a data set with its checksum made right."""
    value = {name: held for name, held in value.items() if name != "checksum"}
    path.write_bytes(json_bytes({**value, "checksum": json_digest(value)}))


def resign(name):
    """Make digest and checksum of a damaged document right, if it is still one."""

    def mend(folder):
        path = folder / "set" / name
        with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
            value = json.loads(path.read_bytes())
            if isinstance(value, dict):
                shards = [[s["name"], s["num_samples"], s["sha256"]] for s in value.get("shards", [])]
                if shards:
                    value["digest"] = json_digest([SCHEMA, value["split"], value["classes"], shards])
                signed(path, value)

    return mend


def sha(path):
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sign(folder):
    """Every sum in a data set made that of the files that are there."""
    whole = folder / "set"
    manifest = json.loads((whole / layout.MANIFEST).read_bytes())
    for record in manifest["shards"]:
        stem = whole / record["name"]
        record["num_bytes"] = stem.with_suffix(".tar").stat().st_size
        for field, ending in (("sha256", ".tar"), ("index_sha256", ".idx"), ("catalog_sha256", ".parquet")):
            record[field] = sha(stem.with_suffix(ending))
    manifest["quarantine_sha256"] = sha(whole / layout.QUARANTINE)
    signed(whole / layout.MANIFEST, manifest)
    resign(layout.MANIFEST)(folder)
    digest = json.loads((whole / layout.MANIFEST).read_bytes())["digest"]
    statistics = json.loads((whole / layout.STATS).read_bytes())
    ours = {"dataset_digest": digest, "mean_image_sha256": sha(whole / layout.MEAN)}
    signed(whole / layout.STATS, statistics | ours)


def read_stats(folder):
    """Against the manifest, which is whole."""
    load_stats(folder / "set", load_manifest(folder / "set"))


def read_mean(folder):
    """The parser of ``mean.npy``, its hash made right."""
    whole = folder / "set"
    stats = load_stats(whole, load_manifest(whole))
    load_mean_image(whole, replace(stats, mean_image_sha256=sha(whole / layout.MEAN)))


def read_catalog(folder):
    """The parser of a catalog, its hash made right."""
    whole = folder / "set"
    (record,) = load_manifest(whole).shards
    record = replace(record, catalog_sha256=sha(whole / f"{record.name}.parquet"))
    load_catalog_shard(whole, record, CATALOG_COLUMNS)


def read_quarantine(folder):
    """The parser of ``quarantine.jsonl``, its hash made right."""
    whole = folder / "set"
    list(load_quarantine(whole, replace(load_manifest(whole), quarantine_sha256=sha(whole / layout.QUARANTINE))))


def opened(folder):
    """As the stream opens a data set and reads from it."""
    from alexstream.pipeline.reading.dataset import open_dataset

    data = open_dataset(folder / "set")
    try:
        load_mean_image(folder / "set", load_stats(folder / "set", data.manifest))
        data.read_key(0)
        data.stored(0)
    finally:
        data.shards.close()


def looked_into(folder):
    """As ``info`` and ``report`` do."""
    shown(describe_dataset(folder / "set"))
    SampleLookup.from_folder(folder / "set").pixels(0)


def proved(folder):
    """As ``verify`` does; findings are right answers."""
    shown(verify(folder / "set", num_workers=1, quiet=True).to_text())


def reported(folder):
    """As ``report`` writes a page about a data set."""
    from alexstream.report.compose import write_report
    from alexstream.report.subject import ReportRequest

    write_report(ReportRequest(folder=folder / "set", source=folder / "images", quiet=True), folder / "report.html")


def shown(text):
    """What goes to a terminal must not command it."""
    assert all(line.isprintable() for line in text.split("\n")), text


def config(folder):
    """As ``--config`` does."""
    from alexstream.commands.group import command

    @command("probe")
    @click.option("--count", type=int)
    @click.option("--flag", is_flag=True)
    @click.option("--many", multiple=True)
    def probe(**_):
        pass

    try:
        probe.main(["--config", str(folder / "run.toml")], standalone_mode=False)
    except click.UsageError as error:
        raise AlexstreamError(error.format_message()) from error


def classes_in(folder):
    """As ``--classes`` does."""
    load_classes(folder / "c.txt")


def labelled_by(table):
    """As ``--labels`` does, with a table of this name."""

    def run(folder):
        for i in range(2):
            (folder / f"{i}.jpg").write_bytes(b"x")
        found = detect_labeled(folder, LabelTableOptions(file=folder / table))
        for make in found.splits.values():
            list(read_split(make).entries)

    return run


def saved(folder):
    """A checkpoint in small."""
    import torch

    from alexstream.trainer import checkpoint

    state = checkpoint.Checkpoint(
        step=3,
        errors=(0.5,),
        recipe=checkpoint.Recipe(),
        data={"seed": 1, "classes": ["a"]},
        parameters={"a": torch.ones(3)},
        velocity={"a": torch.ones(3)},
    )
    checkpoint.save_checkpoint(folder, state)
    next(folder.glob("checkpoint-*.pt")).rename(folder / "checkpoint.pt")


def seal_again(folder):
    """The checksum at the end of a checkpoint made right."""
    body = (folder / "checkpoint.pt").read_bytes()[:-82]
    (folder / "checkpoint.pt").write_bytes(body + b"alexstream sha256 " + hashlib.sha256(body).hexdigest().encode())


def saved_pickle(folder):
    """A checkpoint in small, and beside it the pickle that is in it."""
    saved(folder)
    (folder / "whole").mkdir()
    with zipfile.ZipFile(folder / "checkpoint.pt") as archive:
        for one in archive.infolist():
            (folder / "whole" / one.filename.replace("/", "!")).write_bytes(archive.read(one))
    (folder / "whole" / "archive!data.pkl").rename(folder / "data.pkl")


def pack_pickle(folder):
    """A checkpoint with the damaged pickle, and its sums made right."""
    with zipfile.ZipFile(folder / "checkpoint.pt", "w") as archive:
        archive.writestr("archive/data.pkl", (folder / "data.pkl").read_bytes())
        for path in (folder / "whole").iterdir():
            archive.writestr(path.name.replace("!", "/"), path.read_bytes())
        archive.comment = b"-" * 82
    seal_again(folder)


class Answers:
    """In place of an S3 client's method, below the guard: pages and contents as a damaged file has them."""

    def __init__(self, path):
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            found = None  # no page at all
        found = found if isinstance(found, dict) else {}
        pages, content = found.get("pages"), found.get("content")
        self.pages = pages if isinstance(pages, list) else []
        self.content = content.encode("utf-8", "replace") if isinstance(content, str) else bytes(1000)

    async def __call__(self, method, **asked):
        if method == "list_objects_v2":
            token = asked.get("ContinuationToken", "")
            pages = [page for page in self.pages if isinstance(page, dict) and page.get("asked", "") == token]
            return pages[0] if pages else {}
        return {"Body": Content(self.content)}


class Content:
    """A body that gives what it has, in pieces."""

    def __init__(self, content):
        self.content = content

    async def read(self, amount=None):
        given = self.content[: min(amount or 1 << 30, 7)]
        self.content = self.content[len(given) :]
        return given

    def close(self):
        """Nothing is open."""


def answers(folder):
    """Two pages of a listing, and an object."""
    entries = [{"Key": f"train/{name}", "Size": 20} for name in ("manifest.json", "a.tar", "é.tar")]
    pages = [
        {"Contents": entries, "CommonPrefixes": [{"Prefix": "train/x/"}], "IsTruncated": True},
        {"asked": "t1", "Contents": [{"Key": "train/b.tar", "Size": 3}], "IsTruncated": False},
    ]
    pages[0]["NextContinuationToken"] = "t1"
    (folder / "answers.json").write_text(json.dumps({"pages": pages, "content": "x" * 20}))


def answered(folder):
    """A listing and a read of a store; what its client would not hand on either is an answer that is refused."""
    import asyncio

    from alexstream.core import object_store

    class Client:
        isdir = None
        _strip_protocol = staticmethod(str)

        def split_path(self, path):
            bucket, _, key = path.partition("/")
            return bucket, key, None

        async def set_session(self):
            pass

        async def get_s3(self, bucket=None):
            """A client whose answers are made above: nothing is sent."""
            return SimpleNamespace(_endpoint=SimpleNamespace(http_session=SimpleNamespace(send=None)))

    async def ask():
        client = Client()
        client._call_s3 = Answers(folder / "answers.json")
        object_store.guard_filesystem(client)
        listed = await object_store.list_async(client, "b/train")
        assert all("/" not in one.name and one.name for one in listed)
        body = (await client._call_s3("get_object", Range="bytes=0-19"))["Body"]
        assert len(await body.read()) <= 20

    try:
        asyncio.run(asyncio.wait_for(ask(), SECONDS))
    except OSError as error:
        raise AlexstreamError(f"the store: {error}") from error


def loaded(folder):
    """As every command that takes one."""
    from alexstream.trainer import checkpoint

    checkpoint.load_checkpoint(folder / "checkpoint.pt")


def measured(folder):
    """The reader of a run's metrics."""
    from alexstream.trainer.metrics import Metrics

    Metrics.read(folder)


def a_run(folder):
    """Metrics and facts of a run."""
    row = {"step": 1, "epoch": 1, "loss": 2.0, "accuracy": 0.1, "learning_rate": 0.01, "elapsed_s": 1.0, "wait_s": 0.1}
    row |= {"busy_s": 0.5, "stages": {"read_s": 0.1}}
    score = {"loss": 2.0, "top1": 0.1, "top5": 0.5, "num_images": 10}
    lines = [row, row | {"step": 2}, {"step": 2, "epoch": 1, "validation": score}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"data": {"batch_size": 4, "order": "global"}, "epochs": 2}))
    (folder / "config.toml").write_text('data = "nowhere"\nepochs = 2\n')


def drawn(folder):
    """As ``report`` draws a run's curves, where the numbers can be read."""
    from alexstream.report.subject import Run
    from alexstream.report.training import build_section
    from alexstream.trainer.metrics import Metrics

    build_section(Run.from_folder(folder), Metrics.read(folder))


def source(write):
    """A folder ``source`` in a form that ``shard`` reads."""
    return lambda folder: write(folder / "source")


def listed(folder):
    """As ``shard`` lists a source and reads its first images."""
    for plan in plan_splits(ShardRequest(source=folder / "source", folder=folder / "out")):
        job = make_jobs(plan)[0]
        with Reader(job.source_root) as reader:
            for image in list(job.images())[:8]:
                with contextlib.suppress(AlexstreamError):
                    reader.read(image.container, image.offset, image.size)


def entries(form):
    """All that a form of source lists."""

    def run(folder):
        found = form(folder / "source")
        for make in found.splits.values() if found else ():
            list(read_split(make).entries)

    return run


def walked(folder):
    """A tar's headers."""
    path = folder / "source" / ilsvrc.VAL_TAR
    detect_tar_kind(path)
    with open_range_file(path) as file:
        list(walk_tar(file, "tar"))


def kit(folder):
    """The devkit beside a source."""
    found = find_devkit(folder / "source", list_items(folder / "source"))
    if found:
        found[1].val_labels().labels_for(["a.JPEG"] * 6, "val")


def unpacked_kit(folder):
    """A devkit's tar, before gzip."""
    miniature.write_devkit(folder / "source", packed=True)
    packed = folder / "source" / ilsvrc.DEVKIT
    (folder / "kit.tar").write_bytes(gzip.decompress(packed.read_bytes()))


def pack_kit(folder):
    """The damaged tar, packed again."""
    (folder / "source" / ilsvrc.DEVKIT).write_bytes(gzip.compress((folder / "kit.tar").read_bytes(), 1))


def picture(kind, **options):
    """An image file."""
    return lambda folder: draw(folder / "image", kind, **options)


def prepared(folder):
    """As ``shard`` takes an image."""
    prepare_image((folder / "image").read_bytes(), RAW)


def sum_chunks(folder):
    """The checksum of each chunk of a damaged PNG, as long as there are chunks."""
    data, at = bytearray((folder / "image").read_bytes()), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    (folder / "image").write_bytes(data)


def compiled(folder):
    """As the compiled operator decodes a stored sample."""
    from alexstream.pipeline.decode.fused import ROW_DTYPE

    run = _operator()
    if run is None:
        return
    mean, out, answer = _planes()
    row, descriptor = np.zeros(1, ROW_DTYPE), os.open(folder / "image", os.O_RDONLY)
    row["fd"], row["size"], row["edge"] = descriptor, (folder / "image").stat().st_size, 224
    row["mean"], row["mean_edge"], row["out"], row["divisor"] = mean.ctypes.data, 224, out.ctypes.data, 1
    addresses = [np.array([array.ctypes.data], np.uint64) for array in (answer, row)]
    try:
        run(addresses[0].ctypes.data, 0, 0, 1, addresses[1].ctypes.data, 0, 0, 1)
    finally:
        os.close(descriptor)
    if answer[0] not in (0, 3, 4):
        raise RuntimeError(f"outcome {answer[0]}")
    if answer[0]:
        raise AlexstreamError("no image")


def stored_as_any(folder):
    """As a sample of every encoding under every extension; refused where none of them takes it."""
    content, taken = (folder / "image").read_bytes(), 0
    for encoding, extension in product(STORED_EXTENSIONS, ("jpg", "png", "webp", "rgb", "eps")):
        recipe = EncodeRecipe(encoding=encoding, size_px=224)
        with contextlib.suppress(AlexstreamError):
            size = SampleChecker(recipe).check(content, extension)
            begins = {"jpg": b"\xff\xd8", "png": b"\x89PNG", "webp": b"RIFF", "rgb": b""}[extension]
            assert (
                content.startswith(begins)
                and extension in STORED_EXTENSIONS[encoding]
                and size[0] * size[1] <= MAX_PIXELS
            )
            taken += 1
            if size[0] * size[1] < 1 << 24:
                assert decode_sample(content, extension, recipe).shape == (224, 224, 3)
    if not taken:
        raise AlexstreamError("no sample of any data set")


def refused_as_any(folder):
    """As the same, of a file in a format that no data set has: to refuse it is right."""
    try:
        stored_as_any(folder)
    except AlexstreamError:
        return


@functools.cache
def _operator():
    from alexstream.pipeline.decode.fused import find_operator_address

    kind = ctypes.CFUNCTYPE(None, *(ctypes.c_uint64,) * 3, ctypes.c_int32, *(ctypes.c_uint64,) * 3, ctypes.c_int32)
    return kind(find_operator_address()) if find_operator_address() else None


@functools.cache
def _planes():
    return np.zeros((3, 224, 224), np.float32), np.zeros((3, 224, 224), np.float32), np.zeros(64, np.int64)


def unfinished(folder):
    """A conversion that was interrupted: its plan and a shard's part are there, its manifest is not."""
    data_set(folder)
    request = ShardRequest(source=folder / "images", folder=folder / "out", num_workers=1)
    (plan,) = plan_splits(request)
    with open_output_folder(folder / "out", plan.digest, "train"):
        convert_shard(make_jobs(plan)[0], lambda _: None)


def goes_on(folder):
    """As ``shard`` goes on with it."""
    request = ShardRequest(source=folder / "images", folder=folder / "out", num_workers=1)
    (plan,) = plan_splits(request)
    with open_output_folder(folder / "out", plan.digest, "train"):
        convert_shard(make_jobs(plan)[0], lambda _: None)


def document(name, run, cost=1):
    """A signed JSON file of a data set."""
    return Target(data_set, f"set/{name}", run, resign(name), structured=True, cost=cost)


def text(name, content, run):
    """A text file."""
    return Target(lambda folder: (folder / name).write_text(content), name, run)


TARGETS = {
    "manifest": document(layout.MANIFEST, lambda f: load_manifest(f / "set")),
    "statistics": document(layout.STATS, read_stats),
    "mean": Target(data_set, "set/mean.npy", read_mean, cost=10),
    "quarantine": Target(data_set, "set/quarantine.jsonl", read_quarantine),
    "catalog": Target(data_set, "set/train-000000.parquet", read_catalog),
    "plan": Target(unfinished, "out/plan.json", goes_on, structured=True, cost=10),
    "part": Target(unfinished, "out/train-000000.part", goes_on, cost=40),
    "manifest, opened": document(layout.MANIFEST, opened),
    "manifest, info": document(layout.MANIFEST, looked_into),
    "manifest, verify": document(layout.MANIFEST, proved),
    "catalog, opened": Target(data_set, "set/train-000000.parquet", opened, sign, cost=10),
    "catalog, info": Target(data_set, "set/train-000000.parquet", looked_into, sign, cost=10),
    "index, opened": Target(data_set, "set/train-000000.idx", opened, sign, cost=20),
    "index, verify": Target(data_set, "set/train-000000.idx", proved, sign, cost=20),
    "shard, opened": Target(data_set, "set/train-000000.tar", opened, sign, cost=20),
    "shard, info": Target(data_set, "set/train-000000.tar", looked_into, sign, cost=20),
    "shard, verify": Target(data_set, "set/train-000000.tar", proved, sign, cost=20),
    "mean, opened": Target(data_set, "set/mean.npy", opened, sign, cost=20),
    "quarantine, report": Target(data_set, "set/quarantine.jsonl", reported, sign, cost=40),
    "manifest, report": document(layout.MANIFEST, reported, cost=10),
    "classes of a data set": Target(data_set, "set/classes.json", lambda f: load_classes(f / "set" / layout.CLASSES)),
    "tar headers": Target(source(miniature.write_val_tar), f"source/{ilsvrc.VAL_TAR}", walked),
    "archive of archives": Target(source(miniature.write_archives), f"source/{ilsvrc.TRAIN_TAR}", listed, cost=4),
    "validation archive": Target(source(miniature.write_archives), f"source/{ilsvrc.VAL_TAR}", listed),
    "devkit": Target(unpacked_kit, f"source/{ilsvrc.DEVKIT}", kit),
    "devkit, unpacked": Target(unpacked_kit, "kit.tar", kit, pack_kit),
    "meta.mat": Target(source(miniature.write_flat_val), "source/ILSVRC2012_devkit_t12/data/meta.mat", kit),
    "ground truth": Target(
        source(miniature.write_flat_val), f"source/ILSVRC2012_devkit_t12/data/{ilsvrc.GROUND_TRUTH}", kit
    ),
    "Parquet": Target(
        source(miniature.write_parquet), "source/data/train-00000-of-00002.parquet", entries(detect_parquet), cost=4
    ),
    "Parquet, images": Target(
        source(miniature.write_parquet), "source/data/train-00000-of-00002.parquet", listed, cost=4
    ),
    "Kaggle's table": Target(source(miniature.write_kaggle), "source/LOC_val_solution.csv", entries(detect_kaggle)),
    "Kaggle's names": Target(source(miniature.write_kaggle), "source/LOC_synset_mapping.txt", entries(detect_kaggle)),
    "WebDataset": Target(
        source(miniature.write_webdataset), "source/imagenet1k-train-0000.tar", entries(detect_webdataset)
    ),
    "list of classes": text("c.txt", "n01440764 tench\nb\nc\td\n", classes_in),
    "table of labels": text("t.csv", 'file,label,split\n0.jpg,a,train\n1.jpg,"b",val\n', labelled_by("t.csv")),
    "labels of Caffe": text("t.txt", "0.jpg 3\n1.jpg 4\n", labelled_by("t.txt")),
    "labels in JSON lines": text(
        "t.jsonl", '{"file": "0.jpg", "label": 1}\n{"file": "1.jpg", "label": 2}\n', labelled_by("t.jsonl")
    ),
    "classes.json": text(
        "classes.json",
        '[{"index": 0, "wnid": "a"}, {"index": 1, "wnid": "b"}]',
        lambda f: load_classes(f / "classes.json"),
    ),
    "TOML of --config": text("run.toml", 'count = 3\nflag = true\nmany = ["a"]\n', config),
    "JPEG": Target(picture("JPEG"), "image", prepared),
    "progressive JPEG": Target(picture("JPEG", progressive=True), "image", prepared),
    "PNG": Target(picture("PNG"), "image", prepared),
    "PNG, its sums made right": Target(picture("PNG"), "image", prepared, sum_chunks),
    "WebP": Target(picture("WEBP"), "image", prepared),
    "TIFF": Target(picture("TIFF", compression="tiff_lzw"), "image", prepared),
    "GIF": Target(picture("GIF"), "image", prepared),
    "BMP": Target(picture("BMP"), "image", prepared),
    "PPM": Target(picture("PPM"), "image", prepared),
    **{
        f"stored {name}": Target(picture(kind, **options), "image", stored_as_any, cost=4)
        for name, kind, options in (
            ("JPEG", "JPEG", {"size": (224, 224)}),
            ("progressive JPEG", "JPEG", {"progressive": True}),
            ("PNG", "PNG", {}),
            ("WebP", "WEBP", {}),
            ("lossless WebP", "WEBP", {"lossless": True}),
        )
    },
    **{
        f"{kind} as a sample": Target(picture(kind), "image", refused_as_any)
        for kind in ("EPS", "TIFF", "JPEG2000", "PPM", "GIF", "BMP", "TGA", "ICO")
    },
    "stored JPEG, compiled operator": Target(picture("JPEG", size=(224, 224)), "image", compiled),
    "checkpoint, operations": Target(saved_pickle, "data.pkl", loaded, pack_pickle, change=damaged_pickle, cost=2),
    "answers of a store": Target(answers, "answers.json", answered, structured=True),
    "checkpoint": Target(saved, "checkpoint.pt", loaded, seal_again),
    "metrics": Target(a_run, "metrics.jsonl", measured),
    "metrics, report": Target(a_run, "metrics.jsonl", drawn, cost=400),
    "run.json, report": Target(a_run, "run.json", drawn, structured=True, cost=400),
    "config.toml, report": Target(a_run, "config.toml", drawn, cost=400),
}
