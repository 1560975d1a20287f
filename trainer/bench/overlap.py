"""Measure the cost of data and of augmentation in a training, with three kinds of steps in turn, in the same processes.

``live`` steps read batches from the stream, ``cached`` steps reuse one batch, ``plain`` steps read batches from the
stream without augmentation. live ÷ cached is the cost of data, live ÷ plain the cost of augmentation. The first steps
of a block are not counted, since they use batches that were prefetched during the block before.

The steps are those of the network, or of a simulated accelerator that uses no CPU (``FixedRateConsumer``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from alexstream.core.measure import Ratio, Spread, measure_in_turn
from alexstream.core.parameters import to_display
from alexstream.core.progress import print_progress, progress_bar, tell_activity
from alexstream.core.text import count_of, format_duration
from alexstream.pipeline.batch import Batch, StageTimes, TrainingData
from alexstream.trainer.bench.timing import synchronize
from alexstream.trainer.distributed.launch import Rank, make_run_setting
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.optim.schedule import choose_phase
from alexstream.trainer.recipe import Recipe
from alexstream.trainer.train_step import Learner, Precision
from alexstream.trainer.verdict import WARM_UP_STEPS, RunSetting, Verdict

Consumer = Callable[[Batch], object]
STEP_KINDS = ("live", "cached", "plain")
MAX_WAIT_SHARE = 0.01  # the largest share of the time that a consumer should wait


SIZES = ((7, 20), (5, 10), (3, 10), (3, 5), (3, 3))  # rounds and steps, the first that takes no more than
MAX_DEFAULT_S = 110.0
PROBE_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapOptions:
    """Number of ``rounds``, each with one block of every kind, of ``steps`` counted steps each, and the consumer.

    0 for either: as many, up to 7 rounds of 20 steps, as take less than two minutes.

    The consumer is the network; or, if ``images_per_s`` is not 0, a simulated accelerator of that rate; or, if there
    are ``shares``, one after the other, simulated accelerators with these shares of the stream's peak rate.
    """

    steps: int = 0
    rounds: int = 0
    images_per_s: float = 0.0
    shares: tuple[float, ...] = ()
    recipe: Recipe = Recipe()
    precision: Precision = "fp32"
    compile: bool = False


@dataclass(slots=True, kw_only=True)
class WaitTimes:
    """Times of the counted steps, in seconds: each wait for a batch; in all, elapsed time, CPU time divided by
    threads (``busy_s``), and the stages of the stream.
    """

    waits_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    busy_s: float = 0.0
    stages: StageTimes = StageTimes()

    @property
    def wait_share(self) -> float:
        """The share of the time spent waiting for data."""
        return sum(self.waits_s) / self.elapsed_s

    def percentile(self, percent: float) -> float:
        """Return a percentile of the waits, in seconds."""
        return float(np.percentile(self.waits_s, percent))


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapResult:
    """Result of a measurement: seconds per step of each kind, one value per round; waits and stages of live steps."""

    batch_size: int
    live_s: list[float]
    cached_s: list[float]
    plain_s: list[float]
    live: WaitTimes
    setting: RunSetting = field(default_factory=RunSetting)

    @property
    def cost_of_data(self) -> Ratio:
        """The ratio live ÷ cached."""
        return Ratio.from_rounds(self.live_s, self.cached_s)

    @property
    def cost_of_augmentation(self) -> Ratio:
        """The ratio live ÷ plain."""
        return Ratio.from_rounds(self.live_s, self.plain_s)

    @property
    def stages_s(self) -> dict[str, float]:
        """Seconds per step of each stage of the stream, and of computing, which runs in parallel."""
        count = len(self.live.waits_s)
        seconds = {name.removesuffix("_s"): value / count for name, value in asdict(self.live.stages).items()}
        return {**seconds, "compute": (self.live.elapsed_s - sum(self.live.waits_s)) / count}

    def verdict(self) -> Verdict:
        """Return the verdict by the cost of data; data-bound only if the confidence interval lies above 1."""
        cost = self.cost_of_data
        busy = self.live.busy_s / self.live.elapsed_s
        return Verdict.from_cost(cost.median, self.live.stages, surely=cost.low > 1.0, busy=busy)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: what was measured, and what follows from it."""
        verdict = self.verdict()
        return {
            "cost_of_data": asdict(self.cost_of_data),
            "cost_of_augmentation": asdict(self.cost_of_augmentation),
            "step_s": {"live": self.live_s, "cached": self.cached_s, "plain": self.plain_s},
            "images_per_s": {"live": self.batch_size / Spread.from_values(self.live_s).median},
            "wait": {
                "share": self.live.wait_share,
                "p50_s": self.live.percentile(50),
                "p99_s": self.live.percentile(99),
            },
            "stages_s": self.stages_s,
            "verdict": {**asdict(verdict), "line": verdict.to_text(self.setting)},
        }

    def to_lines(self) -> list[str]:
        """Return lines to print."""
        kinds = {"live": self.live_s, "cached": self.cached_s, "without augmentation": self.plain_s}
        step = {name: 1e3 * Spread.from_values(values).median for name, values in kinds.items()}
        per_step = self.stages_s
        longest = max(per_step.values())
        bars = [
            f"  {name:9}{1e3 * seconds:9.2f} ms {100 * seconds / self._live_step_s:6.1f} %  "
            f"{'█' * max(round(30 * seconds / longest), 1 if seconds > 0 else 0)}"
            for name, seconds in per_step.items()
        ]
        return [
            f"cost of data          live ÷ cached  {self.cost_of_data.to_text()}",
            f"cost of augmentation  on ÷ off       {self.cost_of_augmentation.to_text()}",
            "a step                " + ", ".join(f"{name} {value:.1f} ms" for name, value in step.items())
            + f"; {self.batch_size / self._live_step_s:,.0f} images/s live",
            f"waiting for data      {100 * self.live.wait_share:.2f} % of the time; "
            f"p50 {1e3 * self.live.percentile(50):.2f} ms, p99 {1e3 * self.live.percentile(99):.2f} ms",
            "stages, a step; those of the stream go on beside computing:",
            *bars,
            self.verdict().to_text(self.setting),
        ]  # fmt: skip

    @property
    def _live_step_s(self) -> float:
        return Spread.from_values(self.live_s).median


def measure_overlap(rank: Rank, data: TrainingData, options: OverlapOptions, quiet: bool) -> dict[str, Any]:
    """Measure what ``options`` ask for, on every rank; return JSON values, and ``lines`` to print."""
    quiet = quiet or not rank.is_main
    consume = _make_consumer(rank, data, options)
    with tell_activity("taking the first steps"):
        step_s = _time_step(rank, data, consume)
    options, plan = choose_size(options, step_s)
    if not quiet:
        print_progress(plan)
    shares = list(options.shares)
    blocks = options.rounds * (len(STEP_KINDS) if not shares else 1 + len(shares))
    with progress_bar(blocks, "blocks", "measure", quiet=quiet) as bar:
        found: OverlapResult | RateSweep
        if shares:
            found = measure_rates(rank, data, shares, options, bar.update)
        else:
            found = measure_consumer(rank, data, consume, options, bar.update)
    return {**found.to_dict(), "lines": found.to_lines()}


def choose_size(options: OverlapOptions, step_s: float) -> tuple[OverlapOptions, str]:
    """Return the options with the numbers of rounds and steps, chosen for steps of ``step_s`` s, and the plan in words.

    What is given stays; of the rest, the largest of ``SIZES`` that takes no more than ``MAX_DEFAULT_S`` is taken, or
    else the smallest.
    """
    costs = [1.0, *(1 / share for share in options.shares)] if options.shares else [1.0] * len(STEP_KINDS)
    sizes = [(options.rounds or rounds, options.steps or steps) for rounds, steps in SIZES]
    seconds = [step_s * sum(costs) * rounds * (WARM_UP_STEPS + steps) for rounds, steps in sizes]
    chosen = next((i for i, each in enumerate(seconds) if each <= MAX_DEFAULT_S), len(sizes) - 1)
    rounds, steps = sizes[chosen]
    kinds = count_of(len(costs), "rate") if options.shares else count_of(len(costs), "kind")
    plan = (
        f"{kinds} x {count_of(rounds, 'round')} x {count_of(WARM_UP_STEPS + steps, 'step')}, {WARM_UP_STEPS} of them "
        f"to warm up; about {format_duration(seconds[chosen])}"
    )
    more = "; more of `rounds` and `steps` give narrower intervals" if (rounds, steps) < SIZES[0] else ""
    return replace(options, rounds=rounds, steps=steps), to_display(plan + more)


def _time_step(rank: Rank, data: TrainingData, consume: Consumer) -> float:
    """Return the seconds that a live step takes, roughly; the same number on every rank."""
    columns = rank.columns
    live = data.training(0, columns.batch_slice, columns.exchange, rank.device)
    _time_steps(live, consume, 1, rank.device)
    taken = _time_steps(live, consume, PROBE_STEPS, rank.device).elapsed_s / PROBE_STEPS
    if not dist.is_initialized():
        return taken
    agreed = torch.tensor(taken, device=rank.device)
    dist.broadcast(agreed, 0)
    return agreed.item()


def _make_consumer(rank: Rank, data: TrainingData, options: OverlapOptions) -> Consumer:
    """Return what takes the batches: the network's training steps, or a simulated accelerator."""
    facts = data.facts()
    if options.shares:
        return _discard
    if options.images_per_s:
        return FixedRateConsumer(facts.batch_size / options.images_per_s)
    learner = Learner(
        rank,
        options.recipe,
        make_initial_parameters(len(facts.classes), options.recipe, facts.seed),
        seed=facts.seed,
        precision=options.precision,
        compiled=options.compile,
    )
    phase = choose_phase([], options.recipe)
    # The step number only determines dropout, and results are left on the device, as reading them would wait for it.
    return lambda batch: learner.step(batch, 0, phase)


def measure_consumer(
    rank: Rank, data: TrainingData, consume: Consumer, options: OverlapOptions, tick: Callable[[], Any]
) -> OverlapResult:
    """Measure with any consumer of batches; ``tick`` is called after each block."""
    columns = rank.columns
    stream = partial(data.training, 0, columns.batch_slice, columns.exchange, rank.device)
    live, plain = stream(), stream(augmentation="none")
    cached = next(live)
    waits = WaitTimes()

    def block(name: str, batches: Iterator[Batch]) -> float:
        """Run one block, and return its seconds per step."""
        _time_steps(batches, consume, WARM_UP_STEPS, rank.device)
        taken = _time_steps(batches, consume, options.steps, rank.device)
        if name == "live":
            waits.waits_s += taken.waits_s
            waits.elapsed_s += taken.elapsed_s
            waits.busy_s += taken.busy_s
            waits.stages += taken.stages
        tick()
        return taken.elapsed_s / options.steps

    streams = dict(zip(STEP_KINDS, (live, repeat(cached), plain), strict=True))
    seconds = measure_in_turn(
        {name: partial(block, name, batches) for name, batches in streams.items()}, options.rounds
    )
    return OverlapResult(
        batch_size=data.facts().batch_size,
        live_s=seconds["live"],
        cached_s=seconds["cached"],
        plain_s=seconds["plain"],
        live=waits,
        setting=make_run_setting(rank, options.precision, data),
    )


def _time_steps(batches: Iterator[Batch], consume: Consumer, count: int, device: torch.device) -> WaitTimes:
    taken = WaitTimes()
    synchronize(device)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        batch = next(batches)
        taken.waits_s.append(time.perf_counter() - start)
        taken.stages += batch.stages
        consume(batch)
        del batch  # so that the stream can reuse its memory
    synchronize(device)
    taken.elapsed_s = time.perf_counter() - begin
    taken.busy_s = (time.process_time() - cpu_begin) / torch.get_num_threads()
    return taken


class FixedRateConsumer:
    """A simulated accelerator: takes a fixed time, ``batch_s`` seconds, for each batch, without using the CPU."""

    def __init__(self, batch_s: float) -> None:
        self.batch_s = batch_s

    def __call__(self, _: Batch) -> None:
        """Wait for as long as the accelerator works on a batch."""
        time.sleep(self.batch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSweep:
    """Result of a sweep over rates: ``waits`` maps shares of the stream's peak rate to the shares of time that a
    consumer of that rate waits, one per round. ``peak`` is in images/s.
    """

    peak: Spread
    wait_shares: dict[float, list[float]]

    @property
    def fastest_share(self) -> float | None:
        """The largest share of the peak at which the consumer waits no more than 1 % of the time."""
        good = [
            share for share, waits in self.wait_shares.items() if Spread.from_values(waits).median <= MAX_WAIT_SHARE
        ]
        return max(good, default=None)

    def to_lines(self) -> list[str]:
        """Return lines to print."""
        rows = [
            f"  {100 * share:4.0f} %  {share * self.peak.median:8,.0f} images/s   waits "
            f"{Spread.from_values([100 * w for w in waits]).to_text('.2f')} % of the time"
            for share, waits in self.wait_shares.items()
        ]
        found = "at none of these rates" if self.fastest_share is None else (
            f"up to {100 * self.fastest_share:.0f} % of the peak, {self.fastest_share * self.peak.median:,.0f} images/s"
        )  # fmt: skip
        return [f"the stream's peak: {self.peak.to_text()} images/s", *rows, f"a consumer waits 1 % at most {found}"]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        waits = [{"share_of_peak": share, "wait_shares": waits} for share, waits in self.wait_shares.items()]
        return {"peak_images_per_s": asdict(self.peak), "waits": waits, "fastest_share_of_peak": self.fastest_share}


def measure_rates(
    rank: Rank, data: TrainingData, shares: list[float], options: OverlapOptions, tick: Callable[[], Any]
) -> RateSweep:
    """Measure, in each round, the stream's peak rate, and then the waits of consumers with ``shares`` of it."""
    columns, batch_size = rank.columns, data.facts().batch_size
    live = data.training(0, columns.batch_slice, columns.exchange, rank.device)
    peaks: list[float] = []
    waits: dict[float, list[float]] = {share: [] for share in shares}
    for _ in range(options.rounds):
        _time_steps(live, _discard, WARM_UP_STEPS, rank.device)
        peak = batch_size * options.steps / _time_steps(live, _discard, options.steps, rank.device).elapsed_s
        peaks.append(peak)
        tick()
        for share in shares:
            pace = FixedRateConsumer(batch_size / (share * peak))
            _time_steps(live, pace, WARM_UP_STEPS, rank.device)
            waits[share].append(_time_steps(live, pace, options.steps, rank.device).wait_share)
            tick()
    return RateSweep(peak=Spread.from_values(peaks), wait_shares=waits)


def _discard(_: Batch) -> None:
    """Discard a batch, to consume at full speed."""
