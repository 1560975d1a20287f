"""The log of trials and its table."""

from tests.faults import record


def test_trials_are_added_up_and_a_broken_promise_is_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("ALEXSTREAM_TRIAL_LOG", str(tmp_path / "log"))
    record.note("kept files", "SIGKILL", 3, "kept", "pytest a")
    record.note("kept files", "SIGKILL", 4, "kept", "pytest a")
    record.note("no hang", "a stall", 1000, "BROKEN in trial 7", "pytest b")
    rows = record.table(record.read(tmp_path / "log")).splitlines()[2:]
    assert rows == [
        "| kept files | SIGKILL | 7 | kept | `pytest a` |",
        "| no hang | a stall | 1,000 | BROKEN in trial 7 | `pytest b` |",
    ]


def test_nothing_is_written_where_no_log_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("ALEXSTREAM_TRIAL_LOG", raising=False)
    monkeypatch.chdir(tmp_path)
    record.note("kept files", "SIGKILL", 3, "kept", "pytest a")
    assert not list(tmp_path.iterdir())
