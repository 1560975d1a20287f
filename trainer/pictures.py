"""Pictures for people: first-layer kernels (figure 3 of the paper), nearest images (figure 4, right), contact sheets.

``kernel_sheets`` and ``thumbnail`` are pure; ``save_…`` draw. Pictures are placed pixel by pixel, never resampled by
the plot, so that what is seen is what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.errors import TrainError

Uint8 = NDArray[np.uint8]
DPI = 100
A_ROW = 16  # kernels
ENLARGED = 5  # screen pixels for each pixel of a kernel
BETWEEN = 4  # screen pixels between kernels
THUMBNAIL_PX = 144
BACKGROUND, FRAME = 255, 190  # grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One column's kernels as pixels (height, width, 3), and the weights that are black and white in it."""

    pixels_HWC: Uint8
    least: float
    greatest: float


def kernel_sheets(kernels_KCHW: NDArray[np.float32], columns: int) -> list[Sheet]:
    """The kernels of each column, 16 a row, on one scale for the whole column, as the program of 2012 drew them."""
    return [_sheet(half) for half in np.split(kernels_KCHW, columns)]


def _sheet(kernels_KCHW: NDArray[np.float32]) -> Sheet:
    least, greatest = float(kernels_KCHW.min()), float(kernels_KCHW.max())
    scaled = (kernels_KCHW - least) / ((greatest - least) or 1.0)
    tiles = np.rint(255 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = tiles.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    side = tiles.shape[1] + BETWEEN
    rows = -(-len(tiles) // A_ROW)
    sheet = np.full((rows * side - BETWEEN, min(A_ROW, len(tiles)) * side - BETWEEN, 3), BACKGROUND, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // A_ROW * side, i % A_ROW * side
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return Sheet(pixels_HWC=sheet, least=least, greatest=greatest)


def check_place(path: Path) -> None:
    """Raise TrainError unless a picture can be written there: asked before the work that it would show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    endings = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in endings:
        raise TrainError(f"--out: received {str(path)!r}, expected a picture's name, such as kernels.png")
    if not path.absolute().parent.is_dir():
        raise TrainError(f"--out: the folder of {path} does not exist; make it first")


def save_kernels(kernels_KCHW: NDArray[np.float32], columns: int, what: str, path: Path) -> None:
    """Draw first-layer kernels, column above column; ``what`` says whose they are.

    Raises TrainError if ``path`` cannot be written or names no picture format.
    """
    sheets = kernel_sheets(kernels_KCHW, columns)
    count, channels, height, width = kernels_KCHW.shape
    canvas = _Canvas(sheets[0].pixels_HWC.shape[1], 58 + sum(sheet.pixels_HWC.shape[0] + 40 for sheet in sheets))
    canvas.text(0, 0, f"First-layer kernels: {count} of {height} × {width} × {channels}", size=13)
    canvas.text(0, 24, _short(what, 90), size=9)
    y = 58
    for number, sheet in enumerate(sheets):
        scale = f"black {_signed(sheet.least)}, white {_signed(sheet.greatest)}, the same for all its kernels"
        canvas.text(0, y, f"column {number}: {scale}", size=9)
        canvas.picture(0, y + 20, sheet.pixels_HWC)
        y += sheet.pixels_HWC.shape[0] + 40
    canvas.save(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """A picture, uint8 (S, S, 3), with two short lines below it."""

    pixels_SSC: Uint8
    lines: tuple[str, str]


def thumbnail(pixels_SSC: Uint8) -> Uint8:
    """A standard view, made small: uint8 (144, 144, 3)."""
    small = Image.fromarray(pixels_SSC).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(small)


def save_neighbours(rows: Sequence[tuple[Captioned, Sequence[Captioned]]], what: str, path: Path) -> None:
    """Draw one row a query: the query, a gap, the images nearest to it; ``what`` says by which network.

    Raises TrainError if ``path`` cannot be written or names no picture format.
    """
    step, tall, gap, top = THUMBNAIL_PX + 10, THUMBNAIL_PX + 46, 20, 76
    most = max(len(found) for _, found in rows)
    canvas = _Canvas((1 + most) * step + gap - 10, top + len(rows) * tall)
    canvas.text(0, 0, "Nearest training images by the last hidden layer", size=13)
    canvas.text(0, 24, _short(what, 90), size=9)
    canvas.text(0, top - 20, "query", size=9)
    canvas.text(step + gap, top - 20, "nearest first, with the Euclidean distance of 4096 activations", size=9)
    for number, (query, found) in enumerate(rows):
        y = top + number * tall
        canvas.captioned(0, y, query)
        for place, one in enumerate(found):
            canvas.captioned((1 + place) * step + gap, y, one)
    canvas.save(path)


def save_sheet(rows: Sequence[Sequence[Captioned]], heading: str, what: str, path: Path) -> None:
    """Draw pictures of one size in rows, each pixel as it is; ``what`` says where they come from.

    Raises TrainError if ``path`` cannot be written or names no picture format.
    """
    side, top = rows[0][0].pixels_SSC.shape[0], 52
    step, tall = side + 10, side + 46
    canvas = _Canvas(max(map(len, rows)) * step - 10, top + len(rows) * tall)
    canvas.text(0, 0, heading, size=13)
    canvas.text(0, 24, _short(what, 110), size=9)
    for number, row in enumerate(rows):
        for place, one in enumerate(row):
            canvas.captioned(place * step, top + number * tall, one, side)
    canvas.save(path)


class _Canvas:
    """A white page measured in pixels from its top left corner, with a margin around it."""

    MARGIN = 16
    LEAST_WIDTH = 640  # room for the longest heading

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._width, self._height = max(width, self.LEAST_WIDTH) + 2 * self.MARGIN, height + 2 * self.MARGIN
        self._figure: Any = Figure(figsize=(self._width / DPI, self._height / DPI), dpi=DPI)
        FigureCanvasAgg(self._figure)

    def picture(self, x: int, y: int, pixels_HWC: Uint8) -> None:
        below = self._height - self.MARGIN - y - pixels_HWC.shape[0]
        self._figure.figimage(pixels_HWC, self.MARGIN + x, below, origin="upper")

    def text(self, x: int, y: int, text: str, size: int) -> None:
        baseline = self.MARGIN + y + size * DPI / 72
        place = ((self.MARGIN + x) / self._width, 1 - baseline / self._height)
        self._figure.text(*place, text, fontsize=size, va="baseline", ha="left", parse_math=False)

    def captioned(self, x: int, y: int, one: Captioned, side: int = THUMBNAIL_PX) -> None:
        frame = np.full((side + 2, side + 2, 3), FRAME, np.uint8)  # white photographs have an edge too
        self.picture(x - 1, y - 1, frame)
        self.picture(x, y, thumbnail(one.pixels_SSC) if side == THUMBNAIL_PX else one.pixels_SSC)
        for number, line in enumerate(one.lines):
            self.text(x, y + side + 3 + 15 * number, _short(line, round(0.16 * side)), size=8)

    def save(self, path: Path) -> None:
        try:
            self._figure.savefig(path, dpi=DPI)
        except (OSError, ValueError) as error:
            raise TrainError(f"cannot write the picture {path}: {error}") from error


def _signed(weight: float) -> str:
    return f"{weight:+.4f}".replace("-", "−")


def _short(line: str, most: int = 23) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"
