"""AVIF by Pillow, HEIC by pillow-heif where it is installed: formats of one container, told by their brands."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, features

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import _decode_image, prepare_image

KEEP = EncodeRecipe(encoding="keep")
Y, X = np.mgrid[:90, :140]
PIXELS = np.stack([X * 255 // 139, Y * 255 // 89, (128 + 90 * np.sin(X / 9)).astype(int)], -1).astype(np.uint8)
PHOTO = Image.fromarray(PIXELS)
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")


def saved(kind="AVIF", image=PHOTO, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **{"quality": 100, "subsampling": "4:4:4"} | options if kind == "AVIF" else options)
    return buffer.getvalue()


def reason_of(data):
    with pytest.raises(BadImageError) as error:
        _decode_image(data)
    return error.value.reason, str(error.value)


@needs_avif
def test_avif_is_read_to_pillow_s_pixels_and_stored_anew():
    data = saved()
    assert np.array_equal(_decode_image(data).pixels_HWC, np.asarray(Image.open(io.BytesIO(data))))
    assert np.abs(_decode_image(data).pixels_HWC.astype(int) - PIXELS).mean() < 2
    prepared = prepare_image(data, KEEP)
    assert prepared.source_format == "AVIF" and prepared.notes == ("was AVIF", "re-encoded")


@needs_avif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows_then_columns = PIXELS if orientation < 5 else PIXELS.swapaxes(0, 1)
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    decoded = _decode_image(saved(exif=exif))
    assert np.abs(decoded.pixels_HWC.astype(int) - np.flip(rows_then_columns, flips)).mean() < 2


@needs_avif
def test_transparent_avif_shows_white_and_gray_is_gray():
    assert _decode_image(saved(image=Image.new("RGBA", (64, 64), (255, 0, 0, 0)))).pixels_HWC.min() >= 254
    assert np.abs(_decode_image(saved(image=Image.new("L", (64, 64), 77))).pixels_HWC.astype(int) - 77).max() <= 1


@needs_avif
def test_the_first_frame_of_an_animated_avif_is_used():
    decoded = _decode_image(saved(save_all=True, append_images=[Image.new("RGB", PHOTO.size, "red")] * 2))
    assert decoded.notes == ["was AVIF", "first of 3 frames"]
    assert np.abs(decoded.pixels_HWC.astype(int) - PIXELS).mean() < 2


@needs_avif
def test_a_damaged_avif_is_refused_for_what_it_is():
    data = saved()
    for length in (20, 60, 200, len(data) // 2, len(data) - 20):
        reason, words = reason_of(data[:length])
        assert reason == "corrupt" and "not read" not in words, length


@needs_avif
def test_a_large_avif_is_refused_before_it_is_decoded():
    data = saved()
    at = data.index(b"ispe") + 8
    assert reason_of(data[:at] + (60_000).to_bytes(4) * 2 + data[at + 8 :])[0] in ("too-large", "corrupt")


def ftyp(*brands):
    return (8 + 8 + 4 * (len(brands) - 1)).to_bytes(4) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


@pytest.mark.parametrize("brands", [(b"heic",), (b"mif1", b"mif1", b"heic"), (b"heix", b"mif1"), (b"msf1", b"hevc")])
def test_heic_without_pillow_heif_says_how_to_have_it_read(brands, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reason, words = reason_of(ftyp(*brands) + bytes(100))
    assert reason == "unsupported-format"
    assert words == "HEIC is not read here; install pillow-heif for it: pip install 'alexstream[heif]'"


@pytest.mark.parametrize("brands", [(b"isom", b"mp42"), (b"qt  ",), (b"mp42", b"isom", b"avc1")])
def test_video_in_the_same_container_is_no_image(brands):
    assert reason_of(ftyp(*brands) + bytes(100)) == ("not-an-image", "video is not read")


def test_avif_that_pillow_does_not_know_says_how_to_have_it_read(monkeypatch):
    from alexstream.sharding.images import formats

    monkeypatch.setattr(formats, "READS_AVIF", False)
    monkeypatch.setattr(formats, "FORMATS", ("PNG",))
    assert reason_of(ftyp(b"avif", b"mif1") + bytes(100)) == (
        "unsupported-format",
        "AVIF is not read by this Pillow; install pillow 11.3 or newer",
    )


def heic(**options):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif (the extra heif) is not installed")
    pillow_heif.register_heif_opener()
    return saved("HEIF", **{"quality": -1, "chroma": 444} | options)


def test_heic_is_read_and_stored_anew():
    prepared = prepare_image(heic(), KEEP)
    assert prepared.source_format == "HEIF" and prepared.notes == ("was HEIF", "re-encoded")
    assert np.abs(_decode_image(heic()).pixels_HWC.astype(int) - PIXELS).mean() < 2


def test_transparent_heic_shows_white_and_of_several_pictures_the_first_is_used():
    assert _decode_image(heic(image=Image.new("RGBA", (64, 64), (255, 0, 0, 0)))).pixels_HWC.min() >= 253
    decoded = _decode_image(heic(save_all=True, append_images=[Image.new("RGB", PHOTO.size, "red")]))
    assert decoded.notes == ["was HEIF", "first of 2 frames"]
    assert np.abs(decoded.pixels_HWC.astype(int) - PIXELS).mean() < 2


def test_a_damaged_heic_is_refused():
    data = heic()
    for length in (20, 60, len(data) // 2, len(data) - 20):
        assert reason_of(data[:length])[0] == "corrupt", length
