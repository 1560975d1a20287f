"""What a data set's statistics look like: a text table, and a picture of mean image and colour axes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.errors import OutputError
from sharding.layout import DatasetStats
from sharding.recompute import StatsCheck


def stats_table(check: StatsCheck) -> str:
    """Statistics for a person, every number with its pixel scale, and the verdict of the recomputation."""
    stats = check.stored
    vectors = stats.eigenvectors_CC
    rows = [
        f"split          {check.split}",
        f"data set       {stats.dataset_digest}",
        f"images         {stats.num_images:,}  ({stats.num_pixels:,} pixels)",
        f"mean RGB       {_floats(stats.mean_rgb_255, '.4f')}   on 0..255",
        "",
        "axis   eigenvalue 0..255²   eigenvalue 0..1²   sd 0..255   eigenvector (R, G, B)",
    ]
    for i in range(3):
        value = stats.eigenvalues_255[i]
        rows.append(
            f"PC{i + 1}    {value:18.6f}   {stats.eigenvalues_01[i]:16.10f}   {np.sqrt(max(value, 0)):9.4f}   "
            f"{_floats(vectors[:, i], '+.6f')}"
        )
    if check.equal:
        rows += ["", "recomputed from the shards: equal to the bit"]
    else:
        rows += ["", f"recomputed from the shards: DIFFERENT in {', '.join(check.differing)}"]
    return "\n".join(rows)


def stats_json(check: StatsCheck) -> dict[str, Any]:
    """The stored statistics as JSON values, with the recomputation's verdict."""
    return {
        "split": check.split,
        **asdict(check.stored),
        "recomputed_equal": check.equal,
        "differing": list(check.differing),
    }


def save_stats_picture(stats: DatasetStats, mean_image_HWC: NDArray[np.float64], path: Path) -> None:
    """Draw the mean image and the three colour axes (mean colour ± 3 sd along each eigenvector).

    Raises OutputError if ``path`` cannot be written or names no picture format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, width_ratios=[1, 2])
    image = figure.add_subplot(grid[:, 0])
    image.imshow(mean_image_HWC.round().astype(np.uint8))
    image.set_title(f"mean of {stats.num_images:,} images\nRGB {_floats(stats.mean_rgb_255, '.1f')}")
    image.set_axis_off()
    steps = np.linspace(-3, 3, 121)
    for i in range(3):
        axis = figure.add_subplot(grid[i, 1])
        vector, value = stats.eigenvectors_CC[:, i], stats.eigenvalues_255[i]
        colours = np.array(stats.mean_rgb_255) + np.sqrt(max(value, 0)) * steps[:, None] * vector
        axis.imshow(colours.clip(0, 255).round().astype(np.uint8)[None], aspect="auto", extent=(-3, 3, 0, 1))
        axis.set_yticks([])
        axis.set_title(
            f"PC{i + 1}: λ = {value:.1f} on 0..255², {stats.eigenvalues_01[i]:.5f} on 0..1²;  "
            f"RGB {_floats(vector, '+.3f')}",
            fontsize=9,
        )
    axis.set_xlabel("standard deviations from the mean colour")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write the picture {path}: {error}") from error


def _floats(values: NDArray[np.float64] | tuple[float, ...], spec: str) -> str:
    return "  ".join(format(float(v), spec) for v in values)
