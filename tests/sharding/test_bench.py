"""Timing conversions: every image is counted, the choice is fair and always the same, nothing stays."""

from itertools import count

import pytest

from alexstream.core.errors import OutputError, SourceError
from alexstream.sharding.bench import measure_conversion, take_first_images
from alexstream.sharding.split_plans import ShardRequest, plan_splits


def ticking():
    """A clock that goes on by a second whenever it is read."""
    return count().__next__


def keys(plan):
    return set(plan.listing.table.column("key").to_pylist())


@pytest.fixture(scope="module")
def plan(sample_images, tmp_path_factory):
    return next(plan_splits(ShardRequest(source=sample_images / "train", folder=tmp_path_factory.mktemp("out"))))


def test_rates_are_what_was_converted_by_the_second(sample_images, tmp_path):
    """71 files, of which one is excluded by its name and three are no usable images."""
    found = measure_conversion(
        ShardRequest(source=sample_images, folder=tmp_path), rounds=2, quiet=True, clock=ticking()
    )
    files = [path for path in (sample_images / "train").rglob("*") if path.is_file() and path.name != ".DS_Store"]
    assert (found.num_listed, found.num_images, found.num_written) == (70, 70, 67)
    assert found.source_bytes == sum(path.stat().st_size for path in files)
    assert found.seconds == (1, 1) and found.per_second(found.num_images) == [70, 70]
    assert found.to_dict()["source_mb_per_s"] == [found.source_bytes / 1e6] * 2
    assert min(found.peak_mib) > 0 and "70 of 70, of which 67 were written" in found.table()
    assert not list(tmp_path.iterdir())


def test_a_limit_takes_the_same_images_each_time_and_a_larger_one_adds_to_them(plan):
    some, again, more = (take_first_images(plan, limit) for limit in (20, 20, 40))
    assert some.listing.digest() == again.listing.digest() and len(some.listing) == 20
    assert keys(some) < keys(more) and len(more.listing) == 40


def test_a_limit_takes_from_all_classes(plan):
    assert min(take_first_images(plan, 48).listing.counts_by_class().values()) >= 2


def test_only_so_many_images_are_converted(sample_images, tmp_path):
    request = ShardRequest(source=sample_images / "val", folder=tmp_path)
    found = measure_conversion(request, limit=5, rounds=1, quiet=True, clock=ticking())
    assert (found.num_listed, found.num_images, found.num_written) == (16, 5, 5)


def test_a_folder_that_is_not_there_and_a_source_that_is_not_there(sample_images, tmp_path):
    with pytest.raises(OutputError, match="not a writable folder; give one that exists"):
        measure_conversion(ShardRequest(source=sample_images, folder=tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="does not exist"):
        measure_conversion(ShardRequest(source=tmp_path / "nowhere", folder=tmp_path))
    assert not list(tmp_path.iterdir())
