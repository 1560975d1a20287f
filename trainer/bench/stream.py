"""Measure the training stream without a network, with several augmentations in turn, for ``cli.py bench stream``.

A block reads ``steps`` batches and discards them. Blocks of different augmentations alternate. The first batches of
each block are not timed, since they were prefetched while another stream had its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from alexstream.core.measure import Ratio, Spread, measure_in_turn
from alexstream.core.progress import progress_bar
from alexstream.core.text import count_of
from alexstream.pipeline.batch import CROP_PX, Batch, BatchSlice, TrainingData
from alexstream.trainer.bench.timing import Clock, peak_mib, time_work_s

WARM_UP_BATCHES = 8  # batches before a block; more than the stream prefetches
IMAGE_MB = 3 * CROP_PX * CROP_PX * 4 / 1e6  # of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpeed:
    """Result: ``images_per_s`` holds one value per round for each augmentation.

    ``decode_path`` describes how images are decoded with the data's own augmentation. ``peak_mib`` is the peak memory
    of the process, in which all streams are open at once.
    """

    images_per_s: dict[str, list[float]]
    decode_path: str
    batch_size: int
    steps: int
    peak_mib: float

    def ratio(self, name: str) -> Ratio:
        """Return the ratio of an augmentation's images/s to those of the last one."""
        return Ratio.from_rounds(self.images_per_s[name], self.images_per_s[self._last])

    @property
    def _last(self) -> str:
        return list(self.images_per_s)[-1]

    def table(self) -> str:
        """Return a table to print."""
        rows = [("augmentation", "images/s", "MB/s of floats", f"÷ {self._last}")]
        for name, rates in self.images_per_s.items():
            floats = Spread.from_values([rate * IMAGE_MB for rate in rates])
            ratio = "" if name == self._last else self.ratio(name).to_text()
            rows.append((name, Spread.from_values(rates).to_text(), floats.to_text(), ratio))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        rounds = len(self.images_per_s[self._last])
        return "\n".join([
            *lines,
            f"{self.decode_path}; {count_of(rounds, 'round')} of {count_of(self.steps, 'batch', 'batches')} of "
            f"{self.batch_size}; peak memory {self.peak_mib:,.0f} MiB",
        ])  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return all measurements as JSON values, lists where there is one per round."""
        measured = {name: getattr(self, name) for name in self.__slots__}
        mb = {name: [rate * IMAGE_MB for rate in rates] for name, rates in self.images_per_s.items()}
        ratios = {name: self.ratio(name) for name in self.images_per_s if name != self._last}
        intervals = {name: {"median": r.median, "low": r.low, "high": r.high} for name, r in ratios.items()}
        return {**measured, "mb_per_s": mb, "ratio_to_last": intervals}


def measure_stream(
    data: TrainingData,
    augmentations: Sequence[str],
    device: torch.device,
    *,
    steps: int = 40,
    rounds: int = 5,
    quiet: bool = False,
    clock: Clock = time.perf_counter,
) -> StreamSpeed:
    """Time ``rounds`` blocks of ``steps`` batches from a stream with each augmentation in turn, after a warm-up.

    Raises the stream's errors: StreamError for an unknown augmentation, DatasetError for damaged files.
    """
    batch_size = data.facts().batch_size
    with progress_bar((rounds + 1) * len(set(augmentations)), "blocks", "stream", quiet=quiet) as bar:

        def block(stream: Iterator[Batch]) -> Callable[[], float]:
            def rate() -> float:
                _discard_batches(stream, WARM_UP_BATCHES)
                seconds = time_work_s(lambda: _discard_batches(stream, steps), device, clock)
                bar.update()
                return steps * batch_size / seconds

            return rate

        blocks = {name: block(data.training(0, BatchSlice(), None, device, name)) for name in augmentations}
        for warm_up in blocks.values():
            warm_up()
        rates = measure_in_turn(blocks, rounds)
    return StreamSpeed(
        images_per_s=rates,
        decode_path=data.decode_path(device, exchanged=False),
        batch_size=batch_size,
        steps=steps,
        peak_mib=peak_mib(),
    )


def _discard_batches(stream: Iterator[Batch], count: int) -> None:
    for _ in islice(stream, count):
        pass
