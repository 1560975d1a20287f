"""What a run wrote is read again: columns, validations, where the time went; cut lines are left out."""

import json
import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest

from alexstream.trainer.errors import TrainError
from alexstream.trainer.metrics import METRICS_FILE, Metrics, ProgressMeter, Recorder
from alexstream.trainer.verdict import MIN_STEPS, WARM_UP_STEPS, RunSetting


def step_row(step, **changes):
    row = {"step": step, "epoch": 1, "loss": 2.0, "accuracy": 0.5, "learning_rate": 0.01, "elapsed_s": 2.0}
    return row | {"wait_s": 1.0, "stages": {"decode_s": 0.5}} | changes


def written(folder, rows, rest=""):
    (folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows) + rest)
    return Metrics.read(folder)


def test_steps_are_columns_and_validations_scores(tmp_path):
    score = {"num_images": 3, "loss": 1.5, "top1": 0.25, "top5": 0.75}
    rows = [step_row(1), step_row(2, loss=1.0), {"step": 2, "epoch": 1, "validation": score}]
    metrics = written(tmp_path, rows, '{"step": 3, "ep')
    assert metrics.steps["step"].tolist() == [1, 2] and metrics.steps["loss"].tolist() == [2.0, 1.0]
    (one,) = metrics.validations
    assert (one.step, one.epoch, one.score.top5) == (2, 1, 0.75)


def test_where_the_time_went_is_what_the_run_said(tmp_path):
    metrics = written(tmp_path, [step_row(i) for i in range(WARM_UP_STEPS + MIN_STEPS)])
    verdict = metrics.step_times.verdict()
    assert verdict.data_bound and verdict.cost == 2.0 and verdict.slowest == "decode"
    old = [{name: value for name, value in step_row(i).items() if name != "stages"} for i in range(99)]
    assert written(tmp_path, old).step_times.verdict() is None


def test_the_time_after_each_opening_of_the_stream_is_left_out(tmp_path):
    """A run that was resumed twice, each time with five steps that wait: what is left waited for nothing."""
    setting = asdict(RunSetting(device="cpu", ranks=2, max_ranks=2))
    warm_up = [step_row(1, wait_s=1.9, setting=setting), *(step_row(i, wait_s=1.9) for i in range(2, 6))]
    steady = [step_row(i, wait_s=0.0) for i in range(6, 12)]
    times = written(tmp_path, 3 * (warm_up + steady)).step_times
    assert (times.elapsed_s, times.wait_s) == (36.0, 0.0) and not times.verdict().data_bound
    assert times.setting == RunSetting(device="cpu", ranks=2, max_ranks=2)


def test_nothing_yet_and_nothing_at_all(tmp_path):
    assert written(tmp_path, []).steps["loss"].tolist() == []
    with pytest.raises(TrainError, match=r"has no metrics\.jsonl"):
        Metrics.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"elapsed_s": float("nan")}, "no number"),
        ({"wait_s": float("inf")}, "no number"),
        ({"learning_rate": float("nan")}, "no number"),
        ({"step": -1}, "step is -1"),
        ({"epoch": 1.5}, "epoch"),
        ({"loss": "low"}, "loss"),
        ({"stages": {"decode_s": float("nan")}}, "a time is no number"),
        ({"busy_s": float("inf")}, "a time is no number"),
        ({"setting": {"ranks": "two"}}, "setting.ranks is 'two', expected int"),
    ],
)
def test_a_line_that_no_run_writes_is_named_by_its_number(tmp_path, changes, reason):
    with pytest.raises(TrainError, match=rf"metrics\.jsonl: line 2 .*{reason}.*restore the file"):
        written(tmp_path, [step_row(1), {**step_row(2), **changes}])


def test_a_loss_may_be_no_number_and_old_lines_have_no_busy_time(tmp_path):
    metrics = written(tmp_path, [step_row(i, loss=float("nan")) for i in range(WARM_UP_STEPS + MIN_STEPS)])
    assert np.isnan(metrics.steps["loss"]).all()
    assert metrics.step_times.verdict().busy == 0.0


def test_a_line_is_of_the_steps_since_the_last_one():
    meter = ProgressMeter(2, 102)
    assert not meter.is_due()
    meter.add(images=8, loss=3.0, accuracy=0.5, elapsed_s=2.0, wait_s=0.5)
    assert not meter.is_due()
    meter.add(images=8, loss=1.0, accuracy=0.0, elapsed_s=6.0, wait_s=1.5)
    assert meter.is_due() and meter.mean_loss() == 2.0
    # The pace is 0.95 of 2 s and 0.05 of 6 s a step; 100 steps are left.
    assert meter.to_text(1000) == "loss 2.0000  top-1 25.0 % (chance 0.1 %)  2.0 images/s  data-wait 25.0 %  ETA 4 min"
    meter.add(images=4, loss=5.0, accuracy=1.0, elapsed_s=1.0, wait_s=0.0)
    assert not meter.is_due() and meter.mean_loss() == 5.0
    # 0.95 of 2.2 s and 0.05 of 1 s: 2.14 s a step, 99 steps, 212 s.
    assert meter.to_text(3) == "loss 5.0000  top-1 100.0 % (chance 33.3 %)  4.0 images/s  data-wait 0.0 %  ETA 4 min"


def test_lines_come_by_time_where_no_number_of_steps_is_given():
    """The first after five seconds of steps, the next after twenty more, however many steps that are."""
    meter, lines = ProgressMeter(0, 100, 5.0), []
    for step in range(1, 31):
        meter.add(images=8, loss=1.0, accuracy=0.0, elapsed_s=2.0, wait_s=0.0)
        if meter.is_due():
            lines.append((2 * step, meter.steps))
    assert lines == [(6, 3), (26, 10), (46, 10)]


def test_results_go_to_stdout_and_progress_to_stderr_unless_quiet(tmp_path, capsys):
    for folder, quiet, out, err in (
        (tmp_path, False, "result\n", "progress\n"),
        (tmp_path, True, "result\n", ""),
        (None, False, "", ""),  # not the main rank
    ):
        recorder = Recorder(folder, quiet=quiet)
        recorder.print_line("progress")
        recorder.print_line("result", result=True)
        recorder.close()
        assert capsys.readouterr() == (out, err)


def test_lines_after_the_checkpoint_are_dropped_and_the_others_stay(tmp_path):
    rows = [step_row(1), step_row(2), {"step": 2, "epoch": 1, "validation": {}}, step_row(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / METRICS_FILE).write_text(text + "[]\n" + '{"step": 1}')
    Recorder(tmp_path, start_step=2).close()
    assert (tmp_path / METRICS_FILE).read_text() == "".join(json.dumps(row) + "\n" for row in rows[:3])


def test_a_line_longer_than_any_runs_is_refused_and_not_held(tmp_path):
    """A hole of 2^26 bytes: to read it as a line would take as much memory."""
    with (tmp_path / METRICS_FILE).open("wb") as file:
        file.write(json.dumps(step_row(1)).encode() + b"\n")
        file.truncate(1 << 26)
    for read in (lambda: Metrics.read(tmp_path), lambda: Recorder(tmp_path, quiet=True, start_step=1)):
        tracemalloc.start()
        try:
            with pytest.raises(
                TrainError, match=r"metrics\.jsonl: line 2 .*more bytes than 16,384\); restore the file"
            ):
                read()
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_a_file_larger_than_any_runs_is_refused(tmp_path, monkeypatch):
    lines = [json.dumps(step_row(i)) for i in range(1, 100)]
    monkeypatch.setattr(
        "alexstream.trainer.metrics.MOST_METRICS", len("\n".join(lines))
    )  # the last one ends a byte behind it
    with pytest.raises(TrainError, match=r"line 99 .* with those before it\); restore the file"):
        written(tmp_path, [step_row(i) for i in range(1, 100)])
    assert len(written(tmp_path, [step_row(i) for i in range(1, 99)]).steps["step"]) == 98


def test_more_validations_than_any_runs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("alexstream.trainer.metrics.MOST_VALIDATIONS", 2)
    row = {"step": 2, "epoch": 1, "validation": {"num_images": 3, "loss": 1.5, "top1": 0.25, "top5": 0.75}}
    assert len(written(tmp_path, [row] * 2).validations) == 2
    with pytest.raises(TrainError, match=r"line 3 .*more than 2 validations"):
        written(tmp_path, [row] * 3)


def test_a_link_is_not_followed(tmp_path):
    """The folder is another's, and what is read is on a page that goes to others."""
    (tmp_path / "mine").write_text(json.dumps(step_row(1)) + "\n")
    (tmp_path / METRICS_FILE).symlink_to(tmp_path / "mine")
    with pytest.raises(TrainError, match=r"cannot read .*metrics\.jsonl: it is a link, which is not followed; put"):
        Metrics.read(tmp_path)


def test_a_resumed_run_keeps_the_lines_of_its_steps_byte_for_byte(tmp_path):
    lines = [json.dumps(step_row(i)) + "\n" for i in range(1, 6)]
    (tmp_path / METRICS_FILE).write_text("".join(lines) + '{"step": 2, "ep')
    Recorder(tmp_path, quiet=True, start_step=3).close()
    assert (tmp_path / METRICS_FILE).read_text() == "".join(lines[:3])
