"""Draw charts as inline SVG: text stays text, and the drawing scales to the width of the page.

Colors are from the palette of Okabe and Ito, which color-blind people can tell apart; lines differ in their dashes too.
Each chart's content also stands beside it in words and as a table, so the drawing is hidden from screen readers.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from alexstream.core.text import shorten_to_width
from alexstream.trainer.evaluation.fonts import choose_fonts, fit_fonts

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
INK, GRAY, FAINT = "#2b3440", "#6b7683", "#d9dee4"
WIDTH_IN, HEIGHT_IN = 4.9, 2.85
MAX_BARS = 25  # with more classes than this, draw a curve in place of bars
MAX_LABEL_CHARS = 26  # characters shown of a class's name
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Hold a line of a chart, float64 (n,) each; ``low_N`` and ``high_N``, if given, bound a band around it.

    ``dots``: mark its points. NaN makes a gap.
    """

    name: str
    x_N: NDArray[np.float64]
    y_N: NDArray[np.float64]
    color: str = BLUE
    dashes: str = "-"
    dots: bool = False
    low_N: NDArray[np.float64] | None = None
    high_N: NDArray[np.float64] | None = None


def draw_lines(
    name: str, drawn: Sequence[Line], x_label: str, y_label: str, *, log: bool = False, bottom: float | None = 0.0
) -> Markup:
    """Draw lines over a common x axis; ``bottom``: the lower end of the y axis, None to fit the lines."""
    with _open_figure(name) as (figure, svg):
        axes = figure.add_subplot()
        for one in drawn:
            if one.low_N is not None and one.high_N is not None:
                axes.fill_between(one.x_N, one.low_N, one.high_N, color=one.color, alpha=0.16, linewidth=0)
            dots: dict[str, Any] = {"marker": "o", "markersize": 4.5} if one.dots else {}
            axes.plot(one.x_N, one.y_N, one.dashes, color=one.color, label=one.name, **dots)
        if log and any((one.y_N > 0).any() for one in drawn):
            _set_log_scale(axes, "y")
        elif bottom is not None:
            axes.set_ylim(bottom=bottom)
        axes.set(xlabel=x_label, ylabel=y_label)
        _format_axes(figure, axes, len(drawn))
    return svg[0]


def draw_by_class(
    name: str, labels: Sequence[str], series: Sequence[tuple[str, NDArray[np.float64]]], unit: str
) -> Markup:
    """Draw values of classes, sorted with the largest first: a bar each or, for many classes, one curve."""
    if len(labels) > MAX_BARS:
        return draw_ranked(name, series, "classes, the largest value first", unit)
    return draw_bars(name, labels, [(label, values.tolist()) for label, values in series], unit)


def draw_bars(name: str, labels: Sequence[str], values: Sequence[tuple[str, Sequence[float]]], x_label: str) -> Markup:
    """Draw horizontal bars, a group for each label, the first on top; ``values``: name and lengths of each series."""
    thick, places = 0.8 / len(values), np.arange(len(labels))
    with _open_figure(name, height_in=1.0 + 0.26 * len(labels) * (1 + 0.35 * (len(values) - 1))) as (figure, svg):
        axes = figure.add_subplot()
        for number, (series, lengths) in enumerate(values):
            at = places + thick * (number - (len(values) - 1) / 2)
            axes.barh(at, lengths, thick * 0.92, color=(BLUE, ORANGE, GREEN)[number % 3], label=series)
        axes.set_yticks(places, [_fit_label(label) for label in labels])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=x_label)
        _format_axes(figure, axes, len(values), "x")
    return svg[0]


def _fit_label(name: str) -> str:
    """Shorten a class's name; spaces before it make room for letters whose width no font of this machine tells."""
    name = shorten_to_width(name, MAX_LABEL_CHARS)
    lacking = choose_fonts(name).missing
    return "\N{NO-BREAK SPACE}" * sum(1 for letter in name if letter in lacking) + name


def draw_ranked(name: str, series: Sequence[tuple[str, NDArray[np.float64]]], x_label: str, y_label: str) -> Markup:
    """Draw many values as a curve, the largest first, with the area below it filled."""
    with _open_figure(name) as (figure, svg):
        axes = figure.add_subplot()
        for (label, values), color in zip(series, (BLUE, ORANGE, GREEN), strict=False):
            ordered = np.sort(values)[::-1]
            at = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), 400)).astype(int))
            axes.fill_between(at + 1, ordered[at], color=color, alpha=0.16, linewidth=0)
            axes.plot(at + 1, ordered[at], color=color, label=label)
        axes.set_ylim(bottom=0)
        axes.set(xlabel=x_label, ylabel=y_label)
        _format_axes(figure, axes, len(series))
    return svg[0]


def draw_histogram(
    name: str,
    series: Sequence[tuple[str, NDArray[np.float64]]],
    edges: NDArray[np.float64],
    x_label: str,
    y_label: str,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Draw counts between ``edges`` as outlines, on a logarithmic axis; ``mark``: a value on it, and its name."""
    with _open_figure(name) as (figure, svg):
        axes = figure.add_subplot()
        for (label, counts), color, dashes in zip(series, (BLUE, ORANGE), ("-", "--"), strict=False):
            axes.stairs(counts, edges, color=color, label=label, linestyle=dashes, linewidth=1.8)
        if mark is not None:
            axes.axvline(mark[0], color=INK, linewidth=1, linestyle=":", label=mark[1])
        _set_log_scale(axes, "x")
        axes.set_ylim(bottom=0)
        axes.set(xlabel=x_label, ylabel=y_label)
        _format_axes(figure, axes, len(series) + 1)
    return svg[0]


def _set_log_scale(axes: Any, name: str) -> None:
    """Make an axis, "x" or "y", logarithmic, with as many round numbers as there is room for."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    low, high = getattr(axes, f"get_{name}lim")()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())


def _format_axes(figure: Any, axes: Any, entries: int, axis_names: str = "xy") -> None:
    """Format the axes' numbers; add a legend above the drawing, where it hides nothing, for more than one entry."""
    for name in axis_names:
        getattr(axes, f"{name}axis").set_major_formatter("{x:,.10g}")
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=6)
    if entries > 1:
        found = axes.get_legend_handles_labels()
        figure.legend(*found, loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=1.6)


@contextmanager
def _open_figure(name: str, height_in: float = HEIGHT_IN) -> Iterator[tuple[Any, list[Markup]]]:
    """Yield a figure in our style, and a list that will hold its SVG when the block has ended."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    svg: list[Markup] = []
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, svg
        buffer = io.StringIO()
        fit_fonts(figure)  # for the room that names take: the page is drawn with the reader's fonts
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator"), None))
    svg.append(inline_svg(buffer.getvalue(), name))


def inline_svg(svg: str, name: str) -> Markup:
    """Turn an SVG file into an element of a page with several: remove the prolog, prefix all ids with ``name``."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag[0]), svg)
    start, end = svg.index("<svg"), svg.index(">")
    view = re.search(r'viewBox="[^"]+"', svg[start:end])
    assert view is not None, svg[start:end]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]}'
    return Markup(f'{head} aria-hidden="true" focusable="false">{svg[end + 1 :].strip()}')
