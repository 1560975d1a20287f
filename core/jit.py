"""numba's ``njit`` for all stages, and a cache folder for its machine code.

numba caches beside the source or in the user's cache folder, and refuses to compile where it can write to neither: an
installation of another user, without a home, as in containers. There it gets a folder that lives as long as this
process and is shared with its children. A longer-lived one would need a name that others can guess.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from numba import config
from numba import njit as njit


def _set_up_cache() -> bool:
    """Set up a cache folder; return whether it outlives this process."""
    # expanduser leaves "~" where neither HOME nor a user entry exists; _may_write refuses it.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if config.CACHE_DIR or _is_writable(Path(__file__).parent / "__pycache__") or _is_writable(cache / "numba"):
        # The configured folder may be a parent process's temporary one, which ends with that process.
        return not config.CACHE_DIR.startswith(os.path.join(tempfile.gettempdir(), "alexstream-"))
    folder = tempfile.mkdtemp(prefix="alexstream-")
    os.environ["NUMBA_CACHE_DIR"] = config.CACHE_DIR = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return False


def _is_writable(folder: Path) -> bool:
    if folder.parts[0] == "~":
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


IS_PERSISTENT = _set_up_cache()
