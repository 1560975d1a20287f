"""Count which files this process opens."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

_listening = []
_installed = []


def _note(event, args):
    if event == "open" and _listening and isinstance(args[0], str | bytes | os.PathLike):
        _listening[-1].append(Path(os.fsdecode(args[0])))


@contextmanager
def opened_files():
    """Yield a list that receives the path of every file that is opened in the body, once for each opening."""
    if _note not in _installed:  # an audit hook stays for the life of the process
        _installed.append(_note)
        sys.addaudithook(_note)
    _listening.append([])
    try:
        yield _listening[-1]
    finally:
        _listening.pop()
