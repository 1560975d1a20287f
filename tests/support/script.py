"""Run a script as a fork of a process that has loaded torch: ``run([path, *words], main="tests.support.script")``."""

import runpy
import sys


def main(prog_name):
    """Be the script whose path and words are the arguments; ``prog_name`` is what commands are given, and unused."""
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
