"""kill -9 at any moment loses nothing: the next run continues, and ends with the bytes of an undisturbed one."""

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from sharding import layout
from sharding.errors import OutputError, SourceError
from sharding.pack import ShardRequest, shard
from sharding.sample_set import write_sample_set
from sharding.verify import verify
from tests.conftest import ROOT, children


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def start(source, folder):
    command = [sys.executable, str(ROOT / "cli.py"), "shard", "--src", str(source), "--out", str(folder), "--quiet"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run that was started in the background may ignore Ctrl-C, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(source, folder):
    """Run a conversion to its end."""
    process = start(source, folder)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr


def killed_at_random(source, folder, chance, longest_s):
    """Start or continue a conversion, and kill its parent, one worker, or all of it at a random moment.

    Returns whether it was still at work then.
    """
    process = start(source, folder)
    time.sleep(chance.uniform(0.1, 1.0) * longest_s)
    at_work = process.poll() is None
    victims = {0: [process.pid], 1: children(process.pid)[-1:], 2: [*children(process.pid), process.pid]}
    for victim in victims[chance.randrange(3)]:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    process.communicate(timeout=60)
    return at_work


def check_killed_conversion(source, tmp_path, times, seed):
    """Kill a conversion ``times`` times, always at work: one that gets to its end in between begins anew."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(source, undisturbed)
    begin = time.monotonic()
    finish(source, tmp_path / "timed")
    longest_s = time.monotonic() - begin
    chance, kills, left = random.Random(seed), 0, []
    while kills < times:
        kills += killed_at_random(source, killed, chance, longest_s)
        left.append(len(list(killed.glob("*.part"))) if killed.is_dir() else 0)
        if layout.is_dataset(killed):
            finish(source, killed)  # a kill after the manifest may leave parts behind
            assert hashes(killed) == hashes(undisturbed)
            shutil.rmtree(killed)
    finish(source, killed)
    assert hashes(killed) == hashes(undisturbed)
    assert not verify(killed, quiet=True).findings
    assert not list(killed.glob("*.tmp")) and not list(killed.glob("*.part"))
    assert any(left), f"no kill came between two shards: {left}"


def test_a_conversion_that_is_killed_eight_times_ends_with_the_same_bytes(tmp_path):
    write_sample_set(tmp_path / "images", train_per_class=40, val_per_class=1, quiet=True)
    check_killed_conversion(tmp_path / "images" / "train", tmp_path, times=8, seed=1)


def test_500_real_images_killed_25_times(real_images, tmp_path):
    check_killed_conversion(real_images / "imagenet-sample" / "train", tmp_path, times=25, seed=2)


@pytest.fixture
def unfinished(sample_images, tmp_path):
    """A conversion of two shards, as a kill between them leaves it."""
    folder = tmp_path / "out"
    source = tmp_path / "images"
    write_sample_set(source, train_per_class=20, val_per_class=1, quiet=True)
    request = ShardRequest(source=source / "train", folder=folder)
    manifest, _ = shard(request, quiet=True)
    whole = hashes(folder)
    plan = layout.json_bytes({"schema": layout.SCHEMA, "split": "train", "plan": manifest.plan_digest})
    (folder / layout.MANIFEST).unlink()
    (folder / layout.PLAN).write_bytes(plan)
    return request, whole


def test_finished_shards_are_kept_and_not_written_again(unfinished, monkeypatch):
    request, whole = unfinished
    (request.folder / layout.PLAN).unlink()
    for path in request.folder.iterdir():
        path.unlink()
    shard_with_a_stop_after_the_first(request, monkeypatch)
    parts = sorted(p.name for p in request.folder.glob("*.part"))
    assert parts == ["train-000000.part"]
    before = (request.folder / "train-000000.tar").stat().st_mtime_ns
    shard(request, quiet=True)
    assert (request.folder / "train-000000.tar").stat().st_mtime_ns == before
    assert hashes(request.folder) == whole


def shard_with_a_stop_after_the_first(request, monkeypatch):
    """Finish one shard and stop, as an interrupt would."""
    import sharding.pack as pack

    def first_only(work, jobs, workers, tick):
        yield work(jobs[0], tick)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack, "run_jobs", first_only)
        with pytest.raises(KeyboardInterrupt):
            shard(request, quiet=True)


@pytest.mark.parametrize("extension", ["tar", "idx", "parquet", "part"])
def test_a_finished_shard_that_was_damaged_since_is_made_again(unfinished, monkeypatch, extension):
    request, whole = unfinished
    for path in request.folder.iterdir():
        path.unlink()
    shard_with_a_stop_after_the_first(request, monkeypatch)
    path = request.folder / f"train-000000.{extension}"
    path.write_bytes(path.read_bytes()[:-100])
    shard(request, quiet=True)
    assert hashes(request.folder) == whole


def test_a_second_conversion_into_the_same_folder_is_refused(unfinished):
    request, _ = unfinished
    descriptor = os.open(request.folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(OutputError, match="in use"):
            shard(request, quiet=True)
    finally:
        os.close(descriptor)
    shard(request, quiet=True)


def test_ctrl_c_ends_a_conversion_with_one_line_and_loses_nothing(tmp_path):
    write_sample_set(tmp_path / "images", train_per_class=60, val_per_class=1, quiet=True)
    process = start(tmp_path / "images" / "train", tmp_path / "out")
    while not (tmp_path / "out" / layout.PLAN).is_file():
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and len(stderr.strip().splitlines()) == 1, stderr
    finish(tmp_path / "images" / "train", tmp_path / "out")


def test_more_bad_files_than_allowed_end_the_conversion_and_keep_what_is_done(sample_images, tmp_path):
    request = ShardRequest(source=sample_images / "train", folder=tmp_path / "out", max_bad=2)
    with pytest.raises(SourceError, match=r"3 files.*more than --max-bad 2"):
        shard(request, quiet=True)
    assert not layout.is_dataset(tmp_path / "out") and list((tmp_path / "out").glob("*.part"))
    manifest, _ = shard(replace(request, max_bad=3), quiet=True)
    assert manifest.counts.quarantined == 3


def test_a_bad_file_that_was_mended_is_written_when_the_conversion_continues(sample_images, tmp_path):
    source = shutil.copytree(sample_images / "train", tmp_path / "images")
    request = ShardRequest(source=source, folder=tmp_path / "out", max_bad=2)
    with pytest.raises(SourceError, match="mend the files"):
        shard(request, quiet=True)
    shutil.copy(source / "bands" / "bands_0001.jpg", source / "bands" / "empty.jpg")
    manifest, _ = shard(request, quiet=True)
    assert (manifest.counts.written, manifest.counts.quarantined) == (68, 2)


def test_a_full_disk_is_one_clear_line_and_finished_shards_stay(tmp_path):
    """A small tmpfs, so that the file system itself says no."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here (needs the right to mount)")
    try:
        write_sample_set(tmp_path / "images", train_per_class=40, val_per_class=1, quiet=True)
        process = start(tmp_path / "images" / "train", disk / "out")
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1 and "No space left" in stderr and len(stderr.strip().splitlines()) == 1, stderr
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        finish(tmp_path / "images" / "train", disk / "out")
        assert not verify(disk / "out", quiet=True).findings
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


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
    manifest, _ = shard(ShardRequest(source=tmp_path / "src", folder=tmp_path / "out"), quiet=True)
    rows = layout.load_catalog(tmp_path / "out", manifest, ("key", "source"))
    assert rows["source"][0] == "a/caf\\udce9\n.jpg"
    line = json.loads((tmp_path / "out" / layout.QUARANTINE).read_text())
    assert line["path"] == "a/bad\udce9.jpg"
    assert not verify(tmp_path / "out", quiet=True).findings
