"""Facts about ILSVRC2012, and checks of image counts against them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files

from alexstream.core.text import count_of, quote_value
from alexstream.sharding.sources.types import Entry, ListingLog

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
ARCHIVE_BYTES = {TRAIN_TAR: 147_897_477_120, VAL_TAR: 6_744_924_160}
ARCHIVE_MD5 = {
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
NUM_CLASSES = 1000
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}
NUM_TRAIN_2010 = 1_261_406
MAX_PER_CLASS = 1300
FETCH_DEVKIT = (
    f"fetch {DEVKIT} (2.5 MB, md5 {ARCHIVE_MD5[DEVKIT]}) from image-net.org and put it, packed or unpacked, into that "
    "folder"
)
_DOG_RANGE = ("n02085620", "n02113978")
_WNID = re.compile(r"n\d{8}")
_VAL_NAME = re.compile(r"ILSVRC20\d\d_val_(\d{8})(?:\.|$)")
_TEST_NAME = re.compile(r"ILSVRC20\d\d_test_\d{8}")
_SUFFIXED = re.compile(r"(n\d{8}_\d+|ILSVRC20\d\d_(?:val|test)_\d{8})_(n\d{8})(\.[^./]*|)$")
_IMAGE_NAME = re.compile(r"(n\d{8})_\d+(?:\.|$)")


@cache
def load_wnids() -> tuple[str, ...]:
    """Return the 1,000 classes of ILSVRC2012, sorted: positions are the labels of torchvision, timm and Caffe."""
    text = files("alexstream.sharding.sources.imagenet").joinpath("ilsvrc2012_wnids.txt").read_text("ascii")
    return tuple(text.split())


@cache
def _wnid_set() -> frozenset[str]:
    return frozenset(load_wnids())


def is_wnid(name: str) -> bool:
    """Return whether a name has the form of a WordNet id, ``n01440764``."""
    return _WNID.fullmatch(name) is not None


def wnid_of_image(file_name: str) -> str | None:
    """Return the class in a training image's name: ``n01440764`` for ``n01440764_18.JPEG``; else None."""
    match = _IMAGE_NAME.match(file_name)
    return match[1] if match else None


def canonical_name(file_name: str) -> tuple[str, str | None]:
    """Return ImageNet's own name for an image, and its class where the name holds one, else None.

    The Hugging Face hub appends the class to the name: ``ILSVRC2012_val_00000001_n01751748.JPEG``.
    """
    match = _SUFFIXED.match(file_name)
    if match:
        return f"{match[1]}{match[3]}", match[2]
    return file_name, wnid_of_image(file_name)


def val_number(file_name: str) -> int | None:
    """Return the number of a validation image: 293 for ``ILSVRC2012_val_00000293.JPEG``; else None."""
    match = _VAL_NAME.match(file_name)
    return int(match[1]) if match else None


def is_test_name(file_name: str) -> bool:
    """Return whether a file name is that of a test image."""
    return _TEST_NAME.match(file_name) is not None


def is_dog(wnid: str) -> bool:
    """Return whether a class is among the dogs of task 3."""
    return _DOG_RANGE[0] <= wnid <= _DOG_RANGE[1]


def size_notices(name: str, size: int, official: str) -> list[str]:
    """Return a notice if an archive is not of the official archive's size; its members decide what it holds."""
    if size == ARCHIVE_BYTES[official]:
        return []
    return [
        f"{name}: {size:,} bytes, where the official archive has {ARCHIVE_BYTES[official]:,} ({official}): packed "
        "again, or a part; its members decide, not its name"
    ]


def check_counts(entries: Iterable[Entry], split: str, log: ListingLog) -> Iterator[Entry]:
    """Yield the entries unchanged, counting them, and record the findings in ``log`` at the end."""
    counts: Counter[str] = Counter()
    named_2010 = 0
    for entry in entries:
        counts[entry.wnid] += 1
        if "ILSVRC2010" in entry.name:
            named_2010 += 1
        yield entry
    log.notices.extend(count_notices(counts, split, named_2010))


def count_notices(counts: Mapping[str, int], split: str, named_2010: int = 0) -> list[str]:
    """Return notices about the images per class of a split that resembles ImageNet; none for other data."""
    total, known = sum(counts.values()), [name for name in counts if name in _wnid_set()]
    foreign = sorted(name for name in counts if name not in _wnid_set())
    if named_2010 or (split == "train" and total == NUM_TRAIN_2010):
        why = f"by {count_of(named_2010, 'name')}" if named_2010 else f"it has {NUM_TRAIN_2010:,} training images"
        return [f"{split}: this is ILSVRC-2010, not ILSVRC2012 ({why}); its 1,000 classes are others"]
    if not any(map(is_wnid, counts)):
        return []
    if 10 * len(foreign) > len(counts):
        return [
            f"{split}: {len(foreign):,} of {len(counts):,} classes, say {quote_value(foreign[0])}, are none of "
            "ILSVRC2012's: ILSVRC-2010 or another part of ImageNet"
        ]
    notices = [f"{split}: classes that ILSVRC2012 does not have: {', '.join(foreign[:5])}"] if foreign else []
    expected = NUM_IMAGES.get(split)
    if expected is None:
        return notices
    if len(known) < NUM_CLASSES or total < expected:
        notices.append(f"{split}: partial ILSVRC2012: {len(known):,} of 1000 classes, {total:,} of {expected:,} images")
    elif total > expected:
        notices.append(
            f"{split}: {count_of(total, 'image')}, where ILSVRC2012 has {expected:,}: some are from elsewhere"
        )
    return notices + _excess_notices(counts, split)


def _excess_notices(counts: Mapping[str, int], split: str) -> list[str]:
    limit = MAX_PER_CLASS if split == "train" else 50
    over = sorted(name for name, count in counts.items() if count > limit and name in _wnid_set())
    if not over:
        return []
    guess = "; is train_t3 (task 3, dogs) mixed in?" if split == "train" and all(map(is_dog, over)) else ""
    return [
        f"{split}: class {over[0]} has {counts[over[0]]:,} images ({len(over)} such), more than the {limit:,} "
        f"that any class of ILSVRC2012 has{guess}"
    ]
