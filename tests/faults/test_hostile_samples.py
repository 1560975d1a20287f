"""Data sets whose checksums are right and whose samples are no images of the kind that they say: named, not decoded."""

import hashlib
import io
import os
import struct
import zlib
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from alexstream.core.errors import BadImageError, DatasetError
from alexstream.pipeline.decode import dali
from alexstream.pipeline.decode.originals import prepare_originals
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.reference import reference_decode
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images import png
from alexstream.sharding.lookup import SampleLookup
from alexstream.sharding.recompute import check_stats
from alexstream.sharding.verify import verify
from tests.support import forked_commands
from tests.support.crafted_images import chunk, claiming
from tests.support.small_dataset import SIZE, Small, run_here

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 4200 4200
%%EndComments
(here) = showpage
%%EOF
"""


def saved(kind, size=(SIZE, SIZE), **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def with_rows(zeros, *chunks):
    """Encode a PNG of SIZE x SIZE pixels with further chunks, and so many zeros behind its last row."""
    rows = np.random.default_rng(5).integers(0, 256, (SIZE, 1 + 3 * SIZE), np.uint8)
    rows[:, 0] = 0  # no filter
    head = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    pixels = zlib.compress(rows.tobytes() + bytes(zeros), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*one) for one in ((b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    )


HUGE = claiming(20_000, 20_000)
# What is bad about a sample: the encoding of the set, its extension, its bytes.
BAD = {
    "PostScript named png": ("keep", "png", EPS),
    "PostScript named jpg": ("keep", "jpg", EPS),
    "PPM named webp": ("keep", "webp", saved("PPM")),
    "TIFF named png": ("keep", "png", saved("TIFF")),
    "JPEG 2000 named jpg": ("keep", "jpg", saved("JPEG2000")),
    "GIF named png": ("keep", "png", saved("GIF")),
    "BMP named jpg": ("keep", "jpg", saved("BMP")),
    "JPEG named png": ("keep", "png", saved("JPEG")),
    "PNG named eps": ("keep", "eps", saved("PNG")),
    "PNG of 20000 x 20000": ("keep", "png", HUGE["png"]),
    "WebP of 20000 x 20000": ("keep", "webp", HUGE["webp"]),
    "JPEG of 20000 x 20000": ("keep", "jpg", HUGE["jpeg"]),
    "PNG of 200 MB behind its last row": ("keep", "png", with_rows(200_000_000)),
    "PNG cut off": ("keep", "png", saved("PNG")[:2000]),
    "nothing": ("keep", "jpg", b""),
    "stored JPEG of 20000 x 20000": ("jpeg", "jpg", HUGE["jpeg"]),
    "stored JPEG of another size": ("jpeg", "jpg", saved("JPEG", (SIZE, SIZE + 1))),
    "stored JPEG of many scans": ("jpeg", "jpg", saved("JPEG", progressive=True)),
    "stored JPEG that is a PNG": ("jpeg", "jpg", saved("PNG")),
    "stored JPEG that is PostScript": ("jpeg", "jpg", EPS),
    "stored JPEG with a tail": ("jpeg", "jpg", saved("JPEG") + bytes(1 << 20)),
}
OTHERWISE_SOUND = ("JPEG named png", "PNG named eps")
KEY = "n03126707_01"


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """Make a set of three samples, of which the one called ``KEY`` has these bytes; all checksums are right."""
    monkeypatch.setattr("alexstream.sharding.verify.run_jobs", run_here)
    monkeypatch.setattr("alexstream.sharding.recompute.run_jobs", run_here)

    def make(encoding, extension, content):
        small = Small(tmp_path / "set", shards=1)
        small.encode = EncodeRecipe(encoding=encoding, size_px=SIZE)
        for i, row in enumerate(small.rows[0]):
            one, ending = (content, extension) if row["key"] == KEY else (saved("JPEG", quality=95), "jpg")
            small.members[0][2 * i] = f"{row['key']}.{ending}", one
            row |= {"extension": ending, "size": len(one), "stored_sha256": hashlib.sha256(one).hexdigest()}
        assert KEY in {row["key"] for row in small.rows[0]}
        small.place(0)
        small.write()
        return small.folder

    return make


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A ``gs``, first in PATH; the file that it makes when it is called."""
    called, program = tmp_path / "called", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{called}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return called


def test_pillow_left_to_itself_would_call_ghostscript(ghostscript):
    with pytest.raises(OSError), Image.open(io.BytesIO(EPS)) as image:
        image.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("bad", BAD)
def test_a_sample_that_is_no_image_of_its_kind_is_named_by_everyone_who_decodes(bad, data_set, ghostscript):
    folder = data_set(*BAD[bad])
    lookup = SampleLookup.from_folder(folder)
    for augmentation in ("paper", "inception"):
        for decoder in ("auto", "dali"):
            options = {"batch_size": 3, "augmentation": augmentation, "decoder": decoder}
            with pytest.raises(StreamError, match=rf"sample {KEY} in train-000000\.tar") as told:
                list(islice(ShardedData(train=folder, **options).training(), 2))
            assert str(told.value).isprintable()
            skipping = ShardedData(train=folder, on_bad_sample="skip", **options).training()
            assert lookup.find(KEY) not in next(skipping).ids_N.tolist()
    findings = verify(folder, quiet=True).findings
    assert any(KEY in finding.problem for finding in findings), findings
    with pytest.raises(DatasetError, match=f"sample {KEY} "):
        check_stats(folder, quiet=True)
    with pytest.raises(BadImageError, match=f"sample {KEY} "):
        lookup.pixels(lookup.find(KEY))
    assert not ghostscript.exists()


def test_decoders_get_no_metadata_that_they_would_decompress(data_set, monkeypatch):
    """libpng makes 8 MB of each of these texts, a thousand times: 30 seconds for a sample."""
    text = zlib.compress(bytes(7_000_000), 9)
    texts = [(kind, b"a\0" + more + text) for kind, more in ((b"zTXt", b"\0"), (b"iTXt", b"\1\0\0\0"))]
    palette_hint = (b"tRNS", bytes(6))
    loaded = with_rows(0, (b"iCCP", b"a\0\0" + text), *texts, palette_hint, (b"gAMA", bytes(4)))
    plain = with_rows(0, palette_hint)
    folder, given = data_set("keep", "png", loaded), []

    def note_originals(stored, *others):
        given.extend(one.tobytes() for one in stored)
        return prepare_originals(stored, *others)

    monkeypatch.setattr(dali, "prepare_originals", note_originals)
    batch = next(ShardedData(train=folder, batch_size=3, augmentation="none").training())
    found = SampleLookup.from_folder(folder).find(KEY)
    assert plain in given and not any(name in b"".join(given) for name in (b"zTXt", b"iTXt", b"iCCP", b"gAMA"))
    expected = next(ShardedData(train=data_set("keep", "png", plain), batch_size=3, augmentation="none").training())
    assert found in batch.ids_N.tolist() and torch.equal(batch.images_NCHW, expected.images_NCHW)


def test_a_png_is_decompressed_for_its_check_only_once(data_set, monkeypatch):
    asked, check = [], png.check_pixel_bytes
    monkeypatch.setattr(png, "check_pixel_bytes", lambda content: asked.append(content) or check(content))
    content = with_rows(0)
    stream = ShardedData(train=data_set("keep", "png", content), batch_size=3).training()
    list(islice(stream, 4))
    assert asked == [content]


@pytest.mark.parametrize("bad", [bad for bad in BAD if BAD[bad][0] == "keep" and bad not in OTHERWISE_SOUND])
def test_the_reference_refuses_what_is_no_image_of_a_data_set(bad, ghostscript):
    with pytest.raises(BadImageError):
        reference_decode(BAD[bad][2])
    assert not ghostscript.exists()


def test_a_command_ends_with_one_line_and_calls_no_program(data_set, ghostscript):
    folder = data_set(*BAD["PostScript named png"])
    out = folder.parent / "p.png"
    done = forked_commands.run(("preview", folder, "--out", out, "--count", 2, "--batch-size", 3))
    assert (
        done.returncode == 1 and f"sample {KEY}" in done.stderr and not out.exists() and "Traceback" not in done.stderr
    )
    assert not ghostscript.exists()
