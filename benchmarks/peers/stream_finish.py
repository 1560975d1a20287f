"""What the peers share that have no operation of their own for a step: decode, crop, flip, and the finish in torch."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stream_store import BATCH, CROP, MARGIN, Stored

BUFFERS = 3


def crop_and_flip(pixels_HWC: np.ndarray) -> np.ndarray:
    """A random window, mirrored or not; a view."""
    y, x = random.randint(0, MARGIN), random.randint(0, MARGIN)
    window = pixels_HWC[y : y + CROP, x : x + CROP]
    return window[:, ::-1] if random.random() < 0.5 else window


def decoded(content: Any) -> np.ndarray:
    """A random window of a JPEG that simplejpeg decodes whole: uint8 (224, 224, 3)."""
    import simplejpeg

    return np.ascontiguousarray(crop_and_flip(simplejpeg.decode_jpeg(content)))


class PillowSample:
    """One image at a time, wholly in a worker: JPEG bytes or a Pillow image → finished float32 (3, 224, 224)."""

    def __init__(self, stored: Stored) -> None:
        """Keep the statistics."""
        self._colour_C, self._matrix_CC = stored.colour_C, stored.matrix_CC

    def __call__(self, image: Any) -> torch.Tensor:
        """Decode if need be, and finish."""
        from PIL import Image

        image = Image.open(io.BytesIO(image), formats=("JPEG",)) if isinstance(image, bytes) else image
        window = crop_and_flip(np.asarray(image.convert("RGB")))
        finished = np.empty((3, CROP, CROP), np.float32)
        finished[...] = window.transpose(2, 0, 1)
        finished += (self._matrix_CC @ np.random.standard_normal(3) - self._colour_C).astype(np.float32)[:, None, None]
        return torch.from_numpy(finished)


def batch_finish(stored: Stored) -> Callable[[Any], torch.Tensor]:
    """uint8 (128, 224, 224, 3) → finished float32 (128, 3, 224, 224): minus the mean colour, in reused memory."""
    torch.set_num_threads(1)
    rng, buffers = np.random.default_rng(0), [torch.zeros((BATCH, 3, CROP, CROP)) for _ in range(BUFFERS)]
    number = 0

    def finish(crops: Any) -> torch.Tensor:
        nonlocal number
        number += 1
        offsets = torch.from_numpy((stored.lighting(rng, BATCH) - stored.colour_C).astype(np.float32))
        crops_NCHW = torch.as_tensor(crops).permute(0, 3, 1, 2)
        return buffers[number % BUFFERS].copy_(crops_NCHW).add_(offsets[:, :, None, None])

    return finish
