"""What a shell is told, asked as a shell asks."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT


def completed(words, position):
    """What bash would offer."""
    code = "from alexstream.commands.main import main; main(prog_name='alexstream')"
    asked = {"_ALEXSTREAM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    environment = os.environ | asked | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_choices():
    assert {"shard", "stats", "train"} <= set(completed("alexstream ", 1))
    assert "--batch-size" in completed("alexstream train --b", 2)
    assert set(completed("alexstream train --recipe ", 3)) == {"paper", "original"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_this_program(shell):
    words = [sys.executable, str(ROOT / "cli.py"), "completion", shell]
    script = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"_ALEXSTREAM_COMPLETE={shell}_complete" in script and "alexstream" in script
