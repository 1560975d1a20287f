"""A whole conversion: every file accounted for, the same bytes for any worker count, readable by others."""

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import wds2idx
import webdataset
from PIL import Image

from alexstream.core.errors import OutputError, SourceError
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import CATALOG_COLUMNS, load_catalog
from alexstream.sharding.dataset_v1.document import SCHEMA, json_bytes
from alexstream.sharding.dataset_v1.manifest import Counts, load_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats, save_stats
from alexstream.sharding.dataset_v1.tar import TarWriter, count_label_digits
from alexstream.sharding.dataset_v1.tar import _encode_member as tar_member
from alexstream.sharding.pack import shard_all, shard_split
from alexstream.sharding.recompute import check_stats
from alexstream.sharding.split_plans import ShardRequest
from tests.support.comparisons import file_hashes


@pytest.fixture(scope="session")
def train(sample_shards):
    return sample_shards / "train"


def test_found_is_written_plus_quarantined_plus_excluded(train):
    counts = load_manifest(train).counts
    assert (counts.found, counts.written, counts.quarantined, counts.excluded) == (71, 67, 3, 1)


def test_counts_close_for_every_class(train):
    manifest = load_manifest(train)
    assert sum(c.written for c in manifest.counts_by_class.values()) == manifest.num_samples
    assert manifest.counts_by_class["bands"] == Counts(found=9, written=8, quarantined=1, excluded=0)
    assert manifest.counts_by_class["stripes"] == Counts(found=9, written=8, quarantined=0, excluded=1)


def test_every_refused_and_excluded_file_is_listed_with_its_reason(train):
    rows = [json.loads(line) for line in (train / layout.QUARANTINE).read_text().splitlines()]
    assert {row["path"]: (row["outcome"], row["reason"]) for row in rows} == {
        "bands/empty.jpg": ("quarantined", "empty"),
        "bullseye/truncated.jpg": ("quarantined", "corrupt"),
        "cross/error_page.jpg": ("quarantined", "not-an-image"),
        "stripes/.DS_Store": ("excluded", "system file"),
    }


def test_catalog_rows_describe_the_members_they_point_at(train):
    manifest = load_manifest(train)
    rows = load_catalog(train, manifest, CATALOG_COLUMNS)
    tars = {s.name: (train / f"{s.name}.tar").read_bytes() for s in manifest.shards}
    for i in range(manifest.num_samples):
        data = tars[rows["shard"][i]][rows["offset"][i] :][: rows["size"][i]]
        assert hashlib.sha256(data).hexdigest() == rows["stored_sha256"][i]
        assert manifest.classes[rows["label"][i]] == rows["wnid"][i] == rows["source"][i].split("/")[0]
        assert Image.open(io.BytesIO(data)).size == (256, 256)


def test_catalog_says_what_the_source_file_was(train, sample_images):
    manifest = load_manifest(train)
    rows = load_catalog(train, manifest, CATALOG_COLUMNS)
    at = {path: i for i, path in enumerate(rows["source"])}
    assert rows["notes"][at["spiral/png_named.JPEG"]] == "was PNG"
    assert rows["notes"][at["disc/gray.jpg"]] == "was L"
    assert rows["notes"][at["dots/cmyk.jpg"]] == "was CMYK"
    source = (sample_images / "train" / "dots" / "cmyk.jpg").read_bytes()
    assert rows["source_sha256"][at["dots/cmyk.jpg"]] == hashlib.sha256(source).hexdigest()


def test_manifest_hashes_are_those_of_the_files(train):
    found = file_hashes(train)
    for record in load_manifest(train).shards:
        assert found[f"{record.name}.tar"] == record.sha256
        assert found[f"{record.name}.idx"] == record.index_sha256
        assert found[f"{record.name}.parquet"] == record.catalog_sha256
        assert (train / f"{record.name}.tar").stat().st_size == record.num_bytes


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bytes(train, sample_images, tmp_path, workers):
    request = ShardRequest(source=sample_images / "train", folder=tmp_path / "again", num_workers=workers)
    shard_split(request, quiet=True)
    assert file_hashes(tmp_path / "again") == file_hashes(train)


def test_another_seed_gives_another_order_of_the_same_samples(train, sample_images, tmp_path):
    other, _ = shard_split(ShardRequest(source=sample_images / "train", folder=tmp_path / "o", seed=1), quiet=True)
    first = load_manifest(train)
    keys = [list(load_catalog(f, m, ("key",))["key"]) for f, m in ((train, first), (tmp_path / "o", other))]
    assert keys[0] != keys[1] and sorted(keys[0]) == sorted(keys[1])
    assert other.digest != first.digest


def test_tar_members_carry_nothing_of_this_machine(train):
    with tarfile.open(train / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in members} == {(0, 0, 0, 0o644, "", "")}
    stems = [m.name.split(".")[0] for m in members]
    assert stems[::2] == stems[1::2], "the two members of a sample stand side by side"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
def test_webdataset_reads_every_sample(train):
    check_webdataset_reads(train)


def check_webdataset_reads(train):
    manifest = load_manifest(train)
    rows = load_catalog(train, manifest, ("key", "label", "stored_sha256"))
    urls = [str(train / f"{s.name}.tar") for s in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [s["__key__"] for s in samples] == list(rows["key"])
    assert [int(s["cls"]) for s in samples] == list(rows["label"])
    assert [hashlib.sha256(s["jpg"]).hexdigest() for s in samples] == list(rows["stored_sha256"])


def test_dali_webdataset_reader_reads_every_sample_through_our_index(train):
    check_dali_reads(train)


def check_dali_reads(train):
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    manifest = load_manifest(train)
    rows = load_catalog(train, manifest, ("label", "stored_sha256"))
    paths, indexes = ([str(train / f"{s.name}.{e}") for s in manifest.shards] for e in ("tar", "idx"))
    pipe = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipe:
        pipe.set_outputs(
            *fn.readers.webdataset(
                paths=paths, index_paths=indexes, ext=["jpg", "cls"], missing_component_behavior="error", name="r"
            )
        )
    pipe.build()
    assert pipe.epoch_size("r") == manifest.num_samples
    for digest, label in zip(rows["stored_sha256"], rows["label"], strict=True):
        jpeg, cls = (np.asarray(output.at(0)).tobytes() for output in pipe.run())
        assert hashlib.sha256(jpeg).hexdigest() == digest
        assert int(cls) == label


def test_our_index_is_the_one_that_dalis_tool_makes(train, tmp_path):
    for record in load_manifest(train).shards:
        with wds2idx.IndexCreator(str(train / f"{record.name}.tar"), str(tmp_path / "x.idx"), verbose=False) as tool:
            tool.create_index()
        assert (tmp_path / "x.idx").read_bytes() == (train / f"{record.name}.idx").read_bytes()


def test_a_second_run_finds_everything_done(train, sample_images):
    before = file_hashes(train)
    manifest, worked = shard_split(ShardRequest(source=sample_images / "train", folder=train), quiet=True)
    assert not worked and manifest == load_manifest(train)
    assert file_hashes(train) == before


def test_an_unfinished_conversion_is_completed_to_the_same_bytes(train, sample_images, tmp_path):
    folder = tmp_path / "killed"
    manifest, _ = shard_split(ShardRequest(source=sample_images / "train", folder=folder), quiet=True)
    fields = {"schema": SCHEMA, "rules": layout.RULES_VERSION, "split": "train", "plan": manifest.plan_digest}
    plan = json_bytes(fields)
    (folder / layout.PLAN).write_bytes(plan)
    for name in (layout.MANIFEST, layout.STATS, "train-000000.tar"):
        (folder / name).unlink()
    (folder / "train-000000.tar.77.tmp").write_bytes(b"half")
    shard_split(ShardRequest(source=sample_images / "train", folder=folder), quiet=True)
    assert file_hashes(folder) == file_hashes(train)


def test_a_folder_that_holds_another_data_set_is_left_alone(train, sample_images):
    before = file_hashes(train)
    with pytest.raises(OutputError, match="holds another data set"):
        shard_split(ShardRequest(source=sample_images / "train", folder=train, seed=9), quiet=True)
    assert file_hashes(train) == before


def test_a_folder_with_foreign_files_is_left_alone(sample_images, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        shard_split(ShardRequest(source=sample_images / "train", folder=tmp_path), quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_folder_with_a_cut_shard_is_reported(sample_images, tmp_path):
    request = ShardRequest(source=sample_images / "val", folder=tmp_path / "v", split="val")
    shard_split(request, quiet=True)
    tar = tmp_path / "v" / "val-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(OutputError, match=r"val-000000\.tar has"):
        shard_split(request, quiet=True)


def test_a_source_without_one_usable_image_is_an_error_that_says_where_the_reasons_are(tmp_path):
    (tmp_path / "src" / "a").mkdir(parents=True)
    (tmp_path / "src" / "a" / "x.jpg").write_bytes(b"nope")
    with pytest.raises(SourceError, match=r"quarantine\.jsonl"):
        list(shard_all(ShardRequest(source=tmp_path / "src", folder=tmp_path / "out", classes_at=1), quiet=True))


def test_validation_takes_its_labels_from_training(tmp_path):
    for path, colour in (("train/a", 10), ("train/b", 20), ("val/b", 30)):
        (tmp_path / "src" / path).mkdir(parents=True)
        Image.new("RGB", (256, 256), (colour,) * 3).save(tmp_path / "src" / path / "x.png")
    (_, train, _), (folder, val, _) = shard_all(
        ShardRequest(source=tmp_path / "src", folder=tmp_path / "out"), quiet=True
    )
    assert val.classes == train.classes == ("a", "b")
    assert list(load_catalog(folder, val, ("label",))["label"]) == [1]


def test_recomputed_statistics_equal_the_stored_ones_to_the_bit(train):
    check = check_stats(train, quiet=True)
    assert check.equal
    assert check.recomputed == check.stored


def test_recomputation_notices_statistics_that_are_off_by_one_bit(sample_shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(sample_shards / "val", folder)
    stats = load_stats(folder, load_manifest(folder))
    *first, last = stats.eigenvalues_01
    wrong = dataclasses.replace(stats, eigenvalues_01=(*first, float(np.nextafter(last, 1))))
    save_stats(folder, wrong, load_mean_image(folder, stats))
    assert check_stats(folder, quiet=True).differing == ("eigenvalues_01",)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_500_real_imagenet_jpegs_are_written_and_none_lost(real_images, tmp_path):
    request = ShardRequest(source=real_images / "imagenet-sample" / "train", folder=tmp_path / "x", num_workers=2)
    manifest, _ = shard_split(request, quiet=True)
    assert manifest.counts == Counts(found=500, written=500, quarantined=0, excluded=0)
    notes = load_catalog(tmp_path / "x", manifest, ("notes",))["notes"]
    assert "was L" in set(notes), "grayscale images are among them"
    shard_split(ShardRequest(source=request.source, folder=tmp_path / "y", num_workers=1), quiet=True)
    assert file_hashes(tmp_path / "x") == file_hashes(tmp_path / "y")
    check_webdataset_reads(tmp_path / "x")
    check_dali_reads(tmp_path / "x")


def test_labels_have_the_same_width_in_sets_of_any_number_of_classes():
    for num_classes, digits in ((1, 4), (1000, 4), (10_000, 4), (10_001, 5), (21_841, 5)):
        assert count_label_digits(num_classes) == digits
    shard = TarWriter(io.BytesIO(), count_label_digits(21_841))
    for label in (7, 21_840):
        shard.add(f"k{label}", "jpg", b"x", label)
    assert [label.size for _, label in shard.samples] == [5, 5]


@pytest.mark.parametrize("size", [0, 4, 511, 512, 196_608])
@pytest.mark.parametrize("name", ["a.jpg", "n01440764_10026.cls", "b" * 96 + ".jpg"])
def test_members_are_written_as_the_standard_library_writes_them(name, size):
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, 0
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    expected = header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") + content + bytes(-size % 512)
    assert tar_member(name, content) == expected
