"""Open the subject of a report: a data set, or a run of ``train`` with its data set, if that still exists."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexstream.core.errors import AlexstreamError, DatasetError
from alexstream.core.limits import count_cores
from alexstream.core.parameters import to_display
from alexstream.core.storage import parse_location
from alexstream.core.text import to_one_line
from alexstream.core.toml import parse_toml
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.layout import is_dataset
from alexstream.sharding.dataset_v1.manifest import find_split, list_split_folders
from alexstream.sharding.dataset_v1.missing import describe_missing_dataset
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.distributed.launch import choose_single_device
from alexstream.trainer.evaluation.ensemble import Ensemble
from alexstream.trainer.metrics import CONFIG_FILE, METRICS_FILE, RUN_FILE, load_run_facts, read_run_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """Hold the options of a report.

    ``data``: a run's data set, if it is not the one that its ``config.toml`` names; ``source``: the folder or archive
    that the images came from; ``queries``: number of validation images for which the nearest training images are
    shown; ``device``: auto, cpu or cuda; ``program``: what the reader starts, in the commands of the page.
    """

    folder: Path
    data: Path | None = None
    source: Path | None = None
    queries: int = 4
    device: str = "auto"
    cache: Path | None = None
    cache_bytes: int = 64 << 30
    quiet: bool = False
    program: str = "alexstream"

    def torch_device(self) -> torch.device:
        """Return the device. Raises TrainError for a GPU that does not exist."""
        return choose_single_device(self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Hold a run: the values of ``run.json`` and ``config.toml``, {} if they are missing, and its newest checkpoint."""

    folder: Path
    facts: dict[str, Any]
    options: dict[str, Any]
    network: Ensemble | None

    @property
    def data(self) -> dict[str, Any]:
        """The description of the data in ``run.json``; {} if there is none."""
        found = self.facts.get("data")
        return found if isinstance(found, dict) else {}

    @property
    def num_classes(self) -> int:
        """The number of classes by ``run.json``; 0 if it does not say."""
        found = self.data.get("classes")
        return len(found) if isinstance(found, list) else 0

    @classmethod
    def from_folder(cls, folder: Path) -> Run:
        """Read a run folder. Raises CheckpointError if its newest checkpoint cannot be read."""
        newest = checkpoints.find_latest(folder)
        return cls(
            folder=folder,
            facts=load_run_facts(folder),
            options=_read_toml(folder / CONFIG_FILE),
            network=Ensemble.load([newest]) if newest is not None else None,
        )

    @property
    def augmentation(self) -> str:
        """The name of the augmentation recipe, ``paper`` if ``run.json`` does not say."""
        return str(self.data.get("augmentation", "paper"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Hold an open data set, a run, or both.

    ``splits``: the folders of the splits, training first. ``stream``: their batches, if there is a training split.
    ``missing``: the reason why there is no data set.
    """

    request: ReportRequest
    run: Run | None
    splits: Sequence[Path]
    stream: ShardedData | None
    missing: str = ""

    @property
    def title(self) -> str:
        """The title of the report."""
        return f"Run {self.run.folder.name}" if self.run else f"Data set {self.request.folder.name or 'here'}"


def open_subject(request: ReportRequest) -> Subject:
    """Open ``request.folder`` as a run or a data set.

    Raises DatasetError if it is neither, or if the data set given with ``request.data`` is not the run's.
    """
    folder = request.folder
    if any((folder / name).is_file() for name in (METRICS_FILE, RUN_FILE, checkpoints.LATEST_FILE)):
        run = Run.from_folder(folder)
        _tell_what_is_left_out(run)
        return _open_run(request, run)
    if not is_dataset(folder) and not (folder.is_dir() and any(is_dataset(child) for child in folder.iterdir())):
        neither = f"{folder} is neither a data set nor a run of train; give a folder that shard or train made"
        raise DatasetError(describe_missing_dataset(folder, neither))
    if request.data is not None and request.data.absolute() != folder.absolute():
        raise DatasetError(
            f"{folder} is a data set, and `data` {request.data} names another; give one of them, or a run"
        )
    splits = list_split_folders(folder)
    stream = _make_stream(request, folder, None, "paper")
    if stream is not None:
        stream.facts()
    return Subject(request=request, run=None, splits=splits, stream=stream)


def _open_run(request: ReportRequest, run: Run) -> Subject:
    try:
        named, val = (request.data, None) if request.data is not None else _find_named_data(request, run)
        if named is None:
            return _make_without_data(request, run, f"{run.folder} does not say which data set it was trained on")
        stream = _make_stream(request, named, val, run.augmentation)
        if stream is None:
            list_split_folders(named)  # raises a more precise error if there is no data set at all
            raise DatasetError(f"{named} holds no training split")
        _check_same_data(run, stream, is_given=request.data is not None)
    except (AlexstreamError, OSError) as error:
        if request.data is not None:
            raise
        return _make_without_data(request, run, to_display(str(error)))
    splits = [Path(place) if isinstance(place, str) else place for place in (stream.train, stream.val) if place]
    return Subject(request=request, run=run, splits=splits, stream=stream)


def _find_named_data(request: ReportRequest, run: Run) -> tuple[Path | None, Path | None]:
    """Return the data set and the validation split that ``config.toml`` names; print a note before they are opened.

    The run may be somebody else's, and its addresses are not trusted: an object store, where the credentials of whoever
    makes the report would be sent, is not opened. Raises DatasetError for one.
    """
    found: dict[str, Path] = {}
    for name in ("data", "val"):
        place = str(run.options.get(name, ""))
        if "://" in place and not place.startswith("file://"):
            raise DatasetError(
                f"{run.folder / CONFIG_FILE} names {place} of an object store, which is opened only where you name it; "
                "give the data set with `data`"
            )
        if place:
            found[name] = parse_location(place)
            _print_note(
                request,
                f"{run.folder / CONFIG_FILE} names {found[name]}, which is opened; `data` names another data set",
            )
    return found.get("data"), found.get("val")


def _make_without_data(request: ReportRequest, run: Run, why: str) -> Subject:
    _print_note(request, f"no data set is shown: {why}")
    return Subject(request=request, run=run, splits=(), stream=None, missing=why)


def _print_note(request: ReportRequest, text: str) -> None:
    if not request.quiet:
        print(f"note: {to_one_line(to_display(text))}", file=sys.stderr)  # noqa: T201


def _tell_what_is_left_out(run: Run) -> None:
    """Print a note, even for a quiet report, on files of the run of which nothing can be shown: it would lack them."""
    held = {RUN_FILE: run.facts, CONFIG_FILE: run.options, METRICS_FILE: (run.folder / METRICS_FILE).is_file()}
    lost = [name for name, found in held.items() if not found and os.path.lexists(run.folder / name)]
    if lost:
        text = f"{run.folder}: left out of the report, as no run writes them so: {', '.join(lost)}; restore them"
        print(f"note: {to_one_line(text)}", file=sys.stderr)  # noqa: T201


def _check_same_data(run: Run, stream: ShardedData, *, is_given: bool) -> None:
    """Raise DatasetError or CheckpointError unless the stream's data is what the run was trained on.

    If the run names the data, and not the user (``is_given``), the run must also have recorded its digests: somebody
    who points a run at a data set of the reader's cannot know them.
    """
    facts, trained_on = stream.facts(), run.data.get("train_digest")
    if not (is_given and trained_on is None):
        _check_digest(run, stream.train, facts.train_digest, trained_on)
    if not is_given and "val" in run.options:
        _check_digest(run, stream.val, facts.val_digest, run.data.get("val_digest"))
    if run.network is not None:
        run.network.require_match(facts)


def _check_digest(run: Run, place: Path | str | None, digest: str, recorded: object) -> None:
    if recorded != digest:
        said = f"was trained on {str(recorded)[:12]}…" if recorded else "has not recorded the digest of its data"
        raise DatasetError(
            f"{place} has digest {digest[:12]}…, but {run.folder} {said}; give the data set that it was trained on "
            "with `data`"
        )


def _make_stream(request: ReportRequest, data: Path, val: Path | None, augmentation: str) -> ShardedData | None:
    train = find_split(data, "train")
    if train is None:
        return None
    return ShardedData(
        train=train,
        val=(find_split(val, "val") or val) if val is not None else find_split(data, "val"),
        augmentation=augmentation,
        num_threads=count_cores(),
        cache=request.cache,
        cache_bytes=request.cache_bytes,
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_run_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
