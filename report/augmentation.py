"""Augmentation on the page: the same image as training shows it epoch by epoch, and what the colour noise does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.augment import AUGMENTATIONS
from pipeline.batch import CROP_PX
from pipeline.lighting import offset_matrix
from pipeline.loader import ShardedData
from pipeline.preview import Preview
from report.blocks import Block, Gallery, Note, Part, Picture, Section
from report.pictures import photograph
from report.text import short
from sharding import layout
from sharding.lookup import Lookup, class_names
from trainer.choice import chosen

SAMPLES, EPOCHS = 2, 7
SIGMAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
SAMPLE_PX, LIGHT_PX = 124, 124


def section(stream: ShardedData, train: Path) -> Section:
    """The section about the augmentation of ``stream``, whose training split lies in ``train``.

    Raises DatasetError or StreamError if it cannot be read.
    """
    lookup, recipe = Lookup.of(train), AUGMENTATIONS[stream.augmentation]
    samples = chosen(len(lookup.keys), SAMPLES, f"report:{stream.seed}")
    stats = layout.load_stats(lookup.folder, lookup.manifest)
    return Section(
        name="augmentation",
        title="What augmentation does",
        intro=f"Recipe {stream.augmentation}: crop {recipe.crop}, flips {'on' if recipe.flip else 'off'}, lighting "
        f"{recipe.lighting}. These are images of the training stream itself, with the mean put back.",
        parts=[
            Part(title="The same image in the first epochs", blocks=_epochs(stream, lookup, samples)),
            Part(title="Lighting along each colour axis", blocks=_lighting(stream, lookup, samples[0], stats)),
        ],
    )


def _epochs(stream: ShardedData, lookup: Lookup, samples: list[int]) -> list[Block]:
    seen, names = Preview.of(stream), class_names(lookup.manifest)
    return [_row(seen, lookup, sample, names[lookup.label(sample)]) for sample in samples]


def _row(seen: Preview, lookup: Lookup, sample: int, name: str) -> Gallery:
    """The standard view of a sample, then what each of the first epochs shows of it."""
    key = str(lookup.keys[sample])
    shown = [photograph(lookup.pixels(sample), f"{name}, the stored view", ("stored view",), SAMPLE_PX)]
    for one in seen.sample(sample, range(EPOCHS)):
        words = f"epoch {one.epoch + 1}"
        shown.append(photograph(one.pixels_HWC, f"{name} as seen in {words}", (words,), SAMPLE_PX))
    return Gallery(caption=f"{short(name, 60)}, sample {key}", pictures=shown, in_row=True)


def _lighting(stream: ShardedData, lookup: Lookup, sample: int, stats: layout.DatasetStats) -> list[Block]:
    lighting = AUGMENTATIONS[stream.augmentation].lighting
    if lighting == "none":
        return [Note(text="This recipe adds no colour noise.")]
    view, matrix_CC = lookup.pixels(sample), offset_matrix(stats, lighting)
    corner = (view.shape[0] - CROP_PX) // 2
    centre = view[corner : corner + CROP_PX, corner : corner + CROP_PX]
    note = (
        f"To every pixel of an image the same R, G, B is added: z₁, z₂ and z₃ times the axes, scaled as the {lighting} "
        "formula says, z drawn anew for each image and epoch. Here one z at a time, from −2 to +2, with what is added."
    )
    return [Note(text=note), *(_axis(centre, matrix_CC, i) for i in range(3))]


def _axis(pixels_HWC: NDArray[np.uint8], matrix_CC: NDArray[np.float64], i: int) -> Gallery:
    return Gallery(
        caption=f"Axis {i + 1}", pictures=[_lit(pixels_HWC, matrix_CC[:, i] * z, z) for z in SIGMAS], in_row=True
    )


def _lit(pixels_HWC: NDArray[np.uint8], offset_C: NDArray[np.float64], z: float) -> Picture:
    lit = np.rint(pixels_HWC + offset_C).clip(0, 255).astype(np.uint8)
    added = ", ".join(f"{value:+.1f}".replace("-", "−") for value in offset_C.round(1) + 0.0)
    words = f"z = {z:+g}".replace("-", "−") if z else "as it is"
    return photograph(lit, f"Lighting {words}: R, G, B {added}", (words, added if z else ""), LIGHT_PX)
