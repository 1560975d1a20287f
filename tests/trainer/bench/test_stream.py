"""Timing the stream: on batches made in memory, by a clock that goes on by a second whenever it is read."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest
import torch

from alexstream.pipeline.batch import Batch
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.stream import ShardedData
from alexstream.trainer.bench.stream import IMAGE_MB, WARM_UP_BATCHES, measure_stream
from tests.support.logit_images import FACTS

CPU = torch.device("cpu")


@dataclass(frozen=True)
class CountedData:
    """Batches of four; how many were taken is counted for each augmentation."""

    taken: Counter = field(default_factory=Counter)

    def facts(self):
        return FACTS

    def training(self, start_step, part, exchange, device, augmentation=None):
        while True:
            self.taken[augmentation] += 1
            yield Batch(images_NCHW=torch.zeros(4), labels_N=torch.zeros(4), ids_N=torch.arange(4))

    def decode_path(self, device, exchanged):
        return "made in memory"


def test_rates_are_the_images_of_a_block_by_its_seconds():
    data = CountedData()
    found = measure_stream(data, ["paper", "none"], CPU, steps=10, rounds=3, quiet=True, clock=count().__next__)
    assert found.images_per_s == {"paper": [40.0] * 3, "none": [40.0] * 3}
    assert found.to_dict()["mb_per_s"]["paper"] == pytest.approx([40 * 224 * 224 * 3 * 4 / 1e6] * 3)
    assert found.to_dict()["ratio_to_last"] == {"paper": {"median": 1.0, "low": 1.0, "high": 1.0}}
    assert pytest.approx(0.602112) == IMAGE_MB


def test_each_augmentation_gives_as_many_batches_the_warm_up_included():
    data = CountedData()
    measure_stream(data, ["paper", "none"], CPU, steps=10, rounds=3, quiet=True)
    assert data.taken == {name: (1 + 3) * (WARM_UP_BATCHES + 10) for name in ("paper", "none")}


def test_the_table_has_a_line_an_augmentation_and_the_decode_path():
    found = measure_stream(
        CountedData(), ["paper", "none"], CPU, steps=10, rounds=3, quiet=True, clock=count().__next__
    )
    heads, paper, none, last = found.table().splitlines()
    assert heads.split()[-2:] == ["÷", "none"] and "1.000 (95 %: 1.000-1.000, n = 3)" in paper
    assert none.startswith("none") and last.startswith("made in memory; 3 rounds of 10 batches of 4; peak memory")


def test_shards_are_streamed(sample_shards):
    data = ShardedData(train=sample_shards / "train", batch_size=16)
    found = measure_stream(data, ["paper"], CPU, steps=2, rounds=1, quiet=True)
    assert min(found.images_per_s["paper"]) > 0 and found.to_dict()["ratio_to_last"] == {}


def test_an_augmentation_that_does_not_exist(sample_shards):
    with pytest.raises(StreamError, match="received 'none-at-all', expected one of"):
        measure_stream(ShardedData(train=sample_shards / "train"), ["paper", "none-at-all"], CPU, quiet=True)
