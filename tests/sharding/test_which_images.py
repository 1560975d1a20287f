"""Which formats are read, which files are kept as they are, and what lies below transparent pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import prepare_image
from alexstream.sharding.images.formats import FORMATS
from tests.support.crafted_images import PHOTO, saved

RAW, KEEP = EncodeRecipe(encoding="raw"), EncodeRecipe(encoding="keep")


def test_pillow_opens_the_formats_of_the_page_and_no_other():
    """docs/images.md; JPEG has a decoder of its own. Each further one is a parser that a stranger's file reaches."""
    assert set(FORMATS) - {"AVIF"} == {"PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"}


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "DDS"])
def test_other_formats_are_no_images_here(kind):
    image = PHOTO.resize((64, 64)) if kind == "ICO" else PHOTO
    with pytest.raises(BadImageError):
        prepare_image(saved(image, kind), RAW)


def test_a_jpeg_of_several_frames_is_stored_anew():
    """Readers differ on which of them the picture is."""
    single, several = io.BytesIO(), io.BytesIO()
    PHOTO.save(single, "JPEG", quality=90)
    PHOTO.save(several, "MPO", quality=90, save_all=True, append_images=[PHOTO.rotate(180)])
    assert prepare_image(single.getvalue(), KEEP).content == single.getvalue()
    stored = prepare_image(several.getvalue(), KEEP)
    assert stored.content != several.getvalue()
    assert np.abs(stored.pixels_HWC.astype(int) - prepare_image(single.getvalue(), RAW).pixels_HWC).mean() < 1


def test_transparent_parts_are_white_and_opaque_ones_keep_their_color():
    pixels = np.zeros((256, 256, 4), np.uint8)
    pixels[:, :128] = 255, 0, 0, 0  # red, but wholly transparent
    pixels[:, 128:] = 0, 0, 255, 255
    stored = prepare_image(saved(Image.fromarray(pixels), "PNG"), RAW).pixels_HWC
    assert (stored[:, :128] == 255).all() and (stored[:, 128:] == (0, 0, 255)).all()
