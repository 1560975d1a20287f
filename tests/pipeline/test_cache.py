"""The cache folder by itself, without a store: what is evicted, in which order, and what never is.

``test_cached_shards`` has the same through a store that misbehaves, with other processes.
"""

import os
from contextlib import contextmanager

import numpy as np
import pytest

from alexstream.pipeline.cache.cache import Reservation, ShardCache
from alexstream.pipeline.cache.fetch import RetryPolicy, write_at
from alexstream.pipeline.cache.lease import Claims
from alexstream.pipeline.cache.lookahead import Lookahead
from alexstream.pipeline.errors import StreamError

DIGEST, OTHER = "a" * 64, "b" * 64


def name(number, digest=DIGEST):
    return f"{digest}/train-{number:06d}.tar"


@contextmanager
def cache_of(folder, limit=300):
    cache = ShardCache(folder, limit)
    try:
        yield cache
    finally:
        cache.close()


def put(cache, number, num_bytes=100, *, urgent=False, digest=DIGEST):
    """Write a shard, if there is room; what ``reserve`` said."""
    place, descriptor = cache.reserve(name(number, digest), num_bytes, urgent=urgent)
    if place is Reservation.RESERVED:
        os.pwrite(descriptor, bytes([number]) * num_bytes, 0)
        cache.publish(name(number, digest), descriptor)
    return place


def held(folder):
    return sorted(int(path.stem[-6:]) for path in folder.glob(f"{DIGEST}/*.tar"))


def read(cache, number, num_bytes=100):
    descriptor = cache.open(name(number), num_bytes)
    if descriptor is None:
        return None
    try:
        return os.pread(descriptor, 1000, 0)
    finally:
        os.close(descriptor)


def test_what_was_written_is_read_and_counted(tmp_path):
    with cache_of(tmp_path) as cache:
        assert read(cache, 1) is None
        assert put(cache, 1) is Reservation.RESERVED and put(cache, 1) is Reservation.CACHED
        assert read(cache, 1) == b"\1" * 100 and cache.used_bytes() == 100
        cache.remove(name(1))
        assert read(cache, 1) is None and cache.used_bytes() == 0


def test_as_much_fits_as_the_limit_says(tmp_path):
    with cache_of(tmp_path, 300) as cache:
        for number in (1, 2, 3):
            put(cache, number)
        assert held(tmp_path) == [1, 2, 3], "just the limit"
        put(cache, 4, 1)
        assert held(tmp_path) == [2, 3, 4] and cache.used_bytes() == 201


def test_the_least_recently_used_goes_first_and_no_more_than_must(tmp_path):
    with cache_of(tmp_path) as cache:
        for number in (3, 1, 2):
            put(cache, number)
        read(cache, 3)
        put(cache, 4)
        assert held(tmp_path) == [2, 3, 4]
        assert put(cache, 2) is Reservation.CACHED  # asked for: used now
        put(cache, 5)
        assert held(tmp_path) == [2, 4, 5]


def test_what_is_in_use_is_never_evicted(tmp_path):
    with cache_of(tmp_path) as cache:
        for number in (1, 2, 3):
            put(cache, number)
        cache.set_claims([name(1), name(3)], [])
        assert put(cache, 4) is Reservation.RESERVED and held(tmp_path) == [1, 3, 4]
        cache.set_claims([name(1), name(3), name(4)], [])
        assert put(cache, 5, urgent=True) is Reservation.FULL and held(tmp_path) == [1, 3, 4]


def test_what_is_wanted_soon_goes_only_if_it_must_the_last_needed_first(tmp_path):
    with cache_of(tmp_path) as cache:
        for number in (1, 2, 3):
            put(cache, number)
        cache.set_claims([], [name(2), name(1), name(3)])
        assert put(cache, 4) is Reservation.FULL and held(tmp_path) == [1, 2, 3]
        assert put(cache, 4, urgent=True) is Reservation.RESERVED and held(tmp_path) == [1, 2, 4]
        assert put(cache, 5, urgent=True) is Reservation.RESERVED and held(tmp_path) == [1, 2, 5], "4 is nobody's"
        cache.set_claims([name(5)], [name(2), name(1)])
        assert put(cache, 6, urgent=True) is Reservation.RESERVED and held(tmp_path) == [2, 5, 6], "1 is needed after 2"


def test_nothing_is_evicted_in_vain(tmp_path):
    with cache_of(tmp_path) as cache:
        for number in (1, 2, 3):
            put(cache, number)
        cache.set_claims([name(1)], [])
        assert put(cache, 4, 250) is Reservation.FULL and held(tmp_path) == [1, 2, 3]
        assert put(cache, 4, 400) is Reservation.FULL and held(tmp_path) == [1, 2, 3]


def test_claims_of_all_leases_count(tmp_path):
    with cache_of(tmp_path) as one, cache_of(tmp_path) as two:
        for number in (1, 2, 3):
            put(one, number)
        two.set_claims([name(1)], [name(2)])
        assert put(one, 4) is Reservation.RESERVED and held(tmp_path) == [1, 2, 4]
        one.set_claims([name(4)], [])
        assert put(one, 5) is Reservation.FULL
        assert put(one, 5, urgent=True) is Reservation.RESERVED and held(tmp_path) == [1, 4, 5]
        two.close()
        one.set_claims([], [])
        assert put(one, 6) is Reservation.RESERVED and 1 not in held(tmp_path), "a closed cache claims nothing"


def test_of_two_that_want_a_shard_the_earlier_need_counts(tmp_path):
    with cache_of(tmp_path) as one, cache_of(tmp_path) as two:
        for number in (1, 2, 3):
            put(one, number)
        one.set_claims([], [name(1), name(2), name(3)])
        two.set_claims([], [name(3)])
        assert put(one, 4, urgent=True) is Reservation.RESERVED and held(tmp_path) == [1, 3, 4]


def test_what_one_writes_another_does_not(tmp_path):
    with cache_of(tmp_path) as one, cache_of(tmp_path) as two:
        place, descriptor = one.reserve(name(1), 100, urgent=False)
        assert place is Reservation.RESERVED and two.used_bytes() == 100, "it counts from the start, at its full size"
        assert two.reserve(name(1), 100, urgent=False) == (Reservation.BUSY, -1)
        assert one.reserve(name(1), 100, urgent=False) == (Reservation.BUSY, -1)
        assert two.last_write_ns(name(1)) > 0 and two.last_write_ns(name(2)) == 0
        assert two.open(name(1), 100) is None
        one.discard(name(1), descriptor)
        assert two.used_bytes() == 0
        place, descriptor = two.reserve(name(1), 100, urgent=False)
        assert place is Reservation.RESERVED
        two.publish(name(1), descriptor)
        assert one.reserve(name(1), 100, urgent=False) == (Reservation.CACHED, -1)


def test_what_is_being_written_is_not_evicted(tmp_path):
    with cache_of(tmp_path) as one, cache_of(tmp_path) as two:
        _, descriptor = one.reserve(name(1), 200, urgent=False)
        assert put(two, 2, 200, urgent=True) is Reservation.FULL
        one.publish(name(1), descriptor)
        assert put(two, 2, 200) is Reservation.RESERVED


def test_remains_of_the_dead_go_and_nothing_else(tmp_path):
    """A ``.tmp`` that no lease names is nobody's; files outside of folders named by a digest are never touched."""
    (tmp_path / DIGEST).mkdir()
    (tmp_path / f"{name(1)}.tmp").write_bytes(bytes(250))
    for foreign in ("notes/train-000001.tar", f"{DIGEST[:63]}/train-000001.tar", f"{DIGEST.upper()}/train-000001.tar"):
        (tmp_path / foreign).parent.mkdir()
        (tmp_path / foreign).write_bytes(bytes(1000))
    (tmp_path / DIGEST / "notes.txt").write_bytes(bytes(1000))
    with cache_of(tmp_path) as cache:
        assert cache.used_bytes() == 0 and not (tmp_path / f"{name(1)}.tmp").exists()
        for number in (1, 2, 3, 4):
            put(cache, number)
    assert held(tmp_path) == [2, 3, 4]
    assert len([path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 1000]) == 4


def test_files_of_others_are_kept_even_in_a_folder_named_by_a_digest(tmp_path):
    (tmp_path / DIGEST).mkdir()
    others = [f"{DIGEST}/{one}" for one in ("my.tar", "my.tar.tmp", "train-00001.tar", "Train-000001.tar")]
    others += ["car.lease", "tmp.lease", "notes.lease"]
    for one in others:
        (tmp_path / one).write_bytes(bytes(1000))
    with cache_of(tmp_path) as cache:
        assert cache.used_bytes() == 0
        for number in (1, 2, 3, 4):
            put(cache, number)
    with cache_of(tmp_path, 150):
        assert [path.name for path in (tmp_path / DIGEST).glob("train-??????.tar")] == ["train-000004.tar"]
    assert all((tmp_path / one).stat().st_size == 1000 for one in others)


def test_links_in_the_cache_are_not_followed(tmp_path):
    """Put there by somebody who shares the folder: to a file that would be written, to tars that would be evicted."""
    outside, folder = tmp_path / "outside", tmp_path / "cache"
    outside.mkdir()
    for one in ("train-000001.tar", "train-000007.tar"):
        (outside / one).write_bytes(bytes(100))
    (folder / DIGEST).mkdir(parents=True)
    (folder / OTHER).symlink_to(outside)
    (folder / f"{name(1)}.tmp").symlink_to(outside / "train-000001.tar")
    (folder / name(2)).symlink_to(outside / "train-000007.tar")
    with cache_of(folder, 100) as cache:
        assert read(cache, 2) is None and cache.used_bytes() == 0 and put(cache, 1) is Reservation.RESERVED
        assert read(cache, 1) == bytes([1]) * 100
        for use in (lambda: put(cache, 1, digest=OTHER), lambda: cache.remove(name(7, OTHER)),
                    lambda: cache.open(name(7, OTHER), 100), lambda: cache.open(name(7, OTHER), 99)):  # fmt: skip
            with pytest.raises(StreamError, match=f"{OTHER} in it is a link, which is not followed; remove the link"):
                use()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == dict.fromkeys(
        ("train-000001.tar", "train-000007.tar"), bytes(100)
    )


def test_a_link_that_appears_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    """After remains were cleared, before the file is made."""
    (tmp_path / "victim").write_text("precious")
    with cache_of(tmp_path) as cache:
        monkeypatch.setattr(
            cache, "_add_writing", lambda name: (tmp_path / f"{name}.tmp").symlink_to(tmp_path / "victim")
        )
        (tmp_path / DIGEST).mkdir()
        with pytest.raises(StreamError, match=r"cache folder .*File exists"):
            cache.reserve(name(1), 100, urgent=False)
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "alexstream.lock").symlink_to("victim")
    with pytest.raises(StreamError, match="remove the link"):
        ShardCache(tmp_path, 100)
    assert not (tmp_path / "victim").exists()


def test_a_folder_above_a_smaller_limit_is_brought_under_it(tmp_path):
    with cache_of(tmp_path) as cache:
        for number in (1, 2, 3):
            put(cache, number)
    with cache_of(tmp_path, 250) as cache:
        assert held(tmp_path) == [2, 3] and cache.used_bytes() == 200


def test_shards_of_other_data_sets_count_and_go(tmp_path):
    with cache_of(tmp_path) as cache:
        put(cache, 1, digest=OTHER)
        for number in (2, 3, 4):
            put(cache, number)
        assert held(tmp_path) == [2, 3, 4] and not (tmp_path / name(1, OTHER)).exists()


@pytest.mark.parametrize("size", [0, 99, 101])
def test_a_shard_of_another_size_is_none(tmp_path, size):
    with cache_of(tmp_path) as cache:
        put(cache, 1)
        (tmp_path / name(1)).write_bytes(bytes(size))
        assert read(cache, 1) is None and held(tmp_path) == []
        assert put(cache, 1) is Reservation.RESERVED


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StreamError, match=r"cache folder .*file: .*or another folder with `cache`"):
        ShardCache(tmp_path / "file", 300)


def test_a_lease_ends_with_its_cache(tmp_path):
    with cache_of(tmp_path):
        assert len(list(tmp_path.glob("*.lease"))) == 1
    assert list(tmp_path.glob("*.lease")) == []
    assert Claims() == Claims(use=(), soon=(), writing=())


# --- what is asked of a store, and how long -------------------------------------------------------------------------


def test_pauses_double_and_add_up():
    """Four attempts of 30 s; pauses of 0, 0.5, 1 and 2 s."""
    retry_policy = RetryPolicy(attempts=4, timeout_s=30.0, backoff_s=0.5)
    assert [retry_policy.pause_s(i) for i in range(4)] == [0.0, 0.5, 1.0, 2.0]
    assert retry_policy.stall_s == 4 * 30 + 3.5


@pytest.mark.parametrize(
    "wrong", [{"chunk_bytes": 0}, {"attempts": 0}, {"timeout_s": 0.0}, {"limit_s": 0.0}, {"backoff_s": -0.1}]
)
def test_patience_that_never_asks_or_never_ends_is_refused(wrong):
    with pytest.raises(ValueError, match="expected positive numbers"):
        RetryPolicy(**wrong)
    assert RetryPolicy(backoff_s=0.0, attempts=1, chunk_bytes=1).stall_s == 30.0


def test_all_of_a_piece_is_written_if_the_disk_takes_a_part_at_a_time(tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:3], offset))
    with (tmp_path / "x").open("w+b") as file:
        write_at(file.fileno(), b"0123456789", 5)
        assert file.read() == bytes(5) + b"0123456789"


# --- which shards the steps to come use ------------------------------------------------------------------------------


def test_the_lookahead_ends_where_it_may_look_no_further():
    steps = [np.array([2, 1, 2]), np.array([1, 3]), np.array([2]), np.array([5])]
    lookahead = Lookahead(iter(steps), 2)
    assert lookahead.may_look and lookahead.next_use(1) is None
    assert lookahead.see(lookahead.look()) == [1, 2] and lookahead.see(lookahead.look()) == [3]
    assert not lookahead.may_look, "two beyond the one that was taken last"
    assert [lookahead.next_use(shard) for shard in (1, 2, 3, 5)] == [1, 1, 2, None]
    lookahead.take()
    assert [lookahead.next_use(shard) for shard in (1, 2, 3)] == [2, None, 2] and lookahead.may_look
    assert lookahead.see(lookahead.look()) == [2] and lookahead.next_use(2) == 3
    lookahead.take()
    assert lookahead.next_use(1) is None and lookahead.next_use(2) == 3
    assert lookahead.see(lookahead.look()) == [5] and lookahead.see(lookahead.look()) == []
    assert not lookahead.may_look, "the steps have ended"
