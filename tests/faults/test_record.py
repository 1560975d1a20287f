"""The log of trials and its table."""

import ast
import json

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
    record.note("kept files", "SIGTERM", 1, "kept", "pytest a")
    assert record.summary(record.read(tmp_path / "log")).splitlines()[2:] == [
        "| kept files | 2 | 8 | kept |",
        "| no hang | 1 | 1,000 | BROKEN in trial 7 |",
    ]


def test_nothing_is_written_where_no_log_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("ALEXSTREAM_TRIAL_LOG", raising=False)
    monkeypatch.chdir(tmp_path)
    record.note("kept files", "SIGKILL", 3, "kept", "pytest a")
    assert not list(tmp_path.iterdir())


def test_the_page_shows_what_the_committed_log_says():
    machine = json.loads(record.RESULT.read_text().splitlines()[0])["machine"]
    assert record.section(machine, record.read(record.RESULT)) in record.PAGE.read_text()


def test_a_later_log_has_the_say_about_its_faults():
    def line(fault, trials):
        return {"promise": "kept files", "fault": fault, "trials": trials, "outcome": "kept", "command": "pytest a"}

    first, second = [line("SIGKILL", 3), line("SIGTERM", 1), line("SIGKILL", 4)], [line("SIGKILL", 90)]
    assert record.latest([first]) == [first[0], first[2], first[1]]
    assert record.latest([first, second]) == [second[0], first[1]]


def test_every_promise_that_is_tried_is_in_the_page():
    shown = record.PAGE.read_text()
    for path in sorted((record.ROOT / "tests" / "faults").glob("test_*.py")):
        for words in promises(ast.parse(path.read_text())):
            assert f"| {words} |" in shown, f"{path.name}: run `make soak`, or its tests with ALEXSTREAM_TRIAL_LOG"


def promises(tree):
    """First arguments of ``promise`` marks; names of the module are looked up."""
    names = {
        n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.promise":
            first = node.args[0]
            yield ast.literal_eval(names[first.id] if isinstance(first, ast.Name) else first)
