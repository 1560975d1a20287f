"""Damaged JPEGs are refused, harmless junk is left out, and what is decoded is what Pillow decodes."""

import io
import re
import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import (
    PreparedImage,
    _decode_image,
    decode_stored_jpeg,
    encode_jpeg,
    prepare_image,
)
from alexstream.sharding.images.jpeg import read_header, refuse_unsupported

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
        prepare_image(data, RECIPE)
    return error.value.reason


def frame_at(data):
    """Offset of the frame header's marker."""
    return re.search(rb"\xff[\xc0\xc1\xc2]\x00[\x0b\x11\x14]\x08", data).start()


BASELINE, PROGRESSIVE = saved(), saved(progressive=True)


@pytest.mark.parametrize("options", [{"progressive": p, "subsampling": s} for p in (False, True) for s in (0, 1, 2)])
def test_pixels_are_those_of_pillow(options):
    data = saved(**options)
    assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(data))


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411", "Gray"])
def test_pixels_are_those_of_pillow_for_each_sampling_that_turbojpeg_writes(sampling):
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(PIXELS), 90, colorsubsampling=sampling)
    assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grayscale_and_cmyk_are_those_of_pillow(mode):
    data = saved(Image.fromarray(PIXELS).convert(mode))
    assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(data))
    assert _decode_image(data).notes == [f"was {mode}"]


def test_rgb_without_a_transform_is_not_read_as_ycbcr():
    data = saved(keep_rgb=True)
    assert np.abs(_decode_image(data).pixels_HWC.astype(int) - PIXELS).mean() < 4
    assert prepare_image(data, EncodeRecipe(encoding="keep")).notes == ("re-encoded",)


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:2", "4:2:0"])
def test_stored_jpegs_decode_alike_by_pillow(chroma):
    content = encode_jpeg(np.ascontiguousarray(PIXELS[:256, :256]), EncodeRecipe(chroma=chroma))
    assert np.array_equal(decode_stored_jpeg(content), by_pillow(content))
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
    assert prepare_image(data, RECIPE).notes == ()
    at = data.index(b"\xff\xd3", data.index(b"\xff\xda"))
    assert reason_of(data[:at] + data[at + 2 :]) == "corrupt"


def test_junk_between_header_segments_is_left_out_and_noted():
    at = data_at = BASELINE.index(b"\xff\xdb")
    junk = BASELINE[:at] + b"\x01\x02junk" + BASELINE[data_at:]
    prepared = prepare_image(junk, RECIPE)
    assert prepared.notes == ("junk in the header",)
    assert prepared.content == prepare_image(BASELINE, RECIPE).content


def test_zeros_before_the_end_are_left_out_and_noted():
    prepared = prepare_image(BASELINE[:-2] + bytes(40) + b"\xff\xd9 more behind", RECIPE)
    assert prepared.notes == ("zeros after the scan",)
    assert prepared.content == prepare_image(BASELINE, RECIPE).content


def test_other_bytes_before_the_end_may_be_lost_picture_and_are_refused():
    assert reason_of(BASELINE[:-2] + b"\x28\xa2" * 20 + b"\xff\xd9") == "corrupt"


def test_bytes_behind_the_end_and_fill_bytes_do_not_matter():
    at = BASELINE.index(b"\xff\xdb")
    data = BASELINE[:at] + b"\xff\xff\xff" + BASELINE[at:] + b"behind" + PROGRESSIVE
    assert prepare_image(data, RECIPE).notes == ()


def test_a_progressive_jpeg_without_its_last_scans_is_noted_and_without_its_first_refused():
    scans = [found.start() for found in re.finditer(rb"\xff\xda\x00", PROGRESSIVE)]
    tables = [PROGRESSIVE.rindex(b"\xff\xc4", 0, at) for at in scans[1:]]
    assert prepare_image(PROGRESSIVE[: tables[-1]] + b"\xff\xd9", RECIPE).notes == ("progressive scans missing",)
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
    decoded = _decode_image(bytes(head) + body + b"\xff\xd9")
    assert decoded.notes == ["scan not checked"] and decoded.original_extension is None
    assert (decoded.pixels_HWC == 128).all()


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_random_damage_gives_an_image_or_a_reason(changes, progressive):
    data = bytearray(PROGRESSIVE if progressive else BASELINE)
    for place, value in changes:
        data[int(place**3 * (len(data) - 1))] = value  # more of them in the header
    try:
        assert isinstance(prepare_image(bytes(data), RECIPE), PreparedImage)
    except BadImageError as error:
        assert error.reason


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_random_bytes_behind_the_magic_are_refused(tail):
    assert reason_of(b"\xff\xd8\xff" + tail)


def header_of(*, adobe=None, ids=b"\1\2\3", jfif=False, sampling=b"\x11\x11\x11", process=0xC0):
    """A file that ends with the header of its scan: the header's segments are all that is looked at."""
    parts = [b"\xff\xd8"]
    parts += [b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"] if jfif else []
    parts += [b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe])] if adobe is not None else []
    number = len(ids)
    frame = b"".join(bytes([one, factor, 0]) for one, factor in zip(ids, sampling, strict=False))
    parts.append(bytes([0xFF, process, 0, 8 + 3 * number, 8, 0, 8, 0, 8, number]) + frame)
    parts.append(b"\xff\xc4\0\x14\0" + bytes(16) + b"\0")
    parts.append(
        bytes([0xFF, 0xDA, 0, 6 + 2 * number, number]) + b"".join(bytes([one, 0]) for one in ids) + b"\0\x3f\0"
    )
    return b"".join(parts)


@pytest.mark.parametrize(
    ("facts", "plain"),
    [
        ({}, True),  # no word on it, but the numbers of JFIF
        ({"ids": b"\0\1\2"}, False),
        ({"ids": b"RGB"}, False),
        ({"ids": b"\0\1\2", "jfif": True}, True),
        ({"ids": b"\0\1\2", "adobe": 1}, True),  # an Adobe segment of 12 bytes: YCbCr
        ({"adobe": 0}, False),  # RGB
        ({"adobe": 0, "jfif": True}, True),  # libjpeg believes JFIF
        ({"ids": b"\1"}, True),
        ({"ids": b"\1", "adobe": 0}, True),
        ({"ids": b"\1\2\3\4", "adobe": 0}, False),
        ({"ids": b"\1\2\3\4", "adobe": 1, "jfif": True}, False),
        ({"process": 0xC1}, True),
        ({"process": 0xC2}, True),
        ({"process": 0xC3}, False),
        ({"process": 0xC9}, False),
    ],
)
def test_gray_and_ycbcr_alone_are_plain(facts, plain):
    assert read_header(header_of(**facts)).is_plain is plain


def test_a_file_without_tables_of_its_own_is_not_kept():
    data = saved()
    while (at := data.find(b"\xff\xc4")) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    assert (
        np.array_equal(_decode_image(data).pixels_HWC, by_pillow(BASELINE))
        and _decode_image(data).original_extension is None
    )


def flat(process, scans, factors=(0x11, 0x11, 0x11), first="00", q=8):
    """A flat picture of 32 × 32 by hand. ``scans``: (components, first, last coefficient, bits of each block).

    In the usual tables for luma 00 is no change and 1010 the end of a block; ``first`` is the very first DC code.
    """
    source = saved(Image.new("L", (32, 32)), quality=50)
    starts = [found.start() for found in re.finditer(rb"\xff\xc4", source)]
    tables = b"".join(source[at : at + 2 + int.from_bytes(source[at + 2 : at + 4])] for at in starts)
    number = len(factors)
    parts = [b"\xff\xd8", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + (b"\0" if number == 4 else b"\1")]
    parts += [b"\xff\xdb\0\x43\0" + bytes([q]) * 64]
    frame = b"".join(bytes([i + 1, factor, 0]) for i, factor in enumerate(factors))
    parts += [bytes([0xFF, process, 0, 8 + 3 * number, 8, 0, 32, 0, 32, number]) + frame, tables]
    for components, begin, last, block, count in scans:
        names = b"".join(bytes([one, 0]) for one in components)
        parts.append(bytes([0xFF, 0xDA, 0, 6 + 2 * len(components), len(components)]) + names + bytes([begin, last, 0]))
        bits = first * (begin == 0) + block * count
        bits = bits.ljust(-(-len(bits) // 8) * 8, "1")
        parts.append(int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0"))
    return b"".join([*parts, b"\xff\xd9"])


def test_a_component_without_its_base_values_is_refused_and_one_without_detail_noted():
    bases = [([i], 0, 0, "00", 15) for i in (1, 2, 3)]
    details = [([i], 1, 63, "1010", 16) for i in (1, 2, 3)]
    whole = flat(0xC2, bases + details)
    assert _decode_image(whole).notes == [] and (_decode_image(whole).pixels_HWC == 128).all()
    for missing in range(3):
        some, rest = ([scan for i, scan in enumerate(scans) if i != missing] for scans in (bases, details))
        assert decode_stored_jpeg(flat(0xC2, some + rest)).shape == (32, 32, 3)  # libjpeg takes it without a word
        assert reason_of(flat(0xC2, some + rest)) == reason_of(flat(0xC2, some + details)) == "corrupt"
        assert _decode_image(flat(0xC2, bases + rest)).notes == ["progressive scans missing"]


def test_cmyk_of_sampling_unknown_to_the_strict_decoder_is_inverted_once():
    # 3, 1, 1 and 1 blocks a unit; the first DC differs by 40 (6 bits: 1110 and 101000), so 128 + 40 · 8 ÷ 8 = 168
    units = "001010" * 5 + ("001010" * 6) * 7
    data = flat(0xC0, [([1, 2, 3, 4], 0, 63, "", 0)], (0x31, 0x11, 0x11, 0x11), "11101010001010" + units)
    decoded = _decode_image(data)
    assert decoded.notes == ["scan not checked", "was CMYK"]
    assert np.array_equal(decoded.pixels_HWC, by_pillow(data))
    # stored inverted: 168 is 87 of cyan, 128 is 127 of the others
    expected = [(255 - ink) * (255 - 127) / 255 for ink in (255 - 168, 127, 127)]
    assert np.abs(decoded.pixels_HWC[0, 0] - expected).max() <= 1


def lossless(pixels):
    """A lossless JPEG (SOF3) of 8-bit R, G, B, predicted from the left, by hand; each category's code has 4 bits."""
    height, width, _ = pixels.shape
    values = pixels.astype(int)
    left = np.concatenate([np.roll(values[:, :1], 1, axis=0), values[:, :-1]], axis=1)
    left[0, 0] = 128
    bits = []
    for difference in (values - left).reshape(-1).tolist():
        size = abs(difference).bit_length()
        low = difference if difference >= 0 else difference + (1 << size) - 1
        bits.append(f"{size:04b}" + (f"{low:0{size}b}" if size else ""))
    body = "".join(bits)
    body = body.ljust(-(-len(body) // 8) * 8, "1")
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"R\x11\0G\x11\0B\x11\0"
    table = b"\0" + bytes([0, 0, 0, 9]) + bytes(12) + bytes(range(9))
    parts = [b"\xff\xd8", b"\xff\xc3" + struct.pack(">H", len(frame) + 2) + frame]
    parts += [b"\xff\xc4" + struct.pack(">H", len(table) + 2) + table, b"\xff\xda\0\x0c\3R\0G\0B\0\1\0\0"]
    scan = int(body, 2).to_bytes(len(body) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"".join([*parts, scan, b"\xff\xd9"])


def test_a_lossless_jpeg_of_8_bits_gives_its_pixels_and_is_not_kept():
    pixels = np.random.RandomState(5).randint(90, 170, (40, 56, 3)).astype(np.uint8)
    data = lossless(pixels)
    decoded = _decode_image(data)
    assert np.array_equal(decoded.pixels_HWC, pixels) and np.array_equal(by_pillow(data), pixels)
    assert decoded.original_extension is None
    assert reason_of(data[: len(data) // 2]) == "corrupt"
    at = data.index(b"\xff\xc3") + 4
    assert reason_of(data[:at] + b"\x0c" + data[at + 1 :]) == "unsupported-jpeg"


@pytest.mark.parametrize(
    ("facts", "reason", "words"),
    [
        ({"precision": 12}, "unsupported-jpeg", "12 bits a sample"),
        ({"precision": 16}, "unsupported-jpeg", "16 bits a sample"),
        ({"components": b"\1\2"}, "unsupported-jpeg", "2 components"),
        ({"components": b"\1\2\3\4\5"}, "unsupported-jpeg", "5 components"),
        ({"width": 0}, "corrupt", "of 0x300 pixels"),
        ({"height": 0}, "corrupt", "of 400x0 pixels"),
    ],
)
def test_a_header_says_what_no_decoder_here_takes(facts, reason, words):
    header = read_header(BASELINE)
    refuse_unsupported(header)
    for name, value in facts.items():
        setattr(header, name, value)
    with pytest.raises(BadImageError, match=words) as error:
        refuse_unsupported(header)
    assert error.value.reason == reason
