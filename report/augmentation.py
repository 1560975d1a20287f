"""Build the section on augmentation: an image as training shows it epoch by epoch, and the effect of lighting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexstream.core.text import shorten
from alexstream.pipeline.batch import CROP_PX
from alexstream.pipeline.preview import Preview
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.report.blocks import Block, Gallery, Note, Picture, Section, Subsection
from alexstream.report.pictures import encode_photo
from alexstream.sharding.lookup import SampleLookup, list_class_names
from alexstream.trainer.evaluation.nearest import choose_by_hash

NUM_SAMPLES, NUM_EPOCHS = 2, 7
NUM_CANDIDATES = 32  # of which the brightest shows lighting
MAX_UNCUT = 230  # a value to which lighting can still add
SIGMAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
SAMPLE_PX, LIGHT_PX = 124, 124


def build_section(stream: ShardedData, train: Path) -> Section:
    """Build the section about the augmentation of ``stream``, whose training split is in ``train``.

    Raises DatasetError or StreamError if it cannot be read.
    """
    lookup, recipe = SampleLookup.from_folder(train), AUGMENTATIONS[stream.augmentation]
    samples = choose_by_hash(len(lookup.keys), NUM_SAMPLES, f"report:{stream.seed}")
    preprocessing = Preprocessing.from_folder(lookup.folder, lookup.manifest, recipe)
    return Section(
        name="augmentation",
        title="What augmentation does",
        intro=f"Recipe {stream.augmentation}: crop {recipe.crop}, flips {'on' if recipe.flip else 'off'}, lighting "
        f"{recipe.lighting}. The images come from the training stream itself, with the mean added back.",
        parts=[
            Subsection(title="The same image in the first epochs", blocks=_build_epochs(stream, lookup, samples)),
            Subsection(
                title="Lighting along each color axis",
                blocks=_build_lighting(_choose_bright(lookup, stream.seed), preprocessing),
            ),
        ],
    )


def _build_epochs(stream: ShardedData, lookup: SampleLookup, samples: list[int]) -> list[Block]:
    seen, names = Preview.from_data(stream), list_class_names(lookup.manifest)
    return [_build_row(seen, lookup, sample, names[lookup.label(sample)]) for sample in samples]


def _build_row(seen: Preview, lookup: SampleLookup, sample: int, name: str) -> Gallery:
    """Show the standard view of a sample, then its crop of each of the first epochs."""
    key = str(lookup.keys[sample])
    shown = [encode_photo(lookup.pixels(sample), f"{name}, the stored view", ("stored view",), SAMPLE_PX)]
    for one in seen.sample(sample, range(NUM_EPOCHS)):
        words = f"epoch {one.epoch + 1}"
        shown.append(encode_photo(one.pixels_HWC, f"{name} as seen in {words}", (words,), SAMPLE_PX))
    return Gallery(caption=f"{shorten(name, 60)}, sample {key}", pictures=shown, in_row=True)


def _choose_bright(lookup: SampleLookup, seed: int) -> NDArray[np.uint8]:
    """Return the brightest of some samples, where added colors show; white, where they are cut off, does not count."""
    candidates = choose_by_hash(len(lookup.keys), NUM_CANDIDATES, f"report:{seed}")
    return max((lookup.pixels(i) for i in candidates), key=_measure_brightness)


def _measure_brightness(pixels_HWC: NDArray[np.uint8]) -> float:
    """Return the mean of the values that can still be raised, the others taken as 0."""
    return float(np.where(pixels_HWC <= MAX_UNCUT, pixels_HWC, 0).mean())


def _build_lighting(view: NDArray[np.uint8], preprocessing: Preprocessing) -> list[Block]:
    lighting, matrix_CC = preprocessing.recipe.lighting, preprocessing.lighting_matrix_CC
    if lighting == "none":
        return [Note(text="This recipe adds no color noise.")]
    corner = (view.shape[0] - CROP_PX) // 2
    centre = view[corner : corner + CROP_PX, corner : corner + CROP_PX]
    note = (
        f"To every pixel of an image the same R, G, B is added: z₁, z₂ and z₃ times the axes, scaled as the {lighting} "
        "formula says, z drawn anew for each image and epoch. Here one z at a time, from −2 to +2, with what is added."
    )
    return [Note(text=note), *(_build_axis(centre, matrix_CC, i) for i in range(3))]


def _build_axis(pixels_HWC: NDArray[np.uint8], matrix_CC: NDArray[np.float64], i: int) -> Gallery:
    return Gallery(
        caption=f"Axis {i + 1}", pictures=[_draw_lit(pixels_HWC, matrix_CC[:, i] * z, z) for z in SIGMAS], in_row=True
    )


def _draw_lit(pixels_HWC: NDArray[np.uint8], offset_C: NDArray[np.float64], z: float) -> Picture:
    lit = np.rint(pixels_HWC + offset_C).clip(0, 255).astype(np.uint8)
    added = ", ".join(f"{value:+.1f}".replace("-", "−") for value in offset_C.round(1) + 0.0)
    words = f"z = {z:+g}".replace("-", "−") if z else "as it is"
    return encode_photo(lit, f"Lighting {words}: R, G, B {added}", (words, added if z else ""), LIGHT_PX)
