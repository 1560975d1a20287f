"""Combine a recipe with the statistics of a training split: mean planes, divisors and the matrix of the lighting noise.

The only place where the two meet: training, validation, previews and single images take the numbers from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX, ImagePreprocessing
from alexstream.pipeline.transforms.augment import Augmentation, Augmenter
from alexstream.pipeline.transforms.lighting import lighting_divisor, offset_matrix
from alexstream.pipeline.transforms.mean import MeanPlanes
from alexstream.pipeline.transforms.normalize import Normalizer
from alexstream.sharding.dataset_v1.manifest import Manifest
from alexstream.sharding.dataset_v1.statistics import DatasetStats, load_mean_image, load_stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Hold a recipe and the statistics of the training split that a network is trained on.

    ``mean_image_HWC``: float64 (M, M, 3), R, G, B on 0..255.
    """

    recipe: Augmentation
    stats: DatasetStats
    mean_image_HWC: NDArray[np.float64]

    @classmethod
    def from_folder(cls, train: Path, manifest: Manifest, recipe: Augmentation) -> Preprocessing:
        """Read statistics and mean image of the split in ``train``.

        Raises DatasetError if one is missing, malformed, or belongs to another data set than ``manifest`` describes.
        """
        stats = load_stats(train, manifest)
        return cls(recipe=recipe, stats=stats, mean_image_HWC=load_mean_image(train, stats))

    def with_recipe(self, recipe: Augmentation) -> Preprocessing:
        """Return the same statistics with another recipe."""
        return replace(self, recipe=recipe)

    @property
    def divisors_C(self) -> NDArray[np.float32]:
        """Each channel's final divisor, float32 (3,): the standard deviation with ``unit_variance``, else 1.

        The ``original`` lighting multiplies it by 1.1.
        """
        unit_variance = self.recipe.unit_variance
        spread = np.sqrt(np.diag(np.array(self.stats.covariance_255))) if unit_variance else np.ones(3)
        return (spread * lighting_divisor(self.recipe.lighting)).astype(np.float32)

    @property
    def lighting_matrix_CC(self) -> NDArray[np.float64]:
        """The matrix that turns three N(0, 1) numbers into an RGB offset on 0..255, float64 (3, 3)."""
        return offset_matrix(self.stats, self.recipe.lighting)

    def make_mean_planes(self) -> MeanPlanes:
        """Return the mean that the recipe subtracts."""
        return MeanPlanes.from_image(self.recipe.mean, self.mean_image_HWC, self.stats)

    def make_normalizer(self, device: torch.device) -> Normalizer:
        """Return what normalizes crops on ``device``."""
        return Normalizer(self.make_mean_planes(), device, self.divisors_C)

    def for_images(self, manifest: Manifest) -> ImagePreprocessing:
        """Return what single images need to be evaluated as the data set's are; ``manifest`` is its."""
        evaluated, named = self.with_recipe(self.recipe.for_evaluation()), bool(manifest.class_names)
        red, green, blue = evaluated.divisors_C
        return ImagePreprocessing(
            encode=manifest.encode,
            mean=torch.from_numpy(evaluated.make_mean_planes().planes_2CMM[0].copy()),
            divisors=(float(red), float(green), float(blue)),
            class_names=tuple(manifest.class_names.get(wnid, wnid) for wnid in manifest.classes) if named else (),
        )

    def make_augmenter(self, seed: int, size_px: int) -> Augmenter:
        """Return the augmenter of stored images of ``size_px`` × ``size_px`` pixels."""
        return Augmenter(
            augmentation=self.recipe, seed=seed, margin_px=size_px - CROP_PX, matrix_CC=self.lighting_matrix_CC
        )
