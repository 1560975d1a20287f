"""Images of every format, honest ones and ones whose headers claim what they do not hold."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import prepare_image

GRADIENT = np.stack(np.broadcast_arrays(np.linspace(0, 255, 400)[None], np.linspace(0, 255, 300)[:, None], 60.0), -1)
PHOTO = Image.fromarray(GRADIENT.astype(np.uint8))


def saved(image, kind, **options):
    """Encode an image with Pillow; returns the bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def profile_with_swapped_primaries():
    """sRGB whose red and green tags have each other's content: an RGB profile that is no ordinary one."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = icc.index(b"rXYZ"), icc.index(b"gXYZ")
    icc[red : red + 4], icc[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(icc)


def picture(seed=0, kind="JPEG", size=(40, 30)):
    """The bytes of an honest image."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    """A PNG that claims so many pixels and holds next to none, with further chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(*one) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + rest + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def claiming(width, height):
    """Small images of every format that claim so many pixels."""
    jpeg = bytearray(picture())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    gif = bytearray(picture(kind="GIF"))
    gif[6:10] = struct.pack("<HH", min(width, 65535), min(height, 65535))
    bmp = bytearray(picture(kind="BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    tiff = struct.pack("<2sHIH", b"II", 42, 8, 8)
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 278: height, 279: 100}
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(1000)
    side = struct.pack("<I", min(width, 1 << 24) - 1)[:3] + struct.pack("<I", min(height, 1 << 24) - 1)[:3]
    frame = b"ANMF" + struct.pack("<I", 24) + bytes(24)
    webp = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + side + b"ANIM" + struct.pack("<I", 6) + bytes(6) + frame
    return {
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "tiff": tiff,
        "png": png(width, height),
        "ppm": b"P6 %d %d 255\n" % (width, height),
        "webp": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
    }


def reason_of(data, recipe=EncodeRecipe()):
    """Prepare an image that must be refused; returns the reason."""
    with pytest.raises(BadImageError) as error:
        prepare_image(data, recipe)
    return error.value.reason
