"""Metrics of a run: write ``metrics.jsonl``, one line per step and per epoch, print progress, and read it all again."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.core.errors import OutputError
from alexstream.core.program import program_name
from alexstream.core.progress import LINE_S
from alexstream.core.schema import from_json, parse_json
from alexstream.core.storage import open_pending
from alexstream.core.text import format_duration
from alexstream.core.versions import is_newer, newer_version_message
from alexstream.pipeline.batch import StageTimes
from alexstream.trainer.checkpoint import resume_advice
from alexstream.trainer.errors import CheckpointVersionError, TrainError
from alexstream.trainer.evaluation.evaluate import Score
from alexstream.trainer.evaluation.scoring import format_chance
from alexstream.trainer.recipe import Phase
from alexstream.trainer.verdict import RunSetting, StepTimes

RUN_SCHEMA = "alexstream-run/1"
METRICS_FILE, RUN_FILE, CONFIG_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "run.json", "config.toml", "tensorboard"
CONFIG_START = "# alexstream "  # of the first line of every ``config.toml`` that a run writes
MAX_RUN_FILE_BYTES = 16 << 20  # bytes of a run's files beside its metrics: class names are none of them
MOST_LINE, MOST_METRICS = 1 << 14, 4 << 30  # bytes of the metrics: a step takes 500 at most, 8 million steps the second
MOST_VALIDATIONS = 100_000
STEP_COLUMNS = ("step", "epoch", "loss", "accuracy", "learning_rate", "elapsed_s", "wait_s")


def load_run_facts(folder: Path) -> dict[str, Any]:
    """Read ``run.json``, the facts recorded of a run; {} if it is missing or damaged.

    Raises CheckpointVersionError if a newer version of alexstream made the run.
    """
    path = folder / RUN_FILE
    try:
        found = parse_json(read_run_file(path))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    schema = found.pop("schema", None)  # that of the first versions had none
    if is_newer(schema, RUN_SCHEMA):
        raise CheckpointVersionError(newer_version_message(path, f"schema {schema}, this one reads {RUN_SCHEMA}"))
    return found


def read_run_file(path: Path) -> bytes:
    """Read a file of a run folder that is shown to others, if it is a regular file: links are not followed.

    Raises OSError if it is not, cannot be read, or is larger than ``MAX_RUN_FILE_BYTES``.
    """
    with _open_regular(path) as file:
        if len(data := file.read(MAX_RUN_FILE_BYTES + 1)) > MAX_RUN_FILE_BYTES:
            raise OSError(errno.EFBIG, f"is larger than {MAX_RUN_FILE_BYTES:,} bytes")
        return data


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file that is no link, and never wait for a pipe. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return open(descriptor, "rb")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Result of a training step; ``measured`` holds loss and accuracy, float64 (2,), perhaps still computed on a GPU.

    ``start_s`` is on the clock of ``time.perf_counter``, ``start_cpu_s`` on that of ``time.process_time``. The step
    first waited ``wait_s`` seconds for its batch, whose production took ``stages``, mostly before the step.
    ``setting``: that of the run, if the stream was opened for this step.
    """

    step: int
    epoch: int
    phase: Phase
    images: int
    measured: torch.Tensor
    start_s: float
    start_cpu_s: float
    wait_s: float
    stages: StageTimes
    setting: RunSetting | None = None


class ProgressMeter:
    """Loss, accuracy, speed and waiting time of the steps since the last progress line.

    A line is due after ``every`` steps, or with 0 by time: after ``first_s`` seconds, then every ``LINE_S``.
    ``remaining`` steps are left of the run.
    """

    def __init__(self, every: int, remaining: int, first_s: float = LINE_S) -> None:
        self.every, self.remaining, self.line_s = every, remaining, first_s
        self._pace_s: float | None = None
        self._clear()

    def add(self, *, images: int, loss: float, accuracy: float, elapsed_s: float, wait_s: float) -> None:
        """Add one step, which waited ``wait_s`` of its ``elapsed_s`` seconds for data."""
        if self.is_due():
            self._clear()
            self.line_s = LINE_S
        self.steps += 1
        self.remaining -= 1
        self.images += images
        self.loss += loss
        self.accuracy += accuracy
        self.elapsed_s += elapsed_s
        self.wait_s += wait_s
        self._pace_s = elapsed_s if self._pace_s is None else 0.95 * self._pace_s + 0.05 * elapsed_s

    def is_due(self) -> bool:
        """Return whether it is time for a progress line."""
        if self.every:
            return self.steps == self.every
        return self.steps > 0 and self.elapsed_s >= self.line_s

    def mean_loss(self) -> float:
        """Return the mean loss of the steps since the last line."""
        return self.loss / self.steps

    def to_text(self, num_classes: int) -> str:
        """Return ``loss 2.3012  top-1 12.5 % (chance 10 %)  48.1 images/s  data-wait 0.4 %  ETA 1 h 02 min``."""
        wait = 100 * self.wait_s / self.elapsed_s
        return (
            f"loss {self.mean_loss():.4f}  "
            f"top-1 {100 * self.accuracy / self.steps:.1f} % {format_chance(num_classes)}  "
            f"{self.images / self.elapsed_s:.1f} images/s  data-wait {wait:.1f} %  "
            f"ETA {format_duration(self.remaining * (self._pace_s or 0.0))}"
        )

    def _clear(self) -> None:
        self.steps, self.images, self.loss, self.accuracy, self.elapsed_s, self.wait_s = 0, 0, 0.0, 0.0, 0.0, 0.0


class Recorder:
    """Writes a run's metrics and prints its progress; on ranks other than the main one it does neither."""

    def __init__(
        self, folder: Path | None, *, quiet: bool = False, start_step: int = 0, tensorboard: bool = False
    ) -> None:
        """Append to ``folder/metrics.jsonl``; None: write and print nothing.

        Lines of steps after ``start_step`` are removed first: a run that was killed after its last checkpoint repeats
        those steps. Raises TrainError if the file cannot be written, or if ``tensorboard`` is not installed.
        """
        self.quiet = quiet or folder is None
        self._file: BinaryIO | None = None
        self._board: Any = None
        self._failure: tuple[Path, OSError] | None = None
        if folder is not None:
            path = folder / METRICS_FILE
            try:
                with open_pending(path) as write:
                    write.file.writelines(_read_lines_until(path, start_step))
                    write.commit()
            except OutputError as error:
                raise TrainError(str(error)) from error
            # Unbuffered: close() must not retry, and fail at, a write that has already failed.
            self._file = cast(BinaryIO, path.open("ab", buffering=0))
            self._path = path
            if tensorboard:
                self._board = _open_tensorboard(folder / TENSORBOARD_FOLDER, start_step)

    def step(self, result: StepResult, *, loss: float, accuracy: float, elapsed_s: float, busy_s: float) -> None:
        """Record one step; ``busy_s``: the process's CPU time in it, divided by its number of threads."""
        row: dict[str, Any] = {"step": result.step, "epoch": result.epoch, "loss": loss, "accuracy": accuracy}
        row |= {"learning_rate": result.phase.rate, "elapsed_s": elapsed_s, "wait_s": result.wait_s, "busy_s": busy_s}
        row["stages"] = asdict(result.stages)
        if result.setting is not None:
            row["setting"] = asdict(result.setting)
        self._write_row(row)
        self._write_scalars(
            "train", result.step, {"loss": loss, "accuracy": accuracy, "learning_rate": result.phase.rate}
        )

    def epoch(self, *, epoch: int, step: int, score: Score) -> None:
        """Record the validation after epoch ``epoch``."""
        self._write_row({"step": step, "epoch": epoch, "validation": asdict(score)})
        self._write_scalars("validation", step, {"loss": score.loss, "top1": score.top1, "top5": score.top5})

    def require_written(self) -> None:
        """Raise TrainError if a line could not be written; call this after saving a checkpoint that is due."""
        if self._failure is not None:
            path, error = self._failure
            remedy = f"make room and {resume_advice(self._path.parent)}"
            raise TrainError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error

    def print_line(self, text: str, *, result: bool = False) -> None:
        """Print a line: a result to stdout, progress to stderr, unless quiet."""
        if self._file is not None and (result or not self.quiet):
            print(text, file=sys.stdout if result else sys.stderr, flush=True)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _write_row(self, row: dict[str, object]) -> None:
        if self._file is None or self._failure is not None:
            return
        left = memoryview((json.dumps(row) + "\n").encode())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._failure = self._path, error

    def _write_scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        if self._board is None or self._failure is not None:
            return
        try:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:
            self._failure = self._path.parent / TENSORBOARD_FOLDER, error


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Score of the validation after ``step`` steps and ``epoch`` epochs."""

    step: int
    epoch: int
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Contents of ``metrics.jsonl``: ``steps`` by the names of ``STEP_COLUMNS``, float64 (steps,), and the validations.

    ``step_times``: the time spent per stage, over the steps that recorded it.
    """

    steps: dict[str, NDArray[np.float64]]
    validations: tuple[Validation, ...]
    step_times: StepTimes

    @classmethod
    def read(cls, folder: Path) -> Metrics:
        """Read the metrics of a run folder, without lines that a kill cut short.

        Raises TrainError if there is no such file, if it is a link or larger than any run's, or for a
        complete line that no run writes.
        """
        path = folder / METRICS_FILE
        if not path.is_file():
            raise TrainError(f"{folder} has no {METRICS_FILE}; train a run with: {program_name()} train --run {folder}")
        values, validations, step_times = array("d"), [], StepTimes()
        for number, row in _iter_rows(_iter_lines(path)):
            try:
                if "validation" in row:
                    validations.append(_parse_validation(row))
                    if len(validations) > MOST_VALIDATIONS:
                        raise ValueError(f"there are more than {MOST_VALIDATIONS:,} validations")
                    continue
                values.extend(_step_values(row))
                if "stages" in row:
                    _add_step_times(step_times, row)
            except (ValueError, OverflowError) as error:
                raise TrainError(f"{path}: line {number} is none of a run's ({error}); restore the file") from error
        steps = np.frombuffer(values).reshape(-1, len(STEP_COLUMNS)).T if values else np.empty((len(STEP_COLUMNS), 0))
        return cls(
            steps=dict(zip(STEP_COLUMNS, steps, strict=True)), validations=tuple(validations), step_times=step_times
        )


def _iter_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a metrics file, one at a time: another's may have gigabytes.

    Raises TrainError for one that cannot be read or is a link, and for a line or a file that is larger than any run's.
    """
    read = 0
    try:
        with _open_regular(path) as file:
            for number in count(1):
                line = file.readline(MOST_LINE + 1)
                read += len(line)
                if len(line) > MOST_LINE or read > MOST_METRICS:
                    most = f"{MOST_LINE:,}" if len(line) > MOST_LINE else f"{MOST_METRICS:,} with those before it"
                    raise TrainError(
                        f"{path}: line {number} is none of a run's (it has more bytes than {most}); restore the file"
                    )
                if not line:
                    return
                yield line
    except OSError as error:
        how = "it is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise TrainError(f"cannot read {path}: {how}; put the run's own file there") from error


def _iter_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the value of each line of a step or a validation; skip lines that a kill cut short."""
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)  # a loss may be NaN
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and ("validation" in row or all(name in row for name in STEP_COLUMNS)):
            yield number, row


def _step_values(row: dict[str, Any]) -> list[float]:
    """Return the columns of a step's line. Raises ValueError unless they are numbers; only the loss may be NaN."""
    for name in ("step", "epoch"):
        _require_count(row, name)
    found = [from_json(float, row[name], name) for name in STEP_COLUMNS]
    if not all(math.isfinite(row[name]) for name in ("elapsed_s", "wait_s", "learning_rate")):
        raise ValueError("a time or the learning rate is no number")
    return found


def _require_count(row: dict[str, Any], name: str) -> int:
    number = from_json(int, row.get(name), name)
    if number < 0:
        raise ValueError(f"{name} is {number}")
    return number


def _parse_validation(row: dict[str, Any]) -> Validation:
    score = from_json(Score, row["validation"], "validation")
    return Validation(step=_require_count(row, "step"), epoch=_require_count(row, "epoch"), score=score)


def _add_step_times(step_times: StepTimes, row: dict[str, Any]) -> None:
    stages, busy_s = from_json(StageTimes, row["stages"], "stages"), from_json(float, row.get("busy_s", 0.0), "busy_s")
    if not all(map(math.isfinite, (busy_s, *asdict(stages).values()))):
        raise ValueError("a time is no number")
    if "setting" in row:
        step_times.begin(from_json(RunSetting, row["setting"], "setting"))
    step_times.add(elapsed_s=row["elapsed_s"], wait_s=row["wait_s"], busy_s=busy_s, stages=stages)


def _open_tensorboard(folder: Path, start_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainError("`tensorboard`: tensorboard is not installed; pip install tensorboard") from error
    return SummaryWriter(folder, purge_step=start_step + 1)


def _read_lines_until(path: Path, step: int) -> Iterator[bytes]:
    if not path.is_file():
        return
    for line in _iter_lines(path):
        try:
            is_kept = line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the line that a kill cut short
        if is_kept:
            yield line
