"""Whatever form the images come in, the data set is the same; each encoding keeps its promise; object stores too."""

import json

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import SourceError
from alexstream.core.storage import parse_location
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.estimate import estimate_conversion
from alexstream.sharding.pack import shard_all, shard_split
from alexstream.sharding.split_plans import ShardRequest
from alexstream.sharding.verify import verify
from tests.support import imagenet_miniature as mini


def converted(source, folder, **options):
    """Manifests of all splits of a source, by split."""
    request = ShardRequest(source=source, folder=folder, num_workers=1, **options)
    return {manifest.split: manifest for _, manifest, _ in shard_all(request, quiet=True)}


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    mini.write_folder(root / "src")
    return root / "out", converted(root / "src", root / "out")


@pytest.mark.parametrize("form", [form for form in mini.FORMS if form != "folder"])
def test_every_form_of_the_same_images_gives_the_same_data_set(tmp_path, from_folder, form):
    folder, expected = from_folder
    mini.FORMS[form](tmp_path / "src")
    found = converted(tmp_path / "src", tmp_path / "out")
    assert {split: m.digest for split, m in found.items()} == {split: m.digest for split, m in expected.items()}
    for split, manifest in found.items():
        one, other = (
            load_catalog(where / split, manifest if where == tmp_path / "out" else expected[split], columns)
            for where, columns in ((tmp_path / "out", KEPT), (folder, KEPT))
        )
        assert all(list(one[name]) == list(other[name]) for name in KEPT)
        assert not verify(tmp_path / "out" / split, num_workers=1, quiet=True).findings


KEPT = ("key", "label", "wnid", "stored_sha256", "source_sha256", "offset", "size")


def test_the_devkits_numbers_and_words_are_stored_beside_the_labels(tmp_path):
    mini.write_archives(tmp_path / "src")
    converted(tmp_path / "src", tmp_path / "out")
    for split in ("train", "val"):
        rows = json.loads((tmp_path / "out" / split / layout.CLASSES).read_text())
        assert [row["index"] for row in rows] == list(range(len(mini.WNIDS)))
        assert [row["wnid"] for row in rows] == sorted(mini.WNIDS)
        ids = [row["ilsvrc2012_id"] for row in rows]
        assert None not in ids and ids != sorted(ids), "the devkit's order is another than that of the wnids"
        assert all(row["name"] for row in rows)


def test_what_was_recognised_and_what_is_remarkable_is_said_and_stored(tmp_path):
    mini.write_archives(tmp_path / "src")
    request = ShardRequest(source=tmp_path / "src", folder=tmp_path / "out")
    said = estimate_conversion(request)
    assert "original archives" in said and "NOTE" in said
    assert not (tmp_path / "out").exists(), "a dry run writes nothing"
    manifest = converted(tmp_path / "src", tmp_path / "out")["train"]
    assert "original archives" in manifest.source_form
    assert any("partial" in notice for notice in manifest.notices)


def test_splits_sharded_apart_have_the_same_labels_or_an_error(tmp_path):
    for path in ("train/a", "train/b", "val/b", "other/c", "other/d"):
        (tmp_path / "src" / path).mkdir(parents=True)
        Image.new("RGB", (256, 256)).save(tmp_path / "src" / path / "x.png")
    shard_split(ShardRequest(source=tmp_path / "src" / "train", folder=tmp_path / "out" / "train"), quiet=True)
    val, _ = shard_split(ShardRequest(source=tmp_path / "src" / "val", folder=tmp_path / "out" / "val"), quiet=True)
    assert val.classes == ("a", "b")
    with pytest.raises(SourceError, match="'c'"):
        shard_split(ShardRequest(source=tmp_path / "src" / "other", folder=tmp_path / "out" / "test"), quiet=True)
    with pytest.raises(SourceError, match="`classes`"):
        first = ShardRequest(source=tmp_path / "src" / "other", folder=tmp_path / "new" / "val", split="val")
        shard_split(first, quiet=True)
        shard_split(ShardRequest(source=tmp_path / "src" / "train", folder=tmp_path / "new" / "train"), quiet=True)


def test_given_classes_fix_the_labels_of_every_split(tmp_path):
    mini.write_folder(tmp_path / "src")
    order = tuple(sorted(mini.WNIDS, reverse=True))
    found = converted(tmp_path / "src", tmp_path / "out", classes=order)
    assert found["train"].classes == found["val"].classes == order
    rows = load_catalog(tmp_path / "out" / "train", found["train"], ("label", "wnid"))
    assert all(order[label] == wnid for label, wnid in zip(rows["label"], rows["wnid"], strict=True))


def test_raw_samples_are_the_pixels_themselves(tmp_path):
    mini.write_folder(tmp_path / "src")
    found = converted(tmp_path / "src", tmp_path / "out", encode=EncodeRecipe(encoding="raw"))["train"]
    rows = load_catalog(tmp_path / "out" / "train", found, ("extension", "size"))
    assert set(rows["extension"]) == {"rgb"} and set(rows["size"]) == {256 * 256 * 3}
    assert not verify(tmp_path / "out" / "train", num_workers=1, quiet=True).findings


def test_kept_samples_are_the_original_bytes(tmp_path):
    mini.write_folder(tmp_path / "src")
    found = converted(tmp_path / "src", tmp_path / "out", encode=EncodeRecipe(encoding="keep"))["train"]
    rows = load_catalog(tmp_path / "out" / "train", found, ("stored_sha256", "source_sha256", "notes"))
    assert list(rows["stored_sha256"]) == list(rows["source_sha256"])
    assert not verify(tmp_path / "out" / "train", num_workers=1, quiet=True).findings
    again = converted(tmp_path / "out", tmp_path / "again", encode=EncodeRecipe())
    direct = converted(tmp_path / "src", tmp_path / "direct")
    assert {s: m.digest for s, m in again.items()} == {s: m.digest for s, m in direct.items()}


@pytest.mark.parametrize("size_px", [224, 320])
def test_squares_have_the_size_asked_for(tmp_path, size_px):
    mini.write_folder(tmp_path / "src")
    request = ShardRequest(source=tmp_path / "src" / "val", folder=tmp_path / "o", encode=EncodeRecipe(size_px=size_px))
    manifest, _ = shard_split(request, quiet=True)
    stats = load_stats(tmp_path / "o", manifest)
    assert load_mean_image(tmp_path / "o", stats).shape == (size_px, size_px, 3)
    assert not verify(tmp_path / "o", num_workers=1, quiet=True).findings


@pytest.mark.parametrize("form", ["folder", "archives", pytest.param("parquet", marks=pytest.mark.soak)])
def test_a_bucket_is_source_and_output(tmp_path, from_folder, s3_folder, form):
    folder, expected = from_folder
    mini.FORMS[form](tmp_path / "src")
    bucket = parse_location(s3_folder)
    for path in (tmp_path / "src").rglob("*"):
        if path.is_file():
            (bucket / "src" / path.relative_to(tmp_path / "src").as_posix()).write_bytes(path.read_bytes())
    found = converted(bucket / "src", bucket / "out")
    assert {split: m.digest for split, m in found.items()} == {split: m.digest for split, m in expected.items()}
    assert not verify(bucket / "out" / "train", num_workers=1, quiet=True).findings
    names = [{path.name for path in place.iterdir()} for place in (bucket / "out" / "train", folder / "train")]
    assert names[0] == names[1]
    before = {path.name: path.stat().st_mtime for path in (bucket / "out" / "train").iterdir()}
    converted(bucket / "src", bucket / "out")
    assert before == {path.name: path.stat().st_mtime for path in (bucket / "out" / "train").iterdir()}


@pytest.mark.parametrize("name", ["made", "run[1]", "a*b?"])
def test_folders_made_in_a_console_are_source_and_output_whatever_their_name(tmp_path, s3_folder, name):
    """Each has an empty object that ends in a slash: no file of a source, and nothing that fills an output folder."""
    bucket, names = parse_location(s3_folder), ("a", "b")
    for number, path in enumerate(f"{name}/src/{split}/{wnid}" for split in ("train", "val") for wnid in names):
        (tmp_path / path).mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (256, 256), (number, image, 0)).save(tmp_path / path / f"{image}.png")
            (bucket / path / f"{image}.png").write_bytes((tmp_path / path / f"{image}.png").read_bytes())
    markers = (
        "src",
        "src/train",
        "src/train/a",
        "src/train/b",
        "src/val",
        "src/val/a",
        "src/val/b",
        "out",
        "out/train",
    )
    for marker in markers:
        bucket.fs.pipe_file(f"{bucket.path}/{name}/{marker}/", b"")
    src, out = bucket / name / "src", bucket / name / "out"
    expected = converted(tmp_path / name / "src", tmp_path / "out", max_bad=0)
    for _ in range(2):  # the second run finds a finished set
        found = converted(src, out, max_bad=0)
        assert {m.split: m.digest for m in found.values()} == {m.split: m.digest for m in expected.values()}
        assert [m.counts.found for m in found.values()] == [4, 4]
        assert [verify(out / split, num_workers=1, quiet=True).findings for split in found] == [(), ()]
    stored = [key.rpartition("/")[2] for key in bucket.fs.ls(f"{bucket.path}/{name}/out/train")]
    assert sorted(filter(None, stored)) == sorted(path.name for path in (tmp_path / "out" / "train").iterdir())


def test_what_a_killed_conversion_left_in_a_bucket_goes_with_the_next_one(tmp_path, s3_folder):
    mini.write_folder(tmp_path / "src")
    out, others = parse_location(s3_folder) / "run[1]", parse_location(s3_folder) / "run1"
    (others / "train-000000.part").write_bytes(b"of another conversion")
    (manifest,) = converted(tmp_path / "src", out, split="val").values()
    for left in (layout.PLAN, "val-000000.part", "manifest.json.7.tmp"):
        (out / "val" / left).write_bytes(b"left")
    converted(tmp_path / "src", out, split="val")
    assert not verify(out / "val", num_workers=1, quiet=True).findings
    assert load_manifest(out / "val") == manifest
    assert (others / "train-000000.part").is_file()


def test_statistics_of_kept_images_are_those_of_the_squares(tmp_path):
    mini.write_folder(tmp_path / "src")
    means = []
    for encoding in ("raw", "keep"):
        folder = tmp_path / encoding
        request = ShardRequest(source=tmp_path / "src" / "train", folder=folder, encode=EncodeRecipe(encoding=encoding))
        manifest, _ = shard_split(request, quiet=True)
        means.append(load_mean_image(folder, load_stats(folder, manifest)))
    assert np.array_equal(*means)
