"""How fast the training stream is by itself, one augmentation beside another. Called by ``cli.py bench stream``.

A block is ``steps`` batches that are taken and dropped. Blocks of the augmentations alternate; each is preceded by
batches that are not timed, since some were decoded ahead while another stream had its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from pipeline.batch import CROP_PX, Batch, Part, TrainingData, no_exchange
from sharding.progress import progress
from trainer.bench.numbers import Ratio, Spread, in_turn
from trainer.bench.timing import Clock, elapsed_s, peak_mib

UNTIMED = 8  # batches before a block; the stream decodes fewer ahead
IMAGE_MB = 3 * CROP_PX * CROP_PX * 4 / 1e6  # of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpeed:
    """``images_per_s`` has an entry a round for each augmentation; ``decode_path`` says which way the images take
    with the augmentation of the data itself.

    ``peak_mib``: of the process, in which all the streams are open at once.
    """

    images_per_s: dict[str, list[float]]
    decode_path: str
    batch_size: int
    steps: int
    peak_mib: float

    def ratio(self, name: str) -> Ratio:
        """Images/s of an augmentation ÷ those of the last one."""
        return Ratio.of(self.images_per_s[name], self.images_per_s[self._last])

    @property
    def _last(self) -> str:
        return list(self.images_per_s)[-1]

    def table(self) -> str:
        """Lines for a person."""
        rows = [("augmentation", "images/s", "MB/s of floats", f"÷ {self._last}")]
        for name, rates in self.images_per_s.items():
            floats = Spread.of([rate * IMAGE_MB for rate in rates])
            ratio = "" if name == self._last else self.ratio(name).text()
            rows.append((name, Spread.of(rates).text(), floats.text(), ratio))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        rounds = len(self.images_per_s[self._last])
        return "\n".join([
            *lines,
            f"{self.decode_path}; {rounds} rounds of {self.steps} batches of {self.batch_size}; "
            f"peak memory {self.peak_mib:,.0f} MiB",
        ])  # fmt: skip

    def json(self) -> dict[str, Any]:
        """All that was measured, a list where there is a value a round."""
        measured = {name: getattr(self, name) for name in self.__slots__}
        mb = {name: [rate * IMAGE_MB for rate in rates] for name, rates in self.images_per_s.items()}
        ratios = {name: self.ratio(name) for name in self.images_per_s if name != self._last}
        intervals = {name: {"median": r.median, "low": r.low, "high": r.high} for name, r in ratios.items()}
        return {**measured, "mb_per_s": mb, "ratio_to_last": intervals}


def measure(
    data: TrainingData,
    augmentations: Sequence[str],
    device: torch.device,
    *,
    steps: int = 40,
    rounds: int = 5,
    quiet: bool = False,
    clock: Clock = time.perf_counter,
) -> StreamSpeed:
    """Take ``rounds`` blocks of ``steps`` batches from the stream with each augmentation in turn, after a warm-up.

    Raises what the data raises: StreamError for an augmentation that does not exist, DatasetError for damaged files.
    """
    batch_size = data.facts().batch_size
    with progress((rounds + 1) * len(set(augmentations)), "blocks", "stream", quiet=quiet) as bar:

        def block(stream: Iterator[Batch]) -> Callable[[], float]:
            def rate() -> float:
                _take(stream, UNTIMED)
                seconds = elapsed_s(lambda: _take(stream, steps), device, clock)
                bar.update()
                return steps * batch_size / seconds

            return rate

        blocks = {name: block(data.training(0, Part(), no_exchange, device, name)) for name in augmentations}
        for warm_up in blocks.values():
            warm_up()
        rates = in_turn(blocks, rounds)
    return StreamSpeed(
        images_per_s=rates,
        decode_path=data.decode_path(device, exchanged=False),
        batch_size=batch_size,
        steps=steps,
        peak_mib=peak_mib(),
    )


def _take(stream: Iterator[Batch], count: int) -> None:
    for _ in islice(stream, count):
        pass
