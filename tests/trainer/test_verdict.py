"""Is it the data or the device: steps counted by hand."""

import pytest

from alexstream.pipeline.batch import StageTimes
from alexstream.trainer.verdict import RunSetting, StepTimes, Verdict

STAGES = StageTimes(read_s=0.25, decode_s=0.5, finish_s=0.125)


def balance_of(steps):
    balance = StepTimes()
    for elapsed_s, wait_s, busy_s in steps:
        balance.add(elapsed_s=elapsed_s, wait_s=wait_s, busy_s=busy_s, stages=STAGES)
    return balance


def test_the_first_five_steps_are_left_out_and_ten_more_are_enough():
    steps = [(100.0, 99.0, 0.0)] * 5 + [(1.0, 0.2, 0.5)] * 10
    assert balance_of(steps[:-1]).verdict() is None
    balance = balance_of(steps)
    verdict = balance.verdict()
    assert verdict.cost == pytest.approx(10 / 8) and verdict.busy == pytest.approx(0.5)
    assert (balance.elapsed_s, balance.wait_s, balance.busy_s) == pytest.approx((10.0, 2.0, 5.0))
    assert (balance.stages.read_s, balance.stages.decode_s) == pytest.approx((2.5, 5.0))
    assert verdict.data_bound and verdict.slowest == "decode"


def test_a_stream_that_is_opened_anew_warms_up_again():
    """Of 5 + 12 and then 5 + 3 steps, 15 count: 15 s, of which 3 s were waited for."""
    balance = balance_of([(100.0, 99.0, 0.0)] * 5 + [(1.0, 0.0, 0.0)] * 12)
    balance.begin(RunSetting(device="cuda"))
    for elapsed_s, wait_s in [(100.0, 99.0)] * 5 + [(1.0, 1.0)] * 3:
        balance.add(elapsed_s=elapsed_s, wait_s=wait_s, busy_s=0.0, stages=STAGES)
    assert (balance.elapsed_s, balance.wait_s, balance.stages.decode_s) == (15.0, 3.0, 7.5)
    assert balance.verdict().cost == 15 / 12 and balance.setting == RunSetting(device="cuda")


def test_steps_that_do_nothing_but_wait_are_no_division_by_zero():
    assert balance_of([(1.0, 1.0, 0.0)] * 20).verdict().cost > 1e6


@pytest.mark.parametrize(
    ("cost", "surely", "data_bound"),
    [(1.05, True, False), (1.06, True, True), (1.06, False, False), (1.0, True, False)],
)
def test_five_percent_are_the_limit_if_they_are_no_noise(cost, surely, data_bound):
    assert Verdict.from_cost(cost, STAGES, surely=surely).data_bound == data_bound


def test_the_line_names_stage_remedy_and_shared_cores():
    assert Verdict.from_cost(1.41, STAGES).to_text() == (
        "DATA-BOUND: data makes a step 1.41 times as long; the slowest stage is decode; what would help: more "
        "`num_threads`, raw shards (alexstream shard --encode raw), or a GPU's decoder"
    )
    shared = Verdict.from_cost(1.41, StageTimes(read_s=1.0), busy=0.9).to_text()
    assert "slowest stage is read (network and stream share cores that are 90 % busy: more of them); what" in shared
    assert "shards on a faster or nearer disk" in shared
    assert "share" not in Verdict.from_cost(1.41, STAGES, busy=0.89).to_text()
    assert Verdict.from_cost(1.0, STAGES).to_text() == (
        "COMPUTE-BOUND: data makes a step 1.000 times as long; what would help: a faster device, "
        "`precision` bf16 or more ranks; a faster stream would change nothing"
    )


COMPUTE = (
    "COMPUTE-BOUND: data makes a step 1.000 times as long; what would help: {}; a faster stream would change nothing"
)


@pytest.mark.parametrize(
    ("setting", "help_"),
    [
        ({"precision": "bf16"}, "a faster device or more ranks"),
        ({"precision": "tf32"}, "a faster device, `precision` bf16 or more ranks"),
        ({"ranks": 2, "max_ranks": 2}, "a faster device or `precision` bf16"),
        ({"ranks": 2, "max_ranks": 3}, "a faster device, `precision` bf16 or more ranks"),
        ({"ranks": 4, "max_ranks": 2}, "a faster device or `precision` bf16"),
        ({"precision": "bf16", "ranks": 2, "max_ranks": 2}, "a faster device"),
        ({"precision": "bf16", "ranks": 1, "max_ranks": 2}, "a faster device or more ranks"),
    ],
)
def test_only_what_the_run_does_not_do_already_is_advised(setting, help_):
    assert Verdict.from_cost(1.0, STAGES).to_text(RunSetting(**setting)) == COMPUTE.format(help_)


RAW = "raw shards (alexstream shard --encode raw)"
OPERATOR = "the compiled operator (a C compiler and libjpeg-turbo when installing)"
JPEG = "JPEG shards, which are smaller (alexstream shard --encode jpeg)"
DISK = "shards on a faster or nearer disk"


@pytest.mark.parametrize(
    ("stage", "setting", "help_"),
    [
        ("decode", {"threads": 1, "ranks": 2, "cores": 2}, f"{RAW}, or a GPU's decoder"),
        ("decode", {"threads": 1, "ranks": 2, "cores": 3}, f"more `num_threads`, {RAW}, or a GPU's decoder"),
        ("decode", {"threads": 2, "ranks": 1, "cores": 2, "device": "cuda"}, RAW),
        ("decode", {"device": "cuda"}, f"more `num_threads`, or {RAW}"),
        ("finish", {"threads": 4, "ranks": 1, "cores": 2}, OPERATOR),
        ("finish", {"threads": 1, "ranks": 1, "cores": 2}, f"more `num_threads`, or {OPERATOR}"),
        ("finish", {"threads": 1, "ranks": 2, "cores": 2}, "`devices` 1"),
        ("read", {"order": "grouped"}, f"{DISK}, or a larger `cache_bytes`"),
        ("read", {"order": "global"}, f"{DISK}, `order` grouped, or a larger `cache_bytes`"),
        ("read", {"order": "grouped", "encoding": "raw"}, f"{DISK}, {JPEG}, or a larger `cache_bytes`"),
        ("decode", {"encoding": "raw"}, "more `num_threads`, or faster cores"),
        ("decode", {"encoding": "raw", "threads": 2, "ranks": 1, "cores": 2}, "faster cores"),
        ("decode", {"encoding": "jpeg", "device": "cuda"}, f"more `num_threads`, or {RAW}"),
    ],
)
def test_advice_for_the_stream_fits_the_run_too(stage, setting, help_):
    line = Verdict.from_cost(2.0, StageTimes(**{f"{stage}_s": 1.0})).to_text(RunSetting(**setting))
    assert line.endswith(f"the slowest stage is {stage}; what would help: {help_}")


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "keep"])
@pytest.mark.parametrize("stage", ["read", "decode", "augment", "exchange", "finish"])
def test_some_advice_is_left_whatever_the_setting(stage, encoding):
    full = {"device": "cuda", "precision": "bf16", "order": "grouped", "ranks": 9, "max_ranks": 1, "cores": 1}
    setting = RunSetting(**full, threads=9, encoding=encoding)
    assert not Verdict.from_cost(2.0, StageTimes(**{f"{stage}_s": 1.0})).to_text(setting).endswith("help: ")
