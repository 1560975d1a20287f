"""A data set on the page: what it is, its classes, the sizes of its sources, what was refused, mean and colour axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from report import charts
from report.blocks import (
    MOST_ROWS,
    Block,
    Chart,
    Charts,
    Facts,
    Gallery,
    Note,
    Part,
    Picture,
    Section,
    Table,
    count_of,
    per_cent,
)
from report.pictures import exact
from report.refused import refused_table
from sharding import layout
from sharding.describe import facts, quarantine
from sharding.lookup import class_names

SIZES = ("source_width", "source_height")
PERCENTILES = (0, 5, 50, 95, 100)
SPREAD_SD = 3.0  # of the colour axes' pictures, to both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    folder: Path
    manifest: layout.Manifest
    facts: dict[str, Any]

    def written(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Samples of each of these classes, int64 (K,); 0 of one that is not in this split."""
        counts = self.manifest.counts_by_class
        return np.array([counts[wnid].written if wnid in counts else 0 for wnid in classes])


def section(folders: Sequence[Path], source: Path | None) -> Section:
    """The section about the data set with these splits. Raises DatasetError if one cannot be read."""
    splits = [_Split(folder=f, manifest=layout.load_manifest(f), facts=facts(f)) for f in folders]
    total = sum(split.manifest.num_samples for split in splits)
    classes = count_of(len(splits[0].manifest.classes), "class", "classes")
    return Section(
        name="data",
        title="The data set",
        intro=f"{count_of(total, 'image')} of {classes}, in {count_of(len(splits), 'split')}. Every file of the source "
        "is accounted for: found = written + quarantined + excluded.",
        blocks=[_glance(splits)],
        parts=[
            Part(title="Classes", blocks=_classes(splits)),
            Part(title="Sizes of the source images", blocks=_sizes(splits)),
            Part(title="Files that were left out", blocks=_left_out(splits, source)),
            Part(title="Mean image and colour axes", blocks=_colours(splits[0])),
        ],
    )


def _glance(splits: Sequence[_Split]) -> Table:
    told = [_told(split) for split in splits]
    rows = [[name, *(one[name] for one in told)] for name in told[0]]
    return Table(
        caption="What each split is",
        head=["", *(split.manifest.split for split in splits)],
        rows=rows,
        words=frozenset(range(1, len(splits) + 1)),
    )


def _told(split: _Split) -> dict[str, str]:
    """Name → value, for a person; the same names for every split."""
    told, counts = split.facts, split.manifest.counts
    smallest, largest = told["samples_per_class"]["smallest"], told["samples_per_class"]["largest"]
    return {
        "images": f"{told['samples']:,}",
        "classes": f"{told['classes']:,}, with {_range(smallest, largest)} images each",
        "audit": f"found {counts.found:,} = written {counts.written:,} + quarantined {counts.quarantined:,} "
        f"+ excluded {counts.excluded:,}",
        "source": f"{told['source']}: {told['source_form']}",
        "remarkable": "; ".join(told["notices"]) or "nothing",
        "stored as": split.manifest.encode.describe(),
        "size": f"{told['bytes'] / 2**20:,.1f} MiB in {count_of(told['shards'], 'shard')}",
        "what was turned": ", ".join(f"{note} ({n:,})" for note, n in told["notes"].items()) or "nothing",
        "digest": told["digest"],
    }


def _range(low: float, high: float) -> str:
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _classes(splits: Sequence[_Split]) -> list[Block]:
    names, classes = class_names(splits[0].manifest), splits[0].manifest.classes
    counts = [split.written(classes) for split in splits]
    order = np.argsort(-counts[0], kind="stable")
    series = [(split.manifest.split, of_it[order].astype(float)) for split, of_it in zip(splits, counts, strict=True)]
    svg = charts.by_class("classes", [names[i] for i in order], series, "images")
    table = _class_table(splits, names, counts, order)
    return [Charts(charts=[Chart(svg=svg, title="Images by class", summary=_class_summary(series), table=table)])]


def _class_summary(series: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    parts = [
        f"{name}: {_range(values.min(), values.max())} images a class, median {np.median(values):,.0f}"
        for name, values in series
    ]
    return "; ".join(parts) + "."


def _class_table(
    splits: Sequence[_Split], names: Sequence[str], counts: Sequence[NDArray[np.int64]], order: NDArray[np.int64]
) -> Table:
    manifest, shown = splits[0].manifest, order[:MOST_ROWS]
    some = "" if len(order) <= MOST_ROWS else f", the {MOST_ROWS:,} largest"
    return Table(
        caption=f"{count_of(len(order), 'class', 'classes')}{some}",
        head=["class", "label", "id", *(f"{split.manifest.split} images" for split in splits)],
        rows=[[names[i], str(i), manifest.classes[i], *(f"{of_it[i]:,}" for of_it in counts)] for i in shown],
        words=frozenset({2}),
        folded="Numbers of every class" if not some else f"Numbers of the {MOST_ROWS:,} largest classes",
    )


def _sizes(splits: Sequence[_Split]) -> list[Block]:
    """Of all splits together: widths and heights, as outlines of their distribution and as percentiles."""
    columns = [layout.load_catalog(split.folder, split.manifest, SIZES) for split in splits]
    width, height = (np.concatenate([column[name] for column in columns]).astype(np.int64) for name in SIZES)
    size_px = splits[0].manifest.encode.size_px
    low, high = int(min(width.min(), height.min())), int(max(width.max(), height.max()))
    edges = np.geomspace(max(1, 0.8 * low), 1.25 * high, 49)
    series = [(name, np.histogram(values, edges)[0] / 1.0) for name, values in (("width", width), ("height", height))]
    svg = charts.histogram(
        "sizes", series, edges, "pixels (logarithmic)", "images", mark=(size_px, f"stored side, {size_px}")
    )
    shorter = np.minimum(width, height)
    small = float((shorter < size_px).mean())
    summary = (
        f"Half of the images are at least {np.median(width):,.0f} pixels wide, half at least {np.median(height):,.0f} "
        f"high; {per_cent(small)} have a shorter side below {size_px} pixels, and are enlarged."
    )
    return [Charts(charts=[_size_chart(svg, summary, {"width": width, "height": height, "shorter side": shorter})])]


def _size_chart(svg: Any, summary: str, values: dict[str, NDArray[np.int64]]) -> Chart:
    head = ["pixels", "smallest", "5 %", "median", "95 %", "largest"]
    rows = [[name, *(f"{v:,.0f}" for v in np.percentile(of_it, PERCENTILES))] for name, of_it in values.items()]
    table = Table(caption="Percentiles of source sizes", head=head, rows=rows, folded="Sizes in numbers")
    return Chart(svg=svg, title="Widths and heights before scaling", summary=summary, table=table)


def _left_out(splits: Sequence[_Split], source: Path | None) -> list[Block]:
    rows = [
        {**row, "split": split.manifest.split} for split in splits for row in quarantine(split.folder, split.manifest)
    ]
    if not rows:
        return [Note(text="No file was refused and none was left out.")]
    counted = Counter((str(row["outcome"]), str(row["reason"])) for row in rows)
    reasons = Table(
        caption="Files that are not in the data set, by reason",
        head=["reason", "what became of them", "files"],
        rows=[[reason, outcome, f"{n:,}"] for (outcome, reason), n in counted.most_common(MOST_ROWS)],
        words=frozenset({1}),
    )
    places = {split.manifest.split: _roots(split, source) for split in splits}
    return [reasons, *refused_table(rows, places)]


def _roots(split: _Split, source: Path | None) -> list[Path]:
    """Folders that a split's source may be: the one that was given, or one of its name beside the data set."""
    name = split.manifest.split
    near = [split.folder.parent, split.folder.parent.parent] if isinstance(split.folder, Path) else []
    roots = [source] if source is not None else [folder / split.manifest.source for folder in near]
    return [place for root in roots for place in (root, root / name)]


def _colours(split: _Split) -> list[Block]:
    stats = layout.load_stats(split.folder, split.manifest)
    mean = layout.load_mean_image(split.folder, stats)
    colour = ", ".join(f"{value:.1f}" for value in stats.mean_rgb_255)
    blocks: list[Block] = [
        Gallery(
            caption=f"Of the {split.manifest.split} split: the mean image, and the colours along each axis of the RGB "
            f"values' covariance, from {SPREAD_SD:g} standard deviations below the mean colour to {SPREAD_SD:g} above.",
            pictures=[
                exact(mean.round().astype(np.uint8), f"Mean image; mean colour R, G, B {colour}", ("mean image",)),
                _axes_picture(stats),
            ],
        ),
        Facts(rows=[("mean colour R, G, B", f"{colour} on 0..255"), ("computed from", f"{stats.num_pixels:,} pixels")]),
    ]
    return [*blocks, _axis_table(stats)]


def _axes_picture(stats: layout.DatasetStats) -> Picture:
    """The three axes as bands, one below the other, as high together as the mean image usually is."""
    spread, steps = np.sqrt(np.maximum(stats.eigenvalues_255, 0.0)), np.linspace(-SPREAD_SD, SPREAD_SD, 384)
    along = steps[:, None, None] * (stats.eigenvectors_CC * spread) + np.array(stats.mean_rgb_255)[:, None]
    colours = along.transpose(2, 0, 1).clip(0, 255).round().astype(np.uint8)  # axis, step, channel
    bands = np.full((256, len(steps), 3), 255, np.uint8)
    for i, colour in enumerate(colours):
        bands[88 * i : 88 * i + 80] = colour
    return exact(bands, "Colours along the three axes, the first at the top", ("axes 1, 2 and 3",))


def _axis_table(stats: layout.DatasetStats) -> Table:
    rows = [
        [
            f"axis {i + 1}",
            f"{stats.eigenvalues_255[i]:,.2f}",
            f"{stats.eigenvalues_01[i]:.6f}",
            f"{np.sqrt(max(stats.eigenvalues_255[i], 0.0)):.2f}",
            *(f"{value:+.4f}".replace("-", "−") for value in stats.eigenvectors_CC[:, i]),
        ]
        for i in range(3)
    ]
    head = ["", "eigenvalue on 0..255²", "eigenvalue on 0..1²", "standard deviation on 0..255", "R", "G", "B"]
    return Table(caption="Colour axes: eigenvalues on both scales, eigenvectors in R, G, B", head=head, rows=rows)
