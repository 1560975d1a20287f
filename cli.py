"""Run the command line from a checkout: ``python cli.py ...`` is ``alexstream ...``."""

import sys

from alexstream.commands.main import main

if __name__ == "__main__":
    sys.exit(main(prog_name="cli.py"))
