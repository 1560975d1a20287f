"""Recognize split names in folder and file names: the words in use for training, validation and test data."""

from __future__ import annotations

import re
from collections.abc import Iterable

from alexstream.core.text import count_of

_WORDS = {
    "train": ("train", "training", "trn", "trainset"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "evaluating", "holdout", "heldout"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
# Words that say nothing about classes. Any other word may make it a class: a bullet train, a test tube.
_NEUTRAL = (
    "a an the of my our new old all full final part parts subset sub sample samples fold folds split splits seg "
    "image images img imgs photo photos picture pictures pic pics file files folder folders dir jpg jpeg jpegs png "
    "pngs data dataset datasets set sets original originals orig raw clean cleaned processed preprocessed resized "
    "resize cropped crop crops scaled augmented aug balanced mini tiny small medium large big px k x y v kaggle "
    "ilsvrc imagenet cls loc clsloc det classification class classes labeled labelled frames"
)
_NEUTRAL_WORDS = frozenset(_NEUTRAL.split())
_UNLABELLED_WORDS = frozenset(("pred", "preds", "predict", "prediction", "predictions", "unlabeled", "unlabelled"))
_SIZE = re.compile(r"\d*[a-z]?\d*|\d+x\d+|imagenet\d+k|in\d+k|v\d+")
_COMPOUND = re.compile(rf"({'|'.join(_SPLIT_OF)})(?:set|data|images?|imgs?|dir|folder|lists?|files?|ids?|s?split)")


def split_of_word(word: str) -> str | None:
    """Return the split that a folder name, or a word of a file name, stands for, in any case; else None.

    Beside split words the name may contain numbers and words that say nothing about classes: ``seg_train``,
    ``train_images``, ``train2017``, ``Validation Set``; but not ``bullet_train`` or ``test-tube``. A name with words of
    two splits (``train_val``) stands for neither.
    """
    chunks = _tokenize(word)
    splits = {split for chunk in chunks if (split := _match_split(chunk))}
    told = all(_match_split(chunk) or chunk in _NEUTRAL_WORDS or _SIZE.fullmatch(chunk) for chunk in chunks)
    return splits.pop() if len(splits) == 1 and told else None


def is_unlabelled_name(name: str) -> bool:
    """Return whether a folder name says that its images have no labels: ``seg_pred``, ``unlabeled2017``."""
    chunks = [chunk.strip("0123456789") for chunk in _tokenize(name)]
    told = [chunk for chunk in chunks if chunk in _UNLABELLED_WORDS]
    others = (chunk for chunk in chunks if chunk and chunk not in told)
    return bool(told) and all(chunk in _NEUTRAL_WORDS or _match_split(chunk) for chunk in others)


def split_of_file(name: str) -> str | None:
    """Return the split in a file name (``imagenet1k-validation-03.tar``); None for no split word, or two."""
    splits = {split for chunk in _tokenize(name) if (split := _match_split(chunk))}
    return splits.pop() if len(splits) == 1 else None


def _tokenize(name: str) -> list[str]:
    """Split a name into lower-case words: ``trainImages-2`` gives train, images, 2; ``TRAIN`` stays whole."""
    name = re.sub(r"(?i)\b(hold|held)[-_ ]out(?![a-z])", r"\1out", name.replace("_", " "))
    chunks: list[str] = []
    for chunk in re.split(r"[^0-9A-Za-z\x80-\U0010ffff]+", name):
        parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+", chunk)
        chunks += [part.lower() for part in parts]
    return chunks


def _match_split(chunk: str) -> str | None:
    bare = chunk.strip("0123456789")
    joined = _COMPOUND.fullmatch(bare)
    return _SPLIT_OF[joined[1]] if joined else _SPLIT_OF.get(bare)


class InnerSplits:
    """The folders inside class folders that are called like another split than that which the images are in."""

    def __init__(self, split: str) -> None:
        """Store the split that the images are in."""
        self._split = split
        self._told: dict[str, bool] = {}  # by folder
        self._count, self._first = 0, ""

    def add(self, path: str, start: int) -> None:
        """Count an image by its path; ``start`` is where the class folder ends in it."""
        folder = path[: path.rfind("/")]
        if len(folder) <= start:
            return
        if (told := self._told.get(folder)) is None:
            splits = {split_of_word(name) for name in folder[start:].split("/")} - {None, self._split}
            told = self._told[folder] = bool(splits)
        if told:
            self._count, self._first = self._count + 1, self._first or folder

    def describe(self) -> list[str]:
        """Return a notice if there are such images."""
        if not self._count:
            return []
        return [
            f"{self._first}/: {count_of(self._count, 'image')} in class folders and below folders called like another "
            f"split, read as {self._split}"
        ]


def splits_of_folders(names: Iterable[str]) -> dict[str, str | None]:
    """Return the split of each of the folders side by side, None for no split.

    Beside what ``split_of_word`` finds, names that differ only in the split word (``dogs_train``, ``dogs_test``) imply
    it.
    """
    told = {name: split_of_word(name) for name in names}
    others: dict[tuple[str, ...], dict[str, str]] = {}
    for name in (name for name, split in told.items() if split is None):
        if split := split_of_file(name):
            rest = tuple(chunk for chunk in _tokenize(name) if not _match_split(chunk))
            others.setdefault(rest, {})[name] = split
    for group in others.values():
        if len(set(group.values())) > 1:
            told.update(group)
    return told
