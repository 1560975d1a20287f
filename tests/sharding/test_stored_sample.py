"""The gate before the decoders: what passes has the size that Pillow reads, all else is refused by its header."""

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import encode_jpeg, prepare_image
from alexstream.sharding.images.formats import MAX_PIXELS
from alexstream.sharding.images.stored_sample import SampleChecker, open_stored_image, read_image_size
from tests.support.crafted_images import claiming, picture, png

KEEP = SampleChecker(EncodeRecipe(encoding="keep"))
STORED = EncodeRecipe(size_px=224)


def saved(size=(31, 57), kind="JPEG", mode="RGB", **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = {
    "jpg": [saved(), saved(mode="L"), saved(progressive=True), saved((1, 1)), saved(quality=100, subsampling=0)],
    "png": [saved(kind="PNG"), saved(kind="PNG", mode="L"), saved(kind="PNG", mode="P"), saved((1, 9000), "PNG")],
    "webp": [saved(kind="WEBP"), saved(kind="WEBP", lossless=True), saved((1, 1), "WEBP"), saved((16383, 2), "WEBP")],
}
WHOLE["webp"] += [saved(kind="WEBP", exif=b"Exif\0\0"), saved(kind="WEBP", lossless=True, icc_profile=b"x" * 99)]
FOREIGN = {
    kind: saved(kind=kind) for kind in ("TIFF", "JPEG2000", "PPM", "GIF", "BMP", "TGA", "SGI", "PCX", "DDS", "ICO")
}
FOREIGN |= {"EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4200 4200\n", "nothing": b"", "zeros": bytes(4096)}
FOREIGN |= {"a bit of JPEG": b"\xff\xd8", "a bit of PNG": b"\x89PNG\r\n\x1a\n", "a bit of WebP": b"RIFF\0\0\0\0WEBP"}
FOREIGN |= {"sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "MPO": saved(kind="MPO")[2:]}


@pytest.mark.parametrize("extension", WHOLE)
def test_sizes_are_those_that_pillow_reads(extension):
    for content in WHOLE[extension]:
        with Image.open(io.BytesIO(content)) as image:
            assert KEEP.check(content, extension) == image.size[::-1]
            assert np.array_equal(np.asarray(open_stored_image(content)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("extension", WHOLE)
@pytest.mark.parametrize("kind", [*FOREIGN, *WHOLE])
def test_a_file_of_another_kind_is_refused_under_every_extension(extension, kind):
    for content in [FOREIGN[kind]] if kind in FOREIGN else WHOLE[kind]:
        if kind != extension:
            with pytest.raises(BadImageError):
                KEEP.check(content, extension)
    if kind in FOREIGN:
        with pytest.raises(BadImageError):
            open_stored_image(FOREIGN[kind])


@pytest.mark.parametrize(("encoding", "extension"), [("keep", "rgb"), ("keep", "eps"), ("raw", "jpg"), ("jpeg", "png")])
def test_an_extension_that_the_encoding_does_not_have_is_refused(encoding, extension):
    with pytest.raises(BadImageError, match=f"{extension}.*{encoding} data set has"):
        SampleChecker(EncodeRecipe(encoding=encoding)).check(saved(), extension)


@pytest.mark.parametrize("claimed", [(20_000, 20_000), (65_500, 65_500), (16_000, 16_000), (89_478_486, 1)])
def test_pixels_that_are_claimed_and_not_there_are_refused(claimed):
    images = claiming(*claimed)
    for extension, name in (("jpg", "jpeg"), ("png", "png"), ("webp", "webp")):
        if claimed[1] == 1 and extension != "png":
            continue  # of which these formats cannot tell
        with pytest.raises(BadImageError, match="pixels"):
            read_image_size(images[name], extension)


@pytest.mark.parametrize(("extension", "name"), [("jpg", "jpeg"), ("png", "png")])
def test_pixels_that_may_be_decoded_and_that_the_bytes_cannot_hold_are_refused(extension, name):
    content = claiming(9000, 9000)[name]
    assert MAX_PIXELS > 9000 * 9000 and 1032 * len(content) < 9000 * 9000
    with pytest.raises(BadImageError, match=rf"9000x9000 pixels, which {len(content)} bytes cannot hold"):
        read_image_size(content, extension)


def test_the_most_that_a_format_can_pack_is_let_through():
    """A flat image takes least: deflate packs 1032 bytes into one, a JPEG a block into a few bits."""
    for size in ((3000, 3000), (5000, 5000)):
        for kind, options in (("JPEG", {"optimize": True, "quality": 1}), ("PNG", {"compress_level": 9})):
            for mode in ("L", "RGB"):
                buffer = io.BytesIO()
                Image.new(mode, size).save(buffer, kind, **options)
                assert KEEP.check(buffer.getvalue(), kind.lower().replace("e", "")) == size


def test_a_second_header_further_on_is_seen():
    head = struct.pack(">IIBBBBB", 12_000, 7000, 8, 2, 0, 0, 0)
    with pytest.raises(BadImageError):
        open_stored_image(png(10, 10, (b"IHDR", head)))


def scans(content, times):
    """A progressive JPEG with its last scan so many times."""
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * times + content[-2:]


def test_scans_of_an_original_are_limited_as_where_it_is_converted():
    progressive = saved(progressive=True)
    count = progressive.count(b"\xff\xda")
    assert KEEP.check(scans(progressive, 500 - count + 1), "jpg") == (57, 31)
    with pytest.raises(BadImageError, match="scans"):
        KEEP.check(scans(progressive, 500 - count + 2), "jpg")


def test_what_is_encoded_passes_and_its_header_is_looked_at_once():
    noise = np.random.default_rng(1)
    for quality, chroma, dct in ((1, "4:2:0", "fast"), (95, "4:2:2", "accurate"), (100, "4:4:4", "accurate")):
        recipe = EncodeRecipe(size_px=500, quality=quality, chroma=chroma, dct=dct)
        gate = SampleChecker(recipe)
        for _ in range(3):
            extremes = (noise.integers(0, 2, (500, 500, 3)) * 255).astype(np.uint8)  # compress least
            assert gate.check(encode_jpeg(extremes, recipe), "jpg") == (500, 500)
        with pytest.raises(BadImageError):
            gate.check(encode_jpeg(extremes[:499], recipe), "jpg")


@pytest.mark.parametrize("remembered", [False, True])
def test_a_stored_jpeg_is_a_baseline_square_of_the_recipe(remembered):
    gate = SampleChecker(STORED)
    if remembered:
        gate.check(saved((224, 224), quality=95), "jpg")
    wrong = {
        "256x224 pixels, expected 224x224": saved((256, 224)),
        "20000x20000 pixels": claiming(20_000, 20_000)["jpeg"],
        "several scans": saved((224, 224), progressive=True),
        "bytes, more than": saved((224, 224)) + bytes(2 * 3 * 224 * 224 + (64 << 10)),
        "not as a JPEG does": saved((224, 224), "PNG"),
        "junk": saved((224, 224))[:20] + b"\0\0" + saved((224, 224))[20:],
    }
    for words, content in wrong.items():
        with pytest.raises(BadImageError, match=words):
            gate.check(content, "jpg")


def test_scans_of_one_component_each_are_no_baseline_jpeg_of_ours():
    """Sequential, but held in memory until the last one is there."""
    gray = simplejpeg.encode_jpeg(np.zeros((224, 224, 1), np.uint8), colorspace="GRAY")
    frame, scan = gray.index(b"\xff\xc0"), gray.index(b"\xff\xda")
    three = b"\xff\xc0\0\x11\x08" + gray[frame + 5 : frame + 9] + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    one = gray[scan:-2]
    parts = [one[:5] + bytes([number]) + one[6:] for number in (1, 2, 3)]
    content = gray[:frame] + three + gray[frame + 13 : scan] + b"".join(parts) + gray[-2:]
    assert Image.open(io.BytesIO(content)).size == (224, 224) and simplejpeg.decode_jpeg(content).shape == (224, 224, 3)
    with pytest.raises(BadImageError, match="several scans"):
        SampleChecker(STORED).check(content, "jpg")
    assert KEEP.check(content, "jpg") == (224, 224)


def test_raw_pixels_have_the_one_length():
    gate = SampleChecker(EncodeRecipe(encoding="raw", size_px=224))
    assert gate.check(bytes(3 * 224 * 224), "rgb") == (224, 224)
    for length in (0, 3 * 224 * 224 - 1, 3 * 224 * 224 + 1):
        with pytest.raises(BadImageError, match=f"{length} bytes, expected 150528"):
            gate.check(bytes(length), "rgb")


def test_lengths_are_refused_before_anything_is_read():
    for encoding, extension in (("keep", "png"), ("jpeg", "jpg"), ("raw", "rgb")):
        with pytest.raises(BadImageError, match="bytes"):
            SampleChecker(EncodeRecipe(encoding=encoding)).check_length(1 << 32, extension)


def test_whatever_keep_stores_passes():
    recipe = EncodeRecipe(encoding="keep", size_px=224)
    contents = [content for contents in WHOLE.values() for content in contents]
    contents += [picture(kind=kind) for kind in ("GIF", "BMP", "TIFF", "PPM")]
    for content in contents:
        prepared = prepare_image(content, recipe)
        SampleChecker(recipe).check(prepared.content, prepared.extension)
