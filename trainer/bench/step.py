"""Measure training steps without a data stream: forward, loss, backward and update on one reused batch.

Used by ``cli.py bench step``; runs the steps of ``trainer.train_step`` on one device or on two ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from alexstream.core.measure import Spread
from alexstream.core.progress import progress_bar, tell_activity
from alexstream.core.text import count_of
from alexstream.pipeline.batch import Batch
from alexstream.trainer.bench.timing import Clock, gpu_peak_mib, peak_mib, time_work_s
from alexstream.trainer.distributed import launch
from alexstream.trainer.distributed.launch import Rank
from alexstream.trainer.errors import TrainError
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.optim.schedule import choose_phase
from alexstream.trainer.recipe import PAPER, Recipe
from alexstream.trainer.train_step import Learner, Precision

WARM_UP_STEPS = 3  # steps; torch.compile compiles for step 0, for step 1, and then for any step
PIXEL_SD = 60.0  # about that of photographs minus their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """Network, batch and precision of the steps, as for training; ``rounds`` of ``steps`` steps each are timed."""

    recipe: Recipe = PAPER
    classes: int = 1000
    batch_size: int = 128
    precision: Precision = "fp32"
    compile: bool = False
    steps: int = 5
    rounds: int = 5
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpeed:
    """Result: ``step_ms``, milliseconds per step, one per round; peak memory in MiB, one per rank."""

    options: StepOptions
    device_type: str
    step_ms: list[float]
    peak_mib: list[float]
    gpu_peak_mib: list[float | None]

    def images_per_s(self) -> list[float]:
        """Return images/s, one value per round."""
        return [1e3 * self.options.batch_size / ms for ms in self.step_ms]

    def table(self) -> str:
        """Return a table to print."""
        options, ranks = self.options, len(self.peak_mib)
        compiled = ", compiled" if options.compile else ""
        rows = {
            "step": f"recipe {options.recipe.name}, {count_of(options.classes, 'class', 'classes')}, batch "
            f"{options.batch_size}, {options.precision}{compiled}; {count_of(ranks, 'rank')}, {self.device_type}",
            "ms a step": Spread.from_values(self.step_ms).to_text(",.1f"),
            "images/s": Spread.from_values(self.images_per_s()).to_text(",.1f"),
            "peak memory": f"{_join_values(self.peak_mib)} MiB a rank",
        }
        if on_gpu := [mib for mib in self.gpu_peak_mib if mib is not None]:
            rows["GPU memory"] = f"{_join_values(on_gpu)} MiB a rank, at most"
        rows["rounds"] = f"{len(self.step_ms)} of {count_of(options.steps, 'step')}"
        return "\n".join(f"{name:12} {value}" for name, value in rows.items())

    def to_dict(self) -> dict[str, Any]:
        """Return all measurements as JSON values, lists where there is one per round or rank."""
        measured = {name: getattr(self, name) for name in self.__slots__ if name != "options"}
        return {**measured, "images_per_s": self.images_per_s()}


def measure_step(options: StepOptions, num_devices: int = 1, device: str = "auto") -> StepSpeed:
    """Start the ranks as training does, let them take steps, and collect their measurements.

    Raises TrainError if there are too few devices, under torchrun, which would start the ranks several times, and for
    tf32 without a GPU, where torch would silently compute in fp32.
    """
    if launch.is_under_torchrun():
        raise TrainError(
            "bench step: received torchrun's processes, expected to start its own; run it without torchrun"
        )
    device_type = launch.choose_device_type(num_devices, device, options.recipe.columns)
    ranks = launch.collect_results(_measure_rank, (options,), num_devices, device_type)
    return StepSpeed(
        options=options,
        device_type=device_type,
        step_ms=ranks[0]["step_ms"],
        peak_mib=[rank["peak_mib"] for rank in ranks],
        gpu_peak_mib=[rank["gpu_peak_mib"] for rank in ranks],
    )


def _measure_rank(rank: Rank, options: StepOptions) -> dict[str, Any]:
    """Measure one rank; the ranks wait for each other in every step."""
    step_ms = time_rounds_ms(make_stepper(rank, options), options, rank.device, quiet=options.quiet or not rank.is_main)
    return {"step_ms": step_ms, "peak_mib": peak_mib(), "gpu_peak_mib": gpu_peak_mib(rank.device)}


def time_rounds_ms(
    step: Callable[[], None],
    options: StepOptions,
    device: torch.device,
    *,
    quiet: bool = False,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Return milliseconds per step, one value per round, after a warm-up."""

    def block() -> None:
        for _ in range(options.steps):
            step()

    with tell_activity("warming up" + (", which compiles the network" if options.compile else "")):
        for _ in range(WARM_UP_STEPS):
            step()
    found = []
    with progress_bar(options.rounds, "rounds", "step", quiet=quiet) as bar:
        for _ in range(options.rounds):
            found.append(1e3 * time_work_s(block, device, clock) / options.steps)
            bar.update()
    return found


def make_stepper(rank: Rank, options: StepOptions) -> Callable[[], None]:
    """Return a function that takes the next training step, on the same random images each time."""
    parameters = make_initial_parameters(options.classes, options.recipe, 0)
    learner = Learner(rank, options.recipe, parameters, seed=0, precision=options.precision, compiled=options.compile)
    images_NCHW, labels_N = make_random_batch(options.batch_size, options.classes, rank.device)
    batch = Batch(images_NCHW=images_NCHW, labels_N=labels_N, ids_N=torch.arange(options.batch_size))
    phase, numbers = choose_phase([], options.recipe), count()

    def step() -> None:
        learner.step(batch, next(numbers), phase)

    return step


def make_random_batch(batch_size: int, classes: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a fixed random batch: float32 images (N, 3, 224, 224), scaled like mean-free photographs; labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    images_NCHW = PIXEL_SD * torch.randn(batch_size, 3, 224, 224, generator=generator)
    return images_NCHW.to(device), torch.randint(0, classes, (batch_size,), generator=generator).to(device)


def _join_values(values: list[float]) -> str:
    return " + ".join(f"{value:,.0f}" for value in values)
