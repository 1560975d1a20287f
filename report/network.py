"""A trained network on the page: its first kernels, how well it does by class, what it gets most wrong, what it finds
alike.

The validation split is scored once, for all of that; nearest images take a pass over the training split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.loader import ShardedData
from report import charts
from report.blocks import MOST_ROWS, Block, Chart, Charts, Facts, Gallery, Note, Part, Picture, Section, Table, per_cent
from report.pictures import exact, photograph
from report.subject import Request
from report.text import short
from sharding.lookup import Lookup, class_names
from trainer.choice import chosen
from trainer.ensemble import Ensemble
from trainer.evaluate import Assessment, Score, assess
from trainer.mistakes import Mistake, Mistakes
from trainer.neighbours import Found, Sample, Split, find
from trainer.pictures import kernel_sheets

WORST = 24
NEAREST = 6


def section(network: Ensemble, stream: ShardedData | None, missing: str, request: Request) -> Section:
    """The section about a checkpoint; without its data set, for the reason ``missing``, only its kernels."""
    state = network.states[0]
    parts = [Part(title="Kernels of the first layer", blocks=_kernels(network))]
    intro = f"{network.paths[0].name}, after {state.step:,} steps."
    if stream is None:
        why = (
            f"Accuracy by class, mistakes and nearest images are not shown, since the data set is not there: {missing}."
        )
        parts.append(Part(title="What it does with images", blocks=[Note(text=why, strong=True)]))
    elif stream.val is None:
        note = Note(text="The data set has no validation split, so nothing is scored.")
        parts.append(Part(title="What it does with images", blocks=[note]))
    else:
        scored, more = _looked_at(network, stream, request)
        intro += (
            f" Over {scored.num_images:,} validation images, by their centre: top-1 {per_cent(scored.top1, 2)}, "
            f"top-5 {per_cent(scored.top5, 2)}, loss {scored.loss:.4f}."
        )
        parts += more
    return Section(name="network", title="The network", intro=intro, parts=parts)


def _kernels(network: Ensemble) -> list[Block]:
    state = network.states[0]
    kernels = state.parameters["conv1.weight"].float().numpy()
    sheets = kernel_sheets(kernels, state.recipe.columns)
    shown = [
        exact(
            sheet.pixels_HWC,
            f"{len(kernels) // len(sheets)} kernels of {kernels.shape[2]} × {kernels.shape[3]} × 3, column {number}",
            (f"column {number}: black {sheet.least:+.4f}, white {sheet.greatest:+.4f}".replace("-", "−"),),
        )
        for number, sheet in enumerate(sheets)
    ]
    return [Gallery(caption="One scale for all kernels of a column, as in figure 3 of the paper.", pictures=shown)]


def _looked_at(network: Ensemble, stream: ShardedData, request: Request) -> tuple[Score, list[Part]]:
    """The score of the validation split, and the parts that come of it."""
    device, mistakes = request.torch_device(), Mistakes(WORST)
    found = assess(stream, network, device, predictions=mistakes, quiet=request.quiet)
    val, train = (Lookup.of(place) for place in (stream.val, stream.train))  # type: ignore[arg-type]
    names = class_names(train.manifest)
    parts = [
        Part(title="Accuracy by class", blocks=_by_class(found, names, train.manifest.classes)),
        Part(title="Worst mistakes", blocks=[_worst(mistakes.worst(), val, names)]),
    ]
    if request.queries:
        splits = [Split(name="val", catalog=val, data=stream)]
        training = Split(name="train", catalog=train, data=replace(stream, val=stream.train))
        asked = [(splits[0], i) for i in chosen(len(val.keys), request.queries, "report")]
        near = find(network.models(device)[0], training, asked, names, NEAREST, device, quiet=request.quiet)
        parts.append(Part(title="Nearest training images", blocks=_near(near)))
    return found.score, parts


def _by_class(found: Assessment, names: Sequence[str], ids: Sequence[str]) -> list[Block]:
    scored = [(i, score) for i, score in enumerate(found.by_class) if score is not None]
    scored.sort(key=lambda one: (-one[1].top1, one[0]))
    top1 = np.array([score.top1 for _, score in scored])
    svg = charts.by_class("accuracy", [names[i] for i, _ in scored], [("top-1", 100 * top1)], "per cent right")
    best, worst = scored[0], scored[-1]
    summary = (
        f"From {per_cent(best[1].top1)} ({short(names[best[0]], 60)}) down to {per_cent(worst[1].top1)} "
        f"({short(names[worst[0]], 60)}); median {per_cent(float(np.median(top1)))}."
    )
    head = ["class", "label", "id", "images", "top-1", "top-5", "loss"]
    rows = [
        [names[i], str(i), ids[i], f"{s.num_images:,}", per_cent(s.top1), per_cent(s.top5), f"{s.loss:.4f}"]
        for i, s in scored[:MOST_ROWS]
    ]
    some = "" if len(scored) <= MOST_ROWS else f", the best {MOST_ROWS:,} of {len(scored):,}"
    table = Table(
        caption=f"Accuracy of each class{some}", head=head, rows=rows, words=frozenset({2}), folded="Every class"
    )
    chart = Chart(svg=svg, title="Images whose first class is right", summary=summary, table=table)
    return [Charts(charts=[chart])]


def _worst(mistakes: Sequence[Mistake], val: Lookup, names: Sequence[str]) -> Block:
    if not mistakes:
        return Note(text="There is none: every validation image is recognised.")
    pictures = [_mistaken(one, val, names) for one in mistakes]
    caption = (
        "Validation images that are taken for another class, the largest loss first. Below each: what it is, and what "
        "the network says, with the probabilities it gives to both."
    )
    return Gallery(caption=caption, pictures=pictures)


def _mistaken(one: Mistake, val: Lookup, names: Sequence[str]) -> Picture:
    label, said = short(names[one.label], 40), short(names[one.said], 40)
    lines = (f"is {label}, {_probability(one.p_label)}", f"said {said}, {_probability(one.p_said)}")
    return photograph(val.pixels(one.sample), f"{label}, taken for {said}; sample {val.keys[one.sample]}", lines)


def _probability(p: float) -> str:
    return f"below {per_cent(1e-4, 2)}" if p < 1e-4 else per_cent(p, 2 if p < 0.01 else 1)


def _near(found: Sequence[Found]) -> list[Block]:
    note = (
        "The training images whose last hidden layer, 4096 activations of the centre crop, has the least Euclidean "
        "distance from that of a validation image, as in figure 4 of the paper."
    )
    rows = [
        Gallery(
            caption=f"{short(one.query.class_name, 60)}, sample {one.query.key}",
            pictures=[_sample(one.query, "asked for"), *(_sample(n, f"{n.distance:.2f}") for n in one.nearest)],
            in_row=True,
        )
        for one in found
    ]
    right = sum(n.label == one.query.label for one in found for n in one.nearest)
    total = sum(len(one.nearest) for one in found)
    return [Note(text=note), *rows, Facts(rows=[("of the same class", f"{right} of {total} nearest images")])]


def _sample(one: Sample, below: str) -> Picture:
    name = short(one.class_name, 40)
    return photograph(one.split.catalog.pixels(one.sample), f"{name}, {below}", (name, below), 128)
