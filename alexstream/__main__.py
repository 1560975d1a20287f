"""``python -m alexstream`` is ``alexstream``."""

import sys

from alexstream.commands.main import main

if __name__ == "__main__":
    sys.exit(main(prog_name="alexstream"))
