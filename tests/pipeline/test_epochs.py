"""The loader with epochs: a length, whole batches, and a state that is one number."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from pipeline.batch import Part
from pipeline.errors import StreamError
from pipeline.loader import ShardedData


@pytest.fixture
def data(sample_shards):
    return ShardedData(train=sample_shards / "train", batch_size=16, seed=5)  # 67 samples


def same(first, second):
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_epochs_are_consecutive_whole_batches_of_the_stream(data):
    stream = [(b.images_NCHW, b.labels_N) for b in islice(data.training(), 8)]
    loader = data.loader()
    epochs = [list(loader), list(loader)]
    assert len(loader) == 4 and [len(e) for e in epochs] == [4, 4] and loader.epoch == 2
    assert same(epochs[0] + epochs[1], stream)


def test_a_loop_that_stops_in_the_middle_goes_on_there(data):
    loader = data.loader()
    first = list(islice(loader, 1))
    assert same(first + list(loader), list(data.loader()))


def test_a_loaded_state_continues_on_other_replicas(data):
    loader = data.loader()
    list(islice(loader, 3))
    state = loader.state_dict()
    rest = list(loader) + list(loader)
    halves = []
    for index in range(2):
        other = replace(data, num_threads=2).loader(Part(index=index, count=2))
        other.load_state_dict(state)
        halves.append(list(other) + list(other))
    joined = [tuple(torch.cat(t) for t in zip(*pair, strict=True)) for pair in zip(*halves, strict=True)]
    assert same(joined, rest)


def test_a_state_survives_torch_save_without_pickled_code(data, tmp_path):
    loader = data.loader()
    list(islice(loader, 2))
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    other = data.loader()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(list(loader), list(other))


@pytest.mark.parametrize("change", [{"seed": 6}, {"batch_size": 8}, {"augmentation": "none"}, {"order": "grouped"}])
def test_a_state_of_another_stream_is_refused(data, change):
    with pytest.raises(StreamError, match=next(iter(change))):
        replace(data, **change).loader().load_state_dict(data.loader().state_dict())


def test_a_set_smaller_than_a_batch_is_refused(data):
    with pytest.raises(StreamError, match="67 samples, fewer than one batch of 128"):
        replace(data, batch_size=128).loader()
