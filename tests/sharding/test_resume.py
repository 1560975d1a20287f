"""One shard job by itself: what it writes, what it leaves for a run that continues, and when that is believed."""

import hashlib
import io
import os
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexstream.core.errors import OutputError
from alexstream.sharding.convert import ShardJob, convert_shard, find_source_changes
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.listing import build_listing
from alexstream.sharding.resume import decode_resume_record, encode_resume_record
from alexstream.sharding.sources.types import Entry
from tests.support.small_dataset import sha, tar_of
from tests.support.source_splits import lister_of

SIZE = 224
NAME = "train-000000"
FORMS = ("folder", "tar")


def picture(number, side=(SIZE, SIZE)):
    """A PNG of noise, width and height as given; stored raw it is its own pixels where it is square."""
    pixels = np.random.default_rng(number).integers(0, 256, (side[1], side[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), pixels


NUMBERS = (3, 0, 2, 4, 1)  # the order of the shard; in the archive they lie by number
FILES = {number: picture(number, (300, 230) if number == 4 else (SIZE, SIZE)) for number in NUMBERS}
BROKEN = b"no image at all"


def job_of(tmp_path, form):
    """A shard of five pictures and a file that is none, in an order that is not the archive's."""
    source, folder = tmp_path / "source", tmp_path / "out"
    (source / "b").mkdir(parents=True)
    folder.mkdir()
    members = [(f"b/{number}.png", data) for number, (data, _) in sorted(FILES.items())] + [("b/9.png", BROKEN)]
    entries = {}
    if form == "folder":
        for name, data in members:
            (source / name).write_bytes(data)
            entries[name] = Entry("b", name, name, name)
    else:
        (source / "x.tar").write_bytes(tar_of(members))
        with tarfile.open(source / "x.tar") as tar:
            for one in tar:
                entries[one.name] = Entry("b", one.name, f"x.tar/{one.name}", "x.tar", one.offset_data, one.size)
    order = [entries[f"b/{number}.png"] for number in (*NUMBERS[:2], 9, *NUMBERS[2:])]
    listing = build_listing(lister_of(order), ["a", "b"], where="here")
    encode = EncodeRecipe(encoding="raw", size_px=SIZE)
    return ShardJob(
        name=NAME, rows=listing.table, classes=listing.classes, source_root=source, folder=folder, encode=encode,
        label_digits=4,
    )  # fmt: skip


def converted(job):
    """What became of it, its sums, and how many files were counted."""
    counted = []
    outcome, sums = convert_shard(job, counted.append)
    return outcome, sums, sum(counted)


@pytest.fixture(params=FORMS)
def job(request, tmp_path):
    return job_of(tmp_path, request.param)


def test_a_shard_holds_its_images_in_order_with_a_row_for_each(job):
    outcome, sums, counted = converted(job)
    assert counted == 6 and outcome.written_by_class == {"b": 5}
    data = (job.folder / f"{NAME}.tar").read_bytes()
    rows = pq.read_table(job.folder / f"{NAME}.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"b_{number}" for number in NUMBERS]
    total = np.zeros((SIZE, SIZE, 3), np.int64)
    for number, row in zip(NUMBERS, rows, strict=True):
        source, pixels = FILES[number]
        content = data[row["offset"] : row["offset"] + row["size"]]
        assert len(content) == 3 * SIZE**2 and row["stored_sha256"] == sha(content)
        if number != 4:
            assert content == pixels.tobytes()
        total += np.frombuffer(content, np.uint8).reshape(SIZE, SIZE, 3)
        assert (row["label"], row["wnid"], row["shard"], row["extension"]) == (1, "b", NAME, "rgb")
        assert row["source_sha256"] == sha(source) and row["source"].endswith(f"b/{number}.png")
        assert (row["source_width"], row["source_height"]) == ((300, 230) if number == 4 else (SIZE, SIZE))
        assert row["source_format"] == "PNG"
    assert sums.num_images == 5 and np.array_equal(sums.sum_HWC, total)
    record = outcome.record
    assert (record.name, record.num_samples, record.num_bytes) == (NAME, 5, len(data))
    files = [sha((job.folder / f"{NAME}.{end}").read_bytes()) for end in ("tar", "idx", "parquet")]
    assert files == [record.sha256, record.index_sha256, record.catalog_sha256]


def test_a_file_that_is_no_image_is_refused_with_what_it_was(job):
    (refused,) = converted(job)[0].refused
    assert refused["path"].endswith("b/9.png") and (refused["wnid"], refused["reason"]) == ("b", "not-an-image")
    assert (refused["bytes"], refused["sha256"]) == (len(BROKEN), sha(BROKEN))


def test_both_forms_of_a_source_give_the_same_shard(tmp_path):
    hashes = []
    for form in FORMS:
        (tmp_path / form).mkdir()
        outcome = converted(job_of(tmp_path / form, form))[0]
        hashes.append((outcome.record.sha256, outcome.record.index_sha256))
    assert hashes[0] == hashes[1]


def mtimes(job):
    return {path.name: path.stat().st_mtime_ns for path in job.folder.iterdir()}


def test_a_finished_shard_is_kept_with_its_outcome_and_sums(job):
    outcome, sums, _ = converted(job)
    before = mtimes(job)
    again, same, counted = converted(job)
    assert again == outcome and counted == 6 and mtimes(job) == before
    assert same.num_images == sums.num_images and np.array_equal(same.sum_HWC, sums.sum_HWC)
    assert np.array_equal(same.product_CC, sums.product_CC) and same.product_CC[0, 1] > 0
    assert find_source_changes(job).paths == []


@pytest.mark.parametrize("ending", ["tar", "idx", "parquet", "part"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_shard_that_was_damaged_since_is_made_again(job, ending, damage):
    converted(job)
    whole = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    path = job.folder / f"{NAME}.{ending}"
    data = bytearray(whole[path.name])
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "changed" else data[:-7])
    converted(job)
    tars = ("tar", "idx", "parquet")
    assert {end: (job.folder / f"{NAME}.{end}").read_bytes() for end in tars} == {
        end: whole[f"{NAME}.{end}"] for end in tars
    }
    decode_resume_record((job.folder / f"{NAME}.part").read_bytes(), SIZE)


def test_a_source_file_that_changed_is_read_again(tmp_path):
    job = job_of(tmp_path, "folder")
    converted(job)
    data, pixels = picture(77)
    (job.source_root / "b" / "2.png").write_bytes(data)
    assert find_source_changes(job).paths == ["b/2.png"]
    outcome, _, _ = converted(job)
    row = pq.read_table(job.folder / f"{NAME}.parquet").to_pylist()[2]
    assert row["source_sha256"] == sha(data) and row["stored_sha256"] == sha(pixels.tobytes())
    assert outcome.record.num_samples == 5


def test_a_file_that_was_only_touched_is_the_same(tmp_path):
    job = job_of(tmp_path, "folder")
    converted(job)
    os.utime(job.source_root / "b" / "2.png", ns=(1, 1))
    before = mtimes(job)
    assert find_source_changes(job).paths == [] and converted(job)[2] == 6 and mtimes(job) == before


def test_a_refused_file_that_was_mended_is_written(tmp_path):
    job = job_of(tmp_path, "folder")
    converted(job)
    (job.source_root / "b" / "9.png").write_bytes(picture(9)[0])
    assert find_source_changes(job).paths == ["b/9.png"]
    outcome, _, _ = converted(job)
    assert outcome.refused == [] and outcome.record.num_samples == 6


def test_a_shard_without_a_usable_image_writes_only_its_part(tmp_path):
    job = job_of(tmp_path, "folder")
    for path in (job.source_root / "b").iterdir():
        path.write_bytes(BROKEN)
    outcome, sums, counted = converted(job)
    assert outcome.record is None and len(outcome.refused) == counted == 6 and sums.num_images == 0
    assert [path.name for path in job.folder.iterdir()] == [f"{NAME}.part"]
    assert converted(job)[0] == outcome


def test_a_part_is_read_as_it_was_written(job):
    outcome, sums, _ = converted(job)
    data = (job.folder / f"{NAME}.part").read_bytes()
    again, same, seen = decode_resume_record(data, SIZE)
    assert again == outcome and same.num_images == sums.num_images and set(seen) == {f"b_{n}" for n in (*NUMBERS, 9)}
    assert seen["b_9"][1] == hashlib.sha256(BROKEN).hexdigest()
    assert all(mark is not None and mark.size > 0 for mark, _ in seen.values())
    assert decode_resume_record(encode_resume_record(again, same, seen), SIZE)[2] == seen


def test_a_part_that_cannot_be_read_at_the_end_is_one_line(job):
    converted(job)
    path = job.folder / f"{NAME}.part"
    path.write_bytes(b"PK")
    with pytest.raises(OutputError, match=rf"{NAME}\.part: it is damaged; run the same command again"):
        find_source_changes(job)
    path.unlink()
    with pytest.raises(OutputError, match=rf"{NAME}\.part: No such file"):
        find_source_changes(job)
