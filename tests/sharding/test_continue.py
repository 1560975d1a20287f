"""What an unfinished conversion left is continued: finished shards are kept, damaged ones made again.

Kills, full disks and other faults: tests/faults/test_conversion_*.py.
"""

import fcntl
import json
import os
import shutil
from dataclasses import replace

import pytest

from alexstream.core.errors import OutputError, SourceError
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.document import SCHEMA, json_bytes
from alexstream.sharding.pack import shard_split
from alexstream.sharding.sample_set import write_sample_set
from alexstream.sharding.split_plans import ShardRequest
from alexstream.sharding.verify import verify
from tests.support.comparisons import file_hashes


@pytest.fixture(scope="module")
def two_shards():
    """Divide any number of images into two shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexstream.sharding.split_plans.choose_num_shards", lambda *_: 2)
        yield


@pytest.fixture(scope="module")
def finished(two_shards, tmp_path_factory):
    """A conversion of two shards, and its manifest."""
    folder = tmp_path_factory.mktemp("finished")
    write_sample_set(folder / "images", train_per_class=4, val_per_class=1, quiet=True)
    request = ShardRequest(source=folder / "images" / "train", folder=folder / "out", num_workers=1)
    return request, shard_split(request, quiet=True)[0]


@pytest.fixture
def unfinished(finished, tmp_path):
    """A conversion of two shards, as a kill between them leaves it."""
    made, manifest = finished
    folder = shutil.copytree(made.folder, tmp_path / "out")
    request, whole = replace(made, folder=folder), file_hashes(folder)
    fields = {"schema": SCHEMA, "rules": layout.RULES_VERSION, "split": "train", "plan": manifest.plan_digest}
    plan = json_bytes(fields)
    (folder / layout.MANIFEST).unlink()
    (folder / layout.PLAN).write_bytes(plan)
    return request, whole


def test_finished_shards_are_kept_and_not_written_again(unfinished, monkeypatch):
    request, whole = unfinished
    request = replace(request, num_workers=2)
    (request.folder / layout.PLAN).unlink()
    for path in request.folder.iterdir():
        path.unlink()
    shard_with_a_stop_after_the_first(request, monkeypatch)
    parts = sorted(p.name for p in request.folder.glob("*.part"))
    assert parts == ["train-000000.part"]
    before = (request.folder / "train-000000.tar").stat().st_mtime_ns
    shard_split(request, quiet=True)
    assert (request.folder / "train-000000.tar").stat().st_mtime_ns == before
    assert file_hashes(request.folder) == whole


def shard_with_a_stop_after_the_first(request, monkeypatch):
    """Finish one shard and stop, as an interrupt would."""
    from alexstream.sharding import pack

    def first_only(work, jobs, workers, tick):
        yield work(jobs[0], tick)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack, "run_jobs", first_only)
        with pytest.raises(KeyboardInterrupt):
            shard_split(request, quiet=True)


@pytest.mark.parametrize("extension", ["tar", "idx", "parquet", "part"])
def test_a_finished_shard_that_was_damaged_since_is_made_again(unfinished, monkeypatch, extension):
    request, whole = unfinished
    for path in request.folder.iterdir():
        path.unlink()
    shard_with_a_stop_after_the_first(request, monkeypatch)
    path = request.folder / f"train-000000.{extension}"
    path.write_bytes(path.read_bytes()[:-100])
    shard_split(request, quiet=True)
    assert file_hashes(request.folder) == whole


def test_a_second_conversion_into_the_same_folder_is_refused(unfinished):
    request, _ = unfinished
    descriptor = os.open(request.folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(OutputError, match="in use"):
            shard_split(request, quiet=True)
    finally:
        os.close(descriptor)
    shard_split(request, quiet=True)


def test_more_bad_files_than_allowed_end_the_conversion_and_keep_what_is_done(sample_images, tmp_path):
    request = ShardRequest(source=sample_images / "train", folder=tmp_path / "out", max_bad=2)
    with pytest.raises(SourceError, match=r"3 files.*more than `max_bad` 2"):
        shard_split(request, quiet=True)
    assert not layout.is_dataset(tmp_path / "out") and list((tmp_path / "out").glob("*.part"))
    manifest, _ = shard_split(replace(request, max_bad=3), quiet=True)
    assert manifest.counts.quarantined == 3


def test_a_bad_file_that_was_mended_is_written_when_the_conversion_continues(sample_images, tmp_path):
    source = shutil.copytree(sample_images / "train", tmp_path / "images")
    request = ShardRequest(source=source, folder=tmp_path / "out", max_bad=2)
    with pytest.raises(SourceError, match="fix the files"):
        shard_split(request, quiet=True)
    shutil.copy(source / "bands" / "bands_0001.jpg", source / "bands" / "empty.jpg")
    manifest, _ = shard_split(request, quiet=True)
    assert (manifest.counts.written, manifest.counts.quarantined) == (68, 2)


def test_file_names_that_are_no_utf8_are_kept_in_escaped_form(tmp_path):
    (tmp_path / "src" / "a").mkdir(parents=True)
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (300, 300)).save(buffer, "JPEG")
    with open(os.fsencode(tmp_path / "src" / "a") + b"/caf\xe9\n.jpg", "wb") as file:
        file.write(buffer.getvalue())
    with open(os.fsencode(tmp_path / "src" / "a") + b"/bad\xe9.jpg", "wb") as file:
        file.write(b"x")
    manifest, _ = shard_split(ShardRequest(source=tmp_path / "src", folder=tmp_path / "out", classes_at=1), quiet=True)
    rows = load_catalog(tmp_path / "out", manifest, ("key", "source"))
    assert rows["source"][0] == "a/caf\\udce9\n.jpg"
    line = json.loads((tmp_path / "out" / layout.QUARANTINE).read_text())
    assert line["path"] == "a/bad\udce9.jpg"
    assert not verify(tmp_path / "out", quiet=True).findings
