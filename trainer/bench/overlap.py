"""What data and augmentation cost a training: three kinds of steps in turn, in one process a rank.

``live`` steps take batches from the stream, ``cached`` ones use one batch again and again, ``plain`` ones take batches
from the stream without augmentation. live ÷ cached is what data costs, live ÷ plain what augmentation costs. A block's
first steps are not counted: until then it has what was made ahead during the block before.

The steps are those of the network, or of a consumer that needs no CPU: ``Pace``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch

from pipeline.batch import Batch, Stages, TrainingData
from sharding.progress import progress
from trainer.bench.numbers import Ratio, Spread, in_turn
from trainer.bench.timing import wait_for
from trainer.geometry import initial_parameters
from trainer.launch import Rank
from trainer.learner import Learner, Precision
from trainer.recipe import Recipe
from trainer.schedule import phase_after
from trainer.verdict import WARM_UP, Verdict

Consumer = Callable[[Batch], object]
KINDS = ("live", "cached", "plain")
ENOUGH_WAIT = 0.01  # share of the time that a consumer may wait


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapOptions:
    """``rounds`` of one block of each kind, of ``steps`` counted steps; and what takes the batches.

    That is the network; or a consumer of ``images_per_s``; or one after the other, consumers that take these ``shares``
    of the stream's peak rate.
    """

    steps: int = 20
    rounds: int = 7
    images_per_s: float = 0.0
    shares: tuple[float, ...] = ()
    recipe: Recipe = Recipe()
    precision: Precision = "fp32"
    compile: bool = False


@dataclass(slots=True, kw_only=True)
class Waits:
    """Of counted steps: each wait for a batch, the time of all of them, how much of it all cores of the process were
    busy, and what the stages of the stream took.
    """

    waits_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    busy_s: float = 0.0
    stages: Stages = Stages()

    @property
    def share(self) -> float:
        """Of the time, that went by waiting for data."""
        return sum(self.waits_s) / self.elapsed_s

    def percentile(self, percent: float) -> float:
        """Of the waits, seconds."""
        return float(np.percentile(self.waits_s, percent))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Seconds of a step, one number a round; the waits, and the stages of the stream, of live steps."""

    batch_size: int
    live_s: list[float]
    cached_s: list[float]
    plain_s: list[float]
    live: Waits

    @property
    def cost_of_data(self) -> Ratio:
        """live ÷ cached."""
        return Ratio.of(self.live_s, self.cached_s)

    @property
    def cost_of_augmentation(self) -> Ratio:
        """live ÷ plain."""
        return Ratio.of(self.live_s, self.plain_s)

    @property
    def stages_s(self) -> dict[str, float]:
        """Seconds of each stage of the stream a step, and of computing, which goes on beside them."""
        count = len(self.live.waits_s)
        seconds = {name.removesuffix("_s"): value / count for name, value in asdict(self.live.stages).items()}
        return {**seconds, "compute": (self.live.elapsed_s - sum(self.live.waits_s)) / count}

    def verdict(self) -> Verdict:
        """By what data costs, if that is more than noise."""
        cost = self.cost_of_data
        busy = self.live.busy_s / self.live.elapsed_s
        return Verdict.of(cost.median, self.live.stages, surely=cost.low > 1.0, busy=busy)

    def as_json(self) -> dict[str, Any]:
        """All of it, numbers measured and numbers made of them."""
        verdict = self.verdict()
        return {
            "cost_of_data": asdict(self.cost_of_data),
            "cost_of_augmentation": asdict(self.cost_of_augmentation),
            "step_s": {"live": self.live_s, "cached": self.cached_s, "plain": self.plain_s},
            "images_per_s": {"live": self.batch_size / Spread.of(self.live_s).median},
            "wait": {
                "share": self.live.share,
                "p50_s": self.live.percentile(50),
                "p99_s": self.live.percentile(99),
            },
            "stages_s": self.stages_s,
            "verdict": {**asdict(verdict), "line": verdict.line()},
        }

    def lines(self) -> list[str]:
        """For people."""
        kinds = {"live": self.live_s, "cached": self.cached_s, "without augmentation": self.plain_s}
        step = {name: 1e3 * Spread.of(values).median for name, values in kinds.items()}
        per_step = self.stages_s
        longest = max(per_step.values())
        bars = [
            f"  {name:9}{1e3 * seconds:9.2f} ms {100 * seconds / self._live_step_s:6.1f} %  "
            f"{'█' * max(round(30 * seconds / longest), 1 if seconds > 0 else 0)}"
            for name, seconds in per_step.items()
        ]
        return [
            f"cost of data          live ÷ cached  {self.cost_of_data.text()}",
            f"cost of augmentation  on ÷ off       {self.cost_of_augmentation.text()}",
            "a step                " + ", ".join(f"{name} {value:.1f} ms" for name, value in step.items())
            + f"; {self.batch_size / self._live_step_s:,.0f} images/s live",
            f"waiting for data      {100 * self.live.share:.2f} % of the time; "
            f"p50 {1e3 * self.live.percentile(50):.2f} ms, p99 {1e3 * self.live.percentile(99):.2f} ms",
            "stages, a step; those of the stream go on beside computing:",
            *bars,
            self.verdict().line(),
        ]  # fmt: skip

    @property
    def _live_step_s(self) -> float:
        return Spread.of(self.live_s).median


def measure(rank: Rank, data: TrainingData, options: OverlapOptions, quiet: bool) -> dict[str, Any]:
    """All that the options ask for, on every rank; ``lines`` of the result are for people."""
    shares = list(options.shares)
    blocks = options.rounds * (len(KINDS) if not shares else 1 + len(shares))
    with progress(blocks, "blocks", "measure", quiet=quiet or not rank.is_main) as bar:
        found: Overlap | Paces
        if shares:
            found = paces(rank, data, shares, options, bar.update)
        elif options.images_per_s:
            pace = Pace(data.facts().batch_size / options.images_per_s)
            found = overlap(rank, data, pace, options, bar.update)
        else:
            found = network_overlap(rank, data, options, bar.update)
    return {**found.as_json(), "lines": found.lines()}


def network_overlap(rank: Rank, data: TrainingData, options: OverlapOptions, tick: Callable[[], Any]) -> Overlap:
    """With the network's own steps. Every rank of a run calls this; ``tick`` after each block."""
    facts = data.facts()
    learner = Learner(
        rank,
        options.recipe,
        initial_parameters(len(facts.classes), options.recipe, facts.seed),
        seed=facts.seed,
        precision=options.precision,
        compiled=options.compile,
    )
    phase = phase_after([], options.recipe)
    # The numbers of the steps decide dropout only; what a step gives stays on its device unread.
    return overlap(rank, data, lambda batch: learner.step(batch, 0, phase), options, tick)


def overlap(
    rank: Rank, data: TrainingData, consume: Consumer, options: OverlapOptions, tick: Callable[[], Any]
) -> Overlap:
    """With any consumer."""
    columns = rank.columns
    stream = partial(data.training, 0, columns.part, columns.exchange, rank.device)
    live, plain = stream(), stream(augmentation="none")
    cached = next(live)
    waits = Waits()

    def block(name: str, batches: Iterator[Batch]) -> float:
        """Seconds a step."""
        _steps(batches, consume, WARM_UP, rank.device)
        taken = _steps(batches, consume, options.steps, rank.device)
        if name == "live":
            waits.waits_s += taken.waits_s
            waits.elapsed_s += taken.elapsed_s
            waits.busy_s += taken.busy_s
            waits.stages += taken.stages
        tick()
        return taken.elapsed_s / options.steps

    streams = dict(zip(KINDS, (live, repeat(cached), plain), strict=True))
    seconds = in_turn({name: partial(block, name, batches) for name, batches in streams.items()}, options.rounds)
    return Overlap(
        batch_size=data.facts().batch_size,
        live_s=seconds["live"],
        cached_s=seconds["cached"],
        plain_s=seconds["plain"],
        live=waits,
    )


def _steps(batches: Iterator[Batch], consume: Consumer, count: int, device: torch.device) -> Waits:
    taken = Waits()
    wait_for(device)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        batch = next(batches)
        taken.waits_s.append(time.perf_counter() - start)
        taken.stages += batch.stages
        consume(batch)
        del batch  # its memory may be used again
    wait_for(device)
    taken.elapsed_s = time.perf_counter() - begin
    taken.busy_s = (time.process_time() - cpu_begin) / torch.get_num_threads()
    return taken


class Pace:
    """A consumer as an accelerator is: it works on a batch for a fixed time and needs no CPU for it."""

    def __init__(self, batch_s: float) -> None:
        """``batch_s``: seconds a batch."""
        self.batch_s = batch_s

    def __call__(self, _: Batch) -> None:
        """Be busy from now on."""
        time.sleep(self.batch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """How long a consumer waits at shares of the stream's peak rate. ``waits``: share of the peak → one a round."""

    peak: Spread
    waits: dict[float, list[float]]

    @property
    def fastest(self) -> float | None:
        """The largest share of the peak at which the consumer waits no more than 1 % of the time."""
        good = [share for share, waits in self.waits.items() if Spread.of(waits).median <= ENOUGH_WAIT]
        return max(good, default=None)

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            f"  {100 * share:4.0f} %  {share * self.peak.median:8,.0f} images/s   waits "
            f"{Spread.of([100 * w for w in waits]).text('.2f')} % of the time"
            for share, waits in self.waits.items()
        ]
        found = "at none of these rates" if self.fastest is None else (
            f"up to {100 * self.fastest:.0f} % of the peak, {self.fastest * self.peak.median:,.0f} images/s"
        )  # fmt: skip
        return [f"the stream's peak: {self.peak.text()} images/s", *rows, f"a consumer waits 1 % at most {found}"]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        waits = [{"share_of_peak": share, "wait_shares": waits} for share, waits in self.waits.items()]
        return {"peak_images_per_s": asdict(self.peak), "waits": waits, "fastest_share_of_peak": self.fastest}


def paces(
    rank: Rank, data: TrainingData, shares: list[float], options: OverlapOptions, tick: Callable[[], Any]
) -> Paces:
    """Each round, the stream's peak rate, and then consumers that take so much of it."""
    columns, batch_size = rank.columns, data.facts().batch_size
    live = data.training(0, columns.part, columns.exchange, rank.device)
    peaks: list[float] = []
    waits: dict[float, list[float]] = {share: [] for share in shares}
    for _ in range(options.rounds):
        _steps(live, _take, WARM_UP, rank.device)
        peak = batch_size * options.steps / _steps(live, _take, options.steps, rank.device).elapsed_s
        peaks.append(peak)
        tick()
        for share in shares:
            pace = Pace(batch_size / (share * peak))
            _steps(live, pace, WARM_UP, rank.device)
            waits[share].append(_steps(live, pace, options.steps, rank.device).share)
            tick()
    return Paces(peak=Spread.of(peaks), waits=waits)


def _take(_: Batch) -> None:
    """As fast as they come."""
