"""numba's ``njit``, for all stages, and a place for the machine code that it keeps.

numba keeps it beside the source or in the user's cache folder, and refuses to compile where it may write to neither:
an installation of another user's, without a home, as containers have them. There it goes to a folder that lives as long
as this process; those that it starts share it. One that outlived it would need a name that others can guess.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from numba import config
from numba import njit as njit


def _provide() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if config.CACHE_DIR or _may_write(Path(__file__).parent / "__pycache__") or _may_write(cache / "numba"):
        return
    folder = tempfile.mkdtemp(prefix="alexstream-")
    os.environ["NUMBA_CACHE_DIR"] = config.CACHE_DIR = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _may_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


_provide()
