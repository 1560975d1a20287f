"""The loader with epochs: a length, whole batches, and a state that is one number."""

import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.stream import ShardedData
from tests.support import ROOT
from tests.support.comparisons import are_equal


@pytest.fixture
def data(sample_shards):
    return ShardedData(train=sample_shards / "train", batch_size=16, seed=5)  # 67 samples


def test_epochs_are_consecutive_whole_batches_of_the_stream(data):
    stream = [(b.images_NCHW, b.labels_N) for b in islice(data.training(), 8)]
    loader = data.loader()
    epochs = [list(loader), list(loader)]
    assert len(loader) == 4 and [len(e) for e in epochs] == [4, 4] and loader.epoch == 2
    assert are_equal(epochs[0] + epochs[1], stream)


def test_a_loop_that_stops_in_the_middle_goes_on_there(data):
    loader = data.loader()
    first = list(islice(loader, 1))
    assert are_equal(first + list(loader), list(data.loader(epoch=0)))


def test_complete_epochs_are_counted(data):
    """Four steps an epoch: 0 to 3 steps are in the first one."""
    loader, counted = data.loader(), []
    for _ in range(2):
        for _ in loader:
            counted.append(loader.epoch)
    assert counted == [0, 0, 0, 1, 1, 1, 1, 2]


def test_a_state_is_loaded_into_a_loader_that_has_begun(data):
    early, loader = data.loader(), data.loader()
    list(islice(early, 1))
    state, expected = early.state_dict(), list(early)
    list(islice(loader, 3))
    loader.load_state_dict(state)
    assert are_equal(list(loader), expected)


def test_a_loaded_state_continues_on_other_replicas(data):
    loader = data.loader()
    list(islice(loader, 3))
    state = loader.state_dict()
    rest = list(loader) + list(loader)
    halves = []
    for index in range(2):
        other = replace(data, num_threads=2).loader(BatchSlice(index=index, count=2))
        other.load_state_dict(state)
        halves.append(list(other) + list(other))
    joined = [tuple(torch.cat(t) for t in zip(*pair, strict=True)) for pair in zip(*halves, strict=True)]
    assert are_equal(joined, rest)


def test_a_state_survives_torch_save_without_pickled_code(data, tmp_path):
    loader = data.loader()
    list(islice(loader, 2))
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    other = data.loader()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert are_equal(list(loader), list(other))


@pytest.mark.parametrize("change", [{"seed": 6}, {"batch_size": 8}, {"augmentation": "none"}, {"order": "grouped"}])
def test_a_state_of_another_stream_is_refused(data, change):
    with pytest.raises(StreamError, match=next(iter(change))):
        replace(data, **change).loader().load_state_dict(data.loader().state_dict())


def test_a_set_smaller_than_a_batch_is_refused(data):
    with pytest.raises(StreamError, match="67 samples, fewer than one batch of 128"):
        replace(data, batch_size=128).loader()


def test_the_loop_that_everybody_writes_sees_every_epoch_once(data):
    stream = [(b.images_NCHW, b.labels_N) for b in islice(data.training(), 12)]
    seen = []
    for _ in range(3):
        for images, labels in data.loader():
            seen.append((images, labels))
    assert are_equal(seen, stream)
    assert are_equal(list(data.loader(epoch=1)), stream[4:8]) and are_equal(list(data.loader()), stream[8:])
    halves = [list(data.loader(BatchSlice(index=i, count=2))) for i in range(2)]  # other slices count for themselves
    assert are_equal(
        [tuple(torch.cat(t) for t in zip(*pair, strict=True)) for pair in zip(*halves, strict=True)], stream[:4]
    )


def test_options_that_were_copied_or_sent_begin_anew(data):
    first = list(islice(data.loader(), 1))
    for other in (replace(data), pickle.loads(pickle.dumps(data))):
        assert are_equal(list(islice(other.loader(), 1)), first)


def test_a_dataloader_is_told_that_it_is_not_needed(data):
    with pytest.raises(StreamError, match="this is the loader itself: iterate over it, and leave DataLoader out"):
        list(torch.utils.data.DataLoader(data.loader(), batch_size=None))


def run_program(text, *words):
    """A program of a user, in a process that has read no batches yet."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_workers_of_a_dataloader_share_the_batches_of_every_epoch(sample_shards):
    done = run_program(
        """
        import sys, torch, alexstream

        class Images(torch.utils.data.IterableDataset):
            def __init__(self, data):
                self.data = data
            def __iter__(self):
                return iter(self.data.loader())

        data = alexstream.ShardedData(sys.argv[1], batch_size=16, seed=5)
        loader = torch.utils.data.DataLoader(Images(data), batch_size=None, num_workers=3)
        seen = [[y.tolist() for _, y in loader] for _ in range(2)]
        other = alexstream.ShardedData(sys.argv[1], batch_size=16, seed=5)
        assert seen == [[y.tolist() for _, y in other.loader()] for _ in range(2)], seen
        """,
        sample_shards / "train",
    )
    assert done.returncode == 0, done.stderr


def test_a_loader_that_was_in_use_when_its_process_was_forked_says_so(sample_shards):
    done = run_program(
        """
        import os, sys, alexstream

        data = alexstream.ShardedData(sys.argv[1], batch_size=16)
        loader = data.loader()
        next(iter(loader))
        for make in (lambda: loader, lambda: data.loader(epoch=0)):
            pid = os.fork()
            if pid == 0:
                try:
                    next(iter(make()))
                except alexstream.StreamError as error:
                    print(error, flush=True)
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        os._exit(0)
        """,
        sample_shards / "train",
    )
    assert done.returncode == 0, done.stderr
    assert "this loader was in use when the process was forked" in done.stdout
    assert "this process was forked from one that has read batches" in done.stdout


def test_a_loader_that_is_dropped_ends_its_threads_without_the_garbage_collector(data):
    gc.collect()
    gc.disable()
    try:
        before = threading.active_count()
        loader = data.loader()
        next(iter(loader))
        gone = weakref.ref(loader)
        assert threading.active_count() > before
        del loader
        assert gone() is None
        deadline = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("batch_size", "16"), ("batch_size", 16.0), ("num_threads", 0), ("prefetch", True)],
)
def test_numbers_that_are_none_are_refused_by_name(sample_shards, name, value):
    with pytest.raises(StreamError, match=rf"^{name}: received {value!r}, expected a whole number of at least 1$"):
        ShardedData(sample_shards, **{name: value})


def test_folders_are_given_as_people_write_them(sample_shards, monkeypatch):
    monkeypatch.setenv("HOME", str(sample_shards.parent))
    wanted = ShardedData(train=sample_shards / "train", val=sample_shards / "val").facts()
    name = sample_shards.name
    for data in (
        ShardedData(str(sample_shards)),
        ShardedData(f"~/{name}/"),
        ShardedData(Path("~") / name / "train", f"~/{name}/val"),
        ShardedData(sample_shards, batch_size=128),
    ):
        assert data.facts() == wanted
    assert ShardedData(sample_shards / "train").facts().num_val == 0, "what is not asked for is not taken"


def test_data_that_are_dropped_are_freed_without_the_garbage_collector(sample_shards):
    gc.collect()
    gc.disable()
    try:
        data = ShardedData(sample_shards, batch_size=16)
        data.facts()
        gone = weakref.ref(data.open().train.shards)
        del data
        assert gone() is None
    finally:
        gc.enable()
