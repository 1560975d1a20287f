"""What a run says and writes: ``metrics.jsonl``, one line per step and per epoch, and lines for a person."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from trainer.evaluate import Score

METRICS, CONFIG = "metrics.jsonl", "run.json"


class Meter:
    """Loss, speed and data-wait since the last line that was printed."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.clear()

    def clear(self) -> None:
        """Forget everything so far."""
        self.steps, self.images, self.loss, self.elapsed_s, self.wait_s = 0, 0, 0.0, 0.0, 0.0

    def add(self, *, images: int, loss: float, elapsed_s: float, wait_s: float) -> None:
        """Count one step: ``wait_s`` of its ``elapsed_s`` went by waiting for data."""
        self.steps += 1
        self.images += images
        self.loss += loss
        self.elapsed_s += elapsed_s
        self.wait_s += wait_s

    def line(self) -> str:
        """``loss 2.3012  48.1 images/s  data-wait 0.4 %``."""
        wait = 100 * self.wait_s / self.elapsed_s
        return f"loss {self.loss / self.steps:.4f}  {self.images / self.elapsed_s:.1f} images/s  data-wait {wait:.1f} %"


class Report:
    """Writes a run's metrics; only the main rank has one that is not silent."""

    def __init__(self, folder: Path | None, *, quiet: bool = False, start_step: int = 0) -> None:
        """Append to ``folder/metrics.jsonl``; None: write and say nothing.

        Lines of steps after ``start_step`` are dropped: a run that was killed after its last checkpoint
        repeats them.
        """
        self.quiet = quiet or folder is None
        self._file: TextIO | None = None
        if folder is not None:
            path = folder / METRICS
            kept = _lines_until(path, start_step)
            path.write_text("".join(kept))
            self._file = path.open("a", buffering=1)

    def step(self, *, epoch: int, step: int, loss: float, rate: float, elapsed_s: float, wait_s: float) -> None:
        """Record one step."""
        self._record(
            {
                "step": step,
                "epoch": epoch,
                "loss": loss,
                "learning_rate": rate,
                "elapsed_s": elapsed_s,
                "wait_s": wait_s,
            }
        )

    def epoch(self, *, epoch: int, step: int, score: Score) -> None:
        """Record a validation."""
        self._record({"step": step, "epoch": epoch, "validation": asdict(score)})

    def say(self, text: str, *, result: bool = False) -> None:
        """Show a line: progress to stderr, results to stdout."""
        if self._file is not None and (result or not self.quiet):
            print(text, file=sys.stdout if result else sys.stderr, flush=True)

    def close(self) -> None:
        """Close the metrics file."""
        if self._file is not None:
            self._file.close()

    def _record(self, row: dict[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")


def _lines_until(path: Path, step: int) -> list[str]:
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the line that a kill cut short
    return kept
