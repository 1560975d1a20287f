"""Orchestrates stage 1: source folder → planned shard jobs → worker processes → a finished DATASET v1.

The only module of the stage that knows the whole order of events. Called by the command line.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sharding import layout, sidecars
from sharding.convert import ShardJob, ShardOutcome, convert_shard
from sharding.errors import SourceError
from sharding.output import claimed, clear_leftovers
from sharding.plan import num_shards, shuffled, split_evenly
from sharding.source import Source, list_source, split_folders, split_named
from sharding.stats import PixelSums, summarise
from sharding.tar import label_digits
from sharding.workers import default_workers, run_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRequest:
    """What ``cli.py shard`` asks for.

    ``split`` empty: all that the source holds, or the source's own name if that is a split's, else ``train``.
    ``classes`` fixes the label order (say, that of the training split). More than ``max_bad`` refused files end the
    conversion; None: any number goes into quarantine.
    """

    source: Path
    folder: Path
    split: str = ""
    seed: int = 2012
    encode: layout.EncodeRecipe = layout.EncodeRecipe()
    num_workers: int = 0
    classes: tuple[str, ...] | None = None
    max_bad: int | None = None


def shard(request: ShardRequest, *, quiet: bool = False) -> tuple[layout.Manifest, bool]:
    """Convert a class-per-folder source. Returns the manifest and whether any work was needed.

    The same source, seed and recipe over a finished folder is recognised and left alone. Raises SourceError
    for a source that cannot be used, OutputError for an output folder that holds something else.
    """
    request = replace(request, split=request.split or "train")
    source = list_source(request.source, request.classes)
    plan_digest = _plan_digest(source, request)
    with claimed(request.folder, plan_digest, request.split) as finished:
        if finished is not None:
            return finished, False
        outcomes, sums = _convert(_jobs(source, request), request, quiet=quiet)
        return _finish(source, request, plan_digest, outcomes, sums), True


def _convert(jobs: list[ShardJob], request: ShardRequest, *, quiet: bool) -> tuple[list[ShardOutcome], PixelSums]:
    """Run the jobs; shards that an earlier run finished are checked and kept. One shard's sums at a time in memory."""
    outcomes, sums = [], PixelSums(request.encode.size_px)
    num_refused = 0
    workers = min(request.num_workers or default_workers(), len(jobs))
    total = sum(len(job.images) for job in jobs)
    with tqdm(total=total, unit="images", desc=f"shard {request.split}", disable=quiet, smoothing=0.1) as bar:
        for outcome, part in run_jobs(convert_shard, jobs, workers, bar.update):
            outcomes.append(outcome)
            sums.merge(part)
            num_refused += len(outcome.refused)
            if request.max_bad is not None and num_refused > request.max_bad:
                raise SourceError(
                    f"{num_refused} files of {request.source} are no usable images, more than --max-bad "
                    f"{request.max_bad}; the last: {outcome.refused[-1]['path']} ({outcome.refused[-1]['detail']}). "
                    "Finished shards are kept: mend the files or raise --max-bad, and run again"
                )
    return outcomes, sums


def shard_all(request: ShardRequest, *, quiet: bool = False) -> Iterator[tuple[Path, layout.Manifest, bool]]:
    """Convert every split that the source holds and yield (folder, manifest, whether there was work to do).

    A source with ``train/`` and ``val/`` gives ``folder/train`` and ``folder/val``, the latter with the former's
    class order; any other source is one split, written to ``folder`` itself. Raises what ``shard`` raises.
    """
    for part in split_requests(request):
        if request.classes is None and part.split != "train" and len(split_folders(request.source)) > 1:
            part = replace(part, classes=_training_classes(request))
        manifest, worked = shard(part, quiet=quiet)
        yield part.folder, manifest, worked


def split_requests(request: ShardRequest) -> list[ShardRequest]:
    """One request for each split that is asked for and there. Raises SourceError if the asked-for one is missing."""
    splits = split_folders(request.source)
    if not splits:
        return [replace(request, split=request.split or split_named(request.source.name))]
    if request.split and request.split not in splits:
        raise SourceError(f"{request.source} has {', '.join(splits)}, but not the asked-for --split {request.split}")
    return [
        replace(request, source=path, folder=request.folder / name, split=name)
        for name, path in splits.items()
        if request.split in ("", name)
    ]


def _training_classes(request: ShardRequest) -> tuple[str, ...]:
    return list_source(split_folders(request.source)["train"]).classes


def summary(folder: Path, manifest: layout.Manifest, worked: bool) -> str:
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
            label_digits=label_digits(len(source.classes)),
        )
        for index, positions in enumerate(split_evenly(len(order), num_shards(len(order))))
    ]


def _plan_digest(source: Source, request: ShardRequest) -> str:
    """Identity of the plan: the sorted source list, labels, seed and recipe; not the workers, not the place."""
    images = [[image.path, image.key, image.label] for image in source.images]
    return layout.json_digest(
        [layout.SCHEMA, request.split, request.seed, asdict(request.encode), list(source.classes), images]
    )


def _finish(
    source: Source, request: ShardRequest, plan_digest: str, outcomes: list[ShardOutcome], sums: PixelSums
) -> layout.Manifest:
    refused = sorted((row for o in outcomes for row in o.refused), key=lambda row: str(row["path"]))
    left_out = [{"outcome": "quarantined", **row} for row in refused]
    left_out += [{"outcome": "excluded", "path": path, "reason": why} for path, why in source.excluded]
    quarantine = _json_lines(left_out)
    layout.publish(request.folder / layout.QUARANTINE, quarantine)
    if sums.num_images == 0:
        raise SourceError(
            f"{source.root}: none of the {len(source.images)} files is a usable image; "
            f"see {request.folder / layout.QUARANTINE} for the reasons"
        )
    manifest = _manifest(source, request, plan_digest, outcomes, refused)
    manifest = replace(manifest, quarantine_sha256=hashlib.sha256(quarantine).hexdigest())
    layout.save_stats(request.folder, summarise(sums, manifest.digest), sums.mean_image())
    sidecars.write(request.folder, manifest)
    layout.save_manifest(request.folder, manifest)
    clear_leftovers(request.folder)
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
        quarantine_sha256="",
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
