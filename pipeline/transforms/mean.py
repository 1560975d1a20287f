"""Provide the mean that is subtracted from a crop: a window of the mean image, its center, or the mean color.

The paper subtracts "the mean activity over the training set from each pixel" (section 2): the mean image's window where
the crop was taken, mirrored when the crop is. The 2012 program subtracted the mean image's center from every crop.

Shape legend: M = side of the mean image, C = 3 channels, H = W = 224, N = samples; 2 = plain and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX
from alexstream.pipeline.transforms.augment import MeanMode
from alexstream.sharding.dataset_v1.statistics import DatasetStats


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanPlanes:
    """Hold the mean, float32 (2, C, M, M), contiguous.

    ``follows_crop``: its window moves and is mirrored with the crop.
    """

    planes_2CMM: NDArray[np.float32]
    follows_crop: bool

    @classmethod
    def from_image(cls, place: MeanMode, mean_image_HWC: NDArray[np.float64], stats: DatasetStats) -> MeanPlanes:
        """Make the planes for a recipe's ``mean`` from a data set's mean image (M, M, 3) and mean color, 0..255."""
        if place == "colour":
            mean_image_HWC = np.broadcast_to(np.array(stats.mean_rgb_255), (CROP_PX, CROP_PX, 3))
        return cls.from_plane(place, mean_image_HWC.astype(np.float32).transpose(2, 0, 1))

    @classmethod
    def from_plane(cls, place: MeanMode, plain: NDArray[np.float32]) -> MeanPlanes:
        """Make the planes of the one that is not mirrored, float32 (C, M, M)."""
        both = np.ascontiguousarray(np.stack([plain, plain[:, :, ::-1]]))
        return cls(planes_2CMM=both, follows_crop=place == "window")

    @property
    def margin_px(self) -> int:
        """The largest offset of a window: M − 224 pixels."""
        return int(self.planes_2CMM.shape[-1]) - CROP_PX

    def locate_windows(self, yx_N2: NDArray[np.int32], flip_N: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return where each crop's mean window begins: int64 (N, 3), mirrored (1) or not (0), row, column."""
        if not self.follows_crop:
            return np.tile(np.array([0, self.margin_px // 2, self.margin_px // 2]), (len(flip_N), 1))
        y, x, flip = yx_N2[:, 0].astype(np.int64), yx_N2[:, 1].astype(np.int64), flip_N.astype(np.int64)
        return np.stack([flip, y, np.where(flip == 1, self.margin_px - x, x)], axis=1)
