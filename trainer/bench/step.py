"""How fast a training step is without data to wait for: forward, loss, backward and update on one reused batch.

Called by ``cli.py bench step``; takes the steps of ``trainer.learner``, on one device or on two ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from pipeline.batch import Batch
from sharding.progress import progress
from trainer import launch
from trainer.bench.numbers import Spread
from trainer.bench.timing import Clock, elapsed_s, gpu_peak_mib, peak_mib
from trainer.errors import TrainError
from trainer.geometry import initial_parameters
from trainer.launch import Rank
from trainer.learner import Learner, Precision
from trainer.recipe import PAPER, Recipe
from trainer.schedule import phase_after

WARM_UP = 3  # steps; torch.compile compiles for step 0, for step 1, and then for any
PIXEL_SD = 60.0  # about that of photographs minus their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """What a step is: network, batch and precision, as for training; ``rounds`` of so many ``steps`` are timed."""

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
    """``step_ms``: milliseconds a step, an entry a round; peaks of memory in MiB, an entry a rank."""

    options: StepOptions
    device_type: str
    step_ms: list[float]
    peak_mib: list[float]
    gpu_peak_mib: list[float | None]

    def images_per_s(self) -> list[float]:
        """An entry a round."""
        return [1e3 * self.options.batch_size / ms for ms in self.step_ms]

    def table(self) -> str:
        """Lines for a person."""
        options, ranks = self.options, len(self.peak_mib)
        compiled = ", compiled" if options.compile else ""
        rows = {
            "step": f"recipe {options.recipe.name}, {options.classes:,} classes, batch {options.batch_size}, "
            f"{options.precision}{compiled}; {ranks} rank(s), {self.device_type}",
            "ms a step": Spread.of(self.step_ms).text(",.1f"),
            "images/s": Spread.of(self.images_per_s()).text(",.1f"),
            "peak memory": f"{_each(self.peak_mib)} MiB a rank",
        }
        if on_gpu := [mib for mib in self.gpu_peak_mib if mib is not None]:
            rows["GPU memory"] = f"{_each(on_gpu)} MiB a rank, at most"
        rows["rounds"] = f"{len(self.step_ms)} of {options.steps} steps"
        return "\n".join(f"{name:12} {value}" for name, value in rows.items())

    def json(self) -> dict[str, Any]:
        """All that was measured, a list where there is a value a round or a rank."""
        measured = {name: getattr(self, name) for name in self.__slots__ if name != "options"}
        return {**measured, "images_per_s": self.images_per_s()}


def measure(options: StepOptions, num_devices: int = 1, device: str = "auto") -> StepSpeed:
    """Start the ranks as training does, let them take steps, and collect what they measured.

    Raises TrainError for devices that there are not, under torchrun (its processes are more than one step's), and for
    tf32 without a GPU, which would silently be fp32.
    """
    if launch.under_torchrun():
        raise TrainError(
            "bench step: received torchrun's processes, expected to start its own; run it without torchrun"
        )
    device_type = launch.choose_device_type(num_devices, device, options.recipe.columns)
    ranks = launch.results_of(_measure_rank, (options,), num_devices, device_type)
    return StepSpeed(
        options=options,
        device_type=device_type,
        step_ms=ranks[0]["step_ms"],
        peak_mib=[rank["peak_mib"] for rank in ranks],
        gpu_peak_mib=[rank["gpu_peak_mib"] for rank in ranks],
    )


def _measure_rank(rank: Rank, options: StepOptions) -> dict[str, Any]:
    """One rank's part. Columns wait for each other in every step."""
    step_ms = rounds_ms(stepper(rank, options), options, rank.device, quiet=options.quiet or not rank.is_main)
    return {"step_ms": step_ms, "peak_mib": peak_mib(), "gpu_peak_mib": gpu_peak_mib(rank.device)}


def rounds_ms(
    step: Callable[[], None],
    options: StepOptions,
    device: torch.device,
    *,
    quiet: bool = False,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Milliseconds a step in every round, after a warm-up."""

    def block() -> None:
        for _ in range(options.steps):
            step()

    for _ in range(WARM_UP):
        step()
    found = []
    with progress(options.rounds, "rounds", "step", quiet=quiet) as bar:
        for _ in range(options.rounds):
            found.append(1e3 * elapsed_s(block, device, clock) / options.steps)
            bar.update()
    return found


def stepper(rank: Rank, options: StepOptions) -> Callable[[], None]:
    """What takes one step more of training, on the same random images each time."""
    parameters = initial_parameters(options.classes, options.recipe, 0)
    learner = Learner(rank, options.recipe, parameters, seed=0, precision=options.precision, compiled=options.compile)
    images_NCHW, labels_N = random_batch(options.batch_size, options.classes, rank.device)
    batch = Batch(images_NCHW=images_NCHW, labels_N=labels_N, ids_N=torch.arange(options.batch_size))
    phase, numbers = phase_after([], options.recipe), count()

    def step() -> None:
        learner.step(batch, next(numbers), phase)

    return step


def random_batch(batch_size: int, classes: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The same each time: float32 images (N, 3, 224, 224), scaled as photographs minus their mean, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    images_NCHW = PIXEL_SD * torch.randn(batch_size, 3, 224, 224, generator=generator)
    return images_NCHW.to(device), torch.randint(0, classes, (batch_size,), generator=generator).to(device)


def _each(values: list[float]) -> str:
    return " + ".join(f"{value:,.0f}" for value in values)
