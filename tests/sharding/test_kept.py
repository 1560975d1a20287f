"""``keep`` stores a file as it is only where Pillow, DALI and OpenCV see the same pixels in it."""

import io
import struct
import zlib

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
import simplejpeg
from nvidia.dali import pipeline_def
from PIL import Image, ImageCms

from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import prepare_image

KEEP = EncodeRecipe(encoding="keep")
Y, X = np.mgrid[:120, :160]
PIXELS = np.stack([X * 255 // 159, Y * 255 // 119, (128 + 90 * np.sin(X / 9) * np.cos(Y / 7)).astype(int)], -1)
PIXELS = PIXELS.astype(np.uint8)
PHOTO = Image.fromarray(PIXELS)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(kind, image=PHOTO, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunk(kind, body):
    png, crc = saved("PNG"), struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + struct.pack(">I", len(body)) + kind + body + crc + png[33:]


def with_segment(marker, body):
    """A JPEG with a segment of metadata which decoders step over and Pillow reads."""
    jpeg = saved("JPEG")
    return jpeg[:20] + b"\xff" + marker + struct.pack(">H", len(body) + 2) + body + jpeg[20:]


def oriented(kind, value, **options):
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(kind, exif=exif, **options)


def interlaced():
    """A PNG in seven passes, each of rows without a filter."""
    places = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in places for row in PIXELS[y::dy, x::dx])
    png = saved("PNG")
    parts = [(b"IHDR", png[16:28] + b"\1"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts]
    return png[:8] + b"".join(chunks)


JPEGS = {
    "baseline": {}, "progressive": {"progressive": True}, "optimized": {"optimize": True},
    "restarts": {"restart_marker_rows": 1}, "profile": {"icc_profile": SRGB}, "comment": {"comment": b"x" * 60_000},
}  # fmt: skip
SAMPLINGS = ("444", "422", "440", "411", "Gray")
CHUNKS = {
    b"gAMA": struct.pack(">I", 100_000), b"sBIT": b"\5\6\5", b"sRGB": b"\0", b"bKGD": bytes(6), b"tEXt": b"a\0b",
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), b"iTXt": b"a\0\0\0\0\0b",
    b"zTXt": b"a\0\0" + zlib.compress(b"x" * 500_000), b"pHYs": struct.pack(">IIB", 1, 2, 0),
    b"iCCP": b"name\0\0" + zlib.compress(SRGB),
}  # fmt: skip
KEPT = {
    **{f"jpeg-{name}": saved("JPEG", **options) for name, options in JPEGS.items()},
    **{f"jpeg-{s}": simplejpeg.encode_jpeg(PIXELS, 90, colorsubsampling=s) for s in SAMPLINGS},
    "jpeg-trailer": saved("JPEG") + b"\0" * 4000,
    "jpeg-upright": oriented("JPEG", 1),
    "jpeg-unknown": oriented("JPEG", 0),
    "png": saved("PNG"),
    "png-gray": saved("PNG", PHOTO.convert("L")),
    "png-palette": saved("PNG", PHOTO.quantize(200)),
    "png-interlaced": interlaced(),
    "png-upright": oriented("PNG", 1),
    **{f"png-{kind.decode()}": with_chunk(kind, body) for kind, body in CHUNKS.items()},
    "webp": saved("WEBP"),
    "webp-lossless": saved("WEBP", lossless=True),
    "webp-profile": saved("WEBP", icc_profile=SRGB),
}
RGBA = PHOTO.convert("RGBA")
RGBA.putpixel((0, 0), (1, 2, 3, 99))
CUT_PROFILE = saved("JPEG", icc_profile=bytes(100_000)).replace(b"ICC_PROFILE\0\2\2", b"ICC_PROFILE\0\3\2")
EMPTY_EXIF = b"\xff\xe1\0\x16Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
ANEW = {
    "jpeg-turned": oriented("JPEG", 6),
    "jpeg-odd": oriented("JPEG", 9),
    "jpeg-two-exif": EMPTY_EXIF.join([oriented("JPEG", 1)[:2], oriented("JPEG", 1)[2:]]),
    "jpeg-short-profile": with_segment(b"\xe2", b"ICC_PROFILE\0"),
    "jpeg-short-resources": with_segment(b"\xed", b"Photoshop 3.0\x008BIM\4\x0b"),
    "jpeg-short-jfif": with_segment(b"\xe0", b"JFIF\0"),
    "jpeg-rgb": saved("JPEG", keep_rgb=True),
    "jpeg-cmyk": saved("JPEG", PHOTO.convert("CMYK")),
    "jpeg-cut-profile": CUT_PROFILE,
    "png-rgba": saved("PNG", RGBA),
    "png-1": saved("PNG", PHOTO.convert("1")),
    "png-4-bit": saved("PNG", PHOTO.quantize(9)),
    "png-16-bit": saved("PNG", Image.fromarray(X.astype(np.uint16) * 400)),
    "png-turned": oriented("PNG", 3),
    "png-transparent-color": with_chunk(b"tRNS", bytes(6)),
    "png-unknown": with_chunk(b"cICP", b"\x09\x10\0\1"),
    "png-large": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 3_000_000)),
    "webp-rgba": saved("WEBP", RGBA),
    "gif": saved("GIF"),
    "tiff": saved("TIFF"),
    "bmp": saved("BMP"),
    "ppm": saved("PPM"),
}


@pytest.fixture(scope="module")
def by_dali():
    """Pixels by DALI's decoder on the CPU."""

    @pipeline_def(
        batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_async=False, exec_pipelined=False
    )
    def decoding():
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        return fn.decoders.image(data, device="cpu", output_type=types.RGB)

    pipe = decoding()
    pipe.build()

    def decode(data):
        pipe.feed_input("data", [np.frombuffer(data, np.uint8)])
        return np.array(pipe.run()[0][0])

    return decode


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_looks_alike_to_every_reader(name, by_dali):
    data = KEPT[name]
    assert prepare_image(data, KEEP).content == data
    assert np.array_equal(by_dali(data), by_pillow(data))


@pytest.mark.parametrize("name", ANEW)
def test_what_may_look_otherwise_is_stored_anew_and_looks_alike(name, by_dali):
    prepared = prepare_image(ANEW[name], KEEP)
    assert prepared.content != ANEW[name] and prepared.notes[-1] == "re-encoded" and prepared.extension == "jpg"
    assert np.array_equal(by_dali(prepared.content), by_pillow(prepared.content))


def test_opencv_sees_the_same():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for name, data in [*KEPT.items(), *ANEW.items()]:
        content = prepare_image(data, KEEP).content
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(pixels[..., ::-1], by_pillow(content)), name
