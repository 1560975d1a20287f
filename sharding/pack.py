"""Convert a source into finished DATASET v1 folders: plan its splits, run the shard jobs, write the manifest.

The only module of the stage that knows the whole order of events. Called by the command line.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alexstream.core.errors import SourceError
from alexstream.core.limits import count_cores
from alexstream.core.progress import progress_bar, tell_activity
from alexstream.core.storage import parse_location, publish_file
from alexstream.core.text import count_of, escape_unprintable, normalize_nfc
from alexstream.sharding.convert import ShardJob, convert_shard, find_source_changes
from alexstream.sharding.dataset_v1 import layout, sidecars
from alexstream.sharding.dataset_v1.manifest import Counts, Manifest, save_manifest
from alexstream.sharding.dataset_v1.statistics import save_stats
from alexstream.sharding.executors.local import run_jobs
from alexstream.sharding.executors.ray import run_jobs_on_ray
from alexstream.sharding.listing import Listing
from alexstream.sharding.output import clear_leftovers, open_output_folder
from alexstream.sharding.resume import ShardOutcome
from alexstream.sharding.sources.reader import stamp_files
from alexstream.sharding.sources.tars.tar_list import open_source
from alexstream.sharding.split_plans import Plan, ShardRequest, make_jobs, plan_splits
from alexstream.sharding.stats import PixelSums, summarize


def shard(
    source: Path | str,
    folder: Path | str,
    *,
    fetch_to: Path | str | None = None,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Manifest]:
    """Convert a source of images to a data set, and return the manifest of each of its splits by name.

    The splits lie in ``folder/train``, ``folder/val`` and so on, or in ``folder`` itself if there is only one. A split
    that is finished is left alone, one that was interrupted is continued. The conversion runs in new processes, which
    import the program's main module: call this below ``if __name__ == "__main__":``. Raises SourceError for a source
    that cannot be used, OutputError for a folder that holds something else.

    Args:
        source: Where the images are: a folder, archives, tables, or a place in an object store (``s3://…``). As text
            also a list of tars as of webdataset: ``"shards/train-{000000..000146}.tar"``, ``"pipe:COMMAND"``.
        folder: Where the data set is made, likewise.
        fetch_to: Folder for the tars of a list that commands or web servers give; they are copied there first.
        quiet: Show no progress.
        options: Further fields of ``ShardRequest``, for example ``split="train"`` for one split alone.
    """
    if isinstance(source, str):
        listed = open_source(source, fetch_to=None if fetch_to is None else Path(fetch_to), quiet=quiet)
        source, options = listed.folder, {"tars": listed.tars, **options}
    request = ShardRequest(source=source, folder=_to_location(folder), **options)
    return {manifest.split: manifest for _, manifest, _ in shard_all(request, quiet=quiet)}


def _to_location(place: Path | str) -> Path:
    return parse_location(place) if isinstance(place, str) else place


def shard_split(request: ShardRequest, *, quiet: bool = False) -> tuple[Manifest, bool]:
    """Convert a source with a single split, or the split asked for. Return what ``shard_plan`` returns."""
    ((_, manifest, worked),) = shard_all(request, quiet=quiet)
    return manifest, worked


def shard_plan(plan: Plan, *, quiet: bool = False) -> tuple[Manifest, bool]:
    """Convert one planned split. Return its manifest, and whether there was any work to do.

    A finished folder of the same source, seed and recipe is left alone. Raises SourceError for a source without a
    usable image, OutputError for an output folder that holds something else.
    """
    request, digest = plan.request, plan.digest
    with open_output_folder(request.folder, digest, request.split) as finished:
        if finished is not None:
            return finished, False
        outcomes, sums = _run_jobs(plan, quiet=quiet)
        return _finish_dataset(plan, digest, outcomes, sums), True


def shard_all(
    request: ShardRequest, *, quiet: bool = False, show: Callable[[Plan], None] | None = None
) -> list[tuple[Path, Manifest, bool]]:
    """Convert every split of the source and return (folder, manifest, whether there was any work to do) of each.

    Raises SourceError for a source that cannot be used, OutputError for an output folder that holds something else.

    Args:
        request: What to convert, to where, and how.
        quiet: Show no progress.
        show: Called with the plan of each split before the first one is converted.
    """
    return list(convert_splits(request, quiet=quiet, show=show))


def convert_splits(
    request: ShardRequest, *, quiet: bool = False, show: Callable[[Plan], None] | None = None
) -> Iterator[tuple[Path, Manifest, bool]]:
    """Convert split after split of the source, and yield (folder, manifest, whether there was any work to do) of each.

    Raises SourceError for a source that cannot be used, OutputError for an output folder that holds something else.

    Args:
        request: What to convert, to where, and how.
        quiet: Show no progress.
        show: Called with the plan of each split before the first one is converted.
    """
    with tell_activity(f"listing the images of {request.source}"):
        planned = list(plan_splits(request))
    if show is not None:
        for plan in planned:
            show(plan)
    while planned:
        plan = planned.pop(0)
        manifest, worked = shard_plan(plan, quiet=quiet)
        yield plan.request.folder, manifest, worked


def _run_jobs(plan: Plan, *, quiet: bool) -> tuple[list[ShardOutcome], PixelSums]:
    """Run the shard jobs, and merge their sums one shard at a time. Reuse shards that an earlier run finished."""
    request, todo = plan.request, make_jobs(plan)
    run = run_jobs_on_ray if request.executor == "ray" else run_jobs
    outcomes, sums = [], PixelSums(request.encode.size_px)
    num_refused = 0
    workers = min(request.num_workers or count_cores(), len(todo))
    with progress_bar(len(plan.order), "images", f"shard {request.split}", quiet=quiet) as bar:
        for outcome, part in run(convert_shard, todo, workers, bar.update):
            outcomes.append(outcome)
            sums.merge(part)
            num_refused += len(outcome.refused)
            if request.max_bad is not None and num_refused > request.max_bad:
                raise SourceError(
                    f"{count_of(num_refused, 'file')} of {request.source}: no usable images, more than `max_bad` "
                    f"{request.max_bad}; the last: {outcome.refused[-1]['path']} ({outcome.refused[-1]['detail']}). "
                    "Finished shards are kept: fix the files or raise `max_bad`, and run again"
                )
    _check_unchanged(plan, todo)
    return outcomes, sums


def _check_unchanged(plan: Plan, todo: Sequence[ShardJob]) -> None:
    """Check that no source file has changed since it was read, so that the data set is of one moment.

    Raises SourceError if one has; the next run then makes the affected shards again. Prints one note if files differ in
    inode number or status change time only.
    """
    source, changed, renumbered = plan.request.source, list[str](), dict[str, None]()
    for job in todo:
        found = find_source_changes(job)
        changed += found.paths
        renumbered |= dict.fromkeys(found.renumbered)
    now = stamp_files(source, plan.archives)
    moved = [name for name, mark in plan.archives.items() if now.get(name) != mark]
    if not changed and moved and plan.relist is not None and plan.relist().digest() != plan.listing.digest():
        changed = moved
    if changed:
        raise SourceError(
            f"{count_of(len(changed), 'file')} of {source} changed after being read, the first: {changed[0]}; "
            "what is finished is kept: run the same command again when nobody writes there"
        )
    renumbered |= {name: None for name in moved if now[name].has_same_size_and_mtime(plan.archives[name])}
    if renumbered:
        _print_renumbered(source, list(renumbered))


def _print_renumbered(source: Path, names: Sequence[str]) -> None:
    first = escape_unprintable(str(source / names[0] if source.is_dir() else source))
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    text = (
        f"NOTE {first}{more}: inode number or time of change is another than before, as on file systems that do not "
        "keep them; size, time of writing and content are the same, so the work went on"
    )
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def describe_result(folder: Path, manifest: Manifest, worked: bool) -> str:
    """Return a summary of a finished split for a person: its contents and the audit; notices stand in the plan."""
    c = manifest.counts
    size = sum(s.num_bytes for s in manifest.shards) / 2**20
    lines = [
        f"{folder}: {'' if worked else 'already complete, '}{manifest.split}, "
        f"{count_of(manifest.num_samples, 'sample')} of {count_of(len(manifest.classes), 'class', 'classes')} in "
        f"{count_of(len(manifest.shards), 'shard')} ({size:.1f} MiB), digest {manifest.digest[:12]}",
        f"  from {manifest.source_form}",
        f"  found {c.found:,} = written {c.written:,} + quarantined {c.quarantined:,} + excluded {c.excluded:,}"
        + (f"   (reasons: {folder / layout.QUARANTINE})" if c.quarantined or c.excluded else ""),
    ]  # fmt: skip
    return "\n".join(map(escape_unprintable, lines))


def _finish_dataset(plan: Plan, plan_digest: str, outcomes: list[ShardOutcome], sums: PixelSums) -> Manifest:
    request, listing = plan.request, plan.listing
    refused = sorted((row for o in outcomes for row in o.refused), key=lambda row: str(row["path"]))
    left_out = [{"outcome": "quarantined", **row} for row in refused]
    left_out += [{"outcome": "excluded", "path": path, "reason": why} for path, why in listing.excluded]
    quarantine = _encode_json_lines(left_out)
    publish_file(request.folder / layout.QUARANTINE, quarantine)
    if sums.num_images == 0:
        raise SourceError(
            f"{request.source}: none of {count_of(len(listing), 'file')} is a usable image; "
            f"see {request.folder / layout.QUARANTINE} for the reasons"
        )
    manifest = _make_manifest(plan, plan_digest, outcomes, refused)
    manifest = replace(manifest, quarantine_sha256=hashlib.sha256(quarantine).hexdigest())
    save_stats(request.folder, summarize(sums, manifest.digest), sums.mean_image())
    sidecars.write_sidecars(request.folder, manifest)
    save_manifest(request.folder, manifest)
    clear_leftovers(request.folder)
    return manifest


def _make_manifest(
    plan: Plan, plan_digest: str, outcomes: list[ShardOutcome], refused: list[dict[str, Any]]
) -> Manifest:
    request, listing = plan.request, plan.listing
    written: Counter[str] = Counter()
    for outcome in outcomes:
        written.update(outcome.written_by_class)
    excluded = len(listing.excluded)
    return Manifest(
        split=request.split,
        seed=request.seed,
        encode=request.encode,
        plan_digest=plan_digest,
        source=(request.source.resolve() if isinstance(request.source, Path) else request.source).name,
        source_form=plan.form,
        classes=listing.classes,
        shards=tuple(o.record for o in outcomes if o.record is not None),
        quarantine_sha256="",
        counts=Counts(
            found=len(listing) + excluded, written=written.total(), quarantined=len(refused), excluded=excluded
        ),
        counts_by_class=_count_by_class(listing, written, Counter(str(row["wnid"]) for row in refused)),
        ilsvrc2012_ids=dict(listing.ilsvrc2012_ids),
        class_names=dict(listing.class_names),
        notices=listing.notices,
        tool={name: version(name) for name in ("alexstream", "numba", "numpy", "pillow", "pyarrow", "simplejpeg")}
        | {"python": platform.python_version()},
    )


def _count_by_class(listing: Listing, written: Counter[str], quarantined: Counter[str]) -> dict[str, Counts]:
    classes = {normalize_nfc(wnid): wnid for wnid in listing.classes}
    excluded = Counter(_find_class_in_path(path, classes) for path, _ in listing.excluded)
    return {
        wnid: Counts(
            found=tried + excluded[wnid],
            written=written[wnid],
            quarantined=quarantined[wnid],
            excluded=excluded[wnid],
        )
        for wnid, tried in listing.counts_by_class().items()
    }


def _find_class_in_path(path: str, classes: Mapping[str, str]) -> str:
    """Return the class whose folder or archive ``path`` goes through, or "" if none; ``classes`` has NFC names."""
    parts = (normalize_nfc(part.removesuffix(".tar")) for part in path.split("/")[:-1])
    return next((classes[part] for part in parts if part in classes), "")


def _encode_json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
