"""What ``recognise`` answers: the kind of a source, one sentence about it, and its splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sharding.listing import Found

SPLITS = ("train", "val", "test")
SPLIT_NAMES: Mapping[str, str] = {name: name for name in SPLITS} | {"validation": "val", "valid": "val"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A source: ``kind`` for machines, ``says`` for people; each split is listed when its function is called."""

    kind: str
    says: str
    splits: dict[str, Callable[[], Found]]

    def __post_init__(self) -> None:
        """Bring the splits into the order train, val, test."""
        ordered = {name: self.splits[name] for name in SPLITS if name in self.splits}
        object.__setattr__(self, "splits", ordered)


def split_named(folder_name: str) -> str:
    """The split that a folder's name means; ``train`` for a name that means none."""
    return SPLIT_NAMES.get(folder_name, "train")


def split_of_file(file_name: str) -> str:
    """The split that a shard's name means (``imagenet1k-validation-03.tar``); ``train`` for one that means none."""
    words = file_name.lower().replace("_", "-").replace(".", "-").split("-")
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")
