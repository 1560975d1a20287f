"""Is it the data or the device? One line, from what was measured while training."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.batch import Stages

DATA_BOUND = 1.05  # the time with the stream, in times of the time without, from which on the data is to blame
WARM_UP = 5  # steps until the stream is as far ahead as it gets
ENOUGH = 10  # steps for a verdict
ALL_BUSY = 0.9  # share of its cores' time that a process has, from which on network and stream take it from each other

HELP = {
    "read": "shards on a faster or nearer disk, --order grouped, or a larger --cache",
    "decode": "more --threads, raw shards (cli.py shard --encode raw), or a GPU's decoder",
    "augment": "a larger --batch-size, or an --augment that draws less",
    "exchange": "a faster link between the ranks, or --devices 1",
    "finish": "more --threads, or the compiled operator (a C compiler and libjpeg-turbo when installing)",
}
FASTER = "a faster device, --precision bf16 or more ranks; a faster stream would change nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run waits for. ``cost``: its time, in times of that without data; ``slowest``: the stage of the
    stream that takes longest; ``busy``: how much of its cores' time the process used, 0..1.
    """

    data_bound: bool
    cost: float
    slowest: str
    busy: float = 0.0

    @classmethod
    def of(cls, cost: float, stages: Stages, *, surely: bool = True, busy: float = 0.0) -> Verdict:
        """From the cost of data and the seconds of the stages; ``surely``: whether the cost is not just noise."""
        seconds = {name.removesuffix("_s"): value for name, value in asdict(stages).items()}
        slowest = max(seconds, key=lambda name: seconds[name])
        return cls(data_bound=cost > DATA_BOUND and surely, cost=cost, slowest=slowest, busy=busy)

    def line(self) -> str:
        """``DATA-BOUND: data makes a step 1.41 times as long; the slowest stage is decode; what would help: …``."""
        if self.data_bound:
            return (
                f"DATA-BOUND: data makes a step {self.cost:.2f} times as long; the slowest stage is {self.slowest}"
                f"{self._shared()}; what would help: {HELP[self.slowest]}"
            )
        return f"COMPUTE-BOUND: data makes a step {self.cost:.3f} times as long; what would help: {FASTER}"

    def _shared(self) -> str:
        if self.busy < ALL_BUSY:
            return ""
        return f" (network and stream share cores that are {100 * self.busy:.0f} % busy: more of them)"


class Balance:
    """Where the time of a running training goes: seconds of all steps but the first few, of waiting, of the stages."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._seen = 0
        self.elapsed_s = self.wait_s = self.busy_s = 0.0
        self.stages = Stages()

    def add(self, *, elapsed_s: float, wait_s: float, busy_s: float, stages: Stages) -> None:
        """Count one step, in which the process used all its cores for ``busy_s``, or some of them for longer.

        The first ones wait for the stream to get ahead and are left out.
        """
        self._seen += 1
        if self._seen > WARM_UP:
            self.elapsed_s += elapsed_s
            self.wait_s += wait_s
            self.busy_s += busy_s
            self.stages += stages

    def verdict(self) -> Verdict | None:
        """None if there were too few steps.

        What the stream takes of a device's own time (cores that both want) is not seen here, but by ``bench overlap``.
        """
        if self._seen < WARM_UP + ENOUGH:
            return None
        cost = self.elapsed_s / max(self.elapsed_s - self.wait_s, 1e-9)
        return Verdict.of(cost, self.stages, busy=self.busy_s / max(self.elapsed_s, 1e-9))
