"""Metadata that is damaged, or larger than a library takes, costs neither the image nor a level of a pixel."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import _decode_image, prepare_image
from tests.support.crafted_images import png

KEEP = EncodeRecipe(encoding="keep")
Y, X = np.mgrid[:120, :160]
PIXELS = np.stack([X * 255 // 159, Y * 255 // 119, (128 + 90 * np.sin(X / 9) * np.cos(Y / 7)).astype(int)], -1)
PHOTO = Image.fromarray(PIXELS.astype(np.uint8))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(kind, image=PHOTO, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def check(data, sound, *notes):
    """The file is read to the pixels of the sound one, with these notes, and not kept as it is."""
    assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(sound))
    assert prepare_image(data, KEEP).notes == (*notes, "re-encoded")


def refusal(data):
    with pytest.raises(BadImageError) as error:
        _decode_image(data)
    assert error.value.reason == "corrupt"
    return str(error.value)


# --- JPEG

BASELINE, PROGRESSIVE = saved("JPEG", quality=90), saved("JPEG", quality=90, progressive=True)
PLACES = [b"\xff\xdb", b"\xff\xc0", b"\xff\xc4", b"\xff\xda"]  # before the tables, the frame, the codes, the scan


def segment(marker, body, length=None):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def icc(number, count, body):
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + body)


def inserted(data, before, *segments):
    at = data.index(before)
    return data[:at] + b"".join(segments) + data[at:]


HALF = len(SRGB) // 2
WHOLE = [icc(1, 2, SRGB[:HALF]), icc(2, 2, SRGB[HALF:])]


@pytest.mark.parametrize("before", PLACES)
def test_a_profile_in_the_wrong_place_is_a_profile(before):
    data = inserted(BASELINE, before, *WHOLE)
    assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(BASELINE))
    assert prepare_image(data, KEEP).content == data


@pytest.mark.parametrize(
    "parts",
    [
        WHOLE[:1], WHOLE[1:], [icc(1, 3, SRGB[:HALF]), icc(3, 3, SRGB[HALF:])], [icc(0, 1, SRGB)], [icc(2, 1, SRGB)],
        [icc(1, 2, SRGB[:HALF]), icc(2, 3, SRGB[HALF:])], [icc(1, 1, b"")], [icc(1, 1, SRGB), icc(1, 1, b"other")],
    ],
    ids=["second-missing", "first-missing", "middle-missing", "number-0", "number-2-of-1", "counts-differ", "empty",
         "contradiction"],
)  # fmt: skip
@pytest.mark.parametrize("before", PLACES[:2])
def test_an_incomplete_profile_is_ignored(parts, before):
    for sound in (BASELINE, PROGRESSIVE):
        place = before if before in sound else b"\xff\xc2"
        check(inserted(sound, place, *parts), sound, "ICC ignored: incomplete profile")


def test_a_part_of_a_profile_that_stands_twice_is_one_part():
    check(inserted(BASELINE, PLACES[1], *WHOLE, WHOLE[0]), BASELINE, "ICC part doubled")


def test_a_profile_whose_parts_are_out_of_order_is_put_in_order():
    swapped = bytearray(SRGB)
    red, green = swapped.index(b"rXYZ"), swapped.index(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    parts = [icc(i + 1, 3, bytes(swapped)[i * 200 : (i + 1) * 200 if i < 2 else None]) for i in range(3)]
    image = saved("JPEG", Image.new("RGB", (64, 64), (250, 10, 10)), quality=95)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        red, green, _ = _decode_image(inserted(image, PLACES[0], *(parts[i] for i in order))).pixels_HWC.mean(
            axis=(0, 1)
        )
        assert red < 30 and green > 230, order


@pytest.mark.parametrize("marker", [0xFE, 0xE1, 0xE3, 0xEC], ids=["COM", "APP1", "APP3", "APP12"])
@pytest.mark.parametrize("length", [0, 1, 7, 25, 40, 90])
@pytest.mark.parametrize("before", PLACES)
def test_metadata_of_a_wrong_length_is_left_out(marker, length, before):
    data = inserted(BASELINE, before, segment(marker, b"a comment of 22 bytes.", length))
    decoded = _decode_image(data)
    assert np.array_equal(decoded.pixels_HWC, by_pillow(BASELINE)) and decoded.original_extension is None
    assert {"damaged metadata", "junk in the header"} & set(decoded.notes)


def test_bytes_of_a_comment_that_look_like_a_scan_are_none():
    data = inserted(BASELINE, PLACES[3], segment(0xFE, b"text \xff\xda\0\x0c\4 text", 40))
    check(data, BASELINE, "damaged metadata")


@pytest.mark.parametrize("length", [400, 5000, 65535])
def test_a_comment_that_claims_the_picture_for_itself_is_left_out(length):
    check(inserted(BASELINE, PLACES[0], segment(0xFE, b"comment", length)), BASELINE, "damaged metadata")


@pytest.mark.parametrize("claimed", [12, 20, 100, 400, 6, 40, 500])
def test_a_thumbnail_is_never_taken_for_the_picture(claimed):
    """``claimed``: the length that Exif gives itself, from its beginning, or by so much too short or too long."""
    thumbnail = saved("JPEG", Image.new("RGB", (16, 16), "red"))
    right = len(thumbnail) + 8
    for length in {claimed, max(2, right - claimed), right + claimed}:
        data = inserted(BASELINE, PLACES[0], segment(0xE1, b"Exif\0\0" + thumbnail, length))
        assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(BASELINE)), length
    if claimed > 0:  # and where nothing leads to the picture, nothing is read
        hurt = inserted(BASELINE, PLACES[0], segment(0xE1, b"Exif\0\0" + thumbnail, claimed), b"junk")
        at = hurt.rindex(b"\xff\xc0")
        assert refusal(hurt[: at + 2] + b"\xff\xff" + hurt[at + 4 :])


def test_an_unknown_version_of_jfif_is_no_damage_to_the_picture():
    at = BASELINE.index(b"JFIF") + 5
    check(BASELINE[:at] + b"\x02\x01" + BASELINE[at + 2 :], BASELINE, "damaged metadata")


@pytest.mark.parametrize(
    "tail", [b"MM\0*\0\0\0\x08\xff\xff\x01\x12", b"II*\0\xff\xff\xff\xff\x12\x01", b"\x12\x01junk"]
)
def test_broken_exif_leaves_the_picture_upright(tail):
    data = inserted(BASELINE, PLACES[0], segment(0xE1, b"Exif\0\0" + tail))
    assert np.array_equal(_decode_image(data).pixels_HWC, by_pillow(BASELINE))


def exif(value, kind=3):
    """A big-endian Exif segment whose only entry is the orientation, of type SHORT or another one."""
    return segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12" + struct.pack(">HIHHI", kind, 1, value, 0, 0))


def test_of_two_exif_segments_the_first_turns_the_picture_as_for_pillow():
    data = inserted(BASELINE, PLACES[0], exif(6), segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"))
    assert np.array_equal(_decode_image(data).pixels_HWC, np.rot90(by_pillow(BASELINE), -1))


def test_an_orientation_that_is_none_is_noted_and_not_kept():
    check(inserted(BASELINE, PLACES[0], exif(9)), BASELINE, "unreadable EXIF")
    for value in (0, 1):  # not known; upright
        data = inserted(BASELINE, PLACES[0], exif(value))
        assert prepare_image(data, KEEP).content == data


def test_damage_to_what_the_picture_needs_stays_refused():
    for marker in PLACES[:3]:  # tables, frame, codes: the rest of the file by itself is no picture
        at = BASELINE.index(marker)
        refusal(BASELINE[: at + 2] + b"\xff\xff" + BASELINE[at + 4 :])
    refusal(inserted(BASELINE, PLACES[0], segment(0xFE, b"comment", 65535))[:-200])


# --- PNG

PNG = saved("PNG")
SIGNATURE, IHDR = PNG[:8], PNG[8:33]


def chunk(kind, body, *, crc=0, length=None):
    head = struct.pack(">I", len(body) if length is None else length)
    return head + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ crc)


def split_png(pieces, image=PHOTO):
    """A PNG as a list of chunks, with its pixels in so many IDATs."""
    data, found, at = saved("PNG", image), [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : end - 4]))
        at = end
    pixels = b"".join(body for kind, body in found if kind == b"IDAT")
    size = -(-len(pixels) // pieces)
    parts = [chunk(b"IDAT", pixels[i : i + size]) for i in range(0, len(pixels), size)]
    before = [chunk(*one) for one in found if one[0] not in (b"IDAT", b"IEND")]
    return [SIGNATURE, *before, *parts, chunk(b"IEND", b"")]


def png_with(*chunks, at=2):
    parts = split_png(3)
    return b"".join([*parts[:at], *chunks, *parts[at:]])


LARGE = b"x" * 3_000_000
METADATA = {
    "tEXt": (b"tEXt", b"Comment\0" + LARGE), "zTXt": (b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
    "iTXt": (b"iTXt", b"Comment\0\0\0\0\0" + LARGE), "iTXt-z": (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LARGE)),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE)),
    "iCCP": (b"iCCP", b"name\0\0" + zlib.compress(SRGB + LARGE)),
    "zTXt-method": (b"zTXt", b"Comment\0\7" + zlib.compress(b"x")), "pHYs-short": (b"pHYs", b"\0\0"),
    "gAMA-short": (b"gAMA", b"\1"), "sRGB-empty": (b"sRGB", b""), "cHRM-short": (b"cHRM", b"\0" * 5),
    "acTL-short": (b"acTL", b"\0"), "iCCP-method": (b"iCCP", b"name\0\5" + zlib.compress(SRGB)),
    "tIME-odd": (b"tIME", b"\xff" * 3), "eXIf-odd": (b"eXIf", b"\xff" * 30),
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("at", [2, 5], ids=["before-pixels", "behind-pixels"])
def test_sound_chunks_of_metadata_never_cost_the_image(name, at):
    decoded = _decode_image(png_with(chunk(*METADATA[name]), at=at))
    assert np.array_equal(decoded.pixels_HWC, PIXELS)
    if decoded.original_extension:
        assert decoded.notes == ["was PNG"]


@pytest.mark.parametrize("name", ["zTXt", "iTXt-z", "XMP", "iCCP"])
def test_large_metadata_is_noted_and_the_file_not_kept(name):
    check(png_with(chunk(*METADATA[name])), PNG, "was PNG", "unreadable metadata")


def test_a_hundred_large_texts_are_as_good_as_one_and_never_unpacked():
    text = chunk(*METADATA["zTXt"])
    many = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 900_000))
    for data in (png_with(*[text] * 100), png_with(*[many] * 100)):
        begun = time.process_time()
        check(data, PNG, "was PNG", "unreadable metadata")
        assert time.process_time() - begun < 30  # a bound against quadratic work, no measure


def test_large_text_does_not_hide_orientation_or_profile():
    tiff = b"MM\0*\0\0\0\x08\0\1\x01\x12" + struct.pack(">HIHHI", 3, 1, 6, 0, 0)
    decoded = _decode_image(png_with(chunk(b"eXIf", tiff), chunk(*METADATA["zTXt"])))
    assert np.array_equal(decoded.pixels_HWC, np.rot90(PIXELS, -1))
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    decoded = _decode_image(png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp), chunk(*METADATA["zTXt"])))
    assert np.array_equal(decoded.pixels_HWC, np.rot90(PIXELS, -1))


@pytest.mark.parametrize("kind", ["gAMA", "tEXt", "zTXt", "iTXt", "iCCP", "eXIf", "pHYs", "tIME", "acTL", "prVt"])
@pytest.mark.parametrize("at", [2, 3, 5], ids=["before-pixels", "among-pixels", "behind-pixels"])
def test_a_wrong_checksum_of_metadata_costs_the_metadata(kind, at):
    check(png_with(chunk(kind.encode(), b"\0\0\xb1\x8f", crc=1), at=at), PNG, "was PNG", "damaged metadata")


@pytest.mark.parametrize("length", [0, 3, 7, 11, 13, 60, 4000])
def test_a_wrong_length_of_metadata_costs_the_metadata(length):
    check(png_with(chunk(b"tEXt", b"Comment\0text", length=length)), PNG, "was PNG", "damaged metadata")


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_cut_behind_the_pixels_costs_nothing(pieces):
    parts = split_png(pieces)
    sound, end = b"".join(parts), len(parts[-1])
    for cut in range(1, end + 1):
        check(sound[:-cut], PNG, "was PNG", "no end mark")
    text = chunk(b"tEXt", b"Comment\0text")
    whole = b"".join([*parts[:-1], text])
    for cut in range(len(text)):
        notes = _decode_image(whole[: len(whole) - cut]).notes
        assert "no end mark" in notes and np.array_equal(_decode_image(whole[: len(whole) - cut]).pixels_HWC, PIXELS)
    check(sound[:-1] + b"\0", PNG, "was PNG", "no end mark")  # a wrong checksum
    check(b"".join(parts[:-1]) + struct.pack(">I", 500) + b"IDAT", PNG, "was PNG", "no end mark")


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_cut_in_the_pixels_is_refused_wherever_it_is(pieces, mode):
    noise = np.random.RandomState(0).randint(0, 256, (24, 32, 3)).astype(np.uint8)
    parts = split_png(pieces, Image.fromarray(noise).convert(mode))
    first = next(i for i, part in enumerate(parts) if part[4:8] == b"IDAT")
    for number in range(first, len(parts) - 1):
        last = number == len(parts) - 2
        for kept in range(0, len(parts[number]) + (not last) - 4 * last, 3):  # the last 4 bytes are its checksum
            cut = b"".join(parts[:number]) + parts[number][:kept]
            assert refusal(cut)
            assert refusal(cut + parts[-1])
    assert refusal(b"".join([*parts[:-2], parts[-1]]))  # the last IDAT is missing, the end mark is not


def test_pixels_whose_checksum_is_cut_off_are_not_proved_whole():
    *head, pixels, _ = split_png(1)
    body = pixels[8:-4]
    assert "in its pixels" in refusal(b"".join([*head, chunk(b"IDAT", body[:-2])]))
    check(b"".join([*head, chunk(b"IDAT", body[:-2]), chunk(b"IDAT", body[-2:])]), PNG, "was PNG", "no end mark")


def test_wrong_checksums_of_what_pixels_need_are_refused():
    palette = split_png(1, PHOTO.quantize(200))
    for number, kind in ((1, b"IHDR"), (2, b"PLTE"), (3, b"IDAT")):
        assert palette[number][4:8] == kind
        hurt = [*palette[:number], palette[number][:-1] + bytes([palette[number][-1] ^ 1]), *palette[number + 1 :]]
        assert kind.decode() in refusal(b"".join(hurt))
    assert "palette" in refusal(b"".join([*palette[:2], *palette[3:]]))
    assert "tRNS" in refusal(png_with(chunk(b"tRNS", bytes(6), crc=1)))


def test_a_chunk_behind_the_end_is_not_looked_at():
    assert prepare_image(PNG + chunk(b"tEXt", b"x", crc=1), KEEP).notes == ("was PNG",)


def test_the_examples_of_damaged_metadata_are_accepted_with_a_note(real_images):
    folder = real_images / "metadata"
    if not folder.is_dir():
        pytest.skip("no examples of damaged metadata here")
    rows = [line.split("\t") for line in (folder / "INDEX.tsv").read_text().splitlines()[1:]]
    for name, *_, right in rows:
        assert right.startswith("accepted")
        notes = set(prepare_image((folder / name).read_bytes(), EncodeRecipe()).notes)
        about = {"damaged metadata", "no end mark", "ICC part doubled", "ICC ignored: incomplete profile"}
        assert notes & about or "noted" not in right, name


def filtered(height, width, bits):
    """Rows of zeros as PNG packs them, each behind the number of its filter."""
    return bytes(height * (1 + -(-width * bits // 8)))


DEPTHS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]


@pytest.mark.parametrize("color, bits", DEPTHS)
def test_pixels_that_end_before_the_last_row_are_refused(color, bits):
    """Pillow shows black for the rows that are missing."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    palette = [chunk(b"PLTE", bytes(3 * 256))] if color == 3 else []
    for width, height in ((1, 1), (5, 3), (9, 8)):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
        rows = filtered(height, width, bits * channels)
        for missing in (0, 1, len(rows) // height):
            pixels = chunk(b"IDAT", zlib.compress(rows[: len(rows) - missing]))
            data = b"".join([SIGNATURE, head, *palette, pixels, chunk(b"IEND", b"")])
            if missing:
                assert "bytes of pixels, expected" in refusal(data)
            else:
                assert _decode_image(data).pixels_HWC.shape == (height, width, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 2), (8, 8), (9, 7), (33, 17)])
def test_the_passes_of_an_interlaced_picture_are_all_expected(size):
    width, height = size
    places = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    picture = np.zeros((height, width, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in places for row in picture[y::dy, x::dx] if row.size)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    whole, short = (
        b"".join([SIGNATURE, head, chunk(b"IDAT", zlib.compress(part)), chunk(b"IEND", b"")])
        for part in (rows, rows[:-1])
    )
    assert _decode_image(whole).pixels_HWC.shape == (height, width, 3)
    assert "bytes of pixels, expected" in refusal(short)


def test_a_palette_that_decoders_refuse_or_pillow_takes_in_part_is_refused():
    head, palette, pixels, end = split_png(1, PHOTO.quantize(200))[1:]
    table = palette[8:-4]
    assert _decode_image(b"".join([SIGNATURE, head, palette, pixels, end])).source_format == "PNG"
    wrong = [
        [head, pixels, palette, end],
        [head, palette, chunk(b"PLTE", bytes(600)), pixels, end],
        [head, chunk(b"PLTE", table[:-1]), pixels, end],
        [head, chunk(b"PLTE", b""), pixels, end],
        [head, chunk(b"PLTE", table + bytes(300)), pixels, end],
        [head, head, palette, pixels, end],
        [chunk(b"IHDR", head[8:-4] + b"\0"), palette, pixels, end],
        [chunk(b"IHDR", head[8:18] + b"\1" + head[19:-4]), palette, pixels, end],
    ]
    refusals = [refusal(b"".join([SIGNATURE, *chunks])) for chunks in wrong]
    assert all("with a palette that" in one for one in refusals[:5])
    assert all("with a header that" in one for one in refusals[5:])


def test_pixels_far_behind_the_last_row_are_refused_and_a_few_are_not():
    """A PNG of kilobytes may unpack to gigabytes there, which no picture shows."""
    rows = bytes(8 * (1 + 3 * 10))
    for behind in (bytes(1000), bytes(64 << 20)):
        data = png(10, 8)[:33] + chunk(b"IDAT", zlib.compress(rows + behind, 9)) + chunk(b"IEND", b"")
        if len(behind) == 1000:
            assert _decode_image(data).width == 10
        else:
            assert "far more bytes of pixels than the 248" in refusal(data)
