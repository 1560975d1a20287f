"""Tables and the picture of ``stream.py``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from peers.stream_contenders import CONTENDERS

Blocks = dict[str, list[dict[str, float]]]
HEADS = (
    "loader", "images/s", "smallest–largest", "÷ C bound", "alexstream ÷ it", "cores", "MiB", "bytes an image",
    "subtracts", "n",
)  # fmt: skip
TITLES = {"jpeg": "JPEG shards (256×256, quality 95, 4:2:0)", "raw": "Raw shards (256×256×3 bytes)"}
WORK_DONE = (
    "All read the same stored bytes, from files in the page cache (the bound: from memory), shuffle them, and give "
    "float32 batches (128, 3, 224, 224) with random crop, flip and lighting, pixels on 0..255, on two threads; "
    "DataLoaders have two worker processes. Formats of their own (FFCV, Hugging Face, litdata, MosaicML Streaming, "
    "tf.data) were written from the bytes in our shards, nothing was encoded again. *Subtracts* says which mean; the "
    "mean colour is less work than the mean image. FFCV's operation is written for this task; it takes new memory for "
    "its batches at the start of every epoch, which is the set here; *tuned*, epochs are as long as ImageNet's and the "
    "mean image is kept as planes. Its file is padded to pages. C bound: "
    "`peers/bound.c`, the decoding of the window with the system's libjpeg-turbo and one pass over the pixels, in two "
    "threads per batch, with no loader around it. *MiB* is the largest memory at the end of a block, of all processes "
    "of a loader, without files in the page cache (the bound holds the stored bytes in memory). The first batch of "
    "each was checked for shape, type, mean and deviation."
)


@dataclass(frozen=True)
class Results:
    """Blocks of every loader in the order of the rounds, what it said of itself, and sentences on who is missing."""

    blocks: Blocks = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def report(results: Results, picture: str) -> list[str]:
    """Everything that was measured, as lines."""
    blocks, facts, lines = results.blocks, results.facts, []
    for encoding, title in TITLES.items():
        names = [name for name in blocks if CONTENDERS[name].encoding == encoding]
        if names:
            lines += [f"## {title}", "", *table(names, blocks, facts), ""]
    lines += [f"![images/s of all loaders]({picture})", "", "## Ratios within the rounds", "", *headlines(blocks), ""]
    lines += [WORK_DONE, "", *quietness(blocks), ""]
    return lines + versions(facts) + [f"- {sentence}" for sentence in results.missing]


def table(names: Sequence[str], blocks: Blocks, facts: dict[str, Any]) -> list[str]:
    """Rows of one encoding: median, range, ratios to the bound and of ours, cores, memory."""
    rows = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    for name in names:
        entry, own = CONTENDERS[name], blocks[name]
        rates = [block["rate"] for block in own]
        cells = (
            entry.title,
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f}–{max(rates):.0f}",
            ratio(blocks, name, f"bound-{entry.encoding}"),
            ratio(blocks, f"ours-{entry.encoding}", name),
            f"{statistics.median(block['cores'] for block in own):.2f}",
            f"{max(block['mib'] for block in own):,.0f}",
            f"{facts[name]['bytes']:,.0f}",
            entry.subtracts,
            str(len(rates)),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def ratio(blocks: Blocks, name: str, base: str, digits: int = 2) -> str:
    """Median, smallest and largest of the rounds' ratios."""
    if name not in blocks or base not in blocks:
        return "–"
    ratios = [own["rate"] / other["rate"] for own, other in zip(blocks[name], blocks[base], strict=True)]
    median, smallest, largest = (f"{r:.{digits}f}" for r in (statistics.median(ratios), min(ratios), max(ratios)))
    return f"{median} ({smallest}–{largest})"


def headlines(blocks: Blocks) -> list[str]:
    """What is asked of the stream first: the bound, the fastest peer, and what augmentation costs."""
    lines = []
    for encoding in TITLES:
        ours, plain, bound = f"ours-{encoding}", f"ours-{encoding}-plain", f"bound-{encoding}"
        peers = [name for name in blocks if CONTENDERS[name].encoding == encoding and CONTENDERS[name].finished]
        peers = [name for name in peers if name not in (ours, plain, bound)]
        best = max(peers, key=lambda name: statistics.median(block["rate"] for block in blocks[name]), default="")
        lines.append(f"- {encoding}: alexstream ÷ the C bound: {ratio(blocks, ours, bound)}")
        lines.append(f"- {encoding}: alexstream ÷ the fastest peer (`{best}`): {ratio(blocks, ours, best)}")
        lines.append(f"- {encoding}: augmentation on ÷ none: {ratio(blocks, ours, plain, digits=3)}")
    return [line for line in lines if not line.endswith("–")]


def quietness(blocks: Blocks) -> list[str]:
    """How undisturbed the blocks were."""
    every = [block for own in blocks.values() for block in own]
    others, steal = [block["others"] for block in every], [block["steal"] for block in every]
    again, disturbed = sum(int(b["tries"]) - 1 for b in every), sum(not b["quiet"] for b in every)
    return [
        f"While a block ran, other processes used {statistics.median(others):.2f} cores (median; at most "
        f"{max(others):.2f}), and the machine's host took {statistics.median(steal):.2f} (at most {max(steal):.2f}). "
        f"{again} blocks beside the {len(every)} that count were thrown away as disturbed and measured again; "
        f"{disturbed} of those that count were still disturbed at the last try."
    ]


def versions(facts: dict[str, Any]) -> list[str]:
    """What each loader is made of, and what its first batch looked like."""
    lines = []
    for name, fact in facts.items():
        entry = CONTENDERS[name]
        words = ", ".join(f"{package} {number}" for package, number in fact["versions"].items())
        first = f"first batch: mean {fact['mean']:.1f}, deviation {fact['deviation']:.1f}"
        lines.append(f"- {entry.title} (`{name}`): {words}; {first}")
    return lines


def plot(blocks: Blocks, path: Path) -> None:
    """Bars from zero to the median with the range of the rounds, fastest on top, one panel for each encoding."""
    panels = {e: [n for n in blocks if CONTENDERS[n].encoding == e] for e in TITLES}
    panels = {encoding: names for encoding, names in panels.items() if names}
    heights = [len(names) for names in panels.values()]
    figure = Figure(figsize=(8, 1.6 + 0.28 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (encoding, names) in zip(axes, panels.items(), strict=True):
        rates = {name: [block["rate"] for block in blocks[name]] for name in names}
        names = sorted(names, key=lambda name: statistics.median(rates[name]))
        medians = [statistics.median(rates[name]) for name in names]
        ranges = [[m - min(rates[n]) for m, n in zip(medians, names, strict=True)],
                  [max(rates[n]) - m for m, n in zip(medians, names, strict=True)]]  # fmt: skip
        colours = ["#c44e52" if n.startswith("ours") else "#555555" if "bound" in n else "#a9b8cc" for n in names]
        axis.barh([CONTENDERS[name].title for name in names], medians, xerr=ranges, color=colours, capsize=2)
        axis.set_title(TITLES[encoding], fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("images/s: median, and range of the rounds")
    with rc_context({"svg.fonttype": "none"}):  # letters as letters: a tenth of the size
        FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})
