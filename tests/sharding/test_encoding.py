"""The stored JPEG is as good as its quality says, its bytes never change, and sets of earlier versions are read."""

import hashlib
import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from scipy.fft import dctn, idctn

from alexstream.core.errors import OutputError
from alexstream.core.schema import parse_json
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.document import SCHEMA, json_bytes, json_digest
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.describe import describe_dataset
from alexstream.sharding.images.decode import decode_sample, encode_jpeg, prepare_image
from alexstream.sharding.pack import shard_split
from alexstream.sharding.recompute import check_stats
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from alexstream.sharding.verify import verify

CHROMAS = ("4:2:0", "4:2:2", "4:4:4")


def pattern(seed, height=280, width=300):
    """An image made of integers alone, so that every machine has the same."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    channels = (x * x // (seed + 3) + y, y * y // (seed + 5) + 2 * x, x * y // 64 + seed * 40)
    return np.stack([channel % 256 for channel in channels], -1).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_a_gray_picture_is_as_far_from_its_pixels_as_rounding_exact_coefficients_makes_it(quality):
    noise = np.random.RandomState(1).normal(0, 12, (256, 256))
    gray = np.clip(128 + 90 * np.sin(np.arange(256) / 9)[None] * np.cos(np.arange(256) / 14)[:, None] + noise, 0, 255)
    gray = gray.astype(np.uint8)
    content = encode_jpeg(np.repeat(gray[..., None], 3, axis=2), EncodeRecipe(quality=quality))
    with Image.open(io.BytesIO(content)) as image:
        steps = natural_order(image.quantization[0])
    blocks = gray.reshape(32, 8, 32, 8).swapaxes(1, 2).astype(np.float64) - 128
    coefficients = np.round(dctn(blocks, axes=(2, 3), norm="ortho") / steps) * steps
    exact = np.clip(np.round(idctn(coefficients, axes=(2, 3), norm="ortho") + 128), 0, 255)
    expected = psnr(exact.swapaxes(1, 2).reshape(256, 256), gray)
    assert psnr(decode_sample(content, "jpg", EncodeRecipe())[..., 0], gray) == pytest.approx(expected, abs=0.02)


def natural_order(table):
    """A quantisation table (8, 8) as rows and columns of the transform; Pillow gives it so since version 8.3."""
    return np.array(table).reshape(8, 8)


# Found by libjpeg-turbo 3.2.0 in Pillow 13.0.0; the qualities above 95 are the same by simplejpeg 1.9.0.
KNOWN_BYTES = {
    (50, "4:2:0"): "5d404a102986e43d",
    (50, "4:2:2"): "338ea8bf4e289944",
    (50, "4:4:4"): "004c2b53c7bbe11b",
    (90, "4:2:0"): "578bd89086c34414",
    (90, "4:2:2"): "ffffef1b676b1db6",
    (90, "4:4:4"): "792d47549bdeddc0",
    (95, "4:2:0"): "b3db01c5d2e3faea",
    (95, "4:2:2"): "652ef20f95111c10",
    (95, "4:4:4"): "8f085af7148c22f1",
    (100, "4:2:0"): "2941887e9e54ac53",
    (100, "4:2:2"): "c3af23a59c3281eb",
    (100, "4:4:4"): "9997d30b6ebbd6d2",
}


@pytest.mark.parametrize(("quality", "chroma"), KNOWN_BYTES)
def test_the_same_pixels_give_the_same_bytes_for_ever(quality, chroma):
    content = encode_jpeg(pattern(0, 256, 256), EncodeRecipe(quality=quality, chroma=chroma))
    assert hashlib.sha256(content).hexdigest()[:16] == KNOWN_BYTES[quality, chroma]


@pytest.mark.parametrize("chroma", CHROMAS)
def test_above_95_the_bytes_are_those_of_earlier_versions(chroma):
    for quality in (96, 98, 100):
        expected = simplejpeg.encode_jpeg(pattern(1), quality, colorsubsampling=chroma.replace(":", ""))
        assert encode_jpeg(pattern(1), EncodeRecipe(quality=quality, chroma=chroma)) == expected


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 4), (4, 7), (256, 256)])
def test_the_pixels_given_to_the_encoder_are_those_of_the_image(size):
    pixels = pattern(2, 300, 300)[20 : 20 + size[0], ::-1][:, : size[1]]  # not contiguous
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    assert encode_jpeg(pixels, EncodeRecipe()) == buffer.getvalue()


def test_an_earlier_version_s_recipe_gives_its_bytes():
    expected = simplejpeg.encode_jpeg(pattern(1), 95, colorsubsampling="420")
    assert encode_jpeg(pattern(1), EncodeRecipe(dct="fast")) == expected
    assert encode_jpeg(pattern(1), EncodeRecipe()) != expected


def test_every_photograph_is_as_near_to_its_pixels_as_pillow_s_file_of_the_same_quality(real_images):
    """The fast DCT is up to 1.7 dB further away."""
    files = [path for path in (real_images / "imagenet-sample").rglob("*") if path.is_file()]
    recipes = [EncodeRecipe(quality=quality, chroma=chroma) for quality in (90, 95) for chroma in CHROMAS]
    for path in files:
        pixels = prepare_image(path.read_bytes(), EncodeRecipe(encoding="raw")).pixels_HWC
        for recipe in recipes:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=recipe.quality, subsampling=recipe.chroma)
            content = encode_jpeg(pixels, recipe)
            if content == buffer.getvalue():
                continue
            stored = decode_sample(content, "jpg", recipe)
            assert psnr(stored, pixels) >= psnr(np.asarray(Image.open(buffer)), pixels) - 0.02, (path.name, recipe)


def source(folder, others=()):
    """Two classes with two JPEGs each, and a PPM in each if those are wanted."""
    for i in range(4):
        place = folder / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        content = simplejpeg.encode_jpeg(pattern(i), 96, colorsubsampling="420")
        (place / f"{i}.jpg").write_bytes(content)
        if "ppm" in others:
            (place / f"{i}.ppm").write_bytes(b"P6 300 280 255\n" + pattern(i).tobytes())
    return folder


# Made by version 0.1.0 as it was at commit b25da19, before the DCT was recorded.
KNOWN_DIGESTS = {
    ("raw", 95): "e8f3f39f65edd37babe425d2c3bb3ed053c99e46043a694f5062945d4d7c2dd8",
    ("keep", 95): "70acdeb51a836e2d36743b0ff3d2c5888eab594c5a35ac67cb253c751349a1dd",
    ("jpeg", 96): "60382f197b3ebb39845be5cdb57e40a85479c634943a63739a1f5da8ade0707a",
}


@pytest.mark.parametrize(("encoding", "quality"), KNOWN_DIGESTS)
def test_what_the_dct_does_not_touch_has_the_digest_that_it_always_had(encoding, quality, tmp_path):
    src = source(tmp_path / "src", () if encoding == "keep" else ("ppm",))
    recipe = EncodeRecipe(encoding=encoding, quality=quality)
    manifest, _ = shard_split(ShardRequest(source=src, folder=tmp_path / "out", encode=recipe), quiet=True)
    assert manifest.digest == KNOWN_DIGESTS[encoding, quality]


def old_set(folder, quality=95):
    """A data set as earlier versions left it: the fast DCT below 96, and a manifest that does not speak of it."""
    recipe = EncodeRecipe(quality=quality, dct="fast" if quality < 96 else "accurate")
    shard_split(ShardRequest(source=source(folder / "src", ("ppm",)), folder=folder / "out", encode=recipe), quiet=True)
    path = folder / "out" / layout.MANIFEST
    fields = parse_json(path.read_bytes())
    del fields["encode"]["dct"], fields["checksum"]
    path.write_bytes(json_bytes({**fields, "checksum": json_digest(fields)}))
    return folder / "out"


def test_a_set_of_an_earlier_version_is_read_and_proved_again(tmp_path):
    folder = old_set(tmp_path)
    manifest = load_manifest(folder)
    assert manifest.digest == "8d6f0e2f80b88ef1ba2fb9c29fd7a8a82ad89d5607c0995a9ca71cda432c0ed9"  # by b25da19
    assert manifest.encode.dct == "fast" and "4:2:0, lanczos, fast DCT" in describe_dataset(folder)
    assert not verify(folder, quiet=True).findings
    assert check_stats(folder, quiet=True).equal


def test_above_95_a_set_of_an_earlier_version_has_the_accurate_dct(tmp_path):
    folder = old_set(tmp_path, 96)
    assert load_manifest(folder).encode.dct == "accurate" and "fast" not in describe_dataset(folder)
    assert not verify(folder, quiet=True).findings


def test_a_new_set_says_that_its_dct_is_accurate(tmp_path):
    shard_split(ShardRequest(source=source(tmp_path / "src"), folder=tmp_path / "out"), quiet=True)
    assert parse_json((tmp_path / "out" / layout.MANIFEST).read_bytes())["encode"]["dct"] == "accurate"
    assert not verify(tmp_path / "out", quiet=True).findings


def test_a_finished_set_of_an_earlier_version_is_not_taken_for_what_would_be_made_now(tmp_path):
    folder = old_set(tmp_path)
    with pytest.raises(
        OutputError, match=r"holds another data set .* fast DCT of an earlier version.* another `folder`"
    ):
        shard_split(ShardRequest(source=tmp_path / "src", folder=folder), quiet=True)
    assert not verify(folder, fast=True, quiet=True).findings


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "keep"])
def test_an_earlier_version_s_unfinished_conversion_is_never_mixed_with_this_one_s(encoding, tmp_path):
    recipe = EncodeRecipe(encoding=encoding)
    request = ShardRequest(source=source(tmp_path / "src"), folder=tmp_path / "out", encode=recipe)
    (plan,) = plan_splits(request)
    (tmp_path / "out").mkdir()
    left = json_bytes({"schema": SCHEMA, "split": "train", "plan": plan.digest})
    (tmp_path / "out" / layout.PLAN).write_bytes(left)
    with pytest.raises(OutputError, match=r"unfinished conversion of another version .* delete the folder$"):
        shard_split(request, quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [layout.PLAN]


def test_an_unknown_dct_is_refused():
    with pytest.raises(ValueError, match="dct: received 'float', expected one of accurate, fast"):
        EncodeRecipe(dct="float")
