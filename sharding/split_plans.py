"""Plan the splits of a source: detect, list, compare their classes, and order the samples of each.

All splits are planned before the first image is converted, so that what is wrong with one of them is said at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.convert import ShardJob
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.document import SCHEMA, json_digest
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.tar import count_label_digits
from alexstream.sharding.holdout import hold_out
from alexstream.sharding.listing import Listing, build_listing
from alexstream.sharding.output import check_output_apart, check_parent_of_splits
from alexstream.sharding.overview import format_classes, format_left_out
from alexstream.sharding.plan import choose_num_shards, order_by_hash, split_evenly
from alexstream.sharding.shared_files import describe_shared_files
from alexstream.sharding.sources.detect import DetectedSource, detect_source
from alexstream.sharding.sources.labels.label_table import LabelTableOptions
from alexstream.sharding.sources.reader import FileStamp, stamp_files


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRequest:
    """Options of one conversion, as ``cli.py shard`` takes them.

    Args:
        source: Where the images are: a folder, archives, tables, an object store.
        folder: Where the data set is made.
        split: Only this one; empty: all that the source holds.
        seed: Decides the order in which samples are stored.
        encode: How images are stored.
        num_workers: Processes that convert; 0: one for each core.
        classes: Their names in the order of the labels; without it a split takes that of the training split beside it.
        labels: A table that has the classes of the images.
        max_bad: More refused files end the conversion; None: any number goes into quarantine.
        executor: ``local`` for processes of this machine, ``ray`` for tasks of Ray.
        classes_at: The level of the class folders, where the source alone does not tell it (``structure.Choice``).
        val_share: Share of every class of the training split that is held out as the validation split, above 0 and
            below 1; for sources without one. 0: none.
        tars: WebDataset tars below ``source``, which alone are read; empty: all that lies there.
    """

    source: Path
    folder: Path
    split: str = ""
    seed: int = 2012
    encode: EncodeRecipe = EncodeRecipe()
    num_workers: int = 0
    classes: tuple[str, ...] | None = None
    labels: LabelTableOptions | None = None
    max_bad: int | None = None
    executor: str = "local"
    classes_at: int | None = None
    val_share: float = 0.0
    tars: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise SourceError for a seed outside int64, which a manifest cannot hold, and for a share that is none."""
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise SourceError(f"`seed`: received {self.seed}, expected a number of at most 18 digits")
        if not 0 <= self.val_share < 1:
            raise SourceError(f"`val_share`: received {self.val_share:g}, expected a share above 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of one split: its listing, and ``order``, int64, with the listing's rows in the order of the shards.

    ``archives``: a stamp of each container file, since byte offsets are valid for that version of it only.
    ``list_again``: lists the same split once more, to check whether a container has changed.
    """

    request: ShardRequest
    form: str
    listing: Listing
    order: NDArray[np.int64]
    archives: Mapping[str, FileStamp]
    relist: Callable[[], Listing] | None = None

    @classmethod
    def from_listing(
        cls, request: ShardRequest, form: str, listing: Listing, list_again: Callable[[], Listing] | None = None
    ) -> Plan:
        """Build the plan for a listing, with the seed and the recipe of ``request``."""
        archives = stamp_files(request.source, listing.list_containers())
        order = order_by_hash(listing.table.column("key"), request.seed)
        return cls(request=request, form=form, listing=listing, order=order, archives=archives, relist=list_again)

    @property
    def digest(self) -> str:
        """Sha256 of listing, seed and recipe; independent of the number of workers and of the folders."""
        r = self.request
        return json_digest([SCHEMA, r.split, r.seed, r.encode.identity(), self.listing.digest()])


def make_jobs(plan: Plan) -> Sequence[ShardJob]:
    """Return the shard jobs of a plan as a lazy sequence: all at once they would hold the listing twice."""
    return _LazyJobs(plan)


class _LazyJobs(Sequence[ShardJob]):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ranges = split_evenly(len(plan.order), choose_num_shards(len(plan.order), plan.request.encode))

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
            label_digits=count_label_digits(len(plan.listing.classes)),
            archives=plan.archives,
        )


def plan_splits(request: ShardRequest) -> Iterator[Plan]:
    """List and plan every requested split of the source, and yield the plans, training first.

    All splits are listed before the first plan is yielded, so that their classes are compared before anything is
    converted. A source with several splits goes to ``folder/train``, ``folder/val``, …; one with a single split to
    ``folder`` itself. Raises SourceError for a source that cannot be used, that lacks the requested split, or whose
    only class may be a misread folder.
    """
    _check_encoding()
    check_output_apart(request.source, request.folder)
    recognised = _detect(request)
    splits = recognised.splits
    _check_holdout(request, tuple(splits))
    several = len(splits) > 1 or request.val_share > 0
    _check_split(request, recognised, several=several)
    if several:
        check_parent_of_splits(request.folder)
    planned: list[Plan] = []
    classes = request.classes
    for name in splits:
        wanted = not several or request.split in ("", name)
        # The training split is listed even if only another one is wanted: its classes are the label order of both.
        if not wanted and (name != "train" or classes is not None):
            continue
        folder = request.folder / name if several else request.folder
        part = replace(request, folder=folder, split=name)
        part = replace(part, classes=classes or _find_classes_beside(part))
        plan = _plan_split(recognised, name, part, request, check=wanted)
        if name == "train":
            classes = classes or plan.listing.classes
        if wanted:
            planned += _hold_out(plan) if request.val_share and name == "train" else [plan]
    del recognised, splits  # frees the names of tar members that listers hold
    planned = _with_same_files(planned)
    while planned:
        yield planned.pop(0)


def _check_split(request: ShardRequest, recognised: DetectedSource, *, several: bool) -> None:
    """Raise SourceError if the requested split is not among those of the source, or contradicts what its names say."""
    splits = recognised.splits
    if several and request.split not in ("", *splits):
        raise SourceError(
            f"{request.source} has {', '.join(splits)}, but no split {request.split}; give one of these as `split`"
        )
    if request.split and not several and request.split not in splits:
        told = next(iter(splits))
        raise SourceError(
            f"{request.source} says by its names that it is {told}, not {request.split} ({recognised.description}); "
            f"`split` {told} or no `split` reads it so, and `split` {request.split} needs another name: rename what is "
            f"called {told}, if it is {request.split}"
        )


def _check_holdout(request: ShardRequest, splits: Sequence[str]) -> None:
    """Raise SourceError where a share is to be held out but there is no training split, or a validation split."""
    if not request.val_share:
        return
    if "val" in splits and len(splits) > 1:
        raise SourceError(
            f"`val_share` {request.val_share:g}: {request.source} has a validation split already; leave the option out"
        )
    if "train" not in splits or request.split not in ("", "train"):
        found = request.split or " and ".join(splits)
        raise SourceError(
            f"`val_share` {request.val_share:g} is taken from the training split, but {request.source} is read as "
            f"{found}; give `split` train if it holds training images"
        )


def _hold_out(plan: Plan) -> list[Plan]:
    """Divide the plan of a training split into those of training and validation."""
    request = plan.request
    share, seed, relist = request.val_share, request.seed, plan.relist
    train, val = hold_out(plan.listing, share, seed)
    if not len(val):
        raise SourceError(f"`val_share` {share:g}: no class of {request.source} has two images or more")
    beside = replace(request, folder=request.folder.parent / "val", split="val")
    _check_classes_beside(beside, val)
    return [
        Plan.from_listing(request, plan.form, train, relist and (lambda: hold_out(relist(), share, seed)[0])),
        Plan.from_listing(beside, plan.form, val, relist and (lambda: hold_out(relist(), share, seed)[1])),
    ]


def _with_same_files(planned: Sequence[Plan]) -> list[Plan]:
    """Return the plans, with a notice on each that takes images from a file which another name is a link to."""
    found: list[Plan] = []
    seen: dict[str, str] = {}
    listed = [(plan.request.split, plan.listing) for plan in planned]
    shared = describe_shared_files(planned[0].request.source, listed) if planned else {}
    for plan in planned:
        source = plan.request.source
        real = {os.path.realpath(source / name): name for name in plan.archives} if isinstance(source, Path) else {}
        said = [
            f"{name} and {seen[path]} are the same file: their images are the same"
            for path, name in real.items()
            if seen.setdefault(path, name) != name
        ] + shared.get(plan.request.split, [])
        notices = (*plan.listing.notices, *said)
        found.append(replace(plan, listing=replace(plan.listing, notices=notices)) if said else plan)
    return found


def _check_encoding() -> None:
    """Raise SourceError unless file names are decoded as UTF-8: classes and keys are made from them."""
    if (found := sys.getfilesystemencoding()) != "utf-8":
        raise SourceError(f"file names are read as {found} here, expected utf-8; run the same with PYTHONUTF8=1")


def _detect(request: ShardRequest) -> DetectedSource:
    return detect_source(
        request.source,
        request.classes,
        split=request.split,
        classes_at=request.classes_at,
        labels=request.labels,
        tars=request.tars,
    )


def _plan_split(
    recognised: DetectedSource, name: str, request: ShardRequest, asked: ShardRequest, *, check: bool
) -> Plan:
    where = f"{request.source} ({name})" if len(recognised.splits) > 1 else str(request.source)

    def list_again() -> Listing:
        # Detect again: the first detection may have cached members, which would hide a change.
        return build_listing(_detect(asked).splits[name], request.classes, where=where)

    listing = build_listing(recognised.splits[name], request.classes, where=where)
    found = [name for name, count in listing.counts_by_class().items() if count] if listing.readings else []
    if len(found) == 1 and request.classes is None:
        raise SourceError(f"{request.source}: holds only one class, {quote_value(found[0])}; {listing.readings}")
    if check:
        _check_classes_beside(request, listing)
    return Plan.from_listing(request, recognised.description, listing, list_again)


def _load_manifests_beside(request: ShardRequest) -> dict[str, Manifest]:
    """Load the manifests of the other finished splits next to the output folder: all must share their labels."""
    if request.folder.name not in layout.SPLITS:
        return {}
    folders = {name: request.folder.parent / name for name in layout.SPLITS if name != request.folder.name}
    return {name: load_manifest(path) for name, path in folders.items() if layout.is_dataset(path)}


def _find_classes_beside(request: ShardRequest) -> tuple[str, ...] | None:
    manifests = _load_manifests_beside(request)
    return manifests["train"].classes if "train" in manifests else None


def _check_classes_beside(request: ShardRequest, listing: Listing) -> None:
    for name, manifest in _load_manifests_beside(request).items():
        if manifest.classes != listing.classes:
            raise SourceError(
                f"{request.source} has {_format_class_count(listing.classes)}, but the finished {name} split beside "
                f"`folder` {request.folder} has {len(manifest.classes)} different ones or another order, so that "
                f"labels would not mean the same: give `classes` {request.folder.parent / name}, or another `folder`"
            )


def describe_plan(plan: Plan, *, all_classes: bool = False) -> list[str]:
    """Return a summary of a planned split for a person, as lines of text."""
    request, listing = plan.request, plan.listing
    return [
        f"{request.source} -> {request.folder} ({request.split})",
        f"  {plan.form}",
        f"  {count_of(len(listing), 'file')} of {_format_class_count(listing.classes)}, "
        f"{len(listing.excluded):,} excluded by name",
        *(f"  {line}" for line in format_classes(listing.counts_by_class(), all_classes=all_classes)),
        *(f"  NOTE {notice}" for notice in listing.notices),
        *(f"  {line}" for line in format_left_out(listing.excluded)),
    ]


def _format_class_count(names: Sequence[str]) -> str:
    return count_of(len(names), "class", "classes")
