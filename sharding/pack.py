"""Orchestrates stage 1: source folder → planned shard jobs → worker processes → a finished DATASET v1.

The only module of the stage that knows the whole order of events. Called by the command line.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sharding import layout, sidecars
from sharding.convert import ShardJob, ShardOutcome, convert_shard
from sharding.errors import OutputError, SourceError
from sharding.plan import num_shards, shuffled, split_evenly
from sharding.source import SPLITS, Source, list_source, split_folders
from sharding.stats import PixelSums, summarise
from sharding.workers import default_workers, run_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRequest:
    """What ``cli.py shard`` asks for. ``classes`` fixes the label order (say, that of the training split)."""

    source: Path
    folder: Path
    split: str = "train"
    seed: int = 2012
    encode: layout.EncodeRecipe = layout.EncodeRecipe()
    num_workers: int = 0
    classes: tuple[str, ...] | None = None


def shard(request: ShardRequest, *, quiet: bool = False) -> tuple[layout.Manifest, bool]:
    """Convert a class-per-folder source. Returns the manifest and whether any work was needed.

    The same source, seed and recipe over a finished folder is recognised and left alone. Raises SourceError
    for a source that cannot be used, OutputError for an output folder that holds something else.
    """
    source = list_source(request.source, request.classes)
    plan_digest = _plan_digest(source, request)
    finished = _claim(request.folder, plan_digest, request.split)
    if finished is not None:
        return finished, False
    jobs = _jobs(source, request)
    total = len(source.images)
    with tqdm(total=total, unit="images", desc=f"shard {request.split}", disable=quiet, smoothing=0.1) as bar:
        workers = min(request.num_workers or default_workers(), len(jobs))
        outcomes, sums = [], PixelSums(request.encode.size_px)
        for outcome, part in run_jobs(convert_shard, jobs, workers, bar.update):
            outcomes.append(outcome)
            sums.merge(part)
    return _finish(source, request, plan_digest, outcomes, sums), True


def shard_all(
    source: Path,
    out: Path,
    *,
    split: str | None = None,
    seed: int = 2012,
    encode: layout.EncodeRecipe | None = None,
    num_workers: int = 0,
    quiet: bool = False,
) -> Iterator[tuple[Path, layout.Manifest, bool]]:
    """Convert every split that ``source`` holds and yield (folder, manifest, whether there was work to do).

    A source with ``train/`` and ``val/`` gives ``out/train`` and ``out/val``, the latter with the former's
    class order; any other source is one split, written to ``out`` itself. Raises what ``shard`` raises.
    """
    splits = split_folders(source)
    folders = {name: (path, out / name) for name, path in splits.items()}
    if splits and split is not None:
        folders = {split: folders[split]} if split in folders else {}
        if not folders:
            raise SourceError(f"{source} has {', '.join(splits)}, but not the asked-for --split {split}")
    if not splits:
        folders = {split or (source.name if source.name in SPLITS else "train"): (source, out)}
    classes: tuple[str, ...] | None = None
    for name, (images, folder) in folders.items():
        request = ShardRequest(
            source=images, folder=folder, split=name, seed=seed, encode=encode or layout.EncodeRecipe(),
            num_workers=num_workers, classes=classes,
        )  # fmt: skip
        manifest, worked = shard(request, quiet=quiet)
        classes = manifest.classes
        yield folder, manifest, worked


def describe(folder: Path, manifest: layout.Manifest, worked: bool) -> str:
    """Two lines for a person: what is in ``folder`` and that the audit closes."""
    c = manifest.counts
    size = sum(s.num_bytes for s in manifest.shards) / 2**20
    return (
        f"{folder}: {'' if worked else 'already complete, '}{manifest.split}, {manifest.num_samples:,} samples "
        f"of {len(manifest.classes)} classes in {len(manifest.shards)} shards ({size:.1f} MiB), "
        f"digest {manifest.digest[:12]}\n"
        f"  found {c.found:,} = written {c.written:,} + quarantined {c.quarantined:,} + excluded {c.excluded:,}"
        + (f"   (reasons: {folder / layout.QUARANTINE})" if c.quarantined or c.excluded else "")
    )


def _jobs(source: Source, request: ShardRequest) -> list[ShardJob]:
    order = shuffled([image.key for image in source.images], request.seed)
    return [
        ShardJob(
            name=layout.shard_name(request.split, index),
            images=tuple(source.images[order[i]] for i in positions),
            source_root=source.root,
            folder=request.folder,
            encode=request.encode,
        )
        for index, positions in enumerate(split_evenly(len(order), num_shards(len(order))))
    ]


def _plan_digest(source: Source, request: ShardRequest) -> str:
    """Identity of the plan: the sorted source list, labels, seed and recipe; not the workers, not the place."""
    images = [[image.path, image.key, image.label] for image in source.images]
    return layout.json_digest(
        [layout.SCHEMA, request.split, request.seed, asdict(request.encode), list(source.classes), images]
    )


def _claim(folder: Path, plan_digest: str, split: str) -> layout.Manifest | None:
    """Take the output folder for this plan, or return the manifest if it is already finished."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--out {folder} is a file; give a folder")
    if layout.is_dataset(folder):
        manifest = layout.load_manifest(folder)
        if manifest.plan_digest == plan_digest:
            _check_files(folder, manifest)
            return manifest
        raise OutputError(
            f"--out {folder} holds another data set ({manifest.num_samples} {manifest.split} samples of "
            f"{manifest.source!r}, digest {manifest.digest[:12]}…); nothing was changed: give another --out"
        )
    plan = folder / layout.PLAN
    if plan.is_file():
        _check_plan(plan, plan_digest)
    elif folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"--out {folder} is not empty and holds no data set of alexstream; give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make --out {folder}: {error.strerror}") from error
    layout.publish(plan, layout.json_bytes({"schema": layout.SCHEMA, "split": split, "plan": plan_digest}))
    return None


def _check_plan(plan: Path, plan_digest: str) -> None:
    try:
        started = json.loads(plan.read_bytes()).get("plan")
    except (ValueError, AttributeError):
        started = None
    if started != plan_digest:
        raise OutputError(
            f"--out {plan.parent} holds an unfinished conversion of another source, seed or recipe "
            f"({plan} differs from this plan); give another --out, or delete the folder"
        )


def _check_files(folder: Path, manifest: layout.Manifest) -> None:
    for record in manifest.shards:
        tar = folder / f"{record.name}.tar"
        size = tar.stat().st_size if tar.is_file() else -1
        if size != record.num_bytes:
            found = "is missing" if size < 0 else f"has {size} bytes"
            raise OutputError(
                f"--out {folder} is finished by its manifest, but {tar.name} {found}, expected "
                f"{record.num_bytes} bytes; restore the file, or delete the folder and run again"
            )


def _finish(
    source: Source, request: ShardRequest, plan_digest: str, outcomes: list[ShardOutcome], sums: PixelSums
) -> layout.Manifest:
    refused = sorted((row for o in outcomes for row in o.refused), key=lambda row: str(row["path"]))
    left_out = [{"outcome": "quarantined", **row} for row in refused]
    left_out += [{"outcome": "excluded", "path": path, "reason": why} for path, why in source.excluded]
    layout.publish(request.folder / layout.QUARANTINE, _json_lines(left_out))
    if sums.num_images == 0:
        raise SourceError(
            f"{source.root}: none of the {len(source.images)} files is a usable image; "
            f"see {request.folder / layout.QUARANTINE} for the reasons"
        )
    manifest = _manifest(source, request, plan_digest, outcomes, refused)
    layout.save_stats(request.folder, summarise(sums, manifest.digest), sums.mean_image())
    sidecars.write(request.folder, manifest)
    layout.save_manifest(request.folder, manifest)
    (request.folder / layout.PLAN).unlink()
    return manifest


def _manifest(
    source: Source,
    request: ShardRequest,
    plan_digest: str,
    outcomes: list[ShardOutcome],
    refused: list[dict[str, Any]],
) -> layout.Manifest:
    written: Counter[str] = Counter()
    for outcome in outcomes:
        written.update(outcome.written_by_class)
    quarantined = Counter(str(row["wnid"]) for row in refused)
    tried = Counter(image.wnid for image in source.images)
    excluded = Counter(path.split("/")[0] for path, _ in source.excluded if "/" in path)
    by_class = {
        wnid: layout.Counts(
            found=tried[wnid] + excluded[wnid],
            written=written[wnid],
            quarantined=quarantined[wnid],
            excluded=excluded[wnid],
        )
        for wnid in source.classes
    }
    return layout.Manifest(
        split=request.split,
        seed=request.seed,
        encode=request.encode,
        plan_digest=plan_digest,
        source=source.root.resolve().name,
        classes=source.classes,
        shards=tuple(o.record for o in outcomes if o.record is not None),
        counts=layout.Counts(
            found=len(source.images) + len(source.excluded),
            written=written.total(),
            quarantined=len(refused),
            excluded=len(source.excluded),
        ),
        counts_by_class=by_class,
        tool={name: version(name) for name in ("alexstream", "numpy", "pillow", "pyarrow")}
        | {"python": platform.python_version()},
    )


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
