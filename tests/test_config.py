"""--config: a TOML file gives options; what is typed goes first; a run keeps the options it had."""

import json
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from alexstream.commands.group import command, format_effective_config
from alexstream.commands.main import main
from alexstream.commands.options import LOCATION_PARAM
from tests.support.commands import all_commands


@command("probe")
@click.option("--count", default=3, type=click.IntRange(1))
@click.option("--name", default=None)
@click.option("--place", type=LOCATION_PARAM, required=True)
@click.option("--flag", is_flag=True)
@click.option("--many", "of_them", multiple=True, type=float)
@click.pass_context
def probe(context, **_):
    """A command with an option of each kind."""
    click.echo(format_effective_config(context))


def shown(*words):
    result = CliRunner().invoke(probe, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout)


def test_the_file_goes_before_defaults_and_what_is_typed_before_the_file(tmp_path):
    path, here = tmp_path / "run.toml", str(Path("here").absolute())
    path.write_text('count = 5\nplace = "here"\nflag = true\nmany = [1, 2.5]\n')
    assert shown("--config", path) == {"count": 5, "place": here, "flag": True, "many": [1.0, 2.5]}
    assert shown("--config", path, "--count", 7, "--many", 4)["count"] == 7
    assert shown("--count", 7, "--many", 4, "--config", path)["many"] == [4.0]
    assert shown("--place", "/x") == {"count": 3, "place": "/x", "flag": False}


def test_what_is_shown_can_be_read_again(tmp_path):
    path, name = tmp_path / "again.toml", 'a "quoted" \\ name é'
    result = CliRunner().invoke(probe, ["--place", "s3://bucket/shards", "--name", name, "--many", "0.5", "--flag"])
    path.write_text(result.stdout)
    assert shown("--config", path) == tomllib.loads(result.stdout)
    assert tomllib.loads(result.stdout)["name"] == name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batchsize = 3", "has no option 'batchsize'; did you mean 'batch-size'?"),
        ("batch-size = 'many'", "'many' is not a valid integer"),
        ("tanh = 1", "tanh is 1, expected true or false"),
        ("epochs = [1, 2]", "epochs is [1, 2], expected one value"),
        ("[train]\nepochs = 1", "has no option 'train'"),
        ("epochs = ", "cannot be read as TOML"),
        ("config = 'other.toml'", "has no option 'config'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["train", "--data", "nowhere", "--config", str(path)])
    assert result.exit_code == 2 and complaint in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


def test_a_file_that_is_not_there(tmp_path):
    result = CliRunner().invoke(main, ["train", "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2 and "none.toml" in result.stderr


def test_every_command_with_options_takes_a_file():
    for name, found in all_commands().items():
        names = {word for option in found.params for word in option.opts}
        assert "--config" in names or not any(n.startswith("--") for n in names) or hasattr(found, "commands"), name


def test_a_resumed_run_has_the_options_that_it_had_and_those_that_are_typed(sample_shards, tmp_path, monkeypatch):
    monkeypatch.chdir(sample_shards.parent)
    small = ["--devices", 1, "--device", "cpu", "--batch-size", 32, "--width", 0.125, "--no-lrn", "--quiet"]

    def train(*words):
        return CliRunner().invoke(main, list(map(str, ["train", "--run", tmp_path / "run", *words])))

    assert train(sample_shards.name, "--epochs", 1, *small).exit_code == 0  # DATA, as --data
    first = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert first["data"] == str(sample_shards), "a relative path means nothing in another folder"
    monkeypatch.chdir(tmp_path)
    result = train("--resume", "--epochs", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text()) == {**first, "epochs": 2}
    result = train("--resume", "--epochs", 3, "--seed", 9, "--batch-size", 16, "--lr", 0.5)
    assert result.exit_code == 1
    wrong = "made with seed = 1 and batch_size = 32 and learning_rate = 0.01, but this run has 9 and 16 and 0.5; "
    assert wrong in result.output


def test_a_run_that_names_no_data_is_an_error_that_names_the_option(tmp_path):
    result = CliRunner().invoke(main, ["train"])
    assert result.exit_code == 2 and "Missing argument 'DATA' or '--data'" in result.output
    result = CliRunner().invoke(main, ["train", "--resume", "--run", str(tmp_path)])
    assert result.exit_code == 2 and "has no config.toml that names its data; give --data" in result.output


def test_a_run_keeps_its_options_and_can_be_done_again_from_them(sample_shards, tmp_path):
    config = tmp_path / "run.toml"
    options = {"data": str(sample_shards), "devices": 1, "device": "cpu", "epochs": 1, "batch-size": 32, "width": 0.125}
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()))
    for name, given in (("first", config), ("second", tmp_path / "first" / "config.toml")):
        words = ["train", "--config", given, "--run", tmp_path / name, "--log-every", 1, "--quiet"]
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    kept = tomllib.loads((tmp_path / "first" / "config.toml").read_text())
    assert (kept["batch-size"], kept["recipe"], kept["log-every"]) == (32, "paper", 1) and "resume" not in kept
    losses = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    ]
    assert losses[0] == losses[1]
    files = [next((tmp_path / name).glob("*.pt")).read_bytes() for name in ("first", "second")]
    assert files[0] == files[1], "the same run is the same checkpoint, to the bit"


@pytest.mark.parametrize("content", [".".join(["a"] * 3000) + " = 1\n", "#" * (300 << 10)])
def test_a_file_that_would_take_gigabytes_is_refused_where_it_is_given_and_where_a_run_is_resumed(tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_text(content)
    for words in (["--config", str(path)], ["--resume", "--run", str(tmp_path)]):
        result = CliRunner().invoke(main, ["train", *words])
        assert result.exit_code == 2 and "config.toml: cannot be read as TOML (" in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_no_more_of_a_device_is_read_than_a_file_of_options_may_have():
    result = CliRunner().invoke(main, ["train", "--config", "/dev/zero"])
    assert result.exit_code == 2 and "/dev/zero" in result.stderr
