"""Train and score from beginning to end in one call each, for programs and for the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from alexstream.pipeline.batch import TrainingData
from alexstream.trainer import loop
from alexstream.trainer.checkpoint import resume_advice
from alexstream.trainer.distributed import launch
from alexstream.trainer.distributed.stop import StopRequest, stop_on_interrupt
from alexstream.trainer.evaluation.ensemble import Ensemble
from alexstream.trainer.evaluation.evaluate import Assessment, PredictionSink, WeightFitData, assess
from alexstream.trainer.run_setup import RunOptions, prepare_run


def train(data: TrainingData, options: RunOptions, *, devices: int = 2, device: str = "auto", config: str = "") -> Path:
    """Train to the end of the last epoch, start the processes that this takes, and return the run folder.

    With one device the network is trained in this process, whose torch is set to deterministic algorithms. Two devices
    are two new processes, which import the program's main module: call this below ``if __name__ == "__main__":``.
    Under torchrun every process calls it.

    Ctrl-C, or SIGTERM where it raises KeyboardInterrupt, saves a checkpoint after the step in progress and is raised
    when that is done; a second one ends the run at once. Under torchrun the first one does.

    Raises TrainError if the devices, the batch size or the run folder do not fit, or if the loss diverges;
    LostRanksError if a process dies or does not answer; CheckpointError if a checkpoint to start from belongs to other
    data or another recipe; and the errors of ``data``.

    Args:
        data: Where the batches come from, as ``ShardedData``; picklable, as it is sent to the processes.
        options: How long the run lasts, what it trains and what it leaves.
        devices: Devices per replica. 2: one process for each column of the network. 1: one process holds both.
        device: ``cuda``, ``cpu``, or ``auto`` for GPUs if there are enough of them.
        config: Text that the run folder keeps as ``config.toml``; empty for none.
    """
    device_type = launch.choose_device_type(devices, device, options.recipe.columns)
    num_parts = launch.count_replicas(devices) * devices
    is_main = launch.is_main_process()
    stop = None if launch.is_under_torchrun() else StopRequest(devices)
    stopping = nullcontext() if stop is None else stop_on_interrupt(stop, quiet=options.quiet)
    try:
        with prepare_run(options, data.facts(), num_parts, write=is_main, config=config) as lock, stopping:
            launch.run_on_ranks(
                loop.train,
                (data, options),
                devices,
                device_type,
                launch.RunContext(timeout_s=options.timeout_s, lock=lock, folder=options.folder, stop=stop),
            )
    except KeyboardInterrupt as error:
        error.args = (resume_advice(options.folder),)
        raise
    return options.folder


def evaluate(
    data: TrainingData,
    checkpoints: Path | Sequence[Path],
    *,
    device: str = "auto",
    views: int = 1,
    fit_on: WeightFitData | None = None,
    predictions: PredictionSink | None = None,
    quiet: bool = True,
) -> Assessment:
    """Score a checkpoint, or the mean of several, on the validation split of ``data``, on one device.

    Raises CheckpointError if a checkpoint cannot be read or was trained on other classes, another training split or
    with another augmentation than ``data`` has; TrainError if there is no validation split or no such device.

    Args:
        data: The source of the images, as ``ShardedData``, with the augmentation of the training.
        checkpoints: Checkpoint files, or run folders, whose newest checkpoints are used; one or several.
        device: ``cuda``, ``cpu``, or ``auto`` for a GPU if there is one.
        views: 1, the center crop, or 10, whose predictions are averaged.
        fit_on: The images on which the weights of several checkpoints are fitted; None: equal weights.
        predictions: Receives every batch with its predictions.
        quiet: Show no progress.
    """
    ensemble = Ensemble.load([checkpoints] if isinstance(checkpoints, Path) else checkpoints)
    where = launch.choose_single_device(device)
    return assess(data, ensemble, where, views=views, fit_on=fit_on, predictions=predictions, quiet=quiet)
