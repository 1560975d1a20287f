"""Show the statistics of a data set: a text table, and a picture of mean image and color axes."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import OutputError
from alexstream.core.extras import require_extra
from alexstream.core.storage import publish_file
from alexstream.core.text import count_of
from alexstream.sharding.dataset_v1.statistics import DatasetStats
from alexstream.sharding.recompute import StatsCheck


def format_stats(check: StatsCheck) -> str:
    """Return the statistics as text, every number with its pixel scale, and the result of the recomputation."""
    stats = check.stored
    vectors = stats.eigenvectors_CC
    rows = [
        f"split          {check.split}",
        f"data set       {stats.dataset_digest}",
        f"images         {stats.num_images:,}  ({stats.num_pixels:,} pixels)",
        f"mean RGB       {_format_floats(stats.mean_rgb_255, '.4f')}   on 0..255",
        "",
        "axis   eigenvalue 0..255²   eigenvalue 0..1²   sd 0..255   eigenvector (R, G, B)",
    ]
    for i in range(3):
        value = stats.eigenvalues_255[i]
        rows.append(
            f"PC{i + 1}    {value:18.6f}   {stats.eigenvalues_01[i]:16.10f}   {np.sqrt(max(value, 0)):9.4f}   "
            f"{_format_floats(vectors[:, i], '+.6f')}"
        )
    if check.equal:
        rows += ["", "recomputed from the shards: equal to the bit"]
    else:
        rows += ["", f"recomputed from the shards: DIFFERENT in {', '.join(check.differing)}"]
    return "\n".join(rows)


def stats_to_dict(check: StatsCheck) -> dict[str, Any]:
    """Return the stored statistics as JSON values, with the result of the recomputation."""
    return {
        "split": check.split,
        **asdict(check.stored),
        "recomputed_equal": check.equal,
        "differing": list(check.differing),
    }


def save_stats_plot(stats: DatasetStats, mean_image_HWC: NDArray[np.float64], path: Path) -> None:
    """Draw the mean image and the three color axes (mean color ± 3 sd along each eigenvector).

    Raises AlexstreamError without matplotlib, OutputError if ``path`` cannot be written or has no known picture format.
    """
    require_extra("report", "pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, width_ratios=[1, 2])
    image = figure.add_subplot(grid[:, 0])
    image.imshow(mean_image_HWC.round().astype(np.uint8))
    image.set_title(f"mean of {count_of(stats.num_images, 'image')}\nRGB {_format_floats(stats.mean_rgb_255, '.1f')}")
    image.set_axis_off()
    steps = np.linspace(-3, 3, 121)
    for i in range(3):
        axis = figure.add_subplot(grid[i, 1])
        vector, value = stats.eigenvectors_CC[:, i], stats.eigenvalues_255[i]
        colors = np.array(stats.mean_rgb_255) + np.sqrt(max(value, 0)) * steps[:, None] * vector
        axis.imshow(colors.clip(0, 255).round().astype(np.uint8)[None], aspect="auto", extent=(-3, 3, 0, 1))
        axis.set_yticks([])
        axis.set_title(
            f"PC{i + 1}: λ = {value:.1f} on 0..255², {stats.eigenvalues_01[i]:.5f} on 0..1²;  "
            f"RGB {_format_floats(vector, '+.3f')}",
            fontsize=9,
        )
    axis.set_xlabel("standard deviations from the mean color")
    content = io.BytesIO()
    try:
        figure.savefig(content, dpi=120, format=path.suffix[1:].lower() or None)
        publish_file(path, content.getvalue())
    except (OutputError, ValueError) as error:
        cause = error.__cause__ or error
        raise OutputError(f"cannot write the picture {path}: {getattr(cause, 'strerror', None) or cause}") from error


def _format_floats(values: NDArray[np.float64] | tuple[float, ...], spec: str) -> str:
    return "  ".join(format(float(v), spec) for v in values)
