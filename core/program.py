"""The command by which this program is started, for advice that can be typed as it stands."""

from __future__ import annotations

import sys
from pathlib import Path

_BY_FILE = {"cli.py": "python cli.py", "__main__.py": "python -m alexstream"}


def program_name() -> str:
    """Return ``alexstream``, or ``python -m alexstream`` or, in a checkout, ``python cli.py`` if that was started.

    Programs that import the library are told what they have: ``alexstream``.
    """
    started = Path(sys.argv[0] if sys.argv else "")
    is_ours = started.resolve().parent in (_ROOT, _ROOT / "alexstream")
    return _BY_FILE.get(started.name, "alexstream") if is_ours else "alexstream"


_ROOT = Path(__file__).resolve().parents[1]  # of a checkout; of an installation, the package
