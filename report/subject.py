"""What a report is about, opened: a data set, or a run of ``train`` with its data set where that is still there."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.loader import ShardedData
from sharding.errors import AlexstreamError, DatasetError
from sharding.fields import parsed
from sharding.layout import find_split, is_dataset, split_folders_of
from sharding.storage import location
from trainer import checkpoint as checkpoints
from trainer.ensemble import Ensemble
from trainer.launch import choose_device_type, cores
from trainer.metrics import CONFIG, METRICS, OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    ``data``: a run's data set, if it is not the one that its ``config.toml`` names; ``source``: where the images came
    from; ``queries``: validation images whose nearest training images are wanted; ``device``: auto, cpu or cuda.
    """

    folder: Path
    data: Path | None = None
    source: Path | None = None
    queries: int = 4
    device: str = "auto"
    cache: Path | None = None
    cache_bytes: int = 64 << 30
    quiet: bool = False

    def torch_device(self) -> torch.device:
        """What ``device`` stands for. Raises TrainError for a GPU that is not there."""
        return torch.device(choose_device_type(1, self.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder: ``run.json`` and ``config.toml`` as values, {} where they are not, and its newest checkpoint."""

    folder: Path
    facts: dict[str, Any]
    options: dict[str, Any]
    network: Ensemble | None

    @property
    def data(self) -> dict[str, Any]:
        """What ``run.json`` says of the data; {} if it says nothing."""
        found = self.facts.get("data")
        return found if isinstance(found, dict) else {}

    @classmethod
    def of(cls, folder: Path) -> Run:
        """Read it. Raises CheckpointError if its checkpoint cannot be read."""
        newest = checkpoints.latest(folder)
        return cls(
            folder=folder,
            facts=_json(folder / CONFIG),
            options=_toml(folder / OPTIONS),
            network=Ensemble.load([newest]) if newest is not None else None,
        )

    @property
    def augmentation(self) -> str:
        """The recipe of its images, ``paper`` if it is not written down."""
        return str(self.data.get("augmentation", "paper"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A data set, a run, or both. ``splits``: folders, training first; ``missing``: why there is no data set.

    ``stream``: the batches of its splits, if there is a training split.
    """

    request: Request
    run: Run | None
    splits: Sequence[Path]
    stream: ShardedData | None
    missing: str = ""

    @property
    def title(self) -> str:
        """Its name, in a few words."""
        return f"Run {self.run.folder.name}" if self.run else f"Data set {self.request.folder.name or 'here'}"


def opened(request: Request) -> Subject:
    """Find out what ``request.folder`` is, and open it.

    Raises DatasetError if it is neither a data set nor a run, or if a data set that was named cannot be used.
    """
    folder = request.folder
    if any((folder / name).is_file() for name in (METRICS, CONFIG, checkpoints.LATEST)):
        return _of_run(request, Run.of(folder))
    if not is_dataset(folder) and not (folder.is_dir() and any(is_dataset(child) for child in folder.iterdir())):
        raise DatasetError(
            f"{folder} is neither a data set nor a run of train; give a folder that cli.py shard or cli.py train made"
        )
    splits = split_folders_of(folder)
    stream = _stream(request, folder, None, "paper")
    if stream is not None:
        stream.facts()
    return Subject(request=request, run=None, splits=splits, stream=stream)


def _of_run(request: Request, run: Run) -> Subject:
    named = request.data or (location(str(run.options["data"])) if "data" in run.options else None)
    if named is None:
        return _without_data(request, run, f"{run.folder} does not say which data set it was trained on")
    try:
        val = location(str(run.options["val"])) if "val" in run.options and request.data is None else None
        stream = _stream(request, named, val, run.augmentation)
        if stream is None:
            split_folders_of(named)  # says what is wrong if there is no data set at all
            raise DatasetError(f"{named} holds no training split")
        _require_same(run, stream)
    except (AlexstreamError, OSError) as error:
        if request.data is not None:
            raise
        return _without_data(request, run, str(error))
    splits = [Path(place) if isinstance(place, str) else place for place in (stream.train, stream.val) if place]
    return Subject(request=request, run=run, splits=splits, stream=stream)


def _without_data(request: Request, run: Run, why: str) -> Subject:
    return Subject(request=request, run=run, splits=(), stream=None, missing=why)


def _require_same(run: Run, stream: ShardedData) -> None:
    """Raise DatasetError or CheckpointError unless the stream's data is what the run was trained on."""
    facts, trained_on = stream.facts(), run.data.get("train_digest")
    if trained_on not in (None, facts.train_digest):
        raise DatasetError(
            f"{stream.train} has digest {facts.train_digest[:12]}…, but {run.folder} was trained on "
            f"{str(trained_on)[:12]}…; give the data set that it was trained on with --data"
        )
    if run.network is not None:
        run.network.require(facts)


def _stream(request: Request, data: Path, val: Path | None, augmentation: str) -> ShardedData | None:
    train = find_split(data, "train")
    if train is None:
        return None
    return ShardedData(
        train=train,
        val=(find_split(val, "val") or val) if val is not None else find_split(data, "val"),
        augmentation=augmentation,
        num_threads=cores(),
        cache=request.cache,
        cache_bytes=request.cache_bytes,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parsed(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
