"""Build the first thing to look at in a data set: four images of every class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexstream.core.errors import BadImageError
from alexstream.core.text import count_of, shorten
from alexstream.report.blocks import Block, Galleries, Gallery, Note, Picture
from alexstream.report.pictures import encode_photo
from alexstream.sharding.lookup import SampleLookup
from alexstream.trainer.evaluation.nearest import choose_by_hash

IMAGES_PER_CLASS = 4
MAX_CLASSES = 100  # that are shown: the page holds their images
SIDE_PX = 76


def build_examples(folder: Path, names: Sequence[str]) -> list[Block]:
    """Build four images of each class of a split, chosen by hash; ``names`` are by label.

    Of more than ``MAX_CLASSES`` the first are shown. Raises DatasetError if the split cannot be read.
    """
    lookup = SampleLookup.from_folder(folder)
    labels_N = lookup.columns["label"].astype(np.int64)
    shown = [label for label in np.unique(labels_N).tolist() if label < len(names)][:MAX_CLASSES]
    galleries = [_build_class(lookup, np.flatnonzero(labels_N == label).tolist(), names[label]) for label in shown]
    blocks: list[Block] = [Galleries(galleries=galleries)]
    if len(names) > MAX_CLASSES:
        blocks.append(Note(text=f"These are the first {len(shown):,} of {count_of(len(names), 'class', 'classes')}."))
    return blocks


def _build_class(lookup: SampleLookup, samples: Sequence[int], name: str) -> Gallery:
    chosen = sorted(choose_by_hash(len(samples), IMAGES_PER_CLASS, f"examples:{name}"))
    pictures = [_draw_sample(lookup, samples[i], name) for i in chosen]
    caption = f"{shorten(name, 60)}, {count_of(len(samples), 'image')}"
    return Gallery(caption=caption, pictures=[picture for picture in pictures if picture is not None])


def _draw_sample(lookup: SampleLookup, sample: int, name: str) -> Picture | None:
    """Draw a sample; None if it does not decode: to find damage is the work of ``verify``."""
    try:
        return encode_photo(lookup.pixels(sample), f"{name}, sample {lookup.keys[sample]}", side=SIDE_PX)
    except BadImageError:
        return None
