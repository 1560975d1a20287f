"""One file in, right RGB pixels or a reason out: told by content, never by name."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import _decode_image, decode_sample, decode_stored_jpeg, prepare_image
from tests.support.crafted_images import PHOTO, profile_with_swapped_primaries, reason_of, saved

RECIPE, RAW, KEEP = EncodeRecipe(), EncodeRecipe(encoding="raw"), EncodeRecipe(encoding="keep")


def psnr(a, b):
    return 10 * np.log10(255**2 / (np.mean((a.astype(float) - b.astype(float)) ** 2) + 1e-9))


def test_the_stored_image_is_the_centre_of_the_shorter_side_scaled_to_256():
    prepared = prepare_image(saved(PHOTO, "PNG"), RECIPE)
    assert prepared.pixels_HWC.shape == (256, 256, 3) and prepared.pixels_HWC.dtype == np.uint8
    assert (prepared.source_width, prepared.source_height, prepared.extension) == (400, 300, "jpg")
    # the first and last of the central 300 columns have red 32 and 223
    np.testing.assert_allclose(prepared.pixels_HWC[128, [0, 255], 0], [32, 223], atol=3)
    np.testing.assert_allclose(prepared.pixels_HWC[[0, 255], 128, 1], [0, 255], atol=3)


def test_the_stored_jpeg_decodes_to_the_pixels_that_were_counted():
    prepared = prepare_image(saved(PHOTO, "JPEG"), RECIPE)
    assert np.array_equal(decode_stored_jpeg(prepared.content), prepared.pixels_HWC)


@pytest.mark.parametrize("recipe", [RECIPE, RAW, KEEP], ids=["jpeg", "raw", "keep"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_pixels_come_back_from_what_is_stored(recipe, kind):
    prepared = prepare_image(saved(PHOTO, kind), recipe)
    assert np.array_equal(decode_sample(prepared.content, prepared.extension, recipe), prepared.pixels_HWC)


def test_raw_is_the_scaled_square_itself():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (256, 256, 3)).astype(np.uint8))
    prepared = prepare_image(saved(image, "PNG"), RAW)
    assert (prepared.content, prepared.extension) == (image.tobytes(), "rgb")


@pytest.mark.parametrize(
    ("kind", "options", "extension"),
    [("JPEG", {}, "jpg"), ("JPEG", {"progressive": True}, "jpg"), ("PNG", {}, "png"), ("WEBP", {}, "webp")],
)
def test_what_every_reader_sees_alike_is_kept_as_it_is(kind, options, extension):
    data = saved(PHOTO, kind, **options)
    prepared = prepare_image(data, KEEP)
    assert (prepared.content, prepared.extension) == (data, extension)
    assert "re-encoded" not in prepared.notes


def test_what_readers_may_see_differently_is_kept_as_a_jpeg_of_full_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    for data, size in [
        (saved(PHOTO.convert("RGBA"), "PNG"), (400, 300)),
        (saved(PHOTO.convert("CMYK"), "JPEG"), (400, 300)),
        (saved(PHOTO, "JPEG", exif=exif), (300, 400)),
        (saved(PHOTO, "GIF"), (400, 300)),
    ]:
        prepared = prepare_image(data, KEEP)
        assert prepared.notes[-1] == "re-encoded" and prepared.extension == "jpg"
        assert Image.open(io.BytesIO(prepared.content)).size == size


@pytest.mark.parametrize("recipe", [RECIPE, RAW, KEEP], ids=["jpeg", "raw", "keep"])
def test_damaged_stored_content_is_refused(recipe):
    prepared = prepare_image(saved(PHOTO, "JPEG"), recipe)
    with pytest.raises(BadImageError):
        decode_sample(prepared.content[:-100], prepared.extension, recipe)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_other_formats_are_read_by_content_and_noted(kind):
    prepared = prepare_image(saved(PHOTO, kind), RECIPE)
    assert prepared.source_format == kind
    assert f"was {kind}" in prepared.notes
    assert psnr(prepared.pixels_HWC, prepare_image(saved(PHOTO, "PNG"), RECIPE).pixels_HWC) > 28


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_the_pixel(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    flat = np.asarray(Image.open(io.BytesIO(saved(PHOTO, kind, **options))).convert("RGB"))
    rows_then_columns = flat if orientation < 5 else flat.swapaxes(0, 1)
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    decoded = _decode_image(saved(PHOTO, kind, exif=exif, **options))
    assert np.array_equal(decoded.pixels_HWC, np.flip(rows_then_columns, flips))


def test_sixteen_bit_grayscale_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 300 * 300).reshape(300, 300).astype(np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        prepared = prepare_image(saved(Image.fromarray(values), kind), RECIPE)
        assert abs(prepared.pixels_HWC.astype(float).mean() - 127.5) < 2, kind


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_show_white(kind):
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    assert prepare_image(saved(image, kind), RAW).pixels_HWC.min() >= 254


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_shows_white(mode):
    image = Image.new("RGB", (300, 300), (40, 40, 40))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    key = image.getpixel((0, 0))
    assert prepare_image(saved(image, "PNG", transparency=key), RAW).pixels_HWC.min() == 255


def test_only_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (300, 300), c) for c in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        prepared = prepare_image(saved(frames[0], kind, save_all=True, append_images=frames[1:]), KEEP)
        assert "first of 2 frames" in prepared.notes and "re-encoded" in prepared.notes
        assert prepared.pixels_HWC[..., 0].min() > 250, kind
    prepared = prepare_image(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]), RECIPE)
    assert (prepared.source_format, prepared.notes) == ("MPO", ("first of 2 frames",))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_by_which_the_numbers_are_no_rgb_is_applied(kind):
    image = Image.new("RGB", (300, 300), (250, 10, 10))
    prepared = prepare_image(saved(image, kind, icc_profile=profile_with_swapped_primaries()), KEEP)
    assert any(note.startswith("ICC applied") for note in prepared.notes) and prepared.notes[-1] == "re-encoded"
    red, green, _ = prepared.pixels_HWC.mean(axis=(0, 1))
    assert red < 30 and green > 230


def test_ordinary_profiles_leave_the_numbers_alone():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = prepare_image(saved(PHOTO, "JPEG"), RECIPE)
    for icc, notes in [(srgb, ()), (b"nonsense", ("ICC ignored: unreadable profile",))]:
        prepared = prepare_image(saved(PHOTO, "JPEG", icc_profile=icc), RECIPE)
        assert (prepared.notes, prepared.content) == (notes, plain.content)


@pytest.mark.parametrize(
    "primaries",
    [
        [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)],
        [(0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)],
    ],
    ids=["Adobe RGB", "ProPhoto RGB"],
)
def test_profiles_of_wider_rgb_are_noted_and_leave_the_numbers_alone(primaries):
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        at = struct.unpack_from(">I", icc, icc.index(tag) + 4)[0] + 8
        struct.pack_into(">3i", icc, at, *(round(value * 65536) for value in values))
    prepared = prepare_image(saved(PHOTO, "JPEG", icc_profile=bytes(icc)), RECIPE)
    assert len(prepared.notes) == 1 and prepared.notes[0].startswith("ICC ignored: ")
    assert prepared.content == prepare_image(saved(PHOTO, "JPEG"), RECIPE).content


def test_lab_is_shown_as_srgb():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.new("RGB", (300, 300), (200, 60, 30)), srgb, lab, outputMode="LAB")
    shown = prepare_image(saved(image, "TIFF"), RAW).pixels_HWC.mean(axis=(0, 1))
    np.testing.assert_allclose(shown, [200, 60, 30], atol=6)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3)])
def test_tiny_images_are_enlarged_and_noted(size):
    prepared = prepare_image(saved(Image.new("RGB", size, (9, 90, 200)), "PNG"), RAW)
    assert f"enlarged from {min(size)} px" in prepared.notes
    assert (prepared.pixels_HWC == [9, 90, 200]).all()


PNG = saved(PHOTO, "PNG")
TWO = [PHOTO.resize((40, 30)), PHOTO.resize((40, 30)).rotate(90)]
MANY = {"save_all": True, "append_images": TWO[1:]}
ANIMATIONS = {
    k: saved(TWO[0], k, **({} if k in ("BMP", "PPM") else MANY)) for k in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
}
MAGIC = {
    b"<html>not found</html>": "not-an-image",
    b"<?xml version='1.0'?><svg/>": "unsupported-format",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "unsupported-format",
    b"8BPS\0\1": "unsupported-format",
    b"\0\0\0\x18ftypheic": "unsupported-format",
    b"\0\0\0\x18ftypmp42": "not-an-image",
    b"%PDF-1.7": "not-an-image",
    b"nothing at all": "not-an-image",
}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        *MAGIC.items(),
        (PNG[:500], "corrupt"),
        (PNG[:-20], "corrupt"),
        (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "corrupt"),
        (saved(Image.new("1", (20000, 20000)), "PNG"), "too-large"),
        (saved(Image.new("1", (20000, 20000)), "TIFF", compression="group4"), "too-large"),
        (saved(Image.new("F", (300, 300)), "TIFF"), "unsupported-mode"),
        (saved(Image.new("I", (300, 300)), "TIFF"), "unsupported-mode"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_a_reason(data, reason):
    assert reason_of(data) == reason


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"lossless": True}])
def test_a_truncated_file_is_refused_or_gives_the_whole_picture(kind, options):
    if options and kind not in ("TIFF", "WEBP"):
        pytest.skip("an option of TIFF and WebP")
    noise = np.random.RandomState(3).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    data = saved(Image.fromarray(noise), kind, **options)
    whole = _decode_image(data).pixels_HWC
    for length in range(1, len(data), 37):
        try:
            assert np.array_equal(_decode_image(data[:length]).pixels_HWC, whole), length
        except BadImageError as error:
            assert error.reason in ("corrupt", "not-an-image")


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]), st.integers(0, 2**32 - 1), st.booleans())
def test_random_damage_gives_an_image_or_a_reason(kind, seed, near_the_start):
    data = bytearray(ANIMATIONS[kind])
    random = np.random.RandomState(seed)
    for at in random.randint(0, min(len(data), 200) if near_the_start else len(data), 5):
        data[at] = random.randint(256)
    try:
        assert prepare_image(bytes(data), RECIPE).pixels_HWC.shape == (256, 256, 3)
    except BadImageError as error:
        assert error.reason


def test_recipes_outside_what_the_encoder_knows_are_refused():
    for wrong in ({"resize_filter": "nearest"}, {"chroma": "4:1:1"}, {"encoding": "gif"}, {"quality": 0}):
        with pytest.raises(ValueError, match="received"):
            EncodeRecipe(**wrong)
