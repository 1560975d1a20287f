"""Build the section on a training run: its curves, from ``metrics.jsonl``, and a profile of its time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from alexstream.core.text import count_of, format_duration
from alexstream.report import charts
from alexstream.report.blocks import Block, Chart, Charts, Facts, Note, Section, Subsection, Table, format_percent
from alexstream.report.charts import GRAY, GREEN, ORANGE, Line
from alexstream.report.subject import Run
from alexstream.trainer.evaluation.scoring import compute_chance, format_chance
from alexstream.trainer.guessing import WINDOW_STEPS, describe_guessing
from alexstream.trainer.metrics import Metrics, Validation
from alexstream.trainer.verdict import RunSetting

MAX_POINTS = 160  # of a curve: steps are averaged in as many groups
MAX_TABLE_ROWS = 40  # of a curve's table
BAND_PERCENTILES = (10, 90)  # percentiles that bound the band around a curve

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """Aggregate the metrics of steps over G groups of equal size."""

    metrics: Metrics
    bounds: NDArray[np.int64]

    @classmethod
    def from_metrics(cls, metrics: Metrics, most: int = MAX_POINTS) -> StepGroups:
        """Make ``most`` groups, or one for each step if there are fewer."""
        num_steps = len(metrics.steps["step"])
        return cls(metrics=metrics, bounds=np.linspace(0, num_steps, min(most, num_steps) + 1).astype(np.int64))

    @property
    def step_G(self) -> Floats:
        """The last step of each group, float64 (G,)."""
        return self.metrics.steps["step"][self.bounds[1:] - 1]

    def sum(self, name: str) -> Floats:
        """Return the sum of a column over each group, float64 (G,)."""
        return np.add.reduceat(self.metrics.steps[name], self.bounds[:-1])

    def mean(self, name: str) -> Floats:
        """Return the mean of a column over each group, float64 (G,)."""
        return self.sum(name) / np.diff(self.bounds)

    def band(self, name: str) -> tuple[Floats, Floats]:
        """Return the percentiles ``BAND_PERCENTILES`` of a column in each group, float64 (G,) each."""
        parts = np.split(self.metrics.steps[name], self.bounds[1:-1])
        low, high = np.array([np.percentile(part, BAND_PERCENTILES) for part in parts]).T
        return low, high


def build_section(run: Run, metrics: Metrics) -> Section:
    """Build the section about the course of a run."""
    last = metrics.validations[-1:]
    said = " No validation has been written yet." if not last else _describe_validation(last[0], run.num_classes)
    if not len(metrics.steps["step"]):
        return Section(name="training", title="How it was trained", intro="No step has been written yet.")
    steps, elapsed = int(metrics.steps["step"][-1]), float(metrics.steps["elapsed_s"].sum())
    return Section(
        name="training",
        title="How it was trained",
        intro=f"{count_of(steps, 'step')} in {format_duration(elapsed)}, validation not counted.{said}",
        blocks=[
            *_build_hint(metrics, run.num_classes),
            Charts(charts=_build_curves(metrics, run.num_classes)),
        ],
        parts=[
            Subsection(
                title="Validation by epoch",
                blocks=[_tabulate_validations(metrics.validations, run.num_classes)],
            ),
            Subsection(
                title="Data or device? And the learning rate",
                blocks=[
                    _build_verdict(run, metrics),
                    Charts(charts=[*_build_speed_charts(run, metrics), _build_rate_chart(metrics)]),
                ],
            ),
        ],
    )


def _build_hint(metrics: Metrics, num_classes: int) -> list[Block]:
    """Build a note on a network that still guesses; nothing for one that learns."""
    losses, step = metrics.steps["loss"], int(metrics.steps["step"][-1])
    hint = describe_guessing(step, losses[-WINDOW_STEPS:].tolist(), num_classes)
    return [Note(text=f"{hint[0].upper()}{hint[1:]}.", strong=True)] if hint else []


def _describe_validation(last: Validation, num_classes: int) -> str:
    score = last.score
    return (
        f" After epoch {last.epoch}: validation top-1 {format_percent(score.top1)}{_chance(num_classes)}, top-5 "
        f"{format_percent(score.top5)}{_chance(num_classes, 5)}, loss {score.loss:.4f}, over "
        f"{count_of(score.num_images, 'image')}."
    )


def _chance(num_classes: int, k: int = 1) -> str:
    return f" {format_chance(num_classes, k)}" if num_classes else ""


def _build_curves(metrics: Metrics, num_classes: int) -> list[Chart]:
    groups, at = StepGroups.from_metrics(metrics), np.array([one.step for one in metrics.validations], float)
    scores = [one.score for one in metrics.validations]
    low, high = groups.band("loss")
    loss = [
        Line(name="training", x_N=groups.step_G, y_N=groups.mean("loss"), low_N=low, high_N=high),
        _make_dotted_line("validation", at, [one.loss for one in scores], ORANGE, "--"),
    ]
    low, high = groups.band("accuracy")
    errors = [
        Line(
            name="training top-1",
            x_N=groups.step_G,
            y_N=100 * (1 - groups.mean("accuracy")),
            low_N=100 * (1 - high),
            high_N=100 * (1 - low),
        ),
        _make_dotted_line("validation top-1", at, [100 * (1 - one.top1) for one in scores], ORANGE, "--"),
        _make_dotted_line("validation top-5", at, [100 * (1 - one.top5) for one in scores], GREEN, ":"),
    ]
    if num_classes:
        loss.append(_make_guessing_line(groups, math.log(num_classes)))
        errors.append(_make_guessing_line(groups, 100 * (1 - compute_chance(num_classes))))
    return [
        _build_chart("loss", "Loss", "nats", loss, ".3f"),
        _build_chart("error", "Error", "per cent of images", errors, ".1f"),
    ]


def _make_guessing_line(groups: StepGroups, value: float) -> Line:
    """Make the level of a network that gives all classes the same probability."""
    x_N = groups.step_G[[0, -1]] if len(groups.step_G) > 1 else groups.step_G
    return Line(name="guessing", x_N=x_N, y_N=np.full(len(x_N), value), color=GRAY, dashes="-.")


def _build_rate_chart(metrics: Metrics) -> Chart:
    groups = StepGroups.from_metrics(metrics)
    rate = Line(name="learning rate", x_N=groups.step_G, y_N=metrics.steps["learning_rate"][groups.bounds[1:] - 1])
    return _build_chart("rate", "Learning rate by step", "rate (logarithmic)", [rate], "g", log=True)


def _build_speed_charts(run: Run, metrics: Metrics) -> list[Chart]:
    groups, batch_size = StepGroups.from_metrics(metrics), run.data.get("batch_size")
    elapsed = np.maximum(groups.sum("elapsed_s"), 1e-9)
    wait = Line(name="data-wait", x_N=groups.step_G, y_N=100 * groups.sum("wait_s") / elapsed)
    drawn = [_build_chart("wait", "Time spent waiting for data", "per cent of the time", [wait], ".2f")]
    if isinstance(batch_size, int) and 0 < batch_size < 1 << 31:
        rate = Line(name="images/s", x_N=groups.step_G, y_N=batch_size * np.diff(groups.bounds) / elapsed)
        drawn.insert(0, _build_chart("throughput", "Throughput", "images a second", [rate], ",.0f"))
    return drawn


def _make_dotted_line(name: str, at: Floats, values: Sequence[float], color: str, dashes: str) -> Line:
    return Line(name=name, x_N=at, y_N=np.array(values, float), color=color, dashes=dashes, dots=True)


def _build_chart(name: str, title: str, unit: str, drawn: Sequence[Line], spec: str, *, log: bool = False) -> Chart:
    drawn = [line for line in drawn if len(line.x_N)]
    svg: Markup = charts.draw_lines(name, drawn, "step", unit, log=log)
    summary = "; ".join(_summarize_line(line, spec) for line in drawn) + f" ({unit.removesuffix(' (logarithmic)')})."
    return Chart(svg=svg, title=title, summary=summary, table=_tabulate_lines(title, drawn, spec))


def _summarize_line(line: Line, spec: str) -> str:
    """Summarize a line in words: ``training from 2.679 to 0.733, least 0.701 at step 1,980``."""
    first, last = format(line.y_N[0], spec), format(line.y_N[-1], spec)
    if len(line.y_N) == 1:
        return f"{line.name} {first} at step {line.x_N[0]:,.0f}"
    if first == last == format(np.nanmin(line.y_N), spec) == format(np.nanmax(line.y_N), spec):
        return f"{line.name} {first} throughout"
    if not np.isfinite(line.y_N).any():
        return f"{line.name} is NaN throughout"
    least = int(np.nanargmin(line.y_N))
    return f"{line.name} from {first} to {last}, least {line.y_N[least]:{spec}} at step {line.x_N[least]:,.0f}"


def _tabulate_lines(title: str, drawn: Sequence[Line], spec: str) -> Table:
    """Tabulate at most ``MAX_TABLE_ROWS`` points of each line, one line below the other."""
    rows = []
    for line in drawn:
        picked = np.unique(np.linspace(0, len(line.x_N) - 1, min(MAX_TABLE_ROWS, len(line.x_N))).astype(int))
        rows += [[line.name, f"{line.x_N[i]:,.0f}", format(line.y_N[i], spec)] for i in picked]
    return Table(caption=title, head=["line", "step", "value"], rows=rows, folded=f"{title} in numbers")


def _build_verdict(run: Run, metrics: Metrics) -> Block:
    verdict = metrics.step_times.verdict()
    if verdict is None:
        return Note(text="Too few steps with measured stages for a verdict.")
    times = metrics.step_times
    stages = (f"{name.removesuffix('_s')} {seconds:,.1f} s" for name, seconds in asdict(times.stages).items())
    rows = [
        ("verdict", verdict.to_text(times.setting or _read_setting(run))),
        ("waited for data, the first steps left out", format_percent(times.wait_s / max(times.elapsed_s, 1e-9), 2)),
        ("time of the stream's stages, mostly overlapped with training", ", ".join(stages)),
    ]
    return Facts(rows=rows)


def _read_setting(run: Run) -> RunSetting:
    """Return what is known of the setting of a run whose metrics do not hold it; nothing asks for more ranks then."""
    precision, ranks, order = run.facts.get("precision"), run.facts.get("processes"), run.data.get("order")
    ranks = ranks if isinstance(ranks, int) else 1
    return RunSetting(precision=precision, order=order, ranks=ranks, max_ranks=ranks)


def _tabulate_validations(validations: Sequence[Validation], num_classes: int) -> Block:
    if not validations:
        return Note(text="No validation has been written.")
    # Where top-1 ties, as while a network guesses, the loss decides; one that is no number is none.
    best = max(validations, key=lambda one: (one.score.top1, -np.nan_to_num(one.score.loss, nan=np.inf)))
    rows = [
        [
            f"{one.epoch}" + (" (best)" if one is best else ""),
            f"{one.step:,}",
            f"{one.score.loss:.4f}",
            format_percent(one.score.top1, 2),
            format_percent(one.score.top5, 2),
            f"{one.score.num_images:,}",
        ]
        for one in validations
    ]
    chances = (f"top-{k}{_chance(num_classes, k)}" for k in (1, 5))
    head = ["epoch", "step", "loss", *chances, "images"]
    return Table(caption="Validation after each epoch", head=head, rows=rows)
