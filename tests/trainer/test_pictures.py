"""Pictures by their pixels: the right kernel in the right place on the right scale, the right photograph in its row."""

import numpy as np
import pytest
from PIL import Image

from trainer import pictures
from trainer.errors import TrainError
from trainer.pictures import BETWEEN, ENLARGED, THUMBNAIL_PX, Captioned, check_place, kernel_sheets

SIDE = 11 * ENLARGED + BETWEEN


def kernels():
    return np.random.default_rng(0).standard_normal((96, 3, 11, 11)).astype(np.float32)


@pytest.mark.parametrize("number", [0, 15, 16, 47, 48, 95])
def test_each_kernel_is_in_its_column_row_and_place(number):
    weight = kernels()
    sheets = kernel_sheets(weight, 2)
    column, place = divmod(number, 48)
    y, x = (SIDE * i for i in divmod(place, pictures.A_ROW))
    tile = sheets[column].pixels_HWC[y : y + SIDE - BETWEEN, x : x + SIDE - BETWEEN]
    half = weight[48 * column : 48 * (column + 1)]
    scaled = np.rint(255 * (weight[number] - half.min()) / (half.max() - half.min()))
    assert np.array_equal(tile[::ENLARGED, ::ENLARGED], scaled.transpose(1, 2, 0))
    assert np.array_equal(tile, tile[::ENLARGED, ::ENLARGED].repeat(ENLARGED, 0).repeat(ENLARGED, 1))


def test_columns_have_a_scale_each_and_their_kernels_share_it():
    weight = kernels()
    weight[48:] *= 100
    first, second = kernel_sheets(weight, 2)
    assert first.pixels_HWC.min() == 0 and first.pixels_HWC.max() == 255
    assert (second.least, second.greatest) == (weight[48:].min(), weight[48:].max())
    weight[7] *= 50  # one strong kernel makes the others of its column grey
    grey = kernel_sheets(weight, 2)[0].pixels_HWC[: SIDE - BETWEEN, : SIDE - BETWEEN]
    assert grey.max() - grey.min() < 20


def test_a_network_of_one_column_has_one_sheet_and_equal_weights_are_no_error():
    (sheet,) = kernel_sheets(np.zeros((48, 3, 11, 11), np.float32), 1)
    assert sheet.pixels_HWC.shape == (3 * SIDE - BETWEEN, 16 * SIDE - BETWEEN, 3)


def found_in(path, pixels_HWC):
    """Top and left of where a picture holds these pixels."""
    with Image.open(path) as picture:
        page = np.asarray(picture.convert("RGB"))
    corner = np.argwhere((page == pixels_HWC[0, 0]).all(-1))
    height, width = pixels_HWC.shape[:2]
    places = [(y, x) for y, x in corner if np.array_equal(page[y : y + height, x : x + width], pixels_HWC)]
    assert len(places) == 1
    return places[0]


def test_the_file_holds_both_columns_pixel_by_pixel_the_first_above_the_second(tmp_path):
    pictures.save_kernels(kernels(), 2, "a network", tmp_path / "kernels.png")
    first, second = (found_in(tmp_path / "kernels.png", s.pixels_HWC) for s in kernel_sheets(kernels(), 2))
    assert first[1] == second[1] and second[0] >= first[0] + 3 * SIDE + 10


def test_queries_are_left_and_what_was_found_follows_in_its_row(tmp_path):
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(6)]
    query, *near = (Captioned(pixels_SSC=image, lines=("a class", "$1")) for image in images[:3])
    other, *far = (Captioned(pixels_SSC=image, lines=("x" * 99, "2")) for image in images[3:])
    pictures.save_neighbours([(query, near), (other, far)], "a network", tmp_path / "n.png")
    places = [found_in(tmp_path / "n.png", pictures.thumbnail(image)) for image in images]
    (y0, x0), (y1, x1), (y2, x2), *second = places
    assert y0 == y1 == y2 and x0 + THUMBNAIL_PX < x1 and x1 + THUMBNAIL_PX < x2
    assert [x for _, x in second] == [x0, x1, x2] and all(y > y0 + THUMBNAIL_PX for y, _ in second)


def test_a_place_where_no_picture_can_be_written(tmp_path):
    check_place(tmp_path / "kernels.PNG")
    for name in ("kernels.txt", "kernels", "nowhere/kernels.png"):
        with pytest.raises(TrainError, match="--out"):
            check_place(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(TrainError, match="cannot write"):
        pictures.save_kernels(kernels(), 2, "a network", tmp_path / "folder.png")
