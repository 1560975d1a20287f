"""One data set for each finding of the full check: every hash is right, and one thing is wrong.

``test_verify`` changes bytes, which the hashes tell; here a writer made a mistake and hashed it.
"""

import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest

from alexstream.core.errors import DatasetError
from alexstream.sharding import verify as verification
from alexstream.sharding.dataset_v1 import layout, sidecars
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.describe import facts
from alexstream.sharding.verify import verify
from tests.support.processes import within
from tests.support.small_dataset import SIZE, Small, run_here, sha, sign

FIRST, SECOND = "train-000000", "train-000001"


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(verification, "run_jobs", run_here)


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path / "train")


def findings(small, **options):
    small.write()
    return found(small.folder, **options)


def found(folder, **options):
    return [(f.file, f.problem) for f in verify(folder, quiet=True, num_workers=1, **options).findings]


def pixels_with(small, shard, place, image):
    """Another image at a place, as if it had been there from the start."""
    name, _ = small.members[shard][2 * place]
    small.members[shard][2 * place] = (name, image)
    small.rows[shard][place] |= {"size": len(image), "stored_sha256": sha(image)}
    small.place(shard)


def test_a_set_written_by_the_documents_is_intact(small):
    assert findings(small) == [] and findings(small, fast=True) == []
    assert verify(small.folder, quiet=True, num_workers=1).to_text().endswith(
        "intact (6 samples; hashes, indexes, every sample, labels, statistics)"
    )  # fmt: skip


def test_an_index_that_does_not_describe_the_tar(small):
    for wrong in (b"v1.2 3\n", small.index[1], small.index[0].replace(b" 150528 ", b" 150527 ", 1)):
        small.index[0] = wrong
        assert findings(small) == [(f"{FIRST}.idx", "does not describe the tar's members")]


def test_a_sample_that_the_catalog_does_not_have(small):
    small.members[1] += [("more.rgb", bytes(10)), ("more.cls", b"0000")]
    small.index[1] = b"v1.2 4\n" + b"".join(small.index[1].split(b"\n", 1)[1:]) + (
        b"rgb 457216 10 more.rgb cls 458240 4 more.cls\n"
    )  # fmt: skip
    assert (f"{SECOND}.tar", "holds 4 samples, the catalog 3, the manifest 3") in findings(small)


def test_a_sample_that_is_not_in_the_tar(small):
    small.members[1] = small.members[1][:-2]
    small.index[1] = b"v1.2 2\n" + b"".join(line + b"\n" for line in small.index[1].split(b"\n")[1:3])
    small.rows[1][2] |= {"offset": 512}  # else it would point out of the tar, which is told before
    assert (f"{SECOND}.tar", "holds 2 samples, the catalog 3, the manifest 3") in findings(small)


@pytest.mark.parametrize("key", ["a b", "a.b", "a/b", "kä", ""])
def test_a_key_with_other_characters(small, key):
    small.rows[0][1]["key"] = key
    assert findings(small) == [(f"{FIRST}.tar", f"sample {key}: is called {key}.rgb")]


def test_an_extension_that_is_none_of_the_formats(small):
    small.rows[0][1]["extension"] = "tiff"
    assert findings(small) == [(f"{FIRST}.tar", "sample n03126707_01: is called n03126707_01.tiff")]


def test_a_key_that_is_another_one_s(small):
    small.rows[0][1]["key"] = "n03126707_09"
    said = "members are called n03126707_01.rgb and n03126707_01.cls"
    assert findings(small) == [(f"{FIRST}.tar", f"sample n03126707_09: {said}")]


def test_a_label_that_has_another_key(small):
    name, label = small.members[0][3]
    small.members[0][3] = (name.replace("_01", "_02"), label)
    small.place(0)
    said = "members are called n03126707_01.rgb and n03126707_02.cls"
    assert findings(small) == [(f"{FIRST}.tar", f"sample n03126707_01: {said}")]


@pytest.mark.parametrize(("name", "wrong"), [("offset", 512), ("size", 150_527)])
def test_a_catalog_that_points_to_another_place(small, name, wrong):
    small.rows[0][1][name] = wrong
    said = f"lies at {152_576} (150528 bytes), the catalog says"
    ((file, problem),) = findings(small)
    assert file == f"{FIRST}.tar" and problem.startswith(f"sample n03126707_01: {said}")


@pytest.mark.parametrize("text", [b"0000", b"0002", b"001", b"1", b"01 0", b"+001", b"", b"0000000001"])
def test_a_label_that_is_not_the_catalog_s_or_no_label(small, text):
    """Four digits or more; the catalog says 1."""
    name, _ = small.members[0][3]
    small.members[0][3] = (name, text)
    small.place(0)
    said = f"label {text!r}, the catalog says 1"
    assert findings(small) == [(f"{FIRST}.tar", f"sample n03126707_01: {said}")]


def test_a_label_of_more_digits_is_right(small):
    for members, rows in zip(small.members, small.rows, strict=True):
        for i, row in enumerate(rows):
            members[2 * i + 1] = (members[2 * i + 1][0], b"%05d" % row["label"])
    for shard in range(2):
        small.place(shard)
    assert findings(small) == []


def test_a_label_that_is_no_class(small):
    name, _ = small.members[0][3]
    small.members[0][3] = (name, b"0002")
    small.rows[0][1]["label"] = 2
    assert findings(small) == [(f"{FIRST}.tar", "sample n03126707_01: label b'0002', the catalog says 2")]


def test_a_class_name_that_is_not_the_label_s(small):
    small.rows[0][1]["wnid"] = "n01440764"
    said = "label 1 is class n03126707, the catalog says n01440764"
    assert findings(small) == [(f"{FIRST}.tar", f"sample n03126707_01: {said}")]


def test_a_content_that_is_not_the_catalog_s(small):
    small.rows[0][1]["stored_sha256"] = "0" * 64
    assert findings(small) == [(f"{FIRST}.tar", "sample n03126707_01: sha256 differs from the catalog's")]


def test_a_sample_that_gives_no_pixels(small):
    pixels_with(small, 0, 1, bytes(SIZE * SIZE * 3 - 1))
    ((file, problem),) = findings(small)
    assert file == f"{FIRST}.tar" and problem.startswith("sample n03126707_01: does not decode (")


def test_a_key_that_comes_twice(small):
    """In two shards: each of them is right by itself."""
    image = small.members[1][1 * 2][1]
    key = "n01440764_00"
    small.members[1][2:4] = [(f"{key}.rgb", image), (f"{key}.cls", b"0000")]
    small.rows[1][1] |= {"key": key}
    small.place(1)
    assert findings(small) == [(layout.MANIFEST, f"key {key} comes 2 times")]


def test_counts_that_are_not_those_of_the_labels(small):
    small.counts = {"n01440764": 4, "n03126707": 2}
    assert findings(small) == [
        (layout.MANIFEST, "class n01440764 has 3 samples, counts_by_class says 4"),
        (layout.MANIFEST, "class n03126707 has 3 samples, counts_by_class says 2"),
    ]


def test_statistics_of_other_pixels(small):
    """Of the same set with one pixel one grey level darker."""
    image = np.frombuffer(small.members[1][4][1], np.uint8).copy()
    image[-1] -= 1
    pixels_with(small, 1, 2, image.tobytes())
    assert findings(small) == [(layout.STATS, "statistics are not those of the stored pixels")]
    small.stats_of = small.pixels()
    assert findings(small) == []


def test_what_is_wrong_with_the_shards_comes_before_what_the_whole_shows(small):
    small.counts = {"n01440764": 4, "n03126707": 2}
    small.rows[0][1]["wnid"] = "n01440764"
    assert [file for file, _ in findings(small)] == [f"{FIRST}.tar"]


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_manifest_that_fits_nothing_is_named_first(small, tmp_path):
    """Every file bound to it is wrong: then it is the manifest that is another set's."""
    other = Small(tmp_path / "other")
    for shard in range(2):
        for i in range(3):
            pixels_with(other, shard, i, bytes(SIZE * SIZE * 3))
        other.rows[shard][0]["notes"] = "was PNG"
    other.stats_of = other.pixels()
    for shard in range(2):
        other.index[shard] += b"\n"
    other.write()
    shutil.copy(other.folder / layout.MANIFEST, small.folder / layout.MANIFEST)
    said = found(small.folder, fast=True)
    assert said[0] == (layout.MANIFEST, "fits none of the files beside it; it is another data set's, or they are")
    names = {file for file, _ in said[1:]}
    assert names >= {
        layout.STATS,
        *(f"{shard}.{end}" for shard in (FIRST, SECOND) for end in ("tar", "idx", "parquet")),
    }
    shutil.copy(other.folder / f"{FIRST}.idx", small.folder / f"{FIRST}.idx")
    assert layout.MANIFEST not in dict(found(small.folder, fast=True)), "one file fits"


@pytest.mark.parametrize("ending", ["tar", "idx", "parquet"])
def test_one_wrong_file_is_one_finding(small, ending):
    path = small.folder / f"{SECOND}.{ending}"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for fast in (True, False):
        assert found(small.folder, fast=fast) == [(path.name, "sha256 differs from the manifest's")]


def test_a_tar_of_another_size_says_both_sizes(small):
    path = small.folder / f"{SECOND}.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(512))
    said = f"has {size + 512} bytes, the manifest says {size}"
    assert found(small.folder) == [(path.name, said)]


@pytest.mark.parametrize(
    "name", [f"{FIRST}.tar", f"{FIRST}.idx", f"{FIRST}.parquet", "classes.json", "quarantine.jsonl"]
)
def test_a_folder_or_a_link_to_nowhere_is_no_file(small, name):
    (small.folder / name).unlink()
    (small.folder / name).mkdir()
    assert (name, "is no regular file") in found(small.folder, fast=True)
    (small.folder / name).rmdir()
    (small.folder / name).symlink_to("nowhere")
    assert (name, "is missing") in found(small.folder, fast=True)


def test_every_file_beside_the_shards_is_compared(small):
    names = sidecars.make_sidecars(load_manifest(small.folder))
    assert set(names) == {"classes.json", "train.json", "_info.json", "README.md"}
    for name in names:
        data = (small.folder / name).read_bytes()
        (small.folder / name).write_bytes(data + b" ")
        assert found(small.folder, fast=True) == [(name, "is not what the manifest gives")]
        (small.folder / name).write_bytes(data)


def test_refused_files_are_those_of_the_manifest(small):
    (small.folder / layout.QUARANTINE).write_bytes(b"{}\n")
    assert found(small.folder, fast=True) == [(layout.QUARANTINE, "sha256 differs from the manifest's")]


def test_a_mean_image_that_is_not_the_statistics(small):
    mean = np.load(small.folder / layout.MEAN)
    np.save(small.folder / layout.MEAN, mean + 1)
    ((name, problem),) = found(small.folder, fast=True)
    assert name == layout.MEAN and "sha256 differs from the one in stats.json" in problem


def test_statistics_that_cannot_be_read_are_one_finding(small):
    (small.folder / layout.STATS).write_bytes(b"{")
    ((name, problem),) = found(small.folder)
    assert name == layout.STATS and "not valid JSON" in problem


def test_foreign_files_and_folders_are_named_in_order(small):
    (small.folder / "z.txt").write_bytes(b"")
    (small.folder / "a").mkdir()
    said = "is not part of the data set"
    assert found(small.folder, fast=True) == [("a", said), ("z.txt", said)]


def test_the_verdict_says_how_many_and_is_the_same_for_machines(small):
    sign(small.folder / layout.STATS, num_images=7)
    verdict = verify(small.folder, fast=True, quiet=True, num_workers=1)
    assert verdict.to_text().splitlines()[-1] == f"{small.folder}: NOT INTACT, 1 finding"
    value = json.loads(json.dumps(verdict.to_dict()))
    assert (value["intact"], value["fast"], value["samples"]) == (False, True, 6)
    assert [one["file"] for one in value["findings"]] == [layout.STATS]
    assert value["digest"] == load_manifest(small.folder).digest


@pytest.mark.parametrize("name", ["train-000000.idx", "train-000000.parquet", "train-000000.tar", layout.QUARANTINE])
def test_a_file_of_a_terabyte_is_a_finding_and_is_not_read(name, small):
    os.truncate(small.folder / name, 1 << 40)  # a hole, which takes no place
    with within(5):
        (problem,) = [one.problem for one in verify(small.folder, fast=True, quiet=True).findings if one.file == name]
    assert "1,099,511,627,776 bytes" in problem or "1099511627776 bytes" in problem


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"a":[' + b"{}," * (1 << 20) + b"{}]}\n", "malformed"),  # one line of 3 MB
        (b"".join(b'{"outcome":"","path":"","reason":"%d"}\n' % i for i in range(10_001)), "more than 10,000 reasons"),
        (b"[]\n", "a line without outcome, path and reason"),
    ],
    ids=["a long line", "many reasons", "no object"],
)
def test_a_list_of_refused_files_that_is_none_is_refused(content, match, small):
    (small.folder / layout.QUARANTINE).write_bytes(content)
    sign(small.folder / layout.MANIFEST, quarantine_sha256=sha(content))
    with within(5), pytest.raises(DatasetError, match=match):
        facts(small.folder)


def test_a_list_of_refused_files_is_not_kept(small):
    """Of ten thousand lines no more than one at a time is in memory, and of the list what reasons there are."""
    line = json.dumps({"outcome": "quarantined", "path": "p" * 5000, "reason": "empty"}).encode() + b"\n"
    (small.folder / layout.QUARANTINE).write_bytes(line * 10_000)
    sign(small.folder / layout.MANIFEST, quarantine_sha256=sha(line * 10_000))
    tracemalloc.start()
    try:
        assert facts(small.folder)["left_out"] == {"quarantined: empty": 10_000}
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_list_of_refused_files_of_a_terabyte_is_not_read(small):
    os.truncate(small.folder / layout.QUARANTINE, 1 << 40)  # a hole, which takes no place
    with within(5), pytest.raises(DatasetError, match="1,099,511,627,776 bytes, more than any has"):
        facts(small.folder)


def test_a_tar_of_terabytes_for_samples_that_no_catalog_lists_is_not_read(small):
    tar = small.folder / "train-000000.tar"
    os.truncate(tar, 2048 * 10**9)  # a hole, which takes no place
    first, *rest = json.loads((small.folder / layout.MANIFEST).read_bytes())["shards"]
    shards = [{**first, "num_samples": 10**9, "num_bytes": 2048 * 10**9}, *rest]
    sign(small.folder / layout.MANIFEST, shards=shards)
    with within(5):
        found = {one.file: one.problem for one in verify(small.folder, fast=True, quiet=True).findings}
    assert "bytes cannot hold 1,000,000,000 rows" in found["train-000000.parquet"] and tar.name not in found
