"""Messages of the library name parameters; the command line shows its options in their place."""

import ast
import re

import click
import pytest
from click.testing import CliRunner

from alexstream.commands.flags import _FLAGS, flags_for
from alexstream.commands.group import iter_commands
from alexstream.commands.main import main
from alexstream.core.parameters import list_names, to_display, use_names
from tests.support import ROOT

LIBRARY = ("core", "pipeline", "report", "sharding", "trainer")
# The texts of commands: of other commands, of one's own options, and what is to be typed to do it again.
OF_A_COMMAND = {"pipeline/doctor.py", "sharding/overview.py", "report/reproduce.py", "sharding/dataset_v1/missing.py"}
OF_OTHERS = {"core/machine.py", "sharding/sources/tars/walk.py"}  # options of git and of tar
# Notices that stand in the manifest of a data set, whose bytes a version does not change.
KEPT = ("--classes FILE names them", "--classes FILE gives another order")
A_COMMAND = re.compile(r"\b(?:docker run|train|shard|verify) [^;,)]*")  # to be typed as it stands, from Python too


def texts():
    """(module, line, text) of the string constants of the library, without docstrings."""
    for path in sorted(path for top in LIBRARY for path in (ROOT / top).rglob("*.py")):
        tree = ast.parse(path.read_text())
        first = (node.body[0] for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list) and node.body)
        docs = {id(one.value) for one in first if isinstance(one, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield str(path.relative_to(ROOT)), node.lineno, node.value


def test_messages_of_the_library_name_no_options():
    found = [
        (module, line, text)
        for module, line, text in texts()
        if module not in OF_A_COMMAND | OF_OTHERS
        and not text.endswith(KEPT)
        and re.search(r"(?<![\w-])--[a-z]", A_COMMAND.sub("", text))
    ]
    assert found == []


def test_every_parameter_that_a_message_names_has_an_option_and_every_option_exists():
    shown = (
        text for module, _, text in texts() if module != "sharding/dataset_v1/sidecars.py"
    )  # a README, in Markdown
    named = {word for text in shown for word in re.findall(r"(?<!`)`([\w.]+)`(?!`)", text)}
    assert len(named) > 15
    assert named <= _FLAGS.keys()
    known = {word for _, command in iter_commands(main) for one in command.params for word in one.opts}
    assert {flag for flags in _FLAGS.values() for flag in flags} <= known


@pytest.fixture
def no_names():
    use_names({})
    yield
    use_names({})


def test_a_message_is_shown_as_its_reader_calls_things(no_names):
    message = "give `cache_bytes` 300 or more, or `order` grouped; `file` is `` `cache` ``"
    assert to_display(message) == message
    use_names({"cache_bytes": "--cache-size", "order": "--order"})
    assert to_display(message) == "give --cache-size 300 or more, or --order grouped; `file` is `` `cache` ``"
    assert list_names() == {"cache_bytes": "--cache-size", "order": "--order"}


def test_the_options_are_those_of_the_running_command():
    with_run, with_out = (click.Command("x", params=[click.Option([name])]) for name in ("--run", "--out"))
    assert flags_for(with_run)["folder"] == "--run" and flags_for(with_out)["folder"] == "--out"
    assert flags_for(with_out)["path"] == "--out" and flags_for(with_run)["cache_bytes"] == "--cache-size"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--drop-after", "3,2"], "--drop-after: received '3,2', expected rising numbers from 1 to 89, as 25,50,75"),
        (["--devices", "2", "--device", "cuda"], "--device cuda with --devices 2: this machine has 0 GPUs; use cpu"),
        (["--batch-size", "33", "--device", "cpu"], "--batch-size: received 33, expected a multiple of 2, the number"),
        (["--resume", "--run", "{run}"], "--resume: {run} holds no checkpoint; start without --resume"),
    ],
)
def test_the_command_line_says_what_it_always_said(sample_shards, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    done = CliRunner().invoke(
        main, ["train", "--data", str(sample_shards), *(w.replace("{run}", str(run)) for w in words)]
    )
    assert done.exit_code == 1
    assert f"Error: {message.replace('{run}', str(run))}" in done.stderr
