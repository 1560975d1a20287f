"""Verdict on whether data or the device limits a training, from times measured while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from alexstream.core.parameters import to_display
from alexstream.core.program import program_name
from alexstream.pipeline.batch import StageTimes

DATA_BOUND_COST = 1.05  # the time with the stream, in times of the time without, from which on the data is to blame
WARM_UP_STEPS = 5  # steps until the stream is as far ahead as it gets
MIN_STEPS = 10  # steps for a verdict
BUSY_SHARE = (
    0.9  # share of its cores' time that a process has, from which on network and stream take it from each other
)

NO_STREAM_GAIN = "a faster stream would change nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetting:
    """Settings of a run that the advice of its verdict depends on; None: not known.

    ``ranks``: its processes on this machine. ``places``: the most processes that this machine has cores for, or GPUs on
    ``cuda``. ``cores``: the machine's. ``threads``: decoding threads per process. ``encoding``: of stored images.
    """

    device: str | None = None
    precision: str | None = None
    order: str | None = None
    ranks: int | None = None
    max_ranks: int | None = None
    cores: int | None = None
    threads: int | None = None
    encoding: str | None = None

    def suggest_faster_step(self) -> str:
        """Suggest how to make steps faster that do not wait for data, without what the run does already."""
        has_room = self.ranks is None or self.max_ranks is None or self.ranks < self.max_ranks
        bf16 = "`precision` bf16" if self.precision != "bf16" else ""
        return _join_choices("a faster device", bf16, "more ranks" if has_room else "", last=" or ")

    def suggest_faster_stream(self, stage: str) -> str:
        """Suggest how to make a stage of the stream faster, without what the run does already."""
        threads = "more `num_threads`" if self._has_idle_cores() else ""
        is_raw = self.encoding == "raw"
        choices = {
            "read": (
                "shards on a faster or nearer disk",
                f"JPEG shards, which are smaller ({program_name()} shard --encode jpeg)" if is_raw else "",
                "`order` grouped" if self.order != "grouped" else "",
                "a larger `cache_bytes`",
            ),
            # Raw images are not decoded: to copy them is what takes the time of that stage.
            "decode": (threads, "faster cores")
            if is_raw
            else (
                threads,
                f"raw shards ({program_name()} shard --encode raw)",
                "a GPU's decoder" if self.device != "cuda" else "",
            ),
            "augment": ("a larger `batch_size`", "an `augmentation` that draws less"),
            "exchange": ("a faster link between the ranks", "`devices` 1"),
            # Ranks that exchange crops finish them in a pass of their own, with the operator or without.
            "finish": (
                threads,
                "`devices` 1"
                if (self.ranks or 1) > 1
                else "the compiled operator (a C compiler and libjpeg-turbo when installing)",
            ),
        }
        return _join_choices(*choices[stage], last=", or ")

    def _has_idle_cores(self) -> bool:
        if self.threads is None or self.ranks is None or self.cores is None:
            return True  # or it is not known
        return self.threads * self.ranks < self.cores


def _join_choices(*choices: str, last: str) -> str:
    """Join the choices that are not empty by commas, and the last one by ``last``."""
    *first, end = (choice for choice in choices if choice)
    return f"{', '.join(first)}{last}{end}" if first else end


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict on a run: ``data_bound`` if the stream slows it down, otherwise compute-bound.

    ``cost``: time of a step divided by its time without waiting for data. ``slowest``: the slowest stage of the
    stream. ``busy``: CPU time of the process divided by elapsed time and threads, 0..1.
    """

    data_bound: bool
    cost: float
    slowest: str
    busy: float = 0.0

    @classmethod
    def from_cost(cls, cost: float, stages: StageTimes, *, surely: bool = True, busy: float = 0.0) -> Verdict:
        """Make a verdict from the cost of data and the times of the stages; ``surely``: the cost is not just noise."""
        seconds = {name.removesuffix("_s"): value for name, value in asdict(stages).items()}
        slowest = max(seconds, key=lambda name: seconds[name])
        return cls(data_bound=cost > DATA_BOUND_COST and surely, cost=cost, slowest=slowest, busy=busy)

    def to_text(self, setting: RunSetting = RunSetting()) -> str:
        """Return ``DATA-BOUND: data makes a step 1.41 times as long; the slowest stage is decode; what would help: …``.

        The advice leaves out what a run with this ``setting`` does already.
        """
        if self.data_bound:
            return to_display(
                f"DATA-BOUND: data makes a step {self.cost:.2f} times as long; the slowest stage is {self.slowest}"
                f"{self._describe_shared_cores()}; what would help: {setting.suggest_faster_stream(self.slowest)}"
            )
        return to_display(
            f"COMPUTE-BOUND: data makes a step {self.cost:.3f} times as long; what would help: "
            f"{setting.suggest_faster_step()}; {NO_STREAM_GAIN}"
        )

    def _describe_shared_cores(self) -> str:
        if self.busy < BUSY_SHARE:
            return ""
        return f" (network and stream share cores that are {100 * self.busy:.0f} % busy: more of them)"


class StepTimes:
    """Accumulates the times of a training's steps: elapsed, waiting, CPU and stages of the stream, in seconds.

    The first ``WARM_UP_STEPS`` steps after each opening of the stream are left out. ``setting``: that of the last
    opening; None if it is not known.
    """

    def __init__(self) -> None:
        self.setting: RunSetting | None = None
        self._warm_up_left, self._counted = WARM_UP_STEPS, 0
        self.elapsed_s = self.wait_s = self.busy_s = 0.0
        self.stages = StageTimes()

    def begin(self, setting: RunSetting) -> None:
        """Begin the steps of a stream that was opened anew, as when a run is resumed: it warms up again."""
        self.setting, self._warm_up_left = setting, WARM_UP_STEPS

    def add(self, *, elapsed_s: float, wait_s: float, busy_s: float, stages: StageTimes) -> None:
        """Add one step; ``busy_s``: the process's CPU time in it, divided by its number of threads.

        The first steps, which wait until the stream has filled its queues, are left out.
        """
        if self._warm_up_left > 0:
            self._warm_up_left -= 1
            return
        self._counted += 1
        self.elapsed_s += elapsed_s
        self.wait_s += wait_s
        self.busy_s += busy_s
        self.stages += stages

    def verdict(self) -> Verdict | None:
        """Return the verdict, or None after too few steps.

        It sees only the time spent waiting. Cores that network and stream take from each other slow down the steps
        themselves; ``bench overlap`` measures that.
        """
        if self._counted < MIN_STEPS:
            return None
        cost = self.elapsed_s / max(self.elapsed_s - self.wait_s, 1e-9)
        return Verdict.from_cost(cost, self.stages, busy=self.busy_s / max(self.elapsed_s, 1e-9))
