"""Orchestrates stage 1: source → planned shard jobs → worker processes → a finished DATASET v1.

The only module of the stage that knows the whole order of events. Called by the command line.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding import layout, sidecars
from sharding.convert import ShardJob, changed_since, convert_shard
from sharding.errors import SourceError
from sharding.listing import Listing, build
from sharding.output import claimed, clear_leftovers
from sharding.part import ShardOutcome
from sharding.plan import num_shards, shuffled, split_evenly
from sharding.progress import progress
from sharding.ray_executor import run_jobs_on_ray
from sharding.sources.reading import Mark, marks_of
from sharding.sources.recognise import Recognised, recognise
from sharding.stats import PixelSums, summarise
from sharding.storage import publish
from sharding.tar import label_digits
from sharding.text import plain
from sharding.workers import default_workers, run_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRequest:
    """What ``cli.py shard`` asks for.

    ``split`` empty: all that the source holds. ``classes`` fixes the label order; without it a split takes that of
    the training split beside it. More than ``max_bad`` refused files end the conversion; None: any number goes into
    quarantine. ``executor``: ``local`` for processes of this machine, ``ray`` for tasks of Ray.
    """

    source: Path
    folder: Path
    split: str = ""
    seed: int = 2012
    encode: layout.EncodeRecipe = layout.EncodeRecipe()
    num_workers: int = 0
    classes: tuple[str, ...] | None = None
    max_bad: int | None = None
    executor: str = "local"

    def __post_init__(self) -> None:
        """Refuse a seed that no manifest can hold."""
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise SourceError(f"--seed: received {self.seed}, expected a number of at most 18 digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One split, listed and planned: ``order`` has the listing's rows in the order of the shards.

    ``archives`` has a mark of each file that images are parts of: offsets mean nothing in another version of it.
    """

    request: ShardRequest
    form: str
    listing: Listing
    order: NDArray[np.int64]
    archives: Mapping[str, Mark]

    @classmethod
    def of(cls, request: ShardRequest, form: str, listing: Listing) -> Plan:
        """The plan that a listing, a seed and a recipe make."""
        archives = marks_of(request.source, listing.archives())
        order = shuffled(listing.table.column("key"), request.seed)
        return cls(request=request, form=form, listing=listing, order=order, archives=archives)

    @property
    def digest(self) -> str:
        """Identity of the plan: the listing, seed and recipe; not the workers, not the place."""
        r = self.request
        return layout.json_digest([layout.SCHEMA, r.split, r.seed, asdict(r.encode), self.listing.digest()])


def jobs(plan: Plan) -> Sequence[ShardJob]:
    """The shard jobs of a plan, each made when it is asked for: together they would hold the listing twice."""
    return _Jobs(plan)


class _Jobs(Sequence[ShardJob]):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ranges = split_evenly(len(plan.order), num_shards(len(plan.order), plan.request.encode))

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: Any) -> Any:
        plan, positions = self._plan, self._ranges[index]
        return ShardJob(
            name=layout.shard_name(plan.request.split, index),
            rows=plan.listing.rows(plan.order[positions.start : positions.stop]),
            classes=plan.listing.classes,
            source_root=plan.request.source,
            folder=plan.request.folder,
            encode=plan.request.encode,
            label_digits=label_digits(len(plan.listing.classes)),
            archives=plan.archives,
        )


def plans(request: ShardRequest) -> Iterator[Plan]:
    """List and plan every split that is asked for and there, training first; one at a time in memory.

    A source with several splits gives ``folder/train``, ``folder/val``…; one with a single split goes to ``folder``
    itself. Raises SourceError for a source that cannot be used, or without the asked-for split.
    """
    _check_encoding()
    recognised = recognise(request.source, request.classes)
    splits = recognised.splits
    if len(splits) > 1 and request.split not in ("", *splits):
        raise SourceError(f"{request.source} has {', '.join(splits)}, but not the asked-for --split {request.split}")
    classes = request.classes
    for name in splits:
        several = len(splits) > 1
        if several and request.split not in ("", name):
            continue
        folder = request.folder / name if several else request.folder
        part = replace(request, folder=folder, split=name if several else request.split or name)
        if classes is None and name != "train" and "train" in splits:
            classes = build(splits["train"](), None, where=str(request.source)).classes
        plan = _plan(recognised, name, replace(part, classes=classes or _classes_beside(part)))
        if name == "train":
            classes = classes or plan.listing.classes
        yield plan


def _check_encoding() -> None:
    """Classes and keys are made of file names, so that these must be read alike everywhere."""
    if (found := sys.getfilesystemencoding()) != "utf-8":
        raise SourceError(f"file names are read as {found} here, expected utf-8; run the same with PYTHONUTF8=1")


def _plan(recognised: Recognised, name: str, request: ShardRequest) -> Plan:
    listing = build(recognised.splits[name](), request.classes, where=str(request.source))
    _check_beside(request, listing)
    return Plan.of(request, recognised.says, listing)


def _beside(request: ShardRequest) -> dict[str, layout.Manifest]:
    """The finished splits in the folder that holds the output folder: labels must mean the same in all of them."""
    if request.folder.name not in layout.SPLITS:
        return {}
    folders = {name: request.folder.parent / name for name in layout.SPLITS if name != request.folder.name}
    return {name: layout.load_manifest(path) for name, path in folders.items() if layout.is_dataset(path)}


def _classes_beside(request: ShardRequest) -> tuple[str, ...] | None:
    manifests = _beside(request)
    return manifests["train"].classes if "train" in manifests else None


def _check_beside(request: ShardRequest, listing: Listing) -> None:
    for name, manifest in _beside(request).items():
        if manifest.classes != listing.classes:
            raise SourceError(
                f"{request.source} has {len(listing.classes)} classes, but the finished {name} split beside --out "
                f"{request.folder} has {len(manifest.classes)} others or another order; labels would not mean the "
                f"same: give --classes {request.folder.parent / name}, or another --out"
            )


def shard(request: ShardRequest, *, quiet: bool = False) -> tuple[layout.Manifest, bool]:
    """Convert a source with a single split, or the split asked for. Returns what ``shard_plan`` does."""
    ((_, manifest, worked),) = shard_all(request, quiet=quiet)
    return manifest, worked


def shard_plan(plan: Plan, *, quiet: bool = False) -> tuple[layout.Manifest, bool]:
    """Convert one planned split. Returns the manifest and whether any work was needed.

    The same source, seed and recipe over a finished folder is recognised and left alone. Raises SourceError for a
    source without a usable image, OutputError for an output folder that holds something else.
    """
    request, digest = plan.request, plan.digest
    with claimed(request.folder, digest, request.split) as finished:
        if finished is not None:
            return finished, False
        outcomes, sums = _convert(plan, quiet=quiet)
        return _finish(plan, digest, outcomes, sums), True


def shard_all(request: ShardRequest, *, quiet: bool = False) -> Iterator[tuple[Path, layout.Manifest, bool]]:
    """Convert every split that the source holds and yield (folder, manifest, whether there was work to do).

    Raises what ``plans`` and ``shard_plan`` raise.
    """
    for plan in plans(request):
        manifest, worked = shard_plan(plan, quiet=quiet)
        yield plan.request.folder, manifest, worked


def _convert(plan: Plan, *, quiet: bool) -> tuple[list[ShardOutcome], PixelSums]:
    """Run the jobs; shards that an earlier run finished are checked and kept. One shard's sums at a time in memory."""
    request, todo = plan.request, jobs(plan)
    run = run_jobs_on_ray if request.executor == "ray" else run_jobs
    outcomes, sums = [], PixelSums(request.encode.size_px)
    num_refused = 0
    workers = min(request.num_workers or default_workers(), len(todo))
    with progress(len(plan.order), "images", f"shard {request.split}", quiet=quiet) as bar:
        for outcome, part in run(convert_shard, todo, workers, bar.update):
            outcomes.append(outcome)
            sums.merge(part)
            num_refused += len(outcome.refused)
            if request.max_bad is not None and num_refused > request.max_bad:
                raise SourceError(
                    f"{num_refused} files of {request.source} are no usable images, more than --max-bad "
                    f"{request.max_bad}; the last: {outcome.refused[-1]['path']} ({outcome.refused[-1]['detail']}). "
                    "Finished shards are kept: mend the files or raise --max-bad, and run again"
                )
    _check_unchanged(request.source, todo)
    return outcomes, sums


def _check_unchanged(source: Path, todo: Sequence[ShardJob]) -> None:
    """The data set is that of one moment: nothing that went into it has changed since.

    Raises SourceError if something has; the shards with the old bytes are then made again by the next run.
    """
    changed = [path for job in todo for path in changed_since(job)]
    if changed:
        raise SourceError(
            f"{len(changed)} files of {source} changed after they were read, the first: {changed[0]}; what is finished "
            "is kept: run the same command again when nobody writes there"
        )


def summary(folder: Path, manifest: layout.Manifest, worked: bool) -> str:
    """Some lines for a person: what is in ``folder``, what was remarkable, and that the audit closes."""
    c = manifest.counts
    size = sum(s.num_bytes for s in manifest.shards) / 2**20
    lines = [
        f"{folder}: {'' if worked else 'already complete, '}{manifest.split}, {manifest.num_samples:,} samples "
        f"of {len(manifest.classes)} classes in {len(manifest.shards)} shards ({size:.1f} MiB), "
        f"digest {manifest.digest[:12]}",
        f"  from {manifest.source_form}",
        *(f"  NOTE {notice}" for notice in manifest.notices),
        f"  found {c.found:,} = written {c.written:,} + quarantined {c.quarantined:,} + excluded {c.excluded:,}"
        + (f"   (reasons: {folder / layout.QUARANTINE})" if c.quarantined or c.excluded else ""),
    ]  # fmt: skip
    return "\n".join(map(plain, lines))


def _finish(plan: Plan, plan_digest: str, outcomes: list[ShardOutcome], sums: PixelSums) -> layout.Manifest:
    request, listing = plan.request, plan.listing
    refused = sorted((row for o in outcomes for row in o.refused), key=lambda row: str(row["path"]))
    left_out = [{"outcome": "quarantined", **row} for row in refused]
    left_out += [{"outcome": "excluded", "path": path, "reason": why} for path, why in listing.excluded]
    quarantine = _json_lines(left_out)
    publish(request.folder / layout.QUARANTINE, quarantine)
    if sums.num_images == 0:
        raise SourceError(
            f"{request.source}: none of the {len(listing)} files is a usable image; "
            f"see {request.folder / layout.QUARANTINE} for the reasons"
        )
    manifest = _manifest(plan, plan_digest, outcomes, refused)
    manifest = replace(manifest, quarantine_sha256=hashlib.sha256(quarantine).hexdigest())
    layout.save_stats(request.folder, summarise(sums, manifest.digest), sums.mean_image())
    sidecars.write(request.folder, manifest)
    layout.save_manifest(request.folder, manifest)
    clear_leftovers(request.folder)
    return manifest


def _manifest(
    plan: Plan, plan_digest: str, outcomes: list[ShardOutcome], refused: list[dict[str, Any]]
) -> layout.Manifest:
    request, listing = plan.request, plan.listing
    written: Counter[str] = Counter()
    for outcome in outcomes:
        written.update(outcome.written_by_class)
    excluded = len(listing.excluded)
    return layout.Manifest(
        split=request.split,
        seed=request.seed,
        encode=request.encode,
        plan_digest=plan_digest,
        source=(request.source.resolve() if isinstance(request.source, Path) else request.source).name,
        source_form=plan.form,
        classes=listing.classes,
        shards=tuple(o.record for o in outcomes if o.record is not None),
        quarantine_sha256="",
        counts=layout.Counts(
            found=len(listing) + excluded, written=written.total(), quarantined=len(refused), excluded=excluded
        ),
        counts_by_class=_counts_by_class(listing, written, Counter(str(row["wnid"]) for row in refused)),
        ilsvrc2012_ids=dict(listing.ilsvrc2012_ids),
        class_names=dict(listing.class_names),
        notices=listing.notices,
        tool={name: version(name) for name in ("alexstream", "numba", "numpy", "pillow", "pyarrow", "simplejpeg")}
        | {"python": platform.python_version()},
    )


def _counts_by_class(listing: Listing, written: Counter[str], quarantined: Counter[str]) -> dict[str, layout.Counts]:
    excluded = Counter(_class_in(path, set(listing.classes)) for path, _ in listing.excluded)
    return {
        wnid: layout.Counts(
            found=tried + excluded[wnid],
            written=written[wnid],
            quarantined=quarantined[wnid],
            excluded=excluded[wnid],
        )
        for wnid, tried in listing.counts_by_class().items()
    }


def _class_in(path: str, classes: set[str]) -> str:
    """The class whose folder or archive a path goes through; empty if none."""
    parts = (part.removesuffix(".tar") for part in path.split("/")[:-1])
    return next((part for part in parts if part in classes), "")


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
