"""What DALI calls private and we use: that it is there, what happens when it has moved, and the way without DALI."""

import gc
import threading
from dataclasses import replace
from itertools import islice

import numba
import numpy as np
import pytest
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.numba import NumbaFunction

from alexstream.pipeline import batch_source
from alexstream.pipeline.decode import dali, fused
from alexstream.pipeline.decode.dali import find_seam_fault
from alexstream.pipeline.stream import ShardedData
from tests.support.comparisons import are_equal

WORDS = 4
compiled = pytest.mark.skipif(fused.find_operator_address() is None, reason="fused.c was not compiled here")


@pytest.fixture
def anew():
    """``find_seam_fault`` looks again, now and after the test."""
    find_seam_fault.cache_clear()
    yield
    find_seam_fault.cache_clear()


@pytest.fixture
def data(sample_shards):
    return ShardedData(train=sample_shards / "train", val=sample_shards / "val", batch_size=16, seed=5, num_threads=2)


def test_this_dali_has_what_we_use_of_its_private_parts(anew):
    assert find_seam_fault() == ""


def test_dali_calls_a_function_by_its_address():
    u64, i32 = numba.types.uint64, numba.types.int32
    pointer = numba.types.CPointer(numba.types.CPointer(numba.types.int64))

    @numba.cfunc(numba.types.void(pointer, u64, u64, i32, pointer, u64, u64, i32))
    def reversed_and_doubled(outputs, _1, _2, _3, inputs, _4, _5, _6):
        for i in range(WORDS):
            outputs[0][i] = 2 * inputs[0][WORDS - 1 - i]

    rows = np.arange(3 * WORDS).reshape(3, WORDS)
    pipe = Pipeline(batch_size=3, num_threads=2, device_id=None)
    with pipe:
        row = fn.external_source(lambda: rows, batch=True, dtype=types.INT64, ndim=1)
        pipe.set_outputs(dali._call_compiled(reversed_and_doubled.address, row))
    pipe.build()
    (answers,) = pipe.run()
    assert np.array_equal(np.asarray(answers.as_array()), 2 * rows[:, ::-1])


def moved(name):
    """``NumbaFunction`` as if a newer DALI called ``name`` something else."""
    methods = {key: value for key, value in vars(NumbaFunction).items() if key not in (name, "__dict__", "__weakref__")}
    return type("NumbaFunction", (), methods)


@pytest.mark.parametrize("name", ["_get_run_fn_cpu", "__call__", "__init__"])
def test_a_dali_that_has_moved_it_is_told_from_one_that_has_not(anew, monkeypatch, name):
    monkeypatch.setattr("nvidia.dali.plugin.numba.NumbaFunction", moved(name))
    assert find_seam_fault() == f"NumbaFunction has no method {name}"


def test_a_dali_that_no_longer_calls_it_is_told_from_one_that_does(anew, monkeypatch):
    class Newer(NumbaFunction):
        def __init__(self, run_fn):
            self.run_fn = run_fn

        def _get_run_fn_cpu(self):
            pass

        def __call__(self, *_):
            return self.run_fn

    monkeypatch.setattr("nvidia.dali.plugin.numba.NumbaFunction", Newer)
    assert find_seam_fault() == "NumbaFunction.__init__ does not use _get_run_fn_cpu"


def take(batches, count):
    return [(b.images_NCHW.clone(), b.labels_N.clone(), b.ids_N.clone()) for b in islice(batches, count)]


@compiled
def test_where_dali_has_moved_it_the_same_batches_come_without_it(data, monkeypatch, anew):
    expected = take(data.training(), 9), take(data.validation(), 9)
    monkeypatch.setattr("nvidia.dali.plugin.numba.NumbaFunction", moved("_get_run_fn_cpu"))
    find_seam_fault.cache_clear()
    monkeypatch.setattr(batch_source, "run_fused_graph", lambda *_: pytest.fail("DALI was asked to run the operator"))
    assert are_equal(take(data.training(), 9), expected[0]) and are_equal(take(data.validation(), 9), expected[1])
    assert "in one compiled operator without DALI, 2 threads" in data.decode_path()


@compiled
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize(("threads", "prefetch", "size"), [(1, 1, 16), (3, 2, 7), (2, 5, 67)])
def test_our_own_threads_give_the_bits_of_dalis(data, raw_shards, encoding, threads, prefetch, size):
    train = raw_shards if encoding == "raw" else data.train
    data = replace(data, train=train, num_threads=threads, prefetch=prefetch, batch_size=size)
    assert are_equal(take(data.training(2), 8), take(replace(data, decoder="threads").training(2), 8))


@compiled
def test_our_own_threads_give_every_batch_of_a_split_that_ends(data):
    few = replace(data, batch_size=2)
    whole = take(few.validation(), 99)
    assert len(whole) > few.prefetch + 3
    assert are_equal(whole, take(replace(few, decoder="threads").validation(), 99))


@compiled
def test_a_stream_that_is_closed_early_leaves_no_threads(data):
    others = {*threading.enumerate()}  # of tests before this one

    def running():
        mine = [one for one in {*threading.enumerate()} - others if one.name.startswith("alexstream")]
        return [one.name for one in mine if not (hasattr(one, "finished") and one.finished.is_set())]

    for count in (0, 1, 5):
        batches = replace(data, decoder="threads", prefetch=4).training()
        take(batches, count)
        assert not count or running()
        batches.close()
        assert running() == []
    batches = replace(data, decoder="threads").training()
    next(batches)
    del batches
    gc.collect()
    assert running() == []
