"""Shards of an object store, staged into a bounded cache: over HTTP, from a server that fails in every way."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, nullcontext
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from alexstream.pipeline.cache.cache import Reservation, ShardCache, _order_evictable
from alexstream.pipeline.cache.fetch import RetryPolicy
from alexstream.pipeline.cache.lease import Claims
from alexstream.pipeline.cache.lookahead import Lookahead
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.cached_shards import CachedShards, CacheOptions
from alexstream.pipeline.reading.shards import LocalShards
from tests.support import ROOT
from tests.support.object_store import (
    DIGEST,
    QUICK,
    SHARD_BYTES,
    cached,
    du,
    proxy_before,
    record,
    remote_folder,
    upload,
)

NUM_SHARDS = 8


@pytest.fixture(scope="module")
def bucket(s3_server):
    """``s3://…`` text, records and contents of shards that no test changes."""
    import s3fs

    s3fs.S3FileSystem().mkdir("staged")
    return "s3://staged/train", *upload("s3://staged/train", NUM_SHARDS)


@pytest.fixture(scope="module")
def one_proxy(s3_server):
    """One for all tests, since a client for each would take longer than the tests."""
    with proxy_before(s3_server) as proxy:
        yield proxy


@pytest.fixture
def proxy(one_proxy):
    yield one_proxy
    one_proxy.behave()


@pytest.fixture
def staged(bucket, proxy, tmp_path):
    """Makes ``CachedShards`` of the bucket; closed at the end of the test."""
    made = []

    def make(limit=NUM_SHARDS, keep_steps=1, retry_policy=QUICK, records=None, **options):
        text, all_records, _ = bucket
        options.setdefault("cache", tmp_path / "cache")
        cache_options = CacheOptions(limit_bytes=limit * SHARD_BYTES, retry_policy=retry_policy, **options)
        remote = remote_folder(text, proxy.server_port)
        made.append(CachedShards(remote, DIGEST, records or all_records, cache_options, keep_steps))
        return made[-1]

    yield make
    proxy.released.set()
    for one in made:
        one.close()


def steps(*shards):
    return [np.array(np.atleast_1d(s), np.int64) for s in shards]


def read(shards, *wanted):
    """What the descriptors of these shards give."""
    return [os.pread(int(fd), 2 * SHARD_BYTES, 0) for fd in shards.descriptors(np.array(wanted, np.int64))]


def eventually(condition):
    """Wait for what threads will do; fails if they do not."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# What comes out.


def test_staged_shards_are_those_of_the_store_in_the_order_asked_for(staged, bucket):
    contents = bucket[2]
    assert read(staged(), 3, 1, 3, 0) == [contents[3], contents[1], contents[3], contents[0]]


def test_an_epoch_through_a_cache_of_three_shards_has_every_byte_right(staged, bucket):
    order = [int(s) for s in np.random.default_rng(0).integers(0, NUM_SHARDS, 40)]
    shards = staged(limit=3)
    shards.expect(steps(*order))
    assert all(read(shards, s) == [bucket[2][s]] for s in order)


def test_a_second_run_downloads_nothing(staged, proxy):
    first = staged()
    read(first, *range(NUM_SHARDS))
    first.close()
    before = proxy.gets.total()
    second = staged()
    read(second, *range(NUM_SHARDS))
    assert proxy.gets.total() == before
    assert (second.tally.hits, second.tally.downloads) == (NUM_SHARDS, 0)
    assert (first.tally.hits, first.tally.downloads, first.tally.downloaded_bytes) == (0, 8, 8 * SHARD_BYTES)


def test_shards_are_fetched_before_they_are_asked_for(staged, tmp_path):
    shards = staged()
    shards.expect(steps(4, 2, [6, 4]))
    eventually(lambda: cached(tmp_path / "cache") == [2, 4, 6])


def test_an_endless_order_that_uses_few_shards_is_looked_at_only_so_far(staged, tmp_path):
    seen = []
    shards = staged()
    shards.expect(np.array([seen.append(number) or number % 2]) for number in count())
    eventually(lambda: len(seen) == 1024 and cached(tmp_path / "cache") == [0, 1])
    read(shards, 0)
    eventually(lambda: len(seen) == 1025)


def test_a_long_wait_is_told(staged, proxy, caplog):
    proxy.fault = lambda name, number: 1.2 if number == 1 else None
    with caplog.at_level(logging.INFO, logger="alexstream.pipeline.reading.cached_shards"):
        shards = staged()
        read(shards, 5)
    assert "train-000005" in caplog.text and "waited" in caplog.text
    assert shards.tally.waited_s > 1


# Bounds and eviction.


def test_the_cache_never_holds_more_than_its_limit(staged, proxy, tmp_path):
    proxy.fault = lambda name, number: 0.005
    largest, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.0005):
            largest[0] = max(largest[0], du(tmp_path / "cache"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    shards = staged(limit=4)
    order = [int(s) for s in np.random.default_rng(1).permutation(NUM_SHARDS)] * 3
    shards.expect(steps(*order))
    for s in order:
        read(shards, s)
    ended.set()
    watcher.join()
    assert 3 * SHARD_BYTES <= largest[0] <= 4 * SHARD_BYTES


def test_the_least_recently_used_shard_is_evicted_first(staged, tmp_path):
    shards = staged(limit=3)
    for s in (0, 1, 2, 0, 3):
        read(shards, s)
    assert cached(tmp_path / "cache") == [0, 2, 3]
    read(shards, 4)
    assert cached(tmp_path / "cache") == [0, 3, 4]


def test_use_counts_to_its_end_and_not_from_its_begin(staged, tmp_path):
    shards = staged(limit=3)
    for step in ([0], [0, 1], [0], [2], [3]):
        read(shards, *step)
    assert cached(tmp_path / "cache") == [0, 2, 3]


def test_prefetching_evicts_nothing_that_is_needed_sooner(staged, proxy, tmp_path):
    shards = staged(limit=3)
    shards.expect(steps(0, 1, 0, 2, 0, 3, 1, 0))
    for s in (0, 1, 0, 2, 0, 3, 1, 0):
        read(shards, s)
        time.sleep(0.02)
    assert proxy.bytes_sent["train-000000.tar"] == SHARD_BYTES


def test_descriptors_stay_valid_for_the_steps_that_keep_them_and_then_close(staged, bucket, tmp_path):
    shards = staged(limit=3, keep_steps=3)
    fd = int(shards.descriptors(np.array([0]))[0])
    for s in (1, 2):
        read(shards, s)
        assert os.pread(fd, SHARD_BYTES, 0) == bucket[2][0]
        assert 0 in cached(tmp_path / "cache")
    read(shards, 3)
    assert cached(tmp_path / "cache") == [1, 2, 3]
    assert _opened(tmp_path / "cache") == {1, 2, 3}


def _opened(cache):
    """Numbers of the shards of a cache that this process has open."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return {int(name[-10:-4]) for name in links if name.startswith(str(cache)) and name.endswith(".tar")}


def test_a_descriptor_outlives_its_file(staged, bucket, tmp_path):
    shards = staged()
    fd = int(shards.descriptors(np.array([0]))[0])
    (tmp_path / "cache" / DIGEST / "train-000000.tar").unlink()
    assert os.pread(fd, SHARD_BYTES, 0) == bucket[2][0]


def test_a_step_that_does_not_fit_says_what_is_needed_and_what_to_do(staged):
    with pytest.raises(StreamError, match=r"3 shards .* 300000 bytes.* 200000; give `cache_bytes` 300000 .*grouped"):
        read(staged(limit=2), 0, 1, 2)


def test_what_is_kept_counts_to_what_must_fit(staged):
    shards = staged(limit=3, keep_steps=2)
    read(shards, 0, 1)
    with pytest.raises(StreamError, match="4 shards are needed at once"):
        read(shards, 2, 3)


def test_urgent_need_evicts_what_is_needed_last():
    files = [(f"{i}.tar", 1, i) for i in range(6)] + [("6.tar.tmp", 1, 0)]
    leases = [Claims(use=("0.tar",), soon=("2.tar", "1.tar", "3.tar")), Claims(use=("5.tar",), soon=("3.tar",))]
    assert [name for name, _ in _order_evictable(files, leases, urgent=False)] == ["4.tar"]
    assert [name for name, _ in _order_evictable(files, leases, urgent=True)] == ["4.tar", "1.tar", "2.tar", "3.tar"]


def test_shards_of_other_data_sets_count_and_go(staged, tmp_path):
    other = tmp_path / "cache" / ("a" * 64) / "val-000000.tar"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(SHARD_BYTES))
    os.utime(other, (1, 1))
    shards = staged(limit=2)
    read(shards, 0)
    assert other.exists()
    read(shards, 1)
    assert not other.exists() and cached(tmp_path / "cache") == [0, 1]


def test_files_that_the_cache_did_not_write_are_never_evicted(staged, tmp_path):
    precious = tmp_path / "cache" / "train" / "train-000000.tar"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(bytes(5 * SHARD_BYTES))
    shards = staged(limit=1)
    read(shards, 0)
    read(shards, 1)
    assert precious.stat().st_size == 5 * SHARD_BYTES


# A server that fails.


@pytest.mark.parametrize("fault", ["500", "503", "drop", "truncate", "corrupt"])
def test_a_server_that_fails_once_is_asked_again(staged, bucket, proxy, fault):
    proxy.fault = lambda name, number: fault if number == 2 else None
    assert read(staged(), 0, 1) == [bucket[2][0], bucket[2][1]]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", "0 of 100000 bytes received, then 3 attempts failed"),
        ("drop", "3 attempts failed"),
        ("truncate", "received 25000 bytes with .* expected 100000 bytes"),
        ("corrupt", "received 100000 bytes with sha256 .* expected 100000 bytes with"),
    ],
)
def test_a_server_that_always_fails_gives_an_error_that_names_the_shard(staged, proxy, tmp_path, fault, words):
    proxy.fault = lambda name, number: fault
    with pytest.raises(StreamError, match=f"shard s3://staged/train/train-000003.tar: .*{words}.*; "):
        read(staged(retry_policy=RetryPolicy(chunk_bytes=50_000, attempts=3, timeout_s=3, backoff_s=0)), 3)
    assert du(tmp_path / "cache") == 0


@pytest.mark.parametrize("fault", ["stall", "hang"])
def test_a_server_that_stalls_gives_an_error_in_bounded_time(staged, proxy, fault):
    proxy.fault = lambda name, number: fault
    began = time.monotonic()
    with pytest.raises(
        StreamError, match=r"train-000000.tar: .*2 attempts failed, the last with no answer within 0.3 s"
    ):
        read(staged(retry_policy=RetryPolicy(attempts=2, timeout_s=0.3, backoff_s=0.01)), 0)
    assert time.monotonic() - began < 20


def test_a_server_that_drips_is_given_up_after_the_limit_for_a_shard(staged, proxy):
    proxy.fault = lambda name, number: 0.2
    slow = RetryPolicy(chunk_bytes=10_000, attempts=3, timeout_s=5, backoff_s=0.01, limit_s=0.7)
    with pytest.raises(StreamError, match=r"incomplete after 0.7 s: [0-9]+ of 100000 bytes received"):
        read(staged(retry_policy=slow), 0)


def test_a_failure_passes_and_the_next_call_succeeds(staged, bucket, proxy):
    shards = staged()
    proxy.fault = lambda name, number: "500"
    with pytest.raises(StreamError):
        read(shards, 0)
    proxy.fault = lambda name, number: None
    assert read(shards, 0) == [bucket[2][0]]


def test_a_missing_object_is_named_at_the_step_that_needs_it(staged, bucket, caplog):
    records = [*bucket[1], record("train-000099", b"never uploaded")]
    shards = staged(records=records)
    shards.expect(steps(0, NUM_SHARDS))
    eventually(lambda: "train-000099" in caplog.text)
    assert read(shards, 0) == [bucket[2][0]]
    with pytest.raises(StreamError, match=r"shard s3://staged/train/train-000099.tar: does not exist; copy"):
        read(shards, NUM_SHARDS)


def test_an_error_of_the_order_reaches_the_consumer(staged):
    def order():
        yield np.array([0])
        raise StreamError("all samples are damaged")

    shards = staged()
    shards.expect(order())
    eventually(lambda: shards._fetcher._broken)
    with pytest.raises(StreamError, match="all samples are damaged"):
        read(shards, 1)


def test_a_client_that_hangs_for_ever_gives_an_error(bucket, tmp_path):
    """A store whose client has no deadline of its own and cannot be interrupted."""
    from upath import UPath

    ended = threading.Event()
    remote = UPath(f"memory://{tmp_path.name}")
    fs = type("Hanging", (), {"async_impl": False, "cat_file": lambda *_, **__: ended.wait(60)})()
    hanging = type("Remote", (), {"__truediv__": lambda self, name: self, "fs": fs, "path": remote.path})()
    retry_policy = RetryPolicy(attempts=1, timeout_s=0.2, backoff_s=0)
    cache_options = CacheOptions(cache=tmp_path / "cache", limit_bytes=SHARD_BYTES, retry_policy=retry_policy)
    with closing(CachedShards(hanging, DIGEST, bucket[1], cache_options)) as shards:
        with pytest.raises(StreamError, match="no bytes received for"):
            read(shards, 0)
        ended.set()


# The cache folder.


@pytest.mark.parametrize("verify", [False, True])
def test_a_cached_shard_of_another_size_is_fetched_again_and_of_other_bytes_if_asked(staged, bucket, tmp_path, verify):
    folder = tmp_path / "cache" / DIGEST
    folder.mkdir(parents=True)
    (folder / "train-000000.tar").write_bytes(b"short")
    (folder / "train-000001.tar").write_bytes(bytes(SHARD_BYTES))
    got = read(staged(verify=verify), 0, 1)
    assert got == [bucket[2][0], bucket[2][1] if verify else bytes(SHARD_BYTES)]


def test_a_cache_folder_that_cannot_be_made_is_one_line(staged, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StreamError, match=r"^cache folder .*/file/cache: Not a directory; .*`cache`$"):
        staged(cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize(("name", "is_error"), [("EINVAL", False), ("EOPNOTSUPP", False), ("EIO", True)])
def test_a_cache_needs_no_fsync_of_folders_where_there_is_none(name, is_error, monkeypatch, tmp_path):
    real = os.fsync

    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(getattr(errno, name), "refused")
        real(descriptor)

    shard = f"{DIGEST}/train-000000.tar"
    with closing(ShardCache(tmp_path, 100)) as cache:
        place, descriptor = cache.reserve(shard, 3, urgent=False)
        assert place is Reservation.RESERVED
        os.pwrite(descriptor, b"abc", 0)
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(StreamError, match="refused") if is_error else nullcontext():
            cache.publish(shard, descriptor)
        assert (tmp_path / shard).read_bytes() == b"abc"


def test_a_full_disk_is_one_line(staged, tmp_path):
    import resource

    shards = staged()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SHARD_BYTES // 2, hard))  # as a full disk, the kernel refuses to write
    try:
        with pytest.raises(StreamError, match=r"^cache folder .*: File too large; give `cache_bytes` less .*`cache`$"):
            read(shards, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert du(tmp_path / "cache") == 0


# Several processes.

_RANK = """
import json, os, sys
import numpy as np
from pathlib import Path
from alexstream.pipeline.reading.cached_shards import CachedShards, CacheOptions
from alexstream.pipeline.errors import StreamError
from tests.support.object_store import DIGEST, QUICK, SHARD_BYTES, record, remote_folder
text, port, cache, limit, order = json.loads(sys.argv[1])
records = [record(f"train-{i:06d}", np.random.default_rng(i).bytes(SHARD_BYTES)) for i in range(8)]
cache_options = CacheOptions(cache=Path(cache), limit_bytes=limit * SHARD_BYTES, retry_policy=QUICK)
shards = CachedShards(remote_folder(text, port), DIGEST, records, cache_options)
print("ready", flush=True)
sys.stdin.readline()
shards.expect(np.array([s]) for s in order)
for s in order:
    fd = int(shards.descriptors(np.array([s]))[0])
    print(s, record("", os.pread(fd, 2 * SHARD_BYTES, 0)).sha256 == records[s].sha256, flush=True)
shards.close()
"""


def rank(text, proxy, cache, limit, order):
    arguments = json.dumps([text, proxy.server_port, str(cache), limit, order])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-c", _RANK, arguments], **pipes)


def start(*processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def test_two_processes_with_one_cache_download_each_shard_once(bucket, proxy, tmp_path):
    proxy.fault = lambda name, number: 0.01
    order = list(range(NUM_SHARDS))
    with rank(bucket[0], proxy, tmp_path, 8, order) as one, rank(bucket[0], proxy, tmp_path, 8, order) as two:
        start(one, two)
        assert one.stdout.read() == two.stdout.read() == "".join(f"{s} True\n" for s in order)
    assert set(proxy.bytes_sent.values()) == {SHARD_BYTES} and len(proxy.bytes_sent) == NUM_SHARDS
    assert not list(tmp_path.glob("*.lease"))


def test_two_processes_in_opposite_order_share_a_cache_that_is_too_small_for_both(bucket, proxy, tmp_path):
    order = [*range(NUM_SHARDS), 0, 1]
    with rank(bucket[0], proxy, tmp_path, 3, order) as one, rank(bucket[0], proxy, tmp_path, 3, order[::-1]) as two:
        start(one, two)
        while one.poll() is None or two.poll() is None:
            assert du(tmp_path) <= 3 * SHARD_BYTES
            time.sleep(0.001)
        assert one.stdout.read().count("True") == two.stdout.read().count("True") == len(order)


def test_what_another_process_uses_is_not_evicted_and_the_wait_for_it_ends(staged, bucket, tmp_path):
    other = ShardCache(tmp_path / "cache", 8 * SHARD_BYTES)
    first = staged(limit=2)
    read(first, 0, 1)
    first.close()
    other.set_claims([f"{DIGEST}/train-{i:06d}.tar" for i in (0, 1)], [])
    shards = staged(limit=2, retry_policy=RetryPolicy(attempts=1, timeout_s=0.3, backoff_s=0))
    with pytest.raises(StreamError, match=r"train-000002.tar: no bytes received for .* 200000 are in use"):
        read(shards, 2)
    assert cached(tmp_path / "cache") == [0, 1]
    other.set_claims([], [f"{DIGEST}/train-{i:06d}.tar" for i in (0, 1)])
    assert read(shards, 2) == [bucket[2][2]]  # what it only wants soon goes if it must
    assert cached(tmp_path / "cache") == [0, 2]
    other.close()


def test_a_process_killed_while_it_downloads_leaves_nothing_wrong(staged, bucket, proxy, tmp_path):
    proxy.fault = lambda name, number: "hang" if name == "train-000001.tar" and number == 2 else None
    with rank(bucket[0], proxy, tmp_path / "cache", 2, [0, 1]) as killed:
        start(killed)
        assert killed.stdout.readline() == "0 True\n"
        eventually(lambda: proxy.gets["train-000001.tar"] >= 2)
        killed.send_signal(signal.SIGKILL)
    assert cached(tmp_path / "cache") == [0]
    assert du(tmp_path / "cache") == 2 * SHARD_BYTES  # what it was writing, and nobody writes any more
    assert read(staged(limit=2), 0, 1) == [bucket[2][0], bucket[2][1]]
    assert not list((tmp_path / "cache").glob("*/*.tmp"))
    assert len(list((tmp_path / "cache").glob("*.lease"))) == 1


def test_a_shard_on_its_way_elsewhere_is_taken_over_when_it_is_given_up(staged, bucket, tmp_path):
    other = ShardCache(tmp_path / "cache", 8 * SHARD_BYTES)
    place, descriptor = other.reserve(f"{DIGEST}/train-000000.tar", SHARD_BYTES, urgent=True)
    assert place is Reservation.RESERVED
    threading.Timer(0.3, other.discard, (f"{DIGEST}/train-000000.tar", descriptor)).start()
    assert read(staged(), 0) == [bucket[2][0]]
    other.close()


# Ends.


def test_fifty_openings_leave_no_thread_and_no_descriptor(staged, tmp_path):
    read(staged(), 0)  # the client's own connections
    threads = threading.active_count()
    opened = set()
    for _ in range(50):
        shards = staged(workers=2)
        shards.expect(steps(*range(NUM_SHARDS)))
        read(shards, 1, 2)
        shards.close()
        opened.add(len(_opened(tmp_path / "cache")))
    assert threading.active_count() <= threads + 4  # the proxy has one for each connection
    assert opened == {1}  # that of the first
    assert len(list((tmp_path / "cache").glob("*.lease"))) == 1


def test_close_ends_what_hangs(staged, proxy, tmp_path):
    proxy.fault = lambda name, number: "stall"
    shards = staged(retry_policy=RetryPolicy(timeout_s=600))
    shards.expect(steps(0, 1, 2))
    eventually(lambda: proxy.gets.total() >= 3)
    began = time.monotonic()
    shards.close()
    assert time.monotonic() - began < 20
    assert du(tmp_path / "cache") == 0
    with pytest.raises(ValueError, match="closed"):
        shards.descriptors(np.array([0]))


# The lookahead.


def test_the_lookahead_knows_the_next_use_of_each_shard():
    lookahead = Lookahead(steps([2, 1], 3, 1), max_steps=10)
    assert [lookahead.see(lookahead.look()) for _ in range(4)] == [[1, 2], [3], [], []]
    assert not lookahead.may_look
    assert [lookahead.next_use(s) for s in range(4)] == [None, 1, 1, 2]
    lookahead.take()
    assert [lookahead.next_use(s) for s in range(4)] == [None, 3, None, 2]


def test_steps_that_were_taken_before_they_were_seen_are_passed_over():
    lookahead = Lookahead(steps(0, 1), max_steps=10)
    lookahead.take()
    assert lookahead.see(lookahead.look()) == []
    assert lookahead.see(lookahead.look()) == [1]


# Shards of this machine.


@pytest.fixture
def local(tmp_path):
    contents = [bytes([i]) * (10 + i) for i in range(3)]
    records = [record(f"train-{i:06d}", content) for i, content in enumerate(contents)]
    for one, content in zip(records, contents, strict=True):
        (tmp_path / f"{one.name}.tar").write_bytes(content)
    return tmp_path, records, contents


def test_local_shards_are_opened_once_and_read(local):
    folder, records, contents = local
    with closing(LocalShards(folder, records)) as shards:
        first = shards.descriptors(np.array([[2, 0], [2, 2]]))
        assert first.shape == (2, 2) and first[0, 0] == first[1, 1] != first[0, 1]
        assert os.pread(int(first[0, 0]), 99, 0) == contents[2]
        assert (shards.descriptors(np.array([0, 2])) == [first[0, 1], first[0, 0]]).all()


@pytest.mark.parametrize(("damage", "found"), [(b"", "has 0 bytes"), (None, "is missing")])
def test_local_shards_are_all_checked_first(local, damage, found):
    folder, records, _ = local
    tar = folder / "train-000001.tar"
    tar.unlink() if damage is None else tar.write_bytes(damage)
    with pytest.raises(
        StreamError, match=rf"shard .*train-000001.tar {found}, but the manifest says 11 bytes; restore"
    ):
        LocalShards(folder, records)


def test_nothing_is_remembered_of_a_shard_that_no_step_needs(staged):
    shards = staged()
    for number in range(NUM_SHARDS):
        shards.descriptors(np.array([number]))
    assert set(shards._fetcher._shards) == {NUM_SHARDS - 1}
