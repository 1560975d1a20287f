"""Build the section on a data set: its splits, classes, source sizes, refused files, mean image and color axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.text import count_of, shorten
from alexstream.report import charts
from alexstream.report.blocks import (
    MAX_ROWS,
    Block,
    Chart,
    Charts,
    Facts,
    Gallery,
    Note,
    Picture,
    Section,
    Subsection,
    Table,
    format_percent,
)
from alexstream.report.examples import build_examples
from alexstream.report.pictures import encode_lossless
from alexstream.report.refused import build_refused_table, first_refused
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import Manifest, load_manifest
from alexstream.sharding.dataset_v1.statistics import DatasetStats, load_mean_image, load_stats
from alexstream.sharding.describe import by_reason, facts, load_quarantine
from alexstream.sharding.duplicates import find_duplicates
from alexstream.sharding.lookup import list_class_names

SIZE_COLUMNS = ("source_width", "source_height")
PERCENTILES = (0, 5, 50, 95, 100)
SPREAD_SD = 3.0  # the pictures of the color axes reach this far to both sides of the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    folder: Path
    manifest: Manifest
    facts: dict[str, Any]

    def count_samples(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of samples of each of these classes, int64 (K,); 0 for a class that this split lacks."""
        counts = self.manifest.counts_by_class
        return np.array([counts[wnid].written if wnid in counts else 0 for wnid in classes])


def build_section(folders: Sequence[Path], source: Path | None) -> Section:
    """Build the section about the data set with these splits. Raises DatasetError if one cannot be read."""
    splits = [_Split(folder=f, manifest=load_manifest(f), facts=facts(f)) for f in folders]
    total = sum(split.manifest.num_samples for split in splits)
    classes = count_of(len(splits[0].manifest.classes), "class", "classes")
    return Section(
        name="data",
        title="The data set",
        intro=f"{count_of(total, 'image')} of {classes}, in {count_of(len(splits), 'split')}. Every file of the source "
        "is accounted for: found = written + quarantined + excluded.",
        blocks=[
            *build_examples(splits[0].folder, list_class_names(splits[0].manifest)),
            _build_overview(splits),
            *_build_duplicates(folders),
        ],
        parts=[
            Subsection(
                title="Classes, and sizes of the source images",
                blocks=[Charts(charts=[_build_class_chart(splits), _build_size_chart(splits)])],
            ),
            Subsection(title="Files that were left out", blocks=_build_left_out(splits, source)),
            Subsection(title="Mean image and color axes", blocks=_build_colors(splits[0])),
        ],
    )


def _build_overview(splits: Sequence[_Split]) -> Table:
    told = [_describe_split(split) for split in splits]
    rows = [[name, *(one[name] for one in told)] for name in told[0]]
    return Table(
        caption="The splits",
        head=["", *(split.manifest.split for split in splits)],
        rows=rows,
        words=frozenset(range(1, len(splits) + 1)),
    )


def _build_duplicates(folders: Sequence[Path]) -> list[Block]:
    """Build a note on each kind of duplicate, and a list of all; nothing if every image is there once."""
    found = find_duplicates(folders)
    if not found.groups:
        return []
    notes = [Note(text=f"{text[0].upper()}{text[1:]}.", strong=True) for text in found.describe()]
    copies = [copy for group in found.groups for copy in group]
    some = f", of which {MAX_ROWS:,} are shown" if len(copies) > MAX_ROWS else ""
    table = Table(
        caption=f"{count_of(len(copies), 'file')} with the bytes of another{some}",
        head=["sha256", "split", "class", "file"],
        rows=[[copy.sha256[:12], copy.split, copy.wnid, shorten(copy.source, 120)] for copy in copies[:MAX_ROWS]],
        words=frozenset({1, 2, 3}),
        folded="Which images",
    )
    return [*notes, table]


def _describe_split(split: _Split) -> dict[str, str]:
    """Describe a split as name → value, in words; the same names for every split."""
    told, counts = split.facts, split.manifest.counts
    smallest, largest = told["samples_per_class"]["smallest"], told["samples_per_class"]["largest"]
    return {
        "images": f"{told['samples']:,}",
        "classes": f"{told['classes']:,}, with {_format_range(smallest, largest)} each",
        "audit": f"found {counts.found:,} = written {counts.written:,} + quarantined {counts.quarantined:,} "
        f"+ excluded {counts.excluded:,}",
        "source": f"{told['source']}: {told['source_form']}",
        "notices": "; ".join(told["notices"]) or "none",
        "stored as": split.manifest.encode.describe(),
        "size": f"{told['bytes'] / 2**20:,.1f} MiB in {count_of(told['shards'], 'shard')}",
        "converted": ", ".join(f"{note} ({n:,})" for note, n in told["notes"].items()) or "nothing",
        "digest": told["digest"],
    }


def _format_range(fewest: float, most: float) -> str:
    """Format numbers of images: ``1 image``, ``10 to 12 images``."""
    return count_of(int(most), "image") if fewest == most else f"{fewest:,.0f} to {most:,.0f} images"


def _build_class_chart(splits: Sequence[_Split]) -> Chart:
    names, classes = list_class_names(splits[0].manifest), splits[0].manifest.classes
    counts = [split.count_samples(classes) for split in splits]
    order = np.argsort(-counts[0], kind="stable")
    series = [(split.manifest.split, of_it[order].astype(float)) for split, of_it in zip(splits, counts, strict=True)]
    svg = charts.draw_by_class("classes", [names[i] for i in order], series, "images")
    table = _build_class_table(splits, names, counts, order)
    return Chart(svg=svg, title="Images by class", summary=_summarize_classes(series), table=table)


def _summarize_classes(series: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    parts = [
        f"{name}: {_format_range(values.min(), values.max())} a class, median {np.median(values):,.0f}"
        for name, values in series
    ]
    return "; ".join(parts) + "."


def _build_class_table(
    splits: Sequence[_Split], names: Sequence[str], counts: Sequence[NDArray[np.int64]], order: NDArray[np.int64]
) -> Table:
    manifest, shown = splits[0].manifest, order[:MAX_ROWS]
    some = "" if len(order) <= MAX_ROWS else f", the {MAX_ROWS:,} largest"
    return Table(
        caption=f"{count_of(len(order), 'class', 'classes')}{some}",
        head=["class", "label", "id", *(f"{split.manifest.split} images" for split in splits)],
        rows=[[names[i], str(i), manifest.classes[i], *(f"{of_it[i]:,}" for of_it in counts)] for i in shown],
        words=frozenset({2}),
        folded="Numbers of every class" if not some else f"Numbers of the {MAX_ROWS:,} largest classes",
    )


def _build_size_chart(splits: Sequence[_Split]) -> Chart:
    """Show widths and heights of the sources of all splits together, as histograms and percentiles."""
    columns = [load_catalog(split.folder, split.manifest, SIZE_COLUMNS) for split in splits]
    width, height = (np.concatenate([column[name] for column in columns]).astype(np.int64) for name in SIZE_COLUMNS)
    size_px = splits[0].manifest.encode.size_px
    low, high = int(min(width.min(), height.min())), int(max(width.max(), height.max()))
    edges = np.geomspace(max(1, 0.8 * low), 1.25 * high, 49)
    series = [(name, np.histogram(values, edges)[0] / 1.0) for name, values in (("width", width), ("height", height))]
    svg = charts.draw_histogram(
        "sizes", series, edges, "pixels (logarithmic)", "images", mark=(size_px, f"stored side, {size_px}")
    )
    shorter = np.minimum(width, height)
    small = float((shorter < size_px).mean())
    summary = (
        f"Half of the images are at least {np.median(width):,.0f} pixels wide, half at least {np.median(height):,.0f} "
        f"high; {format_percent(small)} have a shorter side of less than {size_px} pixels, and are enlarged."
    )
    table = _tabulate_sizes({"width": width, "height": height, "shorter side": shorter})
    return Chart(svg=svg, title="Widths and heights before scaling", summary=summary, table=table)


def _tabulate_sizes(values: dict[str, NDArray[np.int64]]) -> Table:
    head = ["pixels", "smallest", "5 %", "median", "95 %", "largest"]
    rows = [[name, *(f"{v:,.0f}" for v in np.percentile(of_it, PERCENTILES))] for name, of_it in values.items()]
    return Table(caption="Percentiles of source sizes", head=head, rows=rows, folded="Sizes in numbers")


def _build_left_out(splits: Sequence[_Split], source: Path | None) -> list[Block]:
    counted = by_reason(_rows(splits))
    if not counted:
        return [Note(text="No file was refused and none was left out.")]
    reasons = Table(
        caption="Files that are not in the data set, by reason",
        head=["reason", "outcome", "files"],
        rows=[[reason, outcome, f"{n:,}"] for (outcome, reason), n in counted.most_common(MAX_ROWS)],
        words=frozenset({1}),
    )
    places = {split.manifest.split: _list_source_folders(split, source) for split in splits}
    return [reasons, *build_refused_table(first_refused(_rows(splits)), counted.total(), places)]


def _rows(splits: Sequence[_Split]) -> Iterator[dict[str, Any]]:
    for split in splits:
        for row in load_quarantine(split.folder, split.manifest):
            yield {**row, "split": split.manifest.split}


def _list_source_folders(split: _Split, source: Path | None) -> list[Path]:
    """List folders where a split's source may be: ``source`` if given, else folders of its name near the data set."""
    name = split.manifest.split
    near = [split.folder.parent, split.folder.parent.parent] if isinstance(split.folder, Path) else []
    roots = [source] if source is not None else [folder / split.manifest.source for folder in near]
    return [place for root in roots for place in (root, root / name)]


def _build_colors(split: _Split) -> list[Block]:
    stats = load_stats(split.folder, split.manifest)
    mean = load_mean_image(split.folder, stats)
    color = ", ".join(f"{value:.1f}" for value in stats.mean_rgb_255)
    blocks: list[Block] = [
        Gallery(
            caption=f"Of the {split.manifest.split} split: the mean image, and the colors along each axis of the RGB "
            f"values' covariance, from {SPREAD_SD:g} standard deviations below the mean color to {SPREAD_SD:g} above.",
            pictures=[
                encode_lossless(
                    mean.round().astype(np.uint8), f"Mean image; mean color R, G, B {color}", ("mean image",)
                ),
                _draw_axes(stats),
            ],
        ),
        Facts(rows=[("mean color R, G, B", f"{color} on 0..255"), ("computed from", f"{stats.num_pixels:,} pixels")]),
    ]
    return [*blocks, _build_axis_table(stats)]


def _draw_axes(stats: DatasetStats) -> Picture:
    """Draw the three axes as bands, one below the other, 256 pixels high together, as the mean image usually is."""
    spread, steps = np.sqrt(np.maximum(stats.eigenvalues_255, 0.0)), np.linspace(-SPREAD_SD, SPREAD_SD, 384)
    along = steps[:, None, None] * (stats.eigenvectors_CC * spread) + np.array(stats.mean_rgb_255)[:, None]
    colors = along.transpose(2, 0, 1).clip(0, 255).round().astype(np.uint8)  # axis, step, channel
    bands = np.full((256, len(steps), 3), 255, np.uint8)
    for i, color in enumerate(colors):
        bands[88 * i : 88 * i + 80] = color
    return encode_lossless(bands, "Colors along the three axes, the first at the top", ("axes 1, 2 and 3",))


def _build_axis_table(stats: DatasetStats) -> Table:
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
    return Table(caption="Color axes: eigenvalues on both scales, eigenvectors in R, G, B", head=head, rows=rows)
