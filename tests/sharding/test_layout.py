"""Manifest, statistics and catalog: nothing that was changed is read, and nothing that contradicts itself.

Each check is tried with checksums made right again, since it is what stands behind them.
"""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import DatasetError
from alexstream.sharding import verify as verification
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import CATALOG_COLUMNS, load_catalog, load_catalog_rows, load_catalog_shard
from alexstream.sharding.dataset_v1.manifest import (
    Counts,
    Manifest,
    ShardRecord,
    find_split,
    list_split_folders,
    load_manifest,
    save_manifest,
)
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.verify import verify
from tests.support.processes import within
from tests.support.small_dataset import SIZE, Small, canonical, run_here, sha, sign

FIRST = "train-000000"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "train"
    Small(folder)
    return folder


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(verification, "run_jobs", run_here)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "train")


def load(folder):
    """All that a reader of a data set loads before its samples."""
    manifest = load_manifest(folder)
    stats = load_stats(folder, manifest)
    load_mean_image(folder, stats)
    load_catalog(folder, manifest, CATALOG_COLUMNS)


def refused(folder, match):
    with pytest.raises(DatasetError, match=match):
        load(folder)


def test_what_is_written_by_the_documents_is_read(whole):
    load(whole)
    assert not verify(whole, quiet=True, num_workers=1).findings


NUMBER = re.compile(r"(?<![\w.\"-])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w\"])")


def changed_digits(text):
    """The text with one digit of one number changed, for each number; with what was changed."""
    inside = [(m.start(), m.end()) for m in re.finditer(r'"(?:[^"\\]|\\.)*"', text)]
    for number in NUMBER.finditer(text):
        if any(a <= number.start() < b for a, b in inside):
            continue
        places = [i for i in range(number.start(), number.end()) if text[i].isdigit()]
        place = places[len(places) // 2]
        digit = str((int(text[place]) + 1) % 10 or 1)
        yield number[0], text[:place] + digit + text[place + 1 :]


@pytest.mark.parametrize(("name", "numbers"), [(layout.STATS, 41), (layout.MANIFEST, 19)])
def test_one_changed_digit_of_any_number_is_noticed(copy, name, numbers):
    path, count = copy / name, 0
    text = path.read_text()
    for number, changed in changed_digits(text):
        path.write_text(changed)
        with pytest.raises(DatasetError, match=f"{name}: "):
            load(copy)
        count += 1
        if count % 8 == 1:
            assert name in {f.file for f in verify(copy, fast=True, quiet=True, num_workers=1).findings}, number
    assert count == numbers
    path.write_text(text)
    load(copy)


@pytest.mark.parametrize("name", [layout.STATS, layout.MANIFEST])
def test_one_changed_letter_of_any_text_is_noticed(copy, name):
    path = copy / name
    text = path.read_text()
    for match in re.finditer(r'"((?:[^"\\]|\\.)+)"', text):
        changed = text[: match.start(1)] + ("f" if match[1][0] != "f" else "e") + text[match.start(1) + 1 :]
        path.write_text(changed)
        refused(copy, f"{name}: ")


def test_a_changed_checksum_says_that_the_file_was_changed(copy):
    text = (copy / layout.STATS).read_text()
    (copy / layout.STATS).write_text(text.replace('"num_images": 6', '"num_images": 7'))
    refused(copy, r"stats\.json: was changed after it was written \(its checksum is [0-9a-f]{12}…, its content gives")


def test_other_spaces_or_order_of_the_same_values_are_damage(copy):
    path = copy / layout.STATS
    value = json.loads(path.read_bytes())
    turned = dict(reversed(value.items()))
    for text in (json.dumps(value), json.dumps(turned, indent=2), json.dumps(value, indent=4, sort_keys=True)):
        path.write_text(text + "\n")
        refused(copy, r"stats\.json: was changed after it was written")


# --- the bytes of a known manifest ----------------------------------------------------------------------------------

MANIFEST = """{
  "checksum": "CHECKSUM",
  "class_names": {
    "a": "caf\\u00e9"
  },
  "classes": [
    "b",
    "a"
  ],
  "counts": {
    "excluded": 1,
    "found": 4,
    "quarantined": 1,
    "written": 2
  },
  "counts_by_class": {
    "a": {
      "excluded": 0,
      "found": 2,
      "quarantined": 1,
      "written": 1
    },
    "b": {
      "excluded": 0,
      "found": 1,
      "quarantined": 0,
      "written": 1
    }
  },
  "digest": "5c9d1b",
  "encode": {
    "chroma": "4:2:0",
    "dct": "accurate",
    "encoding": "jpeg",
    "quality": 95,
    "resize_filter": "lanczos",
    "size_px": 256
  },
  "ilsvrc2012_ids": {
    "a": 7
  },
  "notices": [],
  "plan_digest": "plan",
  "quarantine_sha256": "quarantine",
  "schema": "alexstream-dataset/1",
  "seed": 3,
  "shards": [
    {
      "catalog_sha256": "c",
      "index_sha256": "i",
      "name": "val-000000",
      "num_bytes": 10240,
      "num_samples": 2,
      "sha256": "t"
    }
  ],
  "source": "images",
  "source_form": "one folder per class",
  "split": "val",
  "tool": {}
}
"""
# What the digest is of: a JSON list of schema, split, classes, and name, samples and sha256 of each shard.
IDENTITY = """[
  "alexstream-dataset/1",
  "val",
  [
    "b",
    "a"
  ],
  [
    [
      "val-000000",
      2,
      "t"
    ]
  ]
]
"""
DIGEST = "e2b38e0bdaf01533e0558a08559bb002a086141cd736732155fe12f98853273c"


def known_manifest():
    def counts(*numbers):
        return Counts(**dict(zip(("found", "written", "quarantined", "excluded"), numbers, strict=True)))

    record = ShardRecord(
        name="val-000000", num_samples=2, num_bytes=10240, sha256="t", index_sha256="i", catalog_sha256="c"
    )
    return Manifest(
        split="val", seed=3, encode=EncodeRecipe(), plan_digest="plan", source="images",
        source_form="one folder per class", classes=("b", "a"), shards=(record,), quarantine_sha256="quarantine",
        counts=counts(4, 2, 1, 1), counts_by_class={"b": counts(1, 1, 0, 0), "a": counts(2, 1, 1, 0)},
        ilsvrc2012_ids={"a": 7}, class_names={"a": "café"},
    )  # fmt: skip


def test_the_digest_of_a_known_manifest_never_changes():
    assert sha(IDENTITY.encode()) == DIGEST
    assert known_manifest().digest == DIGEST


def test_the_bytes_of_a_known_manifest_never_change(tmp_path):
    save_manifest(tmp_path, known_manifest())
    text = MANIFEST.replace("5c9d1b", DIGEST)
    checksum = sha(text.replace('  "checksum": "CHECKSUM",\n', "").encode())
    assert (tmp_path / layout.MANIFEST).read_text() == text.replace("CHECKSUM", checksum)
    assert load_manifest(tmp_path) == known_manifest()


# --- what contradicts itself, under right checksums -----------------------------------------------------------------


def counts(found, written, quarantined, excluded):
    return {"found": found, "written": written, "quarantined": quarantined, "excluded": excluded}


def shards_of(folder, **changes):
    """The manifest's shards with the first one changed."""
    first, *rest = json.loads((folder / layout.MANIFEST).read_bytes())["shards"]
    return [{**first, **changes}, *rest]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"counts": counts(6, 7, -1, 0)}, "counts below zero"),
        ({"counts": counts(6, 6, 1, -1)}, "counts below zero"),
        ({"counts": counts(-1, 0, 0, -1)}, "counts below zero"),
        ({"counts": counts(7, 6, 0, 0)}, "counts do not add up: found 7"),
        ({"classes": ["n01440764", "n01440764"]}, "classes: none, or one twice"),
        ({"classes": []}, "classes: none, or one twice"),
        ({"classes": ["n01440764", "n03126707", "n04356056"]}, "counts_by_class: not of the classes"),
        ({"classes": ["n01440764"]}, "counts_by_class: not of the classes"),
        ({"shards": []}, "shards: not some of the split 'train'"),
        ({"split": "val"}, "shards: not some of the split 'val'"),
        ({"schema": "alexstream-dataset/0"}, "schema 'alexstream-dataset/0', expected 'alexstream-dataset/1'"),
        ({"schema": "alexstream-other/2"}, "schema 'alexstream-other/2', expected 'alexstream-dataset/1'"),
        ({"seed": "1"}, "seed is '1', expected int"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copy, changes, match):
    sign(copy / layout.MANIFEST, **changes)
    with pytest.raises(DatasetError, match=match):
        load_manifest(copy)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_bytes": 3 * 2048 - 1}, "more samples than their bytes can hold"),
        ({"num_samples": -1}, "more samples than their bytes can hold"),
        ({"num_samples": 10**9}, "more samples than their bytes can hold"),
        ({"name": "val-000000"}, "shards: not some of the split"),
        ({"name": "train-000001"}, "each once"),
        ({"name": "train-00001"}, "shards: not some of the split"),
        ({"name": "../train-000000"}, "shards: not some of the split"),
        ({"name": "train-000000\n"}, "shards: not some of the split"),
    ],
)
def test_shards_that_cannot_be_are_refused(copy, changes, match):
    sign(copy / layout.MANIFEST, shards=shards_of(copy, **changes))
    with pytest.raises(DatasetError, match=match):
        load_manifest(copy)


def test_a_sample_takes_four_blocks_and_no_more(copy):
    sign(copy / layout.MANIFEST, shards=shards_of(copy, num_bytes=3 * 2048))
    assert load_manifest(copy).shards[0].num_bytes == 6144


def test_a_digest_of_other_shards_is_refused(copy):
    path = copy / layout.MANIFEST
    value = json.loads(path.read_bytes())
    del value["checksum"]
    value["digest"] = "0" * 64
    path.write_bytes(canonical({**value, "checksum": sha(canonical(value))}))
    refused(copy, "records digest 000000000000… but its shard list gives")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_images": 5, "num_pixels": 5 * SIZE**2}, "counts other images or pixels"),
        ({"num_pixels": 6 * SIZE**2 - 1}, "counts other images or pixels"),
        ({"num_images": 12}, "counts other images or pixels"),
        ({"dataset_digest": "0" * 64}, "statistics are of data set 000000000000…"),
        ({"mean_rgb_255": [1.0, 2.0]}, "has 2 entries, expected 3"),
    ],
)
def test_statistics_of_something_else_are_refused(copy, changes, match):
    sign(copy / layout.STATS, **changes)
    refused(copy, match)


def with_mean(folder, mean):
    np.save(folder / layout.MEAN, mean)
    sign(folder / layout.STATS, mean_image_sha256=sha((folder / layout.MEAN).read_bytes()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_mean_image_with_a_pixel_that_is_no_number_is_refused(copy, value):
    mean = np.load(copy / layout.MEAN)
    mean[SIZE - 1, 3, 2] = value
    with_mean(copy, mean)
    refused(copy, "a pixel is not a finite number")


@pytest.mark.parametrize(
    "mean",
    [
        np.zeros((SIZE, SIZE, 3), np.float32),
        np.zeros((SIZE, SIZE + 1, 3)),
        np.zeros((SIZE, SIZE, 3), order="F"),
        np.zeros((SIZE, SIZE, 3), ">f8"),
        np.zeros((3, SIZE, SIZE)),
    ],
)
def test_a_mean_image_of_another_form_is_refused(copy, mean):
    with_mean(copy, mean)
    refused(copy, r"expected float64 \(224, 224, 3\)")


def test_a_mean_image_with_bytes_behind_it_is_refused(copy):
    data = (copy / layout.MEAN).read_bytes() + b"\0"
    (copy / layout.MEAN).write_bytes(data)
    sign(copy / layout.STATS, mean_image_sha256=sha(data))
    refused(copy, "expected float64")


def test_the_mean_image_is_read_as_it_was_written(whole):
    stats = load_stats(whole, load_manifest(whole))
    assert np.array_equal(load_mean_image(whole, stats), np.load(whole / layout.MEAN))


# --- catalogs -------------------------------------------------------------------------------------------------------


def with_catalog(folder, change):
    """Change the first shard's catalog and make its hash right."""
    path = folder / f"{FIRST}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    sign(folder / layout.MANIFEST, shards=shards_of(folder, catalog_sha256=sha(path.read_bytes())))


def with_value(name, row, value):
    def change(table):
        column = table.column(name).to_pylist()
        column[row] = value
        return table.set_column(
            table.schema.get_field_index(name), name, pa.array(column, table.schema.field(name).type)
        )

    return change


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize(
    ("name", "value"),
    [("offset", 511), ("offset", 0), ("offset", -1), ("offset", 2**63 - 1), ("size", -1), ("size", 2**63 - 1)],
)
def test_a_catalog_that_points_out_of_its_shard_is_refused(copy, name, value, row):
    with_catalog(copy, with_value(name, row, value))
    refused(copy, rf"{FIRST}\.parquet: points outside {FIRST}\.tar")


def test_a_sample_may_end_with_its_shard_and_no_later(copy):
    shard = load_manifest(copy).shards[0]
    offset = int(load_catalog_shard(copy, shard, ("offset",))["offset"][1])
    with_catalog(copy, with_value("size", 1, shard.num_bytes - offset))
    catalog = load_catalog(copy, load_manifest(copy), ("offset", "size"))
    assert catalog["size"][1] == shard.num_bytes - offset
    with_catalog(copy, with_value("size", 1, shard.num_bytes - offset + 1))
    refused(copy, "points outside")
    with_catalog(copy, with_value("size", 1, 0))
    with_catalog(copy, with_value("offset", 1, 512))
    load_catalog(copy, load_manifest(copy), ("offset", "size"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.slice(1), "has 2 rows, but the manifest says 3 samples"),
        (lambda t: t.drop_columns(["wnid"]), "unreadable catalog"),
        (lambda t: t.set_column(5, "label", t.column("label").cast(pa.int32())), "unreadable catalog"),
        (with_value("key", 1, None), "values are missing"),
        (with_value("label", 1, None), "values are missing"),
    ],
)
def test_a_catalog_of_another_form_is_refused(copy, change, match):
    with_catalog(copy, change)
    refused(copy, match)


def test_catalog_columns_come_in_shard_order(whole):
    columns = load_catalog(whole, load_manifest(whole), ("key", "label"))
    assert columns["key"].tolist() == [
        "n01440764_00", "n03126707_01", "n01440764_02", "n03126707_10", "n01440764_11", "n03126707_12",
    ]  # fmt: skip
    assert columns["label"].dtype == np.int64 and columns["label"].tolist() == [0, 1, 0, 1, 0, 1]
    rows = load_catalog_rows(whole, load_manifest(whole).shards[1], ("key", "label"), [2, 0])
    assert rows == [{"key": "n03126707_12", "label": 1}, {"key": "n03126707_10", "label": 1}]


# --- recipes, names and folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("size_px", (223, 4097), (224, 4096)),
        ("quality", (0, 101), (1, 100)),
        ("resize_filter", ("nearest", "LANCZOS"), ("lanczos", "bicubic", "bilinear", "box")),
        ("chroma", ("4:1:1", "420"), ("4:4:4", "4:2:2", "4:2:0")),
        ("encoding", ("png", "JPEG"), ("jpeg", "raw", "keep")),
    ],
)
def test_recipes_are_within_what_can_be_stored(field, wrong, right):
    for value in right:
        assert getattr(EncodeRecipe(**{field: value}), field) == value
    for value in wrong:
        with pytest.raises(ValueError, match=f"{field}: received {value!r}, expected"):
            EncodeRecipe(**{field: value})


def test_the_recipe_by_default_is_the_documents():
    assert EncodeRecipe().describe() == "256x256 JPEG, quality 95, 4:2:0, lanczos"
    assert EncodeRecipe(encoding="raw").describe() == "256x256 raw RGB, lanczos"
    kept = EncodeRecipe(encoding="keep", size_px=300, resize_filter="box")
    assert kept.describe() == "original bytes (statistics of 300x300 squares, box)"


def test_shards_are_named_by_split_and_number():
    assert layout.shard_name("train", 42) == "train-000042"
    assert layout.shard_name("val", 1_234_567) == "val-1234567"


def test_splits_are_found_training_first(whole, tmp_path):
    for name in ("val", "test", "train", "zoo"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "other").mkdir()
    assert [one.name for one in list_split_folders(tmp_path)] == ["train", "val", "test", "zoo"]
    assert list_split_folders(whole) == [whole]
    assert find_split(whole, "train") == whole and find_split(whole, "val") is None
    assert find_split(tmp_path, "val") == tmp_path / "val" and find_split(tmp_path, "x") is None
    (tmp_path / "val" / layout.MANIFEST).unlink()
    assert "val" not in [one.name for one in list_split_folders(tmp_path)]
    assert "val" in [one.name for one in list_split_folders(tmp_path, damaged=True)]
    with pytest.raises(DatasetError, match="is no data set"):
        list_split_folders(tmp_path / "other")


@pytest.mark.parametrize(
    "content",
    [b'{"a":[' + b"{}," * 2_000_000 + b"{}]}", b"[" * 2_000_000, b'{"a":' * 2_000_000, b"{" + b'"a":0,' * 2_000_000],
    ids=["dicts", "lists", "nested dicts", "pairs"],
)
def test_a_document_of_millions_of_values_is_refused_before_it_is_parsed(content, copy):
    (copy / layout.MANIFEST).write_bytes(content)
    with within(2):
        refused(copy, "values, more than any has")


def test_statistics_of_megabytes_are_none(copy):
    (copy / layout.STATS).write_bytes(b" " * (1 << 20))
    with pytest.raises(DatasetError, match=r"stats\.json: it has more than 65,536 bytes"):
        load_stats(copy, load_manifest(copy))


def test_shards_of_more_bytes_than_their_samples_take_are_refused(copy):
    """Three raw samples: content, padded, and three blocks of headers and label each, and some room."""
    most = (64 << 20) + 3 * (3 * SIZE**2 + 2048)
    sign(copy / layout.MANIFEST, shards=shards_of(copy, num_bytes=most))
    load(copy)
    sign(copy / layout.MANIFEST, shards=shards_of(copy, num_bytes=most + 1))
    refused(copy, "more bytes than their samples can take")
