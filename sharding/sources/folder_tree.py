"""Folders of a source as a tree: on a disk, in a bucket or in tars."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

LAST_LEVEL = -1  # stands for the level of the folders that contain the images
TAR_LEVEL = 0  # stands for the tar's own name as the class
MAX_LEVEL = 6  # levels tried for interpretations


class FolderTree(ABC):
    """A folder and its contents, without system files."""

    @property
    @abstractmethod
    def folders(self) -> Mapping[str, FolderTree]:
        """Subfolders by name."""

    @property
    @abstractmethod
    def has_images(self) -> bool:
        """True if it contains images directly."""

    @property
    @abstractmethod
    def tables(self) -> Sequence[str]:
        """Names of the tables in it, which may hold labels."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """True if it contains no file at any depth."""

    @property
    def has_tars(self) -> bool:
        """True if it contains tars directly."""
        return False

    @property
    def is_on_disk(self) -> bool:
        """True if it may be a source by itself, which a folder in a tar may not."""
        return True

    @cached_property
    def data_folders(self) -> Mapping[str, FolderTree]:
        """Subfolders that contain images or tars at any depth, by name."""
        return {name: folder for name, folder in self.folders.items() if folder.has_data_below}

    @cached_property
    def has_images_below(self) -> bool:
        """True if it contains images at any depth, not counting those in tars."""
        return self.has_images or any(folder.has_images_below for folder in self.folders.values())

    @cached_property
    def has_data_below(self) -> bool:
        """True if it contains images or tars at any depth."""
        return self.has_images or self.has_tars or any(folder.has_data_below for folder in self.folders.values())


def list_level(top: FolderTree, level: int) -> list[tuple[str, FolderTree]]:
    """Return the folders of a level with their names; for LAST, those that contain images directly."""
    folders = list(top.folders.items())
    if level == LAST_LEVEL:
        inner = [pair for _, folder in folders for pair in list_level(folder, LAST_LEVEL)]
        return [(name, folder) for name, folder in folders if folder.has_images] + inner
    for _ in range(level - 1):
        folders = [pair for _, folder in folders for pair in folder.folders.items()]
    return folders


def iter_imageless_folders(top: FolderTree, level: int, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the folders that contain files but no images, down to the level of the classes."""
    for name, folder in top.folders.items():
        if not folder.has_data_below and not folder.is_empty:
            yield (*path, name)
        elif level != 1:
            yield from iter_imageless_folders(folder, level - 1 if level > 1 else level, (*path, name))
