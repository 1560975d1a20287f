"""The cost of data and of augmentation: right numbers, and the right verdict when something is slowed on purpose.

What is slowed is the real thing, at its edge: the calls by which the stream reads and decodes.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from alexstream.core.measure import Spread
from alexstream.core.text import format_duration
from alexstream.pipeline.batch import Batch, DataFacts, StageTimes
from alexstream.pipeline.decode import fused
from alexstream.trainer.bench.overlap import (
    FixedRateConsumer,
    OverlapOptions,
    OverlapResult,
    RateSweep,
    WaitTimes,
    choose_size,
    measure_consumer,
    measure_rates,
)
from alexstream.trainer.distributed.launch import Rank
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.verdict import StepTimes, Verdict
from tests.support import ROOT, forked_commands

RANK = Rank(columns=Columns(), device=torch.device("cpu"))
DECODE = StageTimes(read_s=0.1, decode_s=0.5, finish_s=0.2)

SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int wanted(const char *name) { return atoi(getenv(name) ? getenv(name) : "0"); }

ssize_t pread(int fd, void *to, size_t size, off_t offset) {
    usleep(wanted("SLOW_READ_US"));
    return ((ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread"))(fd, to, size, offset);
}

ssize_t pread64(int fd, void *to, size_t size, off_t offset) { return pread(fd, to, size, offset); }

int jpeg_start_decompress(void *jpeg) {
    usleep(wanted("SLOW_DECODE_US"));
    void *library = dlopen("libjpeg.so.62", RTLD_LAZY | RTLD_NOLOAD); /* not among the libraries that come next */
    if (!library) library = dlopen("libjpeg.so.8", RTLD_LAZY | RTLD_NOLOAD);
    return ((int (*)(void *))dlsym(library, "jpeg_start_decompress"))(jpeg);
}
"""


@dataclass(frozen=True)
class Drawn:
    """Batches of four, made in no time; each says what its stages took."""

    def facts(self):
        return DataFacts(
            num_train=8, num_val=0, classes=("a", "b"), train_digest="d", val_digest="", augmentation="paper",
            seed=1, batch_size=4,
        )  # fmt: skip

    def training(self, start_step, part, exchange, device, augmentation=None):
        batch = Batch(
            images_NCHW=torch.zeros(4, 3, 224, 224),
            labels_N=torch.zeros(4, dtype=torch.int64),
            ids_N=torch.zeros(4, dtype=torch.int64),
            stages=DECODE,
        )
        while True:
            yield batch


def test_every_kind_gets_its_rounds_and_only_live_steps_are_looked_at():
    taken, ticks = [], []
    options = OverlapOptions(steps=3, rounds=2)
    found = measure_consumer(RANK, Drawn(), taken.append, options, lambda: ticks.append(1))
    assert [len(s) for s in (found.live_s, found.cached_s, found.plain_s)] == [2, 2, 2]
    assert len(found.live.waits_s) == 6 and len(ticks) == 6
    assert found.stages_s["decode"] == pytest.approx(0.5) and found.stages_s["exchange"] == 0.0
    assert found.cost_of_data.n == 2


@pytest.mark.parametrize(
    ("given", "step_s", "expected", "minutes"),
    [
        ({}, 0.2, (7, 20), 7 * 25 * 3 * 0.2 / 60),
        ({}, 1.0, (3, 5), 3 * 10 * 3 * 1.0 / 60),
        ({}, 0.5, (3, 10), 3 * 15 * 3 * 0.5 / 60),
        ({}, 30.0, (3, 3), 3 * 8 * 3 * 30 / 60),  # too slow for two minutes: the least that has an interval
        ({"rounds": 7, "steps": 20}, 1.9, (7, 20), 7 * 25 * 3 * 1.9 / 60),  # what is asked for is done
        ({"rounds": 7}, 0.9, (7, 3), 7 * 8 * 3 * 0.9 / 60),
        ({"steps": 50}, 0.5, (3, 50), 3 * 55 * 3 * 0.5 / 60),
        ({"shares": (0.5, 1.0)}, 0.1, (7, 20), 7 * 25 * 4 * 0.1 / 60),  # at half the rate a step takes twice as long
    ],
)
def test_a_measurement_fits_into_two_minutes_and_says_its_plan(given, step_s, expected, minutes):
    options, plan = choose_size(OverlapOptions(**given), step_s)
    assert (options.rounds, options.steps) == expected
    rounds, steps = expected
    assert f"3 {'rates' if given.get('shares') else 'kinds'} x {rounds} rounds x {steps + 5} steps" in plan
    assert plan.split("about ")[1].split(";")[0] == format_duration(60 * minutes)
    assert minutes <= 2 or step_s == 30.0 or given


def test_the_plan_is_said_before_anything_is_measured(sample_shards):
    words = ["bench", "overlap", sample_shards, "--batch-size", 8, "--consumer", 200, "--steps", 2, "--rounds", 1]
    done = forked_commands.run(words, forked_ranks=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("3 kinds x 1 round x 7 steps, 5 of them to warm up; about ")
    assert forked_commands.run([*words, "--quiet"], forked_ranks=True).stderr == ""


def test_costs_are_the_ratios_of_the_rounds():
    live = WaitTimes(waits_s=[0.1, 0.3], elapsed_s=2.0, stages=DECODE + DECODE)
    found = OverlapResult(batch_size=64, live_s=[1.5, 3.0], cached_s=[1.0, 2.0], plain_s=[1.5, 3.0], live=live)
    assert found.cost_of_data.median == 1.5 and found.cost_of_augmentation.median == 1.0
    assert found.live.wait_share == pytest.approx(0.2) and found.stages_s["compute"] == pytest.approx(0.8)
    assert found.verdict() == Verdict(data_bound=True, cost=1.5, slowest="decode")
    assert "DATA-BOUND" in found.to_lines()[-1] and "decode" in found.to_lines()[-1]
    json.dumps(found.to_dict())


def test_a_cost_within_the_noise_is_no_verdict_against_the_data():
    live = WaitTimes(waits_s=[0.0], elapsed_s=1.0, stages=DECODE)
    found = OverlapResult(batch_size=64, live_s=[1.3, 0.9, 1.2], cached_s=[1.0, 1.0, 1.0], plain_s=[1.0] * 3, live=live)
    assert found.cost_of_data.low < 1.0 < found.cost_of_data.median and not found.verdict().data_bound


def test_a_consumer_of_one_rate_waits_for_nothing_that_is_there():
    options = OverlapOptions(steps=4, rounds=2)
    found = measure_consumer(RANK, Drawn(), FixedRateConsumer(0.01), options, lambda: None)
    assert all(s >= 0.01 for s in found.live_s) and not found.verdict().data_bound
    swept = measure_rates(RANK, Drawn(), [0.5, 1.0], options, lambda: None)
    assert list(swept.wait_shares) == [0.5, 1.0] and all(len(w) == 2 for w in swept.wait_shares.values())


def test_the_fastest_rate_is_the_last_that_waits_a_hundredth_at_most():
    peak = Spread.from_values([1000.0])
    swept = RateSweep(peak=peak, wait_shares={0.5: [0.0, 0.001], 0.9: [0.009, 0.02, 0.005], 1.0: [0.1, 0.2]})
    assert swept.fastest_share == 0.9 and "900 images/s" in swept.to_lines()[-1]
    assert RateSweep(peak=peak, wait_shares={0.5: [0.3]}).fastest_share is None


def test_a_run_is_judged_after_its_first_steps():
    balance = StepTimes()
    for _ in range(5):
        balance.add(elapsed_s=10.0, wait_s=9.0, busy_s=0.0, stages=DECODE)
    assert balance.verdict() is None
    for _ in range(10):
        balance.add(elapsed_s=1.0, wait_s=0.01, busy_s=0.0, stages=DECODE)
    assert balance.verdict().to_text().startswith("COMPUTE-BOUND")
    for _ in range(10):
        balance.add(elapsed_s=2.0, wait_s=1.0, busy_s=0.0, stages=StageTimes(read_s=0.9))
    assert balance.verdict().to_text().startswith("DATA-BOUND") and balance.verdict().slowest == "read"


def test_cores_that_network_and_stream_share_are_named():
    balance = StepTimes()
    for _ in range(15):
        balance.add(elapsed_s=1.0, wait_s=0.2, busy_s=0.95, stages=DECODE)
    assert "cores that are 95 % busy" in balance.verdict().to_text()
    for _ in range(10):
        balance.add(elapsed_s=1.0, wait_s=0.2, busy_s=0.1, stages=DECODE)
    assert "busy" not in balance.verdict().to_text()


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A library that slows reading and decoding of the process that loads it."""
    compiler = shutil.which("cc")
    if compiler is None or fused.find_operator_address() is None:
        pytest.skip("no C compiler here, or fused.c was not compiled: nothing to slow")
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.c").write_text(SLOW)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "slow.so", folder / "slow.c", "-ldl"], check=True)
    return folder / "slow.so"


def measured(shards, *words, steps=3, rounds=2, **environment):
    command = ["bench", "overlap", "--data", shards, "--batch-size", "8", *words]
    command += ["--steps", steps, "--rounds", rounds, "--json", "--quiet"]
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = forked_commands.run(command, environment, forked_ranks=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["measured"]


@pytest.mark.parametrize(
    ("slowed", "stage"), [({"SLOW_READ_US": 20_000}, "read"), ({"SLOW_DECODE_US": 20_000}, "decode")]
)
def test_what_is_slow_is_named(sample_shards, slow, slowed, stage):
    found = measured(sample_shards, "--consumer", "200", LD_PRELOAD=slow, **slowed)
    assert found["verdict"]["data_bound"] and found["verdict"]["slowest"] == stage
    assert found["cost_of_data"]["median"] > 1.5
    assert found["verdict"]["line"].startswith("DATA-BOUND") and stage in found["verdict"]["line"]


def test_slow_reading_is_named_without_the_compiled_operator_too(sample_shards, slow):
    found = measured(sample_shards, "--consumer", "200", "--decoder", "dali", LD_PRELOAD=slow, SLOW_READ_US=20_000)
    assert found["verdict"]["data_bound"] and found["verdict"]["slowest"] == "read"


def test_a_slow_consumer_is_what_a_fast_stream_waits_for(sample_shards):
    found = measured(sample_shards, "--consumer", "40", steps=2)
    assert not found["verdict"]["data_bound"] and found["verdict"]["line"].startswith("COMPUTE-BOUND")


@pytest.mark.parametrize("devices", [1, 2])
def test_a_network_on_one_device_or_two_is_measured(sample_shards, devices):
    found = measured(sample_shards, "--devices", devices, "--device", "cpu", "--batch-size", 2, steps=1, rounds=2)
    assert {name: len(seconds) for name, seconds in found["step_s"].items()} == {"live": 2, "cached": 2, "plain": 2}
    assert found["stages_s"]["compute"] > found["stages_s"]["decode"] > 0
    assert (found["stages_s"]["exchange"] > 0) == (devices == 2)


def test_a_sweep_says_up_to_which_rate_the_stream_keeps_up(sample_shards):
    found = measured(sample_shards, "--consumer", "sweep", rounds=1)
    assert [w["share_of_peak"] for w in found["waits"]] == [0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0]


@pytest.mark.parametrize("rate", ["fast", "0", "-5", "90%%"])
def test_a_consumer_that_is_no_rate_is_refused(sample_shards, rate):
    command = [sys.executable, ROOT / "cli.py", "bench", "overlap", "--data", sample_shards, "--consumer", rate]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "is no rate; give images per second" in done.stderr
