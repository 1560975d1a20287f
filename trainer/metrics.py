"""What a run says and writes: ``metrics.jsonl``, one line per step and per epoch, and lines for a person.

``Metrics`` is what was written, read again.
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import Stages
from sharding.errors import OutputError
from sharding.fields import decoded
from sharding.storage import publish
from trainer.errors import TrainError
from trainer.evaluate import Score
from trainer.recipe import Phase
from trainer.verdict import Balance

METRICS, CONFIG, OPTIONS = "metrics.jsonl", "run.json", "config.toml"
COLUMNS = ("step", "epoch", "loss", "accuracy", "learning_rate", "elapsed_s", "wait_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step that was taken; ``measured`` holds loss and accuracy, perhaps still on their way from a GPU.

    ``start_s`` on the clock of ``time.perf_counter``, ``start_cpu_s`` on that of ``time.process_time``; the first
    ``wait_s`` went by waiting for data, whose stages took ``stages``, mostly before.
    """

    step: int
    epoch: int
    phase: Phase
    images: int
    measured: torch.Tensor
    start_s: float
    start_cpu_s: float
    wait_s: float
    stages: Stages


class Meter:
    """Loss, accuracy, speed and data-wait of the steps since the last line that was printed."""

    def __init__(self, every: int, remaining: int) -> None:
        """A line is due after ``every`` steps; ``remaining`` steps are left of the run."""
        self.every, self.remaining = every, remaining
        self._pace_s: float | None = None
        self._clear()

    def add(self, *, images: int, loss: float, accuracy: float, elapsed_s: float, wait_s: float) -> None:
        """Count one step: ``wait_s`` of its ``elapsed_s`` went by waiting for data."""
        if self.is_due():
            self._clear()
        self.steps += 1
        self.remaining -= 1
        self.images += images
        self.loss += loss
        self.accuracy += accuracy
        self.elapsed_s += elapsed_s
        self.wait_s += wait_s
        self._pace_s = elapsed_s if self._pace_s is None else 0.95 * self._pace_s + 0.05 * elapsed_s

    def is_due(self) -> bool:
        """Whether it is time for a line."""
        return self.steps == self.every

    def mean_loss(self) -> float:
        """Of the steps since the last line."""
        return self.loss / self.steps

    def line(self) -> str:
        """``loss 2.3012  top-1 12.5 %  48.1 images/s  data-wait 0.4 %  ETA 1 h 02 min``."""
        wait = 100 * self.wait_s / self.elapsed_s
        return (
            f"loss {self.mean_loss():.4f}  top-1 {100 * self.accuracy / self.steps:.1f} %  "
            f"{self.images / self.elapsed_s:.1f} images/s  data-wait {wait:.1f} %  "
            f"ETA {duration(self.remaining * (self._pace_s or 0.0))}"
        )

    def _clear(self) -> None:
        self.steps, self.images, self.loss, self.accuracy, self.elapsed_s, self.wait_s = 0, 0, 0.0, 0.0, 0.0, 0.0


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``1 h 02 min``, ``3 d 04 h``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


class Recorder:
    """Writes a run's metrics; only the main rank has one that is not silent."""

    def __init__(
        self, folder: Path | None, *, quiet: bool = False, start_step: int = 0, tensorboard: bool = False
    ) -> None:
        """Append to ``folder/metrics.jsonl``; None: write and say nothing.

        Lines of steps after ``start_step`` are dropped: a run that was killed after its last checkpoint
        repeats them. Raises TrainError if TensorBoard's files are wanted and it is not installed.
        """
        self.quiet = quiet or folder is None
        self._file: BinaryIO | None = None
        self._board: Any = None
        if folder is not None:
            path = folder / METRICS
            kept = _lines_until(path, start_step)
            try:
                publish(path, "".join(kept).encode())
            except OutputError as error:
                raise TrainError(str(error)) from error
            # Nothing is kept back, to be written, and to fail, once more when the file is closed.
            self._file = cast(BinaryIO, path.open("ab", buffering=0))
            self._path = path
            if tensorboard:
                self._board = _board(folder / "tensorboard", start_step)

    def step(self, result: StepResult, *, loss: float, accuracy: float, elapsed_s: float, busy_s: float) -> None:
        """Record one step, in which all cores of the process were busy for ``busy_s``, or some of them for longer."""
        row: dict[str, Any] = {"step": result.step, "epoch": result.epoch, "loss": loss, "accuracy": accuracy}
        row |= {"learning_rate": result.phase.rate, "elapsed_s": elapsed_s, "wait_s": result.wait_s, "busy_s": busy_s}
        row["stages"] = asdict(result.stages)
        self._record(row)
        self._plot("train", result.step, {"loss": loss, "accuracy": accuracy, "learning_rate": result.phase.rate})

    def epoch(self, *, epoch: int, step: int, score: Score) -> None:
        """Record a validation."""
        self._record({"step": step, "epoch": epoch, "validation": asdict(score)})
        self._plot("validation", step, {"loss": score.loss, "top1": score.top1, "top5": score.top5})

    def say(self, text: str, *, result: bool = False) -> None:
        """Show a line: progress to stderr, results to stdout."""
        if self._file is not None and (result or not self.quiet):
            print(text, file=sys.stdout if result else sys.stderr, flush=True)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _record(self, row: dict[str, object]) -> None:
        if self._file is None:
            return
        left = memoryview((json.dumps(row) + "\n").encode())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise TrainError(
                f"cannot write {self._path}: {error.strerror}; make room and continue from the last checkpoint with "
                "--resume"
            ) from error

    def _plot(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a validation said, after ``step`` steps and ``epoch`` epochs."""

    step: int
    epoch: int
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """``metrics.jsonl``, read: ``steps`` by the names of ``COLUMNS``, float64 with an entry a step; the validations.

    ``balance``: where the time went, of the steps whose stages were measured.
    """

    steps: dict[str, NDArray[np.float64]]
    validations: tuple[Validation, ...]
    balance: Balance

    @classmethod
    def read(cls, folder: Path) -> Metrics:
        """Of a run folder; a line that a kill cut short is left out. Raises TrainError if there is no
        such file, or for a line that is whole and no run's."""
        path = folder / METRICS
        if not path.is_file():
            raise TrainError(f"{folder} has no {METRICS}; train a run with: cli.py train --run {folder}")
        values, validations, balance = array("d"), [], Balance()
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, row in _rows(file):
                try:
                    if "validation" in row:
                        validations.append(_validation(row))
                        continue
                    values.extend(_numbers(row))
                    if "stages" in row:
                        _add(balance, row)
                except (ValueError, OverflowError) as error:
                    raise TrainError(f"{path}: line {number} is none of a run's ({error}); restore the file") from error
        steps = np.array(values).reshape(-1, len(COLUMNS)).T
        return cls(steps=dict(zip(COLUMNS, steps, strict=True)), validations=tuple(validations), balance=balance)


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers of lines and what they hold, without those that are cut short."""
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)  # a loss may be NaN
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and ("validation" in row or all(name in row for name in COLUMNS)):
            yield number, row


def _numbers(row: dict[str, Any]) -> list[float]:
    """The columns of a step. Raises ValueError unless they are numbers; the loss may be NaN."""
    for name in ("step", "epoch"):
        _count(row, name)
    found = [decoded(float, row[name], name) for name in COLUMNS]
    if not all(math.isfinite(row[name]) for name in ("elapsed_s", "wait_s", "learning_rate")):
        raise ValueError("a time or the learning rate is no number")
    return found


def _count(row: dict[str, Any], name: str) -> int:
    number = decoded(int, row.get(name), name)
    if number < 0:
        raise ValueError(f"{name} is {number}")
    return number


def _validation(row: dict[str, Any]) -> Validation:
    score = decoded(Score, row["validation"], "validation")
    return Validation(step=_count(row, "step"), epoch=_count(row, "epoch"), score=score)


def _add(balance: Balance, row: dict[str, Any]) -> None:
    stages, busy_s = decoded(Stages, row["stages"], "stages"), decoded(float, row.get("busy_s", 0.0), "busy_s")
    if not all(map(math.isfinite, (busy_s, *asdict(stages).values()))):
        raise ValueError("a time is no number")
    balance.add(elapsed_s=row["elapsed_s"], wait_s=row["wait_s"], busy_s=busy_s, stages=stages)


def _board(folder: Path, start_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainError("--tensorboard: tensorboard is not installed; pip install tensorboard") from error
    return SummaryWriter(folder, purge_step=start_step + 1)


def _lines_until(path: Path, step: int) -> list[str]:
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the line that a kill cut short
    return kept
