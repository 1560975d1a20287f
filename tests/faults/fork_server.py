"""A command line that was loaded once and is forked for each trial: a conversion without the second of its start.

Reads a line of JSON for each command (``words``, ``environment``, ``folder`` for its output), answers with the
process's number and, when it has ended, its exit code; a signal is a negative one, as ``subprocess`` has it.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path


def main():
    """Load everything, by a small conversion; then do as told until there is no more."""
    from alexstream.commands.main import main as command_line
    from tests.faults.sources import draw

    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "src"), 2)
        words = ["shard", "--src", f"{folder}/src", "--out", f"{folder}/out", "--quiet"]
        command_line(words, standalone_mode=False)
    answer("ready")
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if child == 0:
            run(command_line, told)
        answer(child)
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def answer(word):
    """A line for the test."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def run(command_line, told):
    """The command, in a process group of its own; never returns."""
    os.setsid()
    for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        place = name if number == 0 else Path(told["folder"]) / name
        os.dup2(os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    # A test run that was started in the background may ignore Ctrl-C, and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(told["environment"])
    try:
        sys.exit(command_line(told["words"]))
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


if __name__ == "__main__":
    main()
