"""Damaged metadata in GIF, TIFF, WebP and AVIF files costs the metadata; damage to what pixels need is refused."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import prepare_image
from alexstream.sharding.images.formats import READS_AVIF
from tests.support.crafted_images import picture

RAW = EncodeRecipe(encoding="raw")
NOTE = "damaged metadata"


def save(kind, **options):
    """A small picture in a format that Pillow writes."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(picture(3)))
    image.load()
    (image.quantize(64) if kind == "GIF" else image).save(buffer, kind, **options)
    return buffer.getvalue()


def gif_with(block):
    """A GIF with a block before its image."""
    plain = save("GIF")
    at = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:at] + block + plain[at:]


def tiff(order="<", tags=(), following=0, strip=0):
    """An uncompressed TIFF of 8 x 8 pixels; ``strip`` is added to the offset of the pixels."""
    pixels = bytes(range(192))
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8 + strip),
               (277, 3, 1, 3), (278, 4, 1, 8), (279, 4, 1, 192)]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    ifd = struct.pack(f"{order}H", len(entries) + len(tags))
    for tag, kind, count, value in sorted([*entries, *tags]):
        ifd += struct.pack(f"{order}HHI", tag, kind, count)
        ifd += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    return head + pixels + ifd + struct.pack(f"{order}I", following)


def webp_with(size=0, tail=b"", cut=0, **options):
    """A WebP with ``size`` added to its length, and something behind it."""
    plain = save("WEBP", **options)
    plain = plain[:4] + struct.pack("<I", int.from_bytes(plain[4:8], "little") + size) + plain[8:] + tail
    return plain[: len(plain) - cut]


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\x01\0\0\0\x1a\0\0\0\0\0\0\0H\0\0\0\x01\0\0\0"
DAMAGED = {
    "GIF, extension of an application cut short": (gif_with(b"\x21\xff\x0bNETSCAPE2.0\0"), gif_with(b"")),
    "TIFF, next picture outside the file": (tiff(following=99_999_999), tiff()),
    "TIFF, big-endian": (tiff(">", following=99_999_999), tiff(">")),
    "TIFF, description outside the file": (tiff(tags=[(270, 2, 50, 99_999_999)]), tiff()),
    "TIFF, two texts outside the file": (tiff(tags=[(269, 2, 9, 1 << 30), (270, 2, 9, 1 << 30)]), tiff()),
    "WebP, longer by its header": (webp_with(500), webp_with()),
    "WebP, Exif cut": (webp_with(cut=10, exif=EXIF), webp_with()),
}
if READS_AVIF:
    _OF_EXIF = save("AVIF", exif=EXIF)
    DAMAGED["AVIF, Exif damaged"] = _OF_EXIF.replace(b"II*\0\x08\0\0\0", b"\xff" * 8), save("AVIF")


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_costs_the_metadata_and_no_pixel(name):
    damaged, sound = DAMAGED[name]
    assert damaged != sound
    found, truth = prepare_image(damaged, RAW), prepare_image(sound, RAW)
    assert np.array_equal(found.pixels_HWC, truth.pixels_HWC)
    assert NOTE in found.notes and NOTE not in truth.notes
    assert (found.source_width, found.source_height) == (truth.source_width, truth.source_height)


def test_a_file_with_damaged_metadata_is_not_kept():
    kept = prepare_image(webp_with(500), EncodeRecipe(encoding="keep"))
    assert kept.extension == "jpg" and "re-encoded" in kept.notes


REFUSED = {
    "GIF, cut in its pixels": gif_with(b"\x21\xff\x0bNETSCAPE2.0\0")[:-400],
    "TIFF, pixels outside the file": tiff(following=99_999_999, strip=1 << 20),
    "TIFF, cut in its table": tiff()[:-30],
    "WebP, cut in its pixels": webp_with(cut=100),
    "WebP, cut in its second picture": save(
        "WEBP", save_all=True, append_images=[Image.open(io.BytesIO(picture(4)))], lossless=True
    )[:-100],
    "WebP of Exif alone": webp_with(exif=EXIF)[:30],
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_to_what_pixels_need_stays_refused(name):
    with pytest.raises(BadImageError) as error:
        prepare_image(REFUSED[name], RAW)
    assert error.value.reason == "corrupt"


def test_what_controls_the_pixels_of_a_gif_is_not_cut():
    buffer = io.BytesIO()
    image = Image.new("P", (24, 24), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.save(buffer, "GIF", transparency=1)
    plain = buffer.getvalue()
    at = plain.index(b"\x21\xf9")
    damaged = plain[:at] + b"\x21\xff\x0bNETSCAPE2.0\0" + plain[at:]
    found = prepare_image(damaged, RAW)
    assert NOTE in found.notes and np.all(found.pixels_HWC == 255)  # transparent over white
