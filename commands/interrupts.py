"""Signal handlers that end a command on Ctrl-C and SIGTERM, even while its main thread blocks in native code.

Python runs signal handlers in the main thread, between bytecodes: a library that waits there delays them forever.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

ANSWER_GRACE_S = 2.0  # Python handles a signal within this time, unless the main thread is blocked in a library
INTERRUPTED_MESSAGE = "interrupted; what was finished is kept"


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that it unwinds a command as Ctrl-C does."""


@contextmanager
def handle_interrupts(*, owns_process: bool) -> Iterator[None]:
    """Raise Terminated on SIGTERM while a command runs; restore the caller's handlers afterwards.

    With ``owns_process`` nothing else runs in this process, and it is ended if Python does not handle a signal within
    ``ANSWER_GRACE_S``. Does nothing outside the main thread, the only one in which Python can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answered = threading.Event()

    def terminate(*_: object) -> None:
        answered.set()
        raise Terminated

    def interrupt(number: int, frame: FrameType | None) -> None:
        answered.set()
        signal.default_int_handler(number, frame)

    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as under nohup
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        with _exit_if_unanswered(answered) if owns_process else nullcontext():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _exit_if_unanswered(answered: threading.Event) -> Iterator[None]:
    """End this process with a one-line message if Python has not handled a signal within ``ANSWER_GRACE_S``.

    The C handler writes a signal's number to the wakeup pipe at once, even while no Python code runs. A thread reads
    it there, which works because libraries that block release the GIL.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    with suppress(RuntimeError):  # no thread can be started: only Python's own handlers remain
        threading.Thread(
            target=_watch_signals, args=(reader, answered), name="alexstream-interrupts", daemon=True
        ).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch_signals(reader: int, answered: threading.Event) -> None:
    is_first = True
    while number := os.read(reader, 1):
        if is_first and number[0] in (signal.SIGINT, signal.SIGTERM):
            is_first = False
            if not answered.wait(ANSWER_GRACE_S):
                os.write(2, f"Error: {INTERRUPTED_MESSAGE}\n".encode())
                os._exit(128 + number[0])
    os.close(reader)
