"""Processes that another one starts: no SIGINT before they expect it, and no life after the one that started them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_POLL_S = 0.1


@contextmanager
def block_interrupts() -> Iterator[None]:
    """Block SIGINT; processes started meanwhile begin with it blocked, until they choose a handler."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_with_parent(parent: int) -> None:
    """End this process, from a thread of its own, as soon as process ``parent`` is no longer its parent.

    It must not write beside the next run, and nobody would read its results or stop it. Raises RuntimeError where no
    thread can be started.
    """

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()
