"""At the borders: images just too large or just small enough, scans just too many, profiles of another kind."""

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import prepare_image
from tests.support.crafted_images import PHOTO, profile_with_swapped_primaries, reason_of, saved

RAW = EncodeRecipe(encoding="raw")


def with_size(jpeg, width, height):
    """The JPEG with another size in its frame header."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[at + 9 :]


def test_pixels_beyond_the_limit_are_refused_before_they_are_decoded():
    assert reason_of(saved(Image.new("1", (10_000, 10_000)), "PNG")) == "too-large"  # Pillow itself would only warn
    with pytest.raises(BadImageError, match=r"9500x9500 pixels, more than 89,478,485"):
        prepare_image(with_size(saved(PHOTO, "JPEG"), 9_500, 9_500), RAW)


@pytest.mark.parametrize(("side", "notes"), [(31, ("was PNG", "enlarged from 31 px")), (32, ("was PNG",))])
def test_more_than_eightfold_enlargement_is_noted(side, notes):
    assert prepare_image(saved(Image.new("RGB", (side, side)), "PNG"), RAW).notes == notes


def test_five_hundred_scans_are_read_and_one_more_is_refused():
    data = saved(Image.new("L", (8, 8), 77), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan, number = data[last:-2], data.count(b"\xff\xda")
    with pytest.raises(BadImageError, match="501 scans, more than 500"):
        prepare_image(data[:-2] + scan * (501 - number) + b"\xff\xd9", RAW)
    with pytest.raises(BadImageError) as error:  # the decoder has a word about a scan that comes again
        prepare_image(data[:-2] + scan * (500 - number) + b"\xff\xd9", RAW)
    assert "more than" not in str(error.value)


def test_grays_are_what_their_numbers_say_whatever_the_profile():
    gray = PHOTO.convert("L")
    plain = prepare_image(saved(gray, "JPEG"), RAW)
    prepared = prepare_image(saved(gray, "JPEG", icc_profile=profile_with_swapped_primaries()), RAW)
    assert np.array_equal(prepared.pixels_HWC, plain.pixels_HWC)
    assert prepared.notes[0] == "was L" and prepared.notes[1].startswith("ICC ignored: ")
