"""Pictures of first-layer kernels (figure 3 of the paper), nearest images (figure 4, right), and contact sheets.

``draw_kernel_sheets`` and ``make_thumbnail`` are pure; ``save_…`` write files. Images are placed pixel by pixel, so
that matplotlib does not resample them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexstream.core.errors import OutputError
from alexstream.core.extras import require_extra
from alexstream.core.storage import check_target, publish_file
from alexstream.core.text import shorten, shorten_to_width
from alexstream.trainer.checkpoint import describe_write_error
from alexstream.trainer.errors import TrainError
from alexstream.trainer.evaluation.fonts import draw_emoji, fit_fonts

Uint8 = NDArray[np.uint8]
DPI = 100
KERNELS_PER_ROW = 16  # kernels
KERNEL_ZOOM = 5  # screen pixels for each pixel of a kernel
KERNEL_GAP_PX = 4  # screen pixels between kernels
THUMBNAIL_PX = 144
BACKGROUND_GRAY, FRAME_GRAY = 255, 190  # gray levels


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSheet:
    """One column's kernels as pixels (height, width, 3); the weight ``least`` is black, ``greatest`` white."""

    pixels_HWC: Uint8
    min_weight: float
    max_weight: float


def draw_kernel_sheets(kernels_KCHW: NDArray[np.float32], columns: int) -> list[KernelSheet]:
    """Draw the kernels of each column, 16 per row, on one scale for the whole column, as the program of 2012 did."""
    return [_draw_kernel_sheet(half) for half in np.split(kernels_KCHW, columns)]


def _draw_kernel_sheet(kernels_KCHW: NDArray[np.float32]) -> KernelSheet:
    least, greatest = float(kernels_KCHW.min()), float(kernels_KCHW.max())
    is_wide = greatest - least > float(np.finfo(np.float32).max)  # in a stranger's checkpoint
    kernels: NDArray[np.floating[Any]] = kernels_KCHW.astype(np.float64) if is_wide else kernels_KCHW
    scaled = (kernels - least) / ((greatest - least) or 1.0)
    tiles = np.rint(255 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = tiles.repeat(KERNEL_ZOOM, axis=1).repeat(KERNEL_ZOOM, axis=2)
    side = tiles.shape[1] + KERNEL_GAP_PX
    rows = -(-len(tiles) // KERNELS_PER_ROW)
    sheet = np.full(
        (rows * side - KERNEL_GAP_PX, min(KERNELS_PER_ROW, len(tiles)) * side - KERNEL_GAP_PX, 3),
        BACKGROUND_GRAY,
        np.uint8,
    )
    for i, tile in enumerate(tiles):
        y, x = i // KERNELS_PER_ROW * side, i % KERNELS_PER_ROW * side
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return KernelSheet(pixels_HWC=sheet, min_weight=least, max_weight=greatest)


def check_picture_path(path: Path) -> None:
    """Raise AlexstreamError unless a picture can be written to ``path``; call this before long work.

    TrainError for a name or folder that cannot be, OutputError for what cannot be written.
    """
    require_extra("report", "pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    endings = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in endings:
        raise TrainError(f"`path`: received {str(path)!r}, expected a picture's name, such as kernels.png")
    if not path.absolute().parent.is_dir():
        raise TrainError(f"`path`: the folder of {path} does not exist; make it first")
    check_target(path)


def save_kernels(kernels_KCHW: NDArray[np.float32], columns: int, what: str, path: Path) -> str:
    """Draw first-layer kernels, one column above the other; ``what`` names the network.

    Returns the letters that no font has. Raises TrainError if ``path`` cannot be written or names no picture format.
    """
    sheets = draw_kernel_sheets(kernels_KCHW, columns)
    count, channels, height, width = kernels_KCHW.shape
    canvas = _Canvas(sheets[0].pixels_HWC.shape[1], 58 + sum(sheet.pixels_HWC.shape[0] + 40 for sheet in sheets))
    canvas.draw_text(0, 0, f"First-layer kernels: {count} of {height} × {width} × {channels}", size=13)
    canvas.draw_text(0, 24, shorten(what, 90), size=9)
    y = 58
    for number, sheet in enumerate(sheets):
        least, greatest = _format_weight(sheet.min_weight), _format_weight(sheet.max_weight)
        scale = f"black {least}, white {greatest}, the same for all its kernels"
        canvas.draw_text(0, y, f"column {number}: {scale}", size=9)
        canvas.draw_image(0, y + 20, sheet.pixels_HWC)
        y += sheet.pixels_HWC.shape[0] + 40
    return canvas.save(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedImage:
    """A picture, uint8 (S, S, 3), with two short lines below it."""

    pixels_SSC: Uint8
    lines: tuple[str, str]


def make_thumbnail(pixels_SSC: Uint8) -> Uint8:
    """Resize a standard view to a thumbnail, uint8 (144, 144, 3)."""
    small = Image.fromarray(pixels_SSC).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(small)


def save_neighbors(
    rows: Sequence[tuple[CaptionedImage, Sequence[CaptionedImage]]], num_activations: int, what: str, path: Path
) -> str:
    """Draw one row per query: the query, a gap, the images nearest to it; ``what`` names the network.

    Returns the letters that no font has. Raises TrainError if ``path`` cannot be written or names no picture format.
    """
    step, tall, gap, top = THUMBNAIL_PX + 10, THUMBNAIL_PX + 46, 20, 76
    most = max(len(found) for _, found in rows)
    canvas = _Canvas((1 + most) * step + gap - 10, top + len(rows) * tall)
    canvas.draw_text(0, 0, "Nearest training images by the last hidden layer", size=13)
    canvas.draw_text(0, 24, shorten(what, 90), size=9)
    canvas.draw_text(0, top - 20, "query", size=9)
    distance = f"nearest first, with the Euclidean distance of {num_activations:,} activations"
    canvas.draw_text(step + gap, top - 20, distance, size=9)
    for number, (query, found) in enumerate(rows):
        y = top + number * tall
        canvas.draw_captioned(0, y, query)
        for place, one in enumerate(found):
            canvas.draw_captioned((1 + place) * step + gap, y, one)
    return canvas.save(path)


def save_sheet(rows: Sequence[Sequence[CaptionedImage]], heading: str, what: str, path: Path) -> str:
    """Draw images of one size in rows, without resampling; ``what`` says where they come from.

    Returns the letters that no font has. Raises TrainError if ``path`` cannot be written or names no picture format.
    """
    side, top = rows[0][0].pixels_SSC.shape[0], 52
    step, tall = side + 10, side + 46
    canvas = _Canvas(max(map(len, rows)) * step - 10, top + len(rows) * tall)
    canvas.draw_text(0, 0, heading, size=13)
    canvas.draw_text(0, 24, shorten(what, 110), size=9)
    for number, row in enumerate(rows):
        for place, one in enumerate(row):
            canvas.draw_captioned(place * step, top + number * tall, one, side)
    return canvas.save(path)


class _Canvas:
    """A white page measured in pixels from its top left corner, with a margin around it."""

    MARGIN = 16
    LEAST_WIDTH = 640  # room for the longest heading

    def __init__(self, width: int, height: int) -> None:
        require_extra("report", "pictures")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._width, self._height = max(width, self.LEAST_WIDTH) + 2 * self.MARGIN, height + 2 * self.MARGIN
        self._figure: Any = Figure(figsize=(self._width / DPI, self._height / DPI), dpi=DPI)
        FigureCanvasAgg(self._figure)

    def draw_image(self, x: int, y: int, pixels_HWC: Uint8) -> None:
        below = self._height - self.MARGIN - y - pixels_HWC.shape[0]
        self._figure.figimage(pixels_HWC, self.MARGIN + x, below, origin="upper")

    def draw_text(self, x: int, y: int, text: str, size: int) -> None:
        baseline = self.MARGIN + y + size * DPI / 72
        place = ((self.MARGIN + x) / self._width, 1 - baseline / self._height)
        self._figure.text(*place, text, fontsize=size, va="baseline", ha="left", parse_math=False)

    def draw_captioned(self, x: int, y: int, one: CaptionedImage, side: int = THUMBNAIL_PX) -> None:
        frame = np.full((side + 2, side + 2, 3), FRAME_GRAY, np.uint8)  # shows the edge of white photographs
        self.draw_image(x - 1, y - 1, frame)
        self.draw_image(x, y, make_thumbnail(one.pixels_SSC) if side == THUMBNAIL_PX else one.pixels_SSC)
        for number, line in enumerate(one.lines):
            self.draw_text(x, y + side + 3 + 15 * number, shorten_to_width(line, round(0.16 * side)), size=8)

    def save(self, path: Path) -> str:
        """Write the picture, whole or not at all; return the letters that no font has. Raises TrainError.

        In an SVG text stays text, for which whoever shows it finds the letters.
        """
        content, form = io.BytesIO(), path.suffix[1:].lower()
        try:
            missing = self._render(content, form)
            publish_file(path, content.getvalue())
        except (OutputError, ValueError) as error:
            why = describe_write_error(error) if isinstance(error, OutputError) else error
            raise TrainError(f"cannot write the picture {path}: {why}") from error
        return missing

    def _render(self, content: io.BytesIO, form: str) -> str:
        from matplotlib import rc_context

        fonts, is_text = fit_fonts(self._figure), form in ("svg", "svgz")
        with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the letters are returned
            if fonts.emoji_letters and not is_text:
                draw_emoji(self._figure, fonts)
            self._figure.savefig(content, dpi=DPI, format=form)
        return "" if is_text else fonts.missing


def _format_weight(weight: float) -> str:
    return f"{weight:+.4f}".replace("-", "−")
