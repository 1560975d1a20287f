"""The table of docs/images.md is true of each example file."""

import re

import pytest

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import decode_sample, prepare_image
from tests.support import ROOT

ROW = re.compile(r"^\| .+? \| (accepted|refused).*? \|(.*?)\| `([^`|]+)` \|$", re.MULTILINE)
ROWS = [(name, kind, re.findall(r"`(.+?)`", shown)) for kind, shown, name in ROW.findall(
    (ROOT / "docs" / "images.md").read_text())]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "shown"), ROWS, ids=[row[0] for row in ROWS])
def test_each_example_has_the_documented_outcome(real_images, name, kind, shown):
    data = (real_images / "hazards" / name).read_bytes()
    if kind == "refused":
        with pytest.raises(BadImageError) as error:
            prepare_image(data, EncodeRecipe())
        assert [error.value.reason] == shown
        return
    assert list(prepare_image(data, EncodeRecipe()).notes) == shown
    for encoding in ("jpeg", "raw", "keep"):
        recipe = EncodeRecipe(encoding=encoding)
        prepared = prepare_image(data, recipe)
        again = decode_sample(prepared.content, prepared.extension, recipe)
        assert (again == prepared.pixels_HWC).all() and again.shape == (256, 256, 3)


def test_every_hazard_is_in_the_table(real_images):
    files = {path.name for path in (real_images / "hazards").iterdir()} - {"INDEX.tsv"}
    assert files == {name for name, _, _ in ROWS}


def test_the_colours_of_an_xyb_file_are_those_of_its_profile(real_images):
    # a photograph in daylight: read as RGB it is green
    data = (real_images / "hazards" / "xyb_icc.jpg").read_bytes()
    red, green, blue = prepare_image(data, EncodeRecipe(encoding="raw")).pixels_HWC.mean(axis=(0, 1))
    assert max(red, green, blue) - min(red, green, blue) < 12


def test_no_real_photograph_is_refused_or_read_otherwise_than_by_pillow(real_images):
    import io

    import numpy as np
    from PIL import Image, ImageOps

    from alexstream.sharding.images.decode import _decode_image

    for path in sorted((real_images / "imagenet-sample").rglob("*.JPEG"))[::10]:
        data = path.read_bytes()
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(_decode_image(data).pixels_HWC, expected), path
