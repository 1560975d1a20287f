"""A training on the page: its curves, from ``metrics.jsonl``, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from report import charts
from report.blocks import Block, Chart, Charts, Facts, Note, Part, Section, Table, per_cent
from report.charts import GREEN, ORANGE, Line
from report.subject import Run
from trainer.metrics import Metrics, Validation, duration

POINTS = 160  # of a curve: steps are averaged in as many groups
ROWS = 40  # of a curve's table
BAND = (10, 90)  # percentiles

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Steps in groups of equal size: the last step of each, mean and spread of what was measured."""

    metrics: Metrics
    bounds: NDArray[np.int64]

    @classmethod
    def of(cls, metrics: Metrics, most: int = POINTS) -> Groups:
        """As many groups as there are points in a curve, or one a step."""
        num_steps = len(metrics.steps["step"])
        return cls(metrics=metrics, bounds=np.linspace(0, num_steps, min(most, num_steps) + 1).astype(np.int64))

    @property
    def step_G(self) -> Floats:
        """The last step of each group."""
        return self.metrics.steps["step"][self.bounds[1:] - 1]

    def sum(self, name: str) -> Floats:
        """The sum of a column in each group."""
        return np.add.reduceat(self.metrics.steps[name], self.bounds[:-1])

    def mean(self, name: str) -> Floats:
        """The mean of a column in each group."""
        return self.sum(name) / np.diff(self.bounds)

    def band(self, name: str) -> tuple[Floats, Floats]:
        """The percentiles ``BAND`` of a column in each group."""
        parts = np.split(self.metrics.steps[name], self.bounds[1:-1])
        low, high = np.array([np.percentile(part, BAND) for part in parts]).T
        return low, high


def section(run: Run, metrics: Metrics) -> Section:
    """The section about how a run went."""
    last = metrics.validations[-1:]
    said = " No validation has been written yet." if not last else _said(last[0])
    if not len(metrics.steps["step"]):
        return Section(name="training", title="How it was trained", intro="No step has been written yet.")
    steps, elapsed = int(metrics.steps["step"][-1]), float(metrics.steps["elapsed_s"].sum())
    return Section(
        name="training",
        title="How it was trained",
        intro=f"{steps:,} steps in {duration(elapsed)}, validation not counted.{said}",
        blocks=[Charts(charts=_curves(metrics))],
        parts=[
            Part(title="Validation by epoch", blocks=[_validations(metrics.validations)]),
            Part(title="Learning rate", blocks=[Charts(charts=[_rate(metrics)])]),
            Part(title="Data or device?", blocks=[_verdict(metrics), Charts(charts=_speed(run, metrics))]),
        ],
    )


def _said(last: Validation) -> str:
    score = last.score
    return (
        f" After epoch {last.epoch}: validation top-1 error {per_cent(1 - score.top1)}, top-5 error "
        f"{per_cent(1 - score.top5)}, loss {score.loss:.4f}, over {score.num_images:,} images."
    )


def _curves(metrics: Metrics) -> list[Chart]:
    groups, at = Groups.of(metrics), np.array([one.step for one in metrics.validations], float)
    scores = [one.score for one in metrics.validations]
    low, high = groups.band("loss")
    loss = [
        Line(name="training", x_N=groups.step_G, y_N=groups.mean("loss"), low_N=low, high_N=high),
        _dotted("validation", at, [one.loss for one in scores], ORANGE, "--"),
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
        _dotted("validation top-1", at, [100 * (1 - one.top1) for one in scores], ORANGE, "--"),
        _dotted("validation top-5", at, [100 * (1 - one.top5) for one in scores], GREEN, ":"),
    ]
    return [
        _chart("loss", "Loss", "nats", loss, ".3f"),
        _chart("error", "Error", "per cent of images", errors, ".1f"),
    ]


def _rate(metrics: Metrics) -> Chart:
    groups = Groups.of(metrics)
    rate = Line(name="learning rate", x_N=groups.step_G, y_N=metrics.steps["learning_rate"][groups.bounds[1:] - 1])
    return _chart("rate", "Learning rate by step", "rate (logarithmic)", [rate], "g", log=True)


def _speed(run: Run, metrics: Metrics) -> list[Chart]:
    groups, batch_size = Groups.of(metrics), run.data.get("batch_size")
    elapsed = np.maximum(groups.sum("elapsed_s"), 1e-9)
    wait = Line(name="data-wait", x_N=groups.step_G, y_N=100 * groups.sum("wait_s") / elapsed)
    drawn = [_chart("wait", "Share of the time that was waited for data", "per cent of the time", [wait], ".2f")]
    if isinstance(batch_size, int) and 0 < batch_size < 1 << 31:
        rate = Line(name="images/s", x_N=groups.step_G, y_N=batch_size * np.diff(groups.bounds) / elapsed)
        drawn.insert(0, _chart("throughput", "Throughput", "images a second", [rate], ",.0f"))
    return drawn


def _dotted(name: str, at: Floats, values: Sequence[float], colour: str, dashes: str) -> Line:
    return Line(name=name, x_N=at, y_N=np.array(values, float), colour=colour, dashes=dashes, dots=True)


def _chart(name: str, title: str, unit: str, drawn: Sequence[Line], spec: str, *, log: bool = False) -> Chart:
    drawn = [line for line in drawn if len(line.x_N)]
    svg: Markup = charts.lines(name, drawn, "step", unit, log=log)
    summary = "; ".join(_in_words(line, spec) for line in drawn) + f" ({unit.removesuffix(' (logarithmic)')})."
    return Chart(svg=svg, title=title, summary=summary, table=_numbers(title, drawn, spec))


def _in_words(line: Line, spec: str) -> str:
    """``training from 2.679 to 0.733, least 0.701 at step 1,980``."""
    first, last = format(line.y_N[0], spec), format(line.y_N[-1], spec)
    if first == last == format(np.nanmin(line.y_N), spec) == format(np.nanmax(line.y_N), spec):
        return f"{line.name} {first} throughout"
    if not np.isfinite(line.y_N).any():
        return f"{line.name} is no number"
    least = int(np.nanargmin(line.y_N))
    return f"{line.name} from {first} to {last}, least {line.y_N[least]:{spec}} at step {line.x_N[least]:,.0f}"


def _numbers(title: str, drawn: Sequence[Line], spec: str) -> Table:
    """At most ``ROWS`` points of each line, one line below the other."""
    rows = []
    for line in drawn:
        picked = np.unique(np.linspace(0, len(line.x_N) - 1, min(ROWS, len(line.x_N))).astype(int))
        rows += [[line.name, f"{line.x_N[i]:,.0f}", format(line.y_N[i], spec)] for i in picked]
    return Table(caption=title, head=["line", "step", "value"], rows=rows, folded=f"{title} in numbers")


def _verdict(metrics: Metrics) -> Block:
    verdict = metrics.balance.verdict()
    if verdict is None:
        return Note(text="Too few steps with measured stages for a verdict.")
    balance = metrics.balance
    stages = (f"{name.removesuffix('_s')} {seconds:,.1f} s" for name, seconds in asdict(balance.stages).items())
    rows = [
        ("verdict", verdict.line()),
        ("waited for data", per_cent(balance.wait_s / max(balance.elapsed_s, 1e-9), 2)),
        ("the stream took, mostly meanwhile", ", ".join(stages)),
    ]
    return Facts(rows=rows)


def _validations(validations: Sequence[Validation]) -> Block:
    if not validations:
        return Note(text="No validation has been written.")
    best = max(validations, key=lambda one: one.score.top1)
    rows = [
        [
            f"{one.epoch}" + (" (best)" if one is best else ""),
            f"{one.step:,}",
            f"{one.score.loss:.4f}",
            per_cent(one.score.top1, 2),
            per_cent(one.score.top5, 2),
            f"{one.score.num_images:,}",
        ]
        for one in validations
    ]
    head = ["epoch", "step", "loss", "top-1", "top-5", "images"]
    return Table(caption="Validation after each epoch", head=head, rows=rows)
