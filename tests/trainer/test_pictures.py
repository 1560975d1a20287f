"""Pictures by their pixels: the right kernel in the right place on the right scale, the right photograph in its row."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import OutputError
from alexstream.trainer.errors import TrainError
from alexstream.trainer.evaluation import pictures
from alexstream.trainer.evaluation.pictures import (
    KERNEL_GAP_PX,
    KERNEL_ZOOM,
    THUMBNAIL_PX,
    CaptionedImage,
    check_picture_path,
    draw_kernel_sheets,
)

SIDE = 11 * KERNEL_ZOOM + KERNEL_GAP_PX


def kernels():
    return np.random.default_rng(0).standard_normal((96, 3, 11, 11)).astype(np.float32)


@pytest.mark.parametrize("number", [0, 15, 16, 47, 48, 95])
def test_each_kernel_is_in_its_column_row_and_place(number):
    weight = kernels()
    sheets = draw_kernel_sheets(weight, 2)
    column, place = divmod(number, 48)
    y, x = (SIDE * i for i in divmod(place, pictures.KERNELS_PER_ROW))
    tile = sheets[column].pixels_HWC[y : y + SIDE - KERNEL_GAP_PX, x : x + SIDE - KERNEL_GAP_PX]
    half = weight[48 * column : 48 * (column + 1)]
    scaled = np.rint(255 * (weight[number] - half.min()) / (half.max() - half.min()))
    assert np.array_equal(tile[::KERNEL_ZOOM, ::KERNEL_ZOOM], scaled.transpose(1, 2, 0))
    assert np.array_equal(tile, tile[::KERNEL_ZOOM, ::KERNEL_ZOOM].repeat(KERNEL_ZOOM, 0).repeat(KERNEL_ZOOM, 1))


def test_columns_have_a_scale_each_and_their_kernels_share_it():
    weight = kernels()
    weight[48:] *= 100
    first, second = draw_kernel_sheets(weight, 2)
    assert first.pixels_HWC.min() == 0 and first.pixels_HWC.max() == 255
    assert (second.min_weight, second.max_weight) == (weight[48:].min(), weight[48:].max())
    weight[7] *= 50  # one strong kernel makes the others of its column grey
    grey = draw_kernel_sheets(weight, 2)[0].pixels_HWC[: SIDE - KERNEL_GAP_PX, : SIDE - KERNEL_GAP_PX]
    assert grey.max() - grey.min() < 20


def test_a_network_of_one_column_has_one_sheet_and_equal_weights_are_no_error():
    (sheet,) = draw_kernel_sheets(np.zeros((48, 3, 11, 11), np.float32), 1)
    assert sheet.pixels_HWC.shape == (3 * SIDE - KERNEL_GAP_PX, 16 * SIDE - KERNEL_GAP_PX, 3)


def test_weights_as_large_as_float32_has_them_are_on_the_scale():
    """Their difference is more than the largest float32: the picture was made of what is not a number."""
    weight = np.zeros((1, 3, 11, 11), np.float32)
    weight[0, 0, 0, 0], weight[0, 0, 0, 1] = -3e38, 3e38
    with np.errstate(all="raise"):
        (sheet,) = draw_kernel_sheets(weight, 1)
    row = sheet.pixels_HWC[0, ::KERNEL_ZOOM, 0]
    assert row[:3].tolist() == [0, 255, 128]


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
    first, second = (found_in(tmp_path / "kernels.png", s.pixels_HWC) for s in draw_kernel_sheets(kernels(), 2))
    assert first[1] == second[1] and second[0] >= first[0] + 3 * SIDE + 10


def test_queries_are_left_and_what_was_found_follows_in_its_row(tmp_path):
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(6)]
    query, *near = (CaptionedImage(pixels_SSC=image, lines=("a class", "$1")) for image in images[:3])
    other, *far = (CaptionedImage(pixels_SSC=image, lines=("x" * 99, "2")) for image in images[3:])
    pictures.save_neighbors([(query, near), (other, far)], 512, "a network", tmp_path / "n.png")
    places = [found_in(tmp_path / "n.png", pictures.make_thumbnail(image)) for image in images]
    (y0, x0), (y1, x1), (y2, x2), *second = places
    assert y0 == y1 == y2 and x0 + THUMBNAIL_PX < x1 and x1 + THUMBNAIL_PX < x2
    assert [x for _, x in second] == [x0, x1, x2] and all(y > y0 + THUMBNAIL_PX for y, _ in second)


def test_a_place_where_no_picture_can_be_written(tmp_path):
    check_picture_path(tmp_path / "kernels.PNG")
    for name in ("kernels.txt", "kernels", "nowhere/kernels.png"):
        with pytest.raises(TrainError, match="`path`"):
            check_picture_path(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(TrainError, match="cannot write"):
        pictures.save_kernels(kernels(), 2, "a network", tmp_path / "folder.png")


# Characters that no XML may hold, alone or in any spelling, beside such as mean something in it.
ODD = [
    "\x1b[31mred",
    "\x07bell",
    "\x00",
    "a\x0bb",
    "\ufffe\uffff",
    "\udcff",
    "a\nb",
    "<b>&amp;</b>",
    "]]>",
    "-->",
    "--",
    "\u202ex",
]


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_a_picture_is_well_formed_whatever_the_classes_are_called(tmp_path, ending):
    path, white = tmp_path / f"sheet.{ending}", np.full((32, 32, 3), 255, np.uint8)
    rows = [[CaptionedImage(pixels_SSC=white, lines=(name, f"{name}, epoch 1"))] for name in ODD]
    pictures.save_sheet(rows, "heading", "".join(ODD), path)
    if ending == "svg":
        root = ET.parse(path).getroot()  # raises ParseError where it is not well-formed
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert r"\x1b[31" in "".join(root.itertext())


def test_a_link_for_a_picture_is_refused_before_the_work(tmp_path):
    (tmp_path / "victim.png").write_text("precious")
    (tmp_path / "n.png").symlink_to("victim.png")
    with pytest.raises(OutputError, match=r"is a link to .*victim\.png"):
        check_picture_path(tmp_path / "n.png")
    with pytest.raises(TrainError, match=r"cannot write the picture .*is a link to .*victim\.png"):
        pictures.save_kernels(kernels(), 2, "a network", tmp_path / "n.png")
    assert (tmp_path / "victim.png").read_text() == "precious"
