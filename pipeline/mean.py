"""What is subtracted from a crop: a window of the mean image, its centre, or the mean colour.

The paper subtracts "the mean activity over the training set from each pixel" (section 2): the mean where the crop was
taken, mirrored when the crop is. The program of 2012 subtracted the centre of the mean image whatever the crop.

Shape legend: M = side of the mean image, C = 3 channels, H = W = 224, N = samples; 2 = plain and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.augment import Mean
from pipeline.batch import CROP_PX
from sharding.layout import DatasetStats


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanPlanes:
    """The mean as planes, float32 (2, C, M, M), contiguous; ``follows``: the window moves and turns with the crop."""

    planes_2CMM: NDArray[np.float32]
    follows: bool

    @classmethod
    def of(cls, place: Mean, mean_image_HWC: NDArray[np.float64], stats: DatasetStats) -> MeanPlanes:
        """The planes for a recipe's ``mean``, from a data set's mean image (M, M, 3) and mean colour, 0..255."""
        if place == "colour":
            mean_image_HWC = np.broadcast_to(np.array(stats.mean_rgb_255), (CROP_PX, CROP_PX, 3))
        plain = mean_image_HWC.astype(np.float32).transpose(2, 0, 1)
        both = np.ascontiguousarray(np.stack([plain, plain[:, :, ::-1]]))
        return cls(planes_2CMM=both, follows=place == "window")

    @property
    def margin(self) -> int:
        """M − 224, pixels."""
        return int(self.planes_2CMM.shape[-1]) - CROP_PX

    def windows(self, yx_N2: NDArray[np.int32], flip_N: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where each crop's window begins: int64 (N, 3), plain or mirrored, row, column."""
        if not self.follows:
            return np.tile(np.array([0, self.margin // 2, self.margin // 2]), (len(flip_N), 1))
        y, x, flip = yx_N2[:, 0].astype(np.int64), yx_N2[:, 1].astype(np.int64), flip_N.astype(np.int64)
        return np.stack([flip, y, np.where(flip == 1, self.margin - x, x)], axis=1)
