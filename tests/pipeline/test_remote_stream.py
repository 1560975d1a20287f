"""The stream from an object store: the batches of the local one, through a cache that stays within its limit."""

import multiprocessing
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import pytest
import torch

from alexstream.core.storage import parse_location
from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.support.comparisons import are_equal

NUM_SHARDS = 27


@pytest.fixture(scope="module")
def local(sample_images, tmp_path_factory):
    """67 samples in many shards."""
    folder = tmp_path_factory.mktemp("local") / "train"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexstream.sharding.split_plans.choose_num_shards", lambda *_: NUM_SHARDS)
        shard_split(ShardRequest(source=sample_images / "train", folder=folder, num_workers=1), quiet=True)
    assert len(load_manifest(folder).shards) == NUM_SHARDS
    return folder


@pytest.fixture
def remote(local, s3_folder):
    """The same in a bucket, in a folder made in a web console, whose name holds what patterns are made of."""
    place = parse_location(f"{s3_folder}/run[1]/train")
    place.fs.pipe_file(f"{place.path}/", b"")
    for path in local.iterdir():
        place.fs.put_file(str(path), f"{place.path}/{path.name}")
    return place


def batches(data, count, **options):
    return [(b.ids_N.clone(), b.images_NCHW.clone()) for b in islice(data.training(**options), count)]


def cached_bytes(cache):
    total = 0
    for path in cache.rglob("*.tar*"):
        with suppress(FileNotFoundError):  # the stream goes on, and may just have removed it
            total += path.stat().st_blocks * 512
    return total


@pytest.mark.parametrize("decoder", ["auto", "dali", "threads"])
def test_a_bucket_gives_the_batches_of_the_folder(local, remote, tmp_path, decoder):
    data = ShardedData(train=local, batch_size=16, decoder=decoder)
    there = replace(data, train=str(remote), val=str(remote), cache=tmp_path)
    assert there.facts().train_digest == data.facts().train_digest
    assert are_equal(batches(data, 6), batches(there, 6))
    assert are_equal(batches(data, 3, start_step=7), batches(there, 3, start_step=7))
    assert sum(int((b.ids_N >= 0).sum()) for b in there.validation()) == 67


def test_the_grouped_order_streams_through_a_cache_that_is_smaller_than_the_data(local, remote, tmp_path):
    sizes = [record.num_bytes for record in load_manifest(local).shards]
    limit = sum(sizes) * 3 // 4
    data = ShardedData(train=local, batch_size=4, order="grouped", prefetch=1)
    there = replace(data, train=str(remote), cache=tmp_path, cache_bytes=limit)
    stream, expected = there.training(), data.training()
    for _ in range(40):  # more than two epochs
        batch, wanted = next(stream), next(expected)
        assert torch.equal(batch.ids_N, wanted.ids_N) and torch.equal(batch.images_NCHW, wanted.images_NCHW)
        assert cached_bytes(tmp_path) <= limit + 4096 * NUM_SHARDS
    stream.close()


def test_a_global_order_that_the_cache_cannot_hold_is_refused_before_anything_is_fetched(remote, tmp_path):
    data = ShardedData(train=str(remote), cache=tmp_path / "cache", cache_bytes=100_000)
    with pytest.raises(StreamError, match=r"`cache_bytes` \d+ or more, or `order` grouped"):
        data.training()
    assert not (tmp_path / "cache").exists()


def test_a_missing_or_shorter_object_is_an_error_at_opening(remote, tmp_path):
    data = ShardedData(train=str(remote), cache=tmp_path)
    remote.fs.pipe_file(f"{remote.path}/train-000003.tar", b"short")
    with pytest.raises(StreamError, match=r"train-000003\.tar has 5 bytes"):
        data.facts()
    remote.fs.rm_file(f"{remote.path}/train-000003.tar")
    with pytest.raises(StreamError, match=r"train-000003\.tar is missing"):
        data.facts()


def test_an_object_of_other_bytes_is_named_when_its_turn_comes(local, remote, tmp_path):
    tar = local / "train-000003.tar"
    swapped = bytearray(tar.read_bytes())
    swapped[1000] ^= 1
    remote.fs.pipe_file(f"{remote.path}/train-000003.tar", bytes(swapped))
    with pytest.raises(StreamError, match=r"train-000003"):
        batches(ShardedData(train=str(remote), batch_size=16, cache=tmp_path), 6)


def test_two_ranks_share_a_cache_and_halve_the_batches(local, remote, tmp_path):
    data = ShardedData(train=str(remote), batch_size=16, cache=tmp_path)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        halves = pool.starmap(_ids, [(data, BatchSlice(index=i, count=2)) for i in range(2)])
    whole = [ids for ids, _ in batches(ShardedData(train=local, batch_size=16), 4)]
    assert [a + b for a, b in zip(*halves, strict=True)] == [ids.tolist() for ids in whole]


def _ids(data, part):
    return [b.ids_N.tolist() for b in islice(data.training(part=part), 4)]
