"""Right RGB of every mode, and which profiles are applied: each number here is worked out by hand or by NumPy."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images import color
from alexstream.sharding.images.decode import _decode_image, prepare_image

KEEP = EncodeRecipe(encoding="keep")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sixteen_bits_are_rounded_to_eight():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(values.astype(np.float64) * 255 / 65535 + 0.5).astype(np.uint8)
    assert expected[127, 255] == 127 and expected[128, 0] == 128  # 32767 and 32768, on both sides of a half
    decoded = _decode_image(saved(Image.fromarray(values), "PNG"))
    assert np.array_equal(decoded.pixels_HWC, np.repeat(expected[..., None], 3, axis=2))


def test_the_transparent_gray_of_a_16_bit_png_shows_white_and_its_neighbors_do_not():
    values = np.full((8, 8), 1000, np.uint16)
    values[0, 0], values[0, 1] = 1001, 999
    pixels = _decode_image(saved(Image.fromarray(values), "PNG", transparency=1000)).pixels_HWC[..., 0]
    assert (pixels[1:] == 255).all() and pixels[0, 0] == 4 and pixels[0, 1] == 4  # 1001 and 999 of 65535


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBa", (128, 0, 0, 128), (255, 127, 127)),  # red, half covering white
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (128, 128), (191, 191, 191)),  # a gray of a half, half covering white
    ],
)
def test_what_is_half_transparent_is_mixed_with_white(mode, pixel, expected):
    image = Image.new(mode, (4, 4))
    image.putpixel((1, 1), pixel)
    notes: list[str] = []
    shown = np.asarray(color.convert_to_rgb(image, notes))
    assert np.abs(shown[1, 1].astype(int) - expected).max() <= 1 and (shown[0, 0] == 255).all()
    assert notes == [f"was {mode}"]


def test_a_gray_profile_in_an_rgb_file_is_noted_and_costs_nothing():
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    image = Image.new("RGB", (64, 64), (200, 60, 30))
    data = saved(image, "JPEG", icc_profile=gray)
    prepared = prepare_image(data, KEEP)
    assert prepared.content == data and len(prepared.notes) == 1 and prepared.notes[0].startswith("ICC ignored: ")
    assert np.array_equal(prepared.pixels_HWC, prepare_image(saved(image, "JPEG"), KEEP).pixels_HWC)


def test_a_profile_whose_grays_do_not_grow_is_applied():
    """Grays stay neutral by it and each primary keeps its channel, but 64 is lighter than 128."""
    curve = b"curv" + bytes(4) + struct.pack(">I5H", 5, 0, 40_000, 20_000, 30_000, 65_535)
    icc = bytearray(SRGB)
    for tag in (b"rTRC", b"gTRC", b"bTRC"):
        entry = icc.index(tag)
        at = struct.unpack_from(">I", icc, entry + 4)[0]
        icc[at : at + len(curve)] = curve
        struct.pack_into(">I", icc, entry + 8, len(curve))
    grays = np.repeat(np.array([64, 128], np.uint8), 8)[None, :, None].repeat(16, 0).repeat(3, 2)
    decoded = _decode_image(saved(Image.fromarray(grays), "PNG", icc_profile=bytes(icc)))
    assert decoded.notes[-1].startswith("ICC applied: ")
    # by sRGB's curve, 40,000 and 20,000 of 65,535 are 0.80 and 0.59 of white
    assert np.abs(decoded.pixels_HWC[0, [0, -1]].astype(int) - [[204] * 3, [150] * 3]).max() <= 2


def test_a_profile_that_pillow_cannot_unpack_is_noted():
    png = saved(Image.new("RGB", (16, 16), (9, 99, 199)), "PNG", icc_profile=SRGB)
    at = png.index(b"iCCP")
    body = b"name\0\0not compressed"
    old = int.from_bytes(png[at - 4 : at])
    data = (
        png[: at - 4]
        + struct.pack(">I", len(body))
        + b"iCCP"
        + body
        + struct.pack(">I", zlib.crc32(b"iCCP" + body))
        + png[at + 8 + old :]
    )
    decoded = _decode_image(data)
    assert decoded.notes == ["was PNG", "ICC ignored: unreadable profile"]
    assert (decoded.pixels_HWC == (9, 99, 199)).all()
