"""What a run wrote is read again: columns, validations, where the time went; cut lines are left out."""

import json

import pytest

from trainer.errors import TrainError
from trainer.metrics import METRICS, Metrics
from trainer.verdict import ENOUGH, WARM_UP


def step_row(step, **changes):
    row = {"step": step, "epoch": 1, "loss": 2.0, "accuracy": 0.5, "learning_rate": 0.01, "elapsed_s": 2.0}
    return row | {"wait_s": 1.0, "stages": {"decode_s": 0.5}} | changes


def written(folder, rows, rest=""):
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows) + rest)
    return Metrics.read(folder)


def test_steps_are_columns_and_validations_scores(tmp_path):
    score = {"num_images": 3, "loss": 1.5, "top1": 0.25, "top5": 0.75}
    rows = [step_row(1), step_row(2, loss=1.0), {"step": 2, "epoch": 1, "validation": score}]
    metrics = written(tmp_path, rows, '{"step": 3, "ep')
    assert metrics.steps["step"].tolist() == [1, 2] and metrics.steps["loss"].tolist() == [2.0, 1.0]
    (one,) = metrics.validations
    assert (one.step, one.epoch, one.score.top5) == (2, 1, 0.75)


def test_where_the_time_went_is_what_the_run_said(tmp_path):
    metrics = written(tmp_path, [step_row(i) for i in range(WARM_UP + ENOUGH)])
    verdict = metrics.balance.verdict()
    assert verdict.data_bound and verdict.cost == 2.0 and verdict.slowest == "decode"
    old = [{name: value for name, value in step_row(i).items() if name != "stages"} for i in range(99)]
    assert written(tmp_path, old).balance.verdict() is None


def test_nothing_yet_and_nothing_at_all(tmp_path):
    assert written(tmp_path, []).steps["loss"].tolist() == []
    with pytest.raises(TrainError, match=r"has no metrics\.jsonl"):
        Metrics.read(tmp_path / "nowhere")
