"""One file in, right RGB pixels or a reason out: told by content, never by name."""

import io

import numpy as np
import pytest
from PIL import Image

from sharding.errors import BadImageError
from sharding.image import decode_stored, prepare, resize_and_crop
from sharding.layout import EncodeRecipe

RECIPE = EncodeRecipe()
GRADIENT = np.stack(np.broadcast_arrays(np.linspace(0, 255, 400)[None], np.linspace(0, 255, 300)[:, None], 60.0), -1)
PHOTO = Image.fromarray(GRADIENT.astype(np.uint8))  # 400 wide, 300 high


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def psnr(a, b):
    return 10 * np.log10(255**2 / (np.mean((a.astype(float) - b.astype(float)) ** 2) + 1e-9))


def test_the_stored_image_is_the_centre_of_the_shorter_side_scaled_to_256():
    prepared = prepare(saved(PHOTO, "PNG"), RECIPE)
    assert prepared.pixels_HWC.shape == (256, 256, 3) and prepared.pixels_HWC.dtype == np.uint8
    assert (prepared.source_width, prepared.source_height) == (400, 300)
    # the first and last of the central 300 columns have red 32 and 223
    np.testing.assert_allclose(prepared.pixels_HWC[128, [0, 255], 0], [32, 223], atol=3)
    np.testing.assert_allclose(prepared.pixels_HWC[[0, 255], 128, 1], [0, 255], atol=3)


def test_the_stored_jpeg_decodes_to_the_pixels_that_were_counted():
    prepared = prepare(saved(PHOTO, "JPEG"), RECIPE)
    assert np.array_equal(decode_stored(prepared.jpeg), prepared.pixels_HWC)


def test_a_256_pixel_image_is_not_resampled():
    exact = Image.fromarray(np.random.RandomState(0).randint(0, 256, (256, 256, 3)).astype(np.uint8))
    assert np.array_equal(np.asarray(resize_and_crop(exact, RECIPE)), np.asarray(exact))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_read_by_content_and_noted(kind):
    prepared = prepare(saved(PHOTO, kind), RECIPE)
    assert prepared.source_format == kind
    assert f"was {kind}" in prepared.notes
    assert psnr(prepared.pixels_HWC, prepare(saved(PHOTO, "PNG"), RECIPE).pixels_HWC) > 28


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grayscale_and_cmyk_jpegs_become_rgb(mode):
    prepared = prepare(saved(PHOTO.convert(mode), "JPEG", quality=95), RECIPE)
    assert f"was {mode}" in prepared.notes
    expected = prepare(saved(PHOTO.convert(mode).convert("RGB"), "PNG"), RECIPE).pixels_HWC
    assert psnr(prepared.pixels_HWC, expected) > 35


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned = prepare(saved(PHOTO, "JPEG", exif=exif, quality=95), RECIPE)
    assert "EXIF orientation 6" in turned.notes
    upright = prepare(saved(PHOTO.transpose(Image.Transpose.ROTATE_270), "JPEG", quality=95), RECIPE)
    assert psnr(turned.pixels_HWC, upright.pixels_HWC) > 40


def test_sixteen_bit_grayscale_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 300 * 300).reshape(300, 300).astype(np.uint16)
    prepared = prepare(saved(Image.fromarray(values), "PNG"), RECIPE)
    assert abs(prepared.pixels_HWC.astype(float).mean() - 127.5) < 2


def test_transparent_pixels_show_white():
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    assert prepare(saved(image, "PNG"), RECIPE).pixels_HWC.min() >= 254


def test_only_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (300, 300), c) for c in ("red", "blue")]
    prepared = prepare(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), RECIPE)
    assert "first of 2 frames" in prepared.notes
    assert prepared.pixels_HWC[..., 0].min() > 250


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not-an-image"),
        (saved(PHOTO, "JPEG")[:2000], "undecodable"),
        (saved(PHOTO, "PNG")[:500], "undecodable"),
        (saved(Image.new("1", (20000, 20000)), "PNG"), "too-large"),
        (saved(Image.new("F", (300, 300)), "TIFF"), "unsupported-mode"),
    ],
    ids=["empty", "html", "cut-jpeg", "cut-png", "bomb", "float"],
)
def test_what_is_no_usable_image_is_refused_with_a_reason(data, reason):
    with pytest.raises(BadImageError) as error:
        prepare(data, RECIPE)
    assert error.value.reason == reason


def test_every_hazard_is_turned_into_pixels_or_refused(real_images):
    for path in sorted((real_images / "hazards").glob("*.[!t]*")):
        try:
            assert prepare(path.read_bytes(), RECIPE).pixels_HWC.shape == (256, 256, 3)
        except BadImageError as error:
            assert error.reason
