"""Scaling: equal to a float64 reference and near Pillow, for every filter and any size."""

import numpy as np
import pytest
from PIL import Image

from alexstream.sharding.images.resample import FILTERS, resize_square

KERNELS = {
    "box": lambda x: (x <= 0.5) * 1.0,
    "bilinear": lambda x: np.maximum(1 - x, 0),
    "bicubic": lambda x: np.where(
        x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0)
    ),
    "lanczos": lambda x: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0),
}


def reference(image, size, name):
    """float64: a dense matrix of weights for each axis."""
    height, width, _ = image.shape
    side = min(height, width)

    def weights(length):
        scale = side / size
        centres = (length - side) / 2 + (np.arange(size)[:, None] + 0.5) * scale
        reach = FILTERS[name][1] * max(scale, 1)
        first, last = np.maximum(centres - reach + 0.5, 0).astype(int), (centres + reach + 0.5).astype(int)
        at = np.arange(length)[None]
        w = KERNELS[name](abs(at - centres + 0.5) / max(scale, 1)) * (at >= first) * (at < last)
        return w / w.sum(axis=1, keepdims=True)

    exact = np.einsum("yh,hwc,xw->yxc", weights(height), image.astype(float), weights(width), optimize=True)
    return np.clip(np.floor(exact + 0.5), 0, 255)


def pillow(image, size, name):
    height, width, _ = image.shape
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resample = getattr(Image.Resampling, name.upper())
    return np.asarray(Image.fromarray(image).resize((size, size), resample, box=(left, top, left + side, top + side)))


def photo_like(height, width):
    """Noise with the spectrum of a photograph."""
    noise = np.random.RandomState(0).randn(height, width, 3)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) + 1 / max(height, width)
    image = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / frequency[..., None], axes=(0, 1)).real
    return np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(375, 500, 256), (500, 375, 224), (1, 40, 224), (40, 1, 256), (3, 2, 300), (257, 256, 256), (90, 120, 1000)],
)
def test_the_result_is_that_of_float64(name, height, width, size):
    image = np.random.RandomState(1).randint(0, 256, (height, width, 3)).astype(np.uint8)
    difference = np.abs(resize_square(image, size, name) - reference(image, size, name))
    assert difference.max() <= 1
    assert (difference > 0).mean() < (1e-3 if min(height, width) > 90 else 2e-2)  # ties round either way


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [224, 256, 513])
def test_photographs_scale_as_by_pillow(name, size):
    image = photo_like(375, 500)
    error = (resize_square(image, size, name).astype(float) - pillow(image, size, name)) ** 2
    assert 10 * np.log10(255**2 / (error.mean() + 1e-9)) > 50


@pytest.mark.parametrize("name", FILTERS)
def test_smooth_pictures_scale_as_by_pillow(name):
    y, x = np.mgrid[:300, :400]
    image = np.stack([x * 255 / 399, y * 255 / 299, 128 + 100 * np.sin(x / 40)], axis=-1).astype(np.uint8)
    assert np.abs(resize_square(image, 256, name).astype(int) - pillow(image, 256, name)).max() <= 2


@pytest.mark.parametrize("name", FILTERS)
def test_one_colour_stays_that_colour_at_any_size(name):
    for height, width, size in [(1, 1, 224), (1, 1000, 256), (3000, 7, 225), (31, 77, 4096)]:
        assert (resize_square(np.full((height, width, 3), 255, np.uint8), size, name) == 255).all()


@pytest.mark.parametrize("name", FILTERS)
def test_an_image_of_the_right_size_is_not_touched(name):
    image = np.random.RandomState(2).randint(0, 256, (256, 256, 3)).astype(np.uint8)
    assert np.array_equal(resize_square(image, 256, name), image)


def test_a_picture_that_is_no_contiguous_array_is_the_same_picture():
    image = photo_like(300, 400)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert np.array_equal(resize_square(image[:, ::-1], 256, "lanczos"), resize_square(mirrored, 256, "lanczos"))
