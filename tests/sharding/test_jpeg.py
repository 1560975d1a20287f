"""Damaged JPEGs are refused, harmless junk is left out, and what is decoded is what Pillow decodes."""

import io
import re

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharding.errors import BadImageError
from sharding.image import PreparedImage, _decode, decode_stored, encode, prepare
from sharding.jpeg import read_header
from sharding.layout import EncodeRecipe

RECIPE = EncodeRecipe()
Y, X = np.mgrid[:300, :400]
PIXELS = np.stack([X * 255 // 399, Y * 255 // 299, 128 + 90 * np.sin(X / 9) * np.cos(Y / 7)], -1).astype(np.uint8)
PIXELS ^= np.random.RandomState(0).randint(0, 8, PIXELS.shape).astype(np.uint8)


def saved(image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reason_of(data):
    with pytest.raises(BadImageError) as error:
        prepare(data, RECIPE)
    return error.value.reason


def frame_at(data):
    """Offset of the frame header's marker."""
    return re.search(rb"\xff[\xc0\xc1\xc2]\x00[\x0b\x11\x14]\x08", data).start()


BASELINE, PROGRESSIVE = saved(), saved(progressive=True)


@pytest.mark.parametrize("options", [{"progressive": p, "subsampling": s} for p in (False, True) for s in (0, 1, 2)])
def test_pixels_are_those_of_pillow(options):
    data = saved(**options)
    assert np.array_equal(_decode(data).pixels_HWC, by_pillow(data))


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411", "Gray"])
def test_pixels_are_those_of_pillow_for_each_sampling_that_turbojpeg_writes(sampling):
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(PIXELS), 90, colorsubsampling=sampling)
    assert np.array_equal(_decode(data).pixels_HWC, by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grayscale_and_cmyk_are_those_of_pillow(mode):
    data = saved(Image.fromarray(PIXELS).convert(mode))
    assert np.array_equal(_decode(data).pixels_HWC, by_pillow(data))
    assert _decode(data).notes == [f"was {mode}"]


def test_rgb_without_a_transform_is_not_read_as_ycbcr():
    data = saved(keep_rgb=True)
    assert np.abs(_decode(data).pixels_HWC.astype(int) - PIXELS).mean() < 4
    assert prepare(data, EncodeRecipe(encoding="keep")).notes == ("re-encoded",)


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:2", "4:2:0"])
def test_stored_jpegs_decode_alike_by_pillow(chroma):
    content = encode(np.ascontiguousarray(PIXELS[:256, :256]), EncodeRecipe(chroma=chroma))
    assert np.array_equal(decode_stored(content), by_pillow(content))
    assert read_header(content).is_plain and read_header(content).process == 0xC0
    assert Image.open(io.BytesIO(content)).info.get("icc_profile") is None


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.97, 0.9999])
def test_a_truncated_jpeg_is_refused(data, part):
    cut = data[: int(len(data) * part)]
    assert reason_of(cut) == "corrupt"
    if data is BASELINE:
        assert reason_of(cut + b"\xff\xd9") == "corrupt"


def test_a_hole_in_the_scan_is_refused_though_pillow_takes_it():
    hurt = bytearray(BASELINE)
    hurt[len(hurt) // 2 : len(hurt) // 2 + 200] = bytes(200)
    by_pillow(bytes(hurt))
    assert reason_of(bytes(hurt)) == "corrupt"


def test_a_missing_restart_marker_is_refused():
    data = saved(restart_marker_rows=1)
    assert prepare(data, RECIPE).notes == ()
    at = data.index(b"\xff\xd3", data.index(b"\xff\xda"))
    assert reason_of(data[:at] + data[at + 2 :]) == "corrupt"


def test_junk_between_header_segments_is_left_out_and_noted():
    at = data_at = BASELINE.index(b"\xff\xdb")
    junk = BASELINE[:at] + b"\x01\x02junk" + BASELINE[data_at:]
    prepared = prepare(junk, RECIPE)
    assert prepared.notes == ("junk in the header",)
    assert prepared.content == prepare(BASELINE, RECIPE).content


def test_zeros_before_the_end_are_left_out_and_noted():
    prepared = prepare(BASELINE[:-2] + bytes(40) + b"\xff\xd9 more behind", RECIPE)
    assert prepared.notes == ("zeros after the scan",)
    assert prepared.content == prepare(BASELINE, RECIPE).content


def test_other_bytes_before_the_end_may_be_lost_picture_and_are_refused():
    assert reason_of(BASELINE[:-2] + b"\x28\xa2" * 20 + b"\xff\xd9") == "corrupt"


def test_bytes_behind_the_end_and_fill_bytes_do_not_matter():
    at = BASELINE.index(b"\xff\xdb")
    data = BASELINE[:at] + b"\xff\xff\xff" + BASELINE[at:] + b"behind" + PROGRESSIVE
    assert prepare(data, RECIPE).notes == ()


def test_a_progressive_jpeg_without_its_last_scans_is_noted_and_without_its_first_refused():
    scans = [found.start() for found in re.finditer(rb"\xff\xda\x00", PROGRESSIVE)]
    tables = [PROGRESSIVE.rindex(b"\xff\xc4", 0, at) for at in scans[1:]]
    assert prepare(PROGRESSIVE[: tables[-1]] + b"\xff\xd9", RECIPE).notes == ("progressive scans missing",)
    gray_only = PROGRESSIVE[: scans[0]] + PROGRESSIVE[tables[0] : tables[1]] + b"\xff\xd9"
    assert reason_of(gray_only) == "corrupt"


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (4, b"\x0c", "unsupported-jpeg"),
        (1, b"\xc3", "unsupported-jpeg"),
        (1, b"\xc5", "unsupported-jpeg"),
        (5, b"\0\0", "corrupt"),
        (5, b"\xff\xff\xff\xff", "too-large"),
    ],
    ids=["12-bit", "lossless", "hierarchical", "no-height", "bomb"],
)
def test_frames_that_cannot_be_read_are_refused_before_decoding(offset, value, reason):
    at = frame_at(BASELINE) + offset
    assert reason_of(BASELINE[:at] + value + BASELINE[at + len(value) :]) == reason


@pytest.mark.parametrize(
    "data",
    [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", BASELINE[:160], BASELINE[: BASELINE.index(b"\xff\xda")],
     b"\xff\xd8" + BASELINE[BASELINE.index(b"\xff\xda") :], BASELINE[:2] + BASELINE],
)  # fmt: skip
def test_headers_without_a_picture_are_refused(data):
    assert reason_of(data) == "corrupt"


def test_sampling_unknown_to_the_strict_decoder_goes_by_pillow_with_a_note():
    # mid-grey: each block is the bits 00 (no change) 1010 (end of block), whatever the sampling
    source = saved(Image.new("RGB", (32, 32), (128, 128, 128)), subsampling=0)
    frame, scan = frame_at(source), source.index(b"\xff\xda")
    head = bytearray(source[: scan + 14])
    head[frame + 11], head[frame + 14], head[frame + 17] = 0x22, 0x11, 0x21
    head[scan + 6], head[scan + 8], head[scan + 10] = 0x00, 0x00, 0x00
    bits = "001010" * (4 * 7)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    decoded = _decode(bytes(head) + body + b"\xff\xd9")
    assert decoded.notes == ["scan not checked"] and decoded.keep_as is None
    assert (decoded.pixels_HWC == 128).all()


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_random_damage_gives_an_image_or_a_reason(changes, progressive):
    data = bytearray(PROGRESSIVE if progressive else BASELINE)
    for place, value in changes:
        data[int(place**3 * (len(data) - 1))] = value  # more of them in the header
    try:
        assert isinstance(prepare(bytes(data), RECIPE), PreparedImage)
    except BadImageError as error:
        assert error.reason


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_random_bytes_behind_the_magic_are_refused(tail):
    assert reason_of(b"\xff\xd8\xff" + tail)
