"""``python -m alexstream`` is ``alexstream``."""

import sys

from alexstream.commands.main import main
from alexstream.core.program import program_name

if __name__ == "__main__":
    sys.exit(main(prog_name=program_name()))
