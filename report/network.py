"""Build the section on a trained network: first-layer kernels, accuracy by class, worst mistakes, nearest images.

The validation split is scored once, for all of them; nearest images take another pass over the training split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alexstream.core.text import count_of, format_significant, shorten
from alexstream.pipeline.stream import ShardedData
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
from alexstream.report.pictures import encode_lossless, encode_photo
from alexstream.report.subject import ReportRequest
from alexstream.sharding.lookup import SampleLookup, list_class_names
from alexstream.trainer.evaluation.ensemble import Ensemble
from alexstream.trainer.evaluation.evaluate import Assessment, Score, assess
from alexstream.trainer.evaluation.mistakes import Mistake, WorstMistakes
from alexstream.trainer.evaluation.nearest import choose_by_hash
from alexstream.trainer.evaluation.neighbors import QueryResult, Sample, Split, find_neighbors
from alexstream.trainer.evaluation.pictures import draw_kernel_sheets
from alexstream.trainer.evaluation.scoring import format_chance

NUM_MISTAKES = 24
NUM_NEAREST = 6


def build_section(network: Ensemble, stream: ShardedData | None, missing: str, request: ReportRequest) -> Section:
    """Build the section about a checkpoint; without a data set, only its kernels and ``missing``, the reason why."""
    state = network.states[0]
    parts = [Subsection(title="Kernels of the first layer", blocks=_build_kernels(network))]
    intro = f"{network.paths[0].name}, after {count_of(state.step, 'step')}."
    if stream is None:
        why = f"Accuracy by class, mistakes and nearest images are not shown, since the data set is missing: {missing}."
        parts.append(Subsection(title="What it does with images", blocks=[Note(text=why, strong=True)]))
    elif stream.val is None:
        note = Note(text="The data set has no validation split, so nothing is scored.")
        parts.append(Subsection(title="What it does with images", blocks=[note]))
    else:
        scored, more = _score_network(network, stream, request)
        num_classes = len(stream.facts().classes)
        intro += (
            f" Over {count_of(scored.num_images, 'validation image')}, center crop: top-1 "
            f"{format_percent(scored.top1, 2)} {format_chance(num_classes)}, top-5 {format_percent(scored.top5, 2)} "
            f"{format_chance(num_classes, 5)}, loss {scored.loss:.4f}."
        )
        parts += more
    return Section(name="network", title="The network", intro=intro, parts=parts)


def _build_kernels(network: Ensemble) -> list[Block]:
    state = network.states[0]
    kernels = state.parameters["conv1.weight"].float().numpy()
    sheets = draw_kernel_sheets(kernels, state.recipe.columns)
    shown = [
        encode_lossless(
            sheet.pixels_HWC,
            f"{len(kernels) // len(sheets)} kernels of {kernels.shape[2]} × {kernels.shape[3]} × 3, column {number}",
            (f"column {number}: black {sheet.min_weight:+.4f}, white {sheet.max_weight:+.4f}".replace("-", "−"),),
        )
        for number, sheet in enumerate(sheets)
    ]
    return [Gallery(caption="One scale for all kernels of a column, as in figure 3 of the paper.", pictures=shown)]


def _score_network(network: Ensemble, stream: ShardedData, request: ReportRequest) -> tuple[Score, list[Subsection]]:
    """Score the validation split; return the score and the parts that are based on its predictions."""
    device, mistakes = request.torch_device(), WorstMistakes(NUM_MISTAKES)
    found = assess(stream, network, device, predictions=mistakes, quiet=request.quiet)
    val, train = (SampleLookup.from_folder(place) for place in (stream.val, stream.train))  # type: ignore[arg-type]
    names = list_class_names(train.manifest)
    parts = [
        Subsection(title="Accuracy by class", blocks=_build_class_accuracy(found, names, train.manifest.classes)),
        Subsection(title="Worst mistakes", blocks=[_build_mistakes(mistakes.worst(), val, names)]),
    ]
    if request.queries:
        splits = [Split(name="val", catalog=val, data=stream)]
        training = Split(name="train", catalog=train, data=replace(stream, val=stream.train))
        asked = [(splits[0], i) for i in choose_by_hash(len(val.keys), request.queries, "report")]
        near = find_neighbors(
            network.build_models(device)[0], training, asked, names, NUM_NEAREST, device, quiet=request.quiet
        )
        parts.append(
            Subsection(title="Nearest training images", blocks=_build_nearest(near, network.states[0].num_activations))
        )
    return found.score, parts


def _build_class_accuracy(found: Assessment, names: Sequence[str], ids: Sequence[str]) -> list[Block]:
    scored = [(i, score) for i, score in enumerate(found.by_class) if score is not None]
    scored.sort(key=lambda one: (-one[1].top1, one[0]))
    top1 = np.array([score.top1 for _, score in scored])
    svg = charts.draw_by_class("accuracy", [names[i] for i, _ in scored], [("top-1", 100 * top1)], "per cent right")
    summary = _summarize_accuracy([(names[i], score.top1) for i, score in scored], len(found.by_class))
    chances = (f"top-{k} {format_chance(len(found.by_class), k)}" for k in (1, 5))
    head = ["class", "label", "id", "images", *chances, "loss"]
    rows = [
        [names[i], str(i), ids[i], f"{s.num_images:,}", format_percent(s.top1), format_percent(s.top5), f"{s.loss:.4f}"]
        for i, s in scored[:MAX_ROWS]
    ]
    some = "" if len(scored) <= MAX_ROWS else f", the best {MAX_ROWS:,} of {len(scored):,}"
    table = Table(
        caption=f"Accuracy of each class{some}", head=head, rows=rows, words=frozenset({2}), folded="Every class"
    )
    chart = Chart(svg=svg, title="Images whose first class is right", summary=summary, table=table)
    return [Charts(charts=[chart])]


def _summarize_accuracy(ordered: Sequence[tuple[str, float]], num_classes: int) -> str:
    """Summarize the top-1 accuracy of classes, the best first, among so many classes."""
    (best, most), (worst, least) = ordered[0], ordered[-1]
    if most == least:
        told = f"{format_percent(most)} in every class"
    else:
        median = float(np.median([top1 for _, top1 in ordered]))
        told = (
            f"From {format_percent(most)} ({shorten(best, 60)}) down to {format_percent(least)} "
            f"({shorten(worst, 60)}); median {format_percent(median)}"
        )
    return f"{told} {format_chance(num_classes)}."


def _build_mistakes(mistakes: Sequence[Mistake], val: SampleLookup, names: Sequence[str]) -> Block:
    if not mistakes:
        return Note(text="There are none: every validation image is classified correctly.")
    pictures = [_draw_mistake(one, val, names) for one in mistakes]
    caption = (
        "Validation images that are misclassified, the largest loss first. Below each: its class and the predicted "
        "class, with the probabilities that the network gives to both."
    )
    return Gallery(caption=caption, pictures=pictures)


def _draw_mistake(one: Mistake, val: SampleLookup, names: Sequence[str]) -> Picture:
    label, said = shorten(names[one.label], 40), shorten(names[one.predicted], 40)
    lines = (
        f"is {label}, {_format_probability(one.p_label)}",
        f"predicted {said}, {_format_probability(one.p_predicted)}",
    )
    return encode_photo(val.pixels(one.sample), f"{label}, predicted {said}; sample {val.keys[one.sample]}", lines)


def _format_probability(p: float) -> str:
    return f"below {format_percent(1e-4, 2)}" if p < 1e-4 else format_percent(p, 2 if p < 0.01 else 1)


def _build_nearest(found: Sequence[QueryResult], num_activations: int) -> list[Block]:
    note = (
        f"The training images whose last hidden layer ({num_activations:,} activations of the center crop) has the "
        "smallest Euclidean distance from that of a validation image, as in figure 4 of the paper. Those of its class "
        "have a green frame."
    )
    rows = [
        Gallery(
            caption=f"{shorten(one.query.class_name, 60)}, sample {one.query.key}",
            pictures=[
                _draw_sample(one.query, "query"),
                *(_draw_found(n, one.query) for n in one.nearest),
            ],
            in_row=True,
        )
        for one in found
    ]
    right = sum(n.label == one.query.label for one in found for n in one.nearest)
    total = sum(len(one.nearest) for one in found)
    return [
        Note(text=note),
        *rows,
        Facts(rows=[("of the same class", f"{right} of {count_of(total, 'nearest image')}")]),
    ]


def _draw_found(one: Sample, query: Sample) -> Picture:
    """Draw a nearest image with its distance, framed if it is of the query's class."""
    picture = _draw_sample(one, format_significant(one.distance))
    return replace(picture, is_match=True, alt=f"{picture.alt}, same class") if one.label == query.label else picture


def _draw_sample(one: Sample, below: str) -> Picture:
    name = shorten(one.class_name, 40)
    return encode_photo(one.split.catalog.pixels(one.sample), f"{name}, {below}", (name, below), 128)
