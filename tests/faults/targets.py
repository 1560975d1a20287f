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
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from PIL import Image

from sharding import layout
from sharding.convert import convert_shard
from sharding.describe import describe, quarantine
from sharding.errors import AlexstreamError
from sharding.image import prepare
from sharding.lookup import Lookup
from sharding.output import claimed
from sharding.pack import ShardRequest, jobs, plans, shard_all
from sharding.sources import ilsvrc
from sharding.sources.class_list import classes_from
from sharding.sources.devkit import find_devkit
from sharding.sources.kaggle import kaggle
from sharding.sources.parquet import parquet
from sharding.sources.place import items, open_ranges
from sharding.sources.reading import Reader
from sharding.sources.tar_kind import tar_kind
from sharding.sources.tar_walk import walk_tar
from sharding.sources.webdataset import webdataset
from sharding.verify import verify
from tests.sharding import miniature

RAW = layout.EncodeRecipe(encoding="raw", size_px=224)


@dataclass(frozen=True)
class Target:
    """``make`` writes whole files into a folder; ``file`` is the one that is damaged; ``run`` reads them.

    ``mend`` makes sums right after the damage; ``structured``: the file is JSON, whose values are damaged too;
    ``cost``: how many executions of the quick ones one takes, about.
    """

    make: Callable[[Path], object]
    file: str
    run: Callable[[Path], object]
    mend: Callable[[Path], object] = lambda folder: None
    structured: bool = False
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
    recipe = layout.EncodeRecipe(size_px=224, **encode)
    request = ShardRequest(source=folder / "images", folder=folder / "set", num_workers=1, encode=recipe)
    list(shard_all(request, quiet=True))


def signed(path, value):
    """A JSON file of a data set with its checksum made right."""
    value = {name: held for name, held in value.items() if name != "checksum"}
    path.write_bytes(layout.json_bytes({**value, "checksum": layout.json_digest(value)}))


def resign(name):
    """Make digest and checksum of a damaged document right, if it is still one."""

    def mend(folder):
        path = folder / "set" / name
        with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
            value = json.loads(path.read_bytes())
            if isinstance(value, dict):
                shards = [[s["name"], s["num_samples"], s["sha256"]] for s in value.get("shards", [])]
                if shards:
                    value["digest"] = layout.json_digest([layout.SCHEMA, value["split"], value["classes"], shards])
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
    layout.load_stats(folder / "set", layout.load_manifest(folder / "set"))


def read_mean(folder):
    """The parser of ``mean.npy``, its hash made right."""
    whole = folder / "set"
    stats = layout.load_stats(whole, layout.load_manifest(whole))
    layout.load_mean_image(whole, replace(stats, mean_image_sha256=sha(whole / layout.MEAN)))


def read_catalog(folder):
    """The parser of a catalog, its hash made right."""
    whole = folder / "set"
    (record,) = layout.load_manifest(whole).shards
    record = replace(record, catalog_sha256=sha(whole / f"{record.name}.parquet"))
    layout.load_catalog_shard(whole, record, layout.CATALOG_COLUMNS)


def read_quarantine(folder):
    """The parser of ``quarantine.jsonl``, its hash made right."""
    whole = folder / "set"
    quarantine(whole, replace(layout.load_manifest(whole), quarantine_sha256=sha(whole / layout.QUARANTINE)))


def opened(folder):
    """As the stream opens a data set and reads from it."""
    from pipeline.dataset import open_dataset

    data = open_dataset(folder / "set")
    try:
        layout.load_mean_image(folder / "set", layout.load_stats(folder / "set", data.manifest))
        data.key_of(0)
        data.stored(0)
    finally:
        data.shards.close()


def looked_into(folder):
    """As ``info`` and ``report`` do."""
    shown(describe(folder / "set"))
    Lookup.of(folder / "set").pixels(0)


def proved(folder):
    """As ``verify`` does; findings are right answers."""
    shown(verify(folder / "set", num_workers=1, quiet=True).lines())


def reported(folder):
    """As ``report`` writes a page about a data set."""
    from report.compose import write
    from report.subject import Request

    write(Request(folder=folder / "set", source=folder / "images", quiet=True), folder / "report.html")


def shown(text):
    """What goes to a terminal must not command it."""
    assert all(line.isprintable() for line in text.split("\n")), text


def config(folder):
    """As ``--config`` does."""
    from commands.group import command

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
    classes_from(folder / "c.txt")


def saved(folder):
    """A checkpoint in small."""
    import torch

    from trainer import checkpoint

    state = checkpoint.Checkpoint(
        step=3,
        errors=(0.5,),
        recipe=checkpoint.Recipe(),
        data={"seed": 1, "classes": ["a"]},
        parameters={"a": torch.ones(3)},
        velocity={"a": torch.ones(3)},
    )
    checkpoint.save(folder, state)
    next(folder.glob("checkpoint-*.pt")).rename(folder / "checkpoint.pt")


def seal_again(folder):
    """The checksum at the end of a checkpoint made right."""
    body = (folder / "checkpoint.pt").read_bytes()[:-82]
    (folder / "checkpoint.pt").write_bytes(body + b"alexstream sha256 " + hashlib.sha256(body).hexdigest().encode())


def loaded(folder):
    """As every command that takes one."""
    from trainer import checkpoint

    checkpoint.load(folder / "checkpoint.pt")


def measured(folder):
    """The reader of a run's metrics."""
    from trainer.metrics import Metrics

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
    from report.subject import Run
    from report.training import section
    from trainer.metrics import Metrics

    section(Run.of(folder), Metrics.read(folder))


def source(write):
    """A folder ``source`` in a form that ``shard`` reads."""
    return lambda folder: write(folder / "source")


def listed(folder):
    """As ``shard`` lists a source and reads its first images."""
    for plan in plans(ShardRequest(source=folder / "source", folder=folder / "out")):
        job = jobs(plan)[0]
        with Reader(job.source_root) as reader:
            for image in list(job.images())[:8]:
                with contextlib.suppress(AlexstreamError):
                    reader.read(image.container, image.offset, image.size)


def entries(form):
    """All that a form of source lists."""

    def run(folder):
        found = form(folder / "source")
        for make in found.splits.values() if found else ():
            list(make().entries)

    return run


def walked(folder):
    """A tar's headers."""
    path = folder / "source" / ilsvrc.VAL_TAR
    tar_kind(path)
    with open_ranges(path) as file:
        list(walk_tar(file, "tar"))


def kit(folder):
    """The devkit beside a source."""
    found = find_devkit(folder / "source", items(folder / "source"))
    if found:
        found[1].truth().of(["a.JPEG"] * 6, "val")


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
    prepare((folder / "image").read_bytes(), RAW)


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
    from pipeline.fused import ROW

    run = _operator()
    if run is None:
        return
    mean, out, answer = _planes()
    row, descriptor = np.zeros(1, ROW), os.open(folder / "image", os.O_RDONLY)
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


@functools.cache
def _operator():
    from pipeline.fused import operator

    kind = ctypes.CFUNCTYPE(None, *(ctypes.c_uint64,) * 3, ctypes.c_int32, *(ctypes.c_uint64,) * 3, ctypes.c_int32)
    return kind(operator()) if operator() else None


@functools.cache
def _planes():
    return np.zeros((3, 224, 224), np.float32), np.zeros((3, 224, 224), np.float32), np.zeros(64, np.int64)


def unfinished(folder):
    """A conversion that was interrupted: its plan and a shard's part are there, its manifest is not."""
    data_set(folder)
    request = ShardRequest(source=folder / "images", folder=folder / "out", num_workers=1)
    (plan,) = plans(request)
    with claimed(folder / "out", plan.digest, "train"):
        convert_shard(jobs(plan)[0], lambda _: None)


def goes_on(folder):
    """As ``shard`` goes on with it."""
    request = ShardRequest(source=folder / "images", folder=folder / "out", num_workers=1)
    (plan,) = plans(request)
    with claimed(folder / "out", plan.digest, "train"):
        convert_shard(jobs(plan)[0], lambda _: None)


def document(name, run, cost=1):
    """A signed JSON file of a data set."""
    return Target(data_set, f"set/{name}", run, resign(name), structured=True, cost=cost)


def text(name, content, run):
    """A text file."""
    return Target(lambda folder: (folder / name).write_text(content), name, run)


TARGETS = {
    "manifest": document(layout.MANIFEST, lambda f: layout.load_manifest(f / "set")),
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
    "classes of a data set": Target(data_set, "set/classes.json", lambda f: classes_from(f / "set" / layout.CLASSES)),
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
        source(miniature.write_parquet), "source/data/train-00000-of-00002.parquet", entries(parquet), cost=4
    ),
    "Parquet, images": Target(
        source(miniature.write_parquet), "source/data/train-00000-of-00002.parquet", listed, cost=4
    ),
    "Kaggle's table": Target(source(miniature.write_kaggle), "source/LOC_val_solution.csv", entries(kaggle)),
    "Kaggle's names": Target(source(miniature.write_kaggle), "source/LOC_synset_mapping.txt", entries(kaggle)),
    "WebDataset": Target(source(miniature.write_webdataset), "source/imagenet1k-train-0000.tar", entries(webdataset)),
    "list of classes": text("c.txt", "n01440764 tench\nb\nc\td\n", classes_in),
    "classes.json": text(
        "classes.json",
        '[{"index": 0, "wnid": "a"}, {"index": 1, "wnid": "b"}]',
        lambda f: classes_from(f / "classes.json"),
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
    "stored JPEG, compiled operator": Target(picture("JPEG", size=(224, 224)), "image", compiled),
    "checkpoint": Target(saved, "checkpoint.pt", loaded, seal_again),
    "metrics": Target(a_run, "metrics.jsonl", measured),
    "metrics, report": Target(a_run, "metrics.jsonl", drawn, cost=400),
    "run.json, report": Target(a_run, "run.json", drawn, structured=True, cost=400),
    "config.toml, report": Target(a_run, "config.toml", drawn, cost=400),
}
