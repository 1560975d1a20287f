"""The command line: bad use gets one clear line and a non-zero exit; good use says what was made."""

import json
import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import click
import pytest

from alexstream.commands import group
from alexstream.commands.main import main
from alexstream.sharding.dataset_v1 import layout
from alexstream.trainer.checkpoint import load_checkpoint
from alexstream.trainer.errors import CheckpointError
from tests.support import ROOT
from tests.support.commands import all_commands, call, error_of


def test_a_missing_source_folder(tmp_path):
    assert "does not exist" in error_of("shard", "--src", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_source_folder(tmp_path):
    (tmp_path / "src").mkdir()
    assert "is empty" in error_of("shard", "--src", tmp_path / "src", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_holds_another_data_set(sample_images, sample_shards):
    line = error_of("shard", "--src", sample_images / "train", "--out", sample_shards / "train", "--seed", 1)
    assert "holds another data set" in line and "another --out" in line


def test_an_unknown_split_of_the_source(sample_images, tmp_path):
    line = error_of("shard", "--src", sample_images, "--out", tmp_path / "out", "--split", "test")
    assert "train, val" in line


@pytest.mark.parametrize("command", [("stats",), ("train", "--data"), ("evaluate", "--data")])
def test_a_folder_that_is_no_data_set(command, tmp_path):
    assert "does not exist; give the folder" in error_of(*command, tmp_path / "nowhere")


@pytest.mark.parametrize("command", [("stats",), ("train", "--data")])
def test_a_data_set_whose_digest_does_not_match_its_statistics(command, sample_shards, tmp_path):
    shutil.copytree(sample_shards / "train", tmp_path / "train")
    shutil.copy(sample_shards / "val" / layout.STATS, tmp_path / "train" / layout.STATS)
    assert "statistics are of data set" in error_of(*command, tmp_path / "train")


def test_three_devices(sample_shards, tmp_path):
    line = error_of("train", "--data", sample_shards, "--devices", 3, "--run", tmp_path / "run")
    assert "received 3, expected 1" in line
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are(sample_shards, tmp_path):
    import torch

    if torch.cuda.device_count() >= 2:
        pytest.skip("this machine has two GPUs")
    line = error_of("train", "--data", sample_shards, "--device", "cuda", "--run", tmp_path / "run")
    assert re.search(r"this machine has (0 GPUs|1 GPU);", line)


def test_a_missing_or_unknown_option_is_one_line_that_points_to_help():
    assert "--help" in error_of("shard", exit_code=2)
    assert "--help" in error_of("train", "--wrong", exit_code=2)
    assert "--help" in error_of("tarin", exit_code=2)


def test_evaluating_without_a_checkpoint(sample_shards, tmp_path):
    line = error_of("evaluate", "--data", sample_shards, "--checkpoint", tmp_path / "none.pt")
    assert "does not exist" in line


def test_a_batch_that_two_ranks_cannot_share(sample_shards, tmp_path):
    line = error_of("train", "--data", sample_shards, "--batch-size", 7, "--run", tmp_path / "run")
    assert "received 7" in line


def test_sharding_says_what_was_found_and_written(sample_images, tmp_path):
    result = call("shard", "--src", sample_images, "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    assert "found 71 = written 67 + quarantined 3 + excluded 1" in result.stdout
    assert "found 16 = written 16" in result.stdout
    again = call("shard", "--src", sample_images, "--out", tmp_path / "out")
    assert again.exit_code == 0 and again.stdout.count("already complete") == 2


def test_stats_as_json_and_as_a_picture(sample_shards, tmp_path):
    result = call("stats", sample_shards, "--json", "--quiet", "--plot", tmp_path / "stats.png")
    assert result.exit_code == 0, result.output
    stats = json.loads(result.stdout)
    assert stats["recomputed_equal"] and stats["num_images"] == 67
    assert stats["eigenvalues_01"][0] * 255**2 == pytest.approx(stats["eigenvalues_255"][0])
    assert (tmp_path / "stats.png").read_bytes()[:4] == b"\x89PNG"


def test_stats_shows_both_scales_and_the_verdict(sample_shards):
    result = call("stats", sample_shards, "--quiet")
    assert "0..255²" in result.stdout and "0..1²" in result.stdout and "equal to the bit" in result.stdout


def test_statistics_of_a_split_that_is_named_outright(sample_shards):
    result = call("stats", sample_shards / "val", "--quiet")
    assert result.exit_code == 0 and "images         16" in result.stdout


@pytest.mark.parametrize("name", ["nowhere/stats.png", "stats.nonsense"])
def test_a_picture_that_cannot_be_written(sample_shards, tmp_path, name):
    result = call("stats", sample_shards, "--quiet", "--plot", tmp_path / name)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "cannot write the picture" in result.stderr


def test_info_without_its_quarantine_list(sample_shards, tmp_path):
    shutil.copytree(sample_shards / "val", tmp_path / "val")
    (tmp_path / "val" / layout.QUARANTINE).unlink()
    assert "verify" in error_of("info", tmp_path / "val")


def test_sampling_into_a_folder_that_is_not_empty(sample_images):
    assert "not empty" in error_of("sample", "--out", sample_images)


def test_the_conversion_is_measured_and_told_as_json(sample_images, tmp_path):
    options = ("--limit", 10, "--rounds", 2, "--quiet", "--json")
    result = call("bench", "shard", "--src", sample_images, "--out", tmp_path, *options)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["command"] == "bench shard" and told["options"]["limit"] == 10 and told["machine"]["cores"] >= 1
    assert told["measured"]["num_images"] == 10 and len(told["measured"]["images_per_s"]) == 2
    assert not result.stderr and not list(tmp_path.iterdir())


def test_the_stream_is_measured_and_told_as_a_table(sample_shards):
    options = ("--batch-size", 8, "--steps", 2, "--rounds", 1, "--quiet")
    result = call("bench", "stream", "--data", sample_shards, *options)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["augmentation", "paper", "none"]
    assert lines[3].startswith("jpeg shards") and lines[4].startswith(("Commit ", "Alexstream "))


def test_the_step_is_measured_and_told_as_json():
    options = ("--devices", 1, "--classes", 3, "--batch-size", 2, "--steps", 1, "--rounds", 2, "--quiet", "--json")
    result = call("bench", "step", "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["measured"]
    assert len(measured["step_ms"]) == 2 and measured["device_type"] == "cpu"


def test_what_cannot_be_measured_is_told_in_one_line(sample_images, sample_shards, tmp_path):
    out = ("--src", sample_images, "--out", tmp_path / "nowhere")
    assert "give one that exists" in error_of("bench", "shard", *out)
    assert "no split 'test'" in error_of("bench", "stream", "--data", sample_shards, "--split", "test")
    line = error_of("bench", "stream", "--data", sample_shards, "--augmentation", "paper", "--augmentation", "other")
    assert "received 'other', expected one of paper" in line
    assert "received 3, expected 1" in error_of("bench", "step", "--devices", 3)
    assert "--help" in error_of("bench", "shrad", exit_code=2)


@pytest.mark.parametrize("name", sorted(all_commands()))
def test_every_command_has_help_with_an_example(name):
    result = call(*name.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout and f"alexstream {name}" in result.stdout


@pytest.mark.parametrize("name", ["train", "shard"])
def test_long_help_is_in_groups_that_hold_every_option_once(name):
    helped = call(name, "--help").stdout
    headings = re.findall(r"^([A-Z][^:\n]*):$", helped, re.MULTILINE)
    assert headings[-1] == "Other options" and len(headings) >= 6
    option = re.compile(r"^  (?:-h, )?(--[a-z-]+)", re.MULTILINE)  # click keeps the help option of the first caller
    named = [max(one.opts, key=len) for one in all_commands()[name].params if isinstance(one, click.Option)]
    assert sorted(option.findall(helped)) == sorted([*named, "--help"])
    assert option.findall(helped.split("\nOther options:")[1]) == ["--config", "--help"]


@pytest.mark.parametrize("name", sorted(all_commands()))
def test_every_option_is_explained(name):
    for option in all_commands()[name].params:
        if isinstance(option, click.Option):
            assert option.help or option.show_default, f"{name} {option.opts}"


def test_a_mistyped_command_option_choice_or_path_gets_what_may_be_meant(tmp_path):
    assert "did you mean 'train'?" in error_of("trian", exit_code=2)
    assert "did you mean 'overlap'?" in error_of("bench", "overlpa", exit_code=2)
    assert "--batch-size" in error_of("train", "--batch-siz", 8, exit_code=2)
    assert "'paper', 'original'" in error_of("train", "--data", tmp_path, "--recipe", "papr", exit_code=2)
    (tmp_path / "photos").mkdir()
    (tmp_path / "shards").mkdir()
    assert "did you mean 'photos'?" in error_of("shard", "--src", tmp_path / "photso", "--out", tmp_path / "out")
    assert "did you mean 'shards'?" in error_of("train", "--data", tmp_path / "shard")


def test_verify_tells_a_machine(sample_shards, tmp_path):
    shutil.copytree(sample_shards / "val", tmp_path / "val")
    assert json.loads(call("verify", tmp_path / "val", "--fast", "--json").stdout)["intact"]
    (tmp_path / "val" / layout.MEAN).unlink()
    result = call("verify", tmp_path / "val", "--fast", "--json")
    assert result.exit_code == 1 and layout.MEAN in json.loads(result.stdout)["findings"][0]["problem"]


def test_a_caller_in_its_own_process_gets_its_signals_back():
    """As a notebook, which goes on after the command."""
    before, heard = signal.getsignal(signal.SIGTERM), []
    signal.signal(signal.SIGTERM, lambda *_: heard.append("the caller"))
    try:
        mine = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        for words in (["--version"], ["no-such-command"]):
            with suppress(SystemExit):
                main(words)
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == mine
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["the caller"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_in_a_thread_leaves_signals_alone():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(main, ["--version"]).result()


@pytest.mark.parametrize(
    ("started", "name", "said"),
    [
        (ROOT / "cli.py", "python cli.py", "python cli.py info shards/ and torchrun -- cli.py train in cli.py"),
        ("/usr/bin/alexstream", "alexstream", "alexstream info shards/ and torchrun -m alexstream train in cli.py"),
        (
            ROOT / "alexstream" / "__main__.py",
            "python -m alexstream",
            "python -m alexstream info shards/ and torchrun -m alexstream train in cli.py",
        ),
        ("/home/me/cli.py", "alexstream", "alexstream info shards/ and torchrun -m alexstream train in cli.py"),
        ("", "alexstream", "alexstream info shards/ and torchrun -m alexstream train in cli.py"),
    ],
)
def test_commands_in_texts_are_those_of_the_program_that_was_started(monkeypatch, tmp_path, started, name, said):
    """In help, and in the advice of errors, also for a program of the user's that is called like ours."""
    monkeypatch.setattr(sys, "argv", [str(started)])
    assert group.name_program("cli.py info shards/ and torchrun -- cli.py train in cli.py") == said
    for command in main.commands.values():
        helped = command.get_help(click.Context(command, info_name=command.name))
        assert ("cli.py" in helped) is (name == "python cli.py" and "Example" in helped), helped
    with pytest.raises(CheckpointError, match=f"train one with: {name} train DATA --run RUN"):
        load_checkpoint(tmp_path)
