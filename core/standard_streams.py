"""Handle standard input, output and error that are closed, full, or no longer read by anyone."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO


@contextmanager
def guard_streams(*, log: bool = False) -> Iterator[None]:
    """Make failures of this process's standard output and error predictable, while the context lasts.

    Standard error carries progress: what cannot be written is dropped, never an error. Standard output raises OSError
    with its name, unless it is a ``log`` (see ``treat_output_as_log``). Closed descriptors 0 to 2 are opened to
    /dev/null, so that no file opened later becomes standard output. Streams already replaced by other code are left
    alone.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    with ExitStack() as stack:
        if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
            sys.stderr = _wrap_stream(sys.stderr, "standard error", is_log=True)
            stack.callback(_flush, sys.stderr)
        if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout = _wrap_stream(sys.stdout, "standard output", is_log=log)
            stack.callback(_flush, sys.stdout)
        try:
            yield
        finally:
            stack.close()
            sys.stdout, sys.stderr = before


def treat_output_as_log() -> None:
    """From now on drop what standard output does not take, with one note: the results are in files."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _GuardedStream):
        raw.is_log = True


class _GuardedStream(io.RawIOBase):
    """The raw stream below a text stream: passes writes on until the first one fails."""

    def __init__(self, raw: Any, name: str, is_log: bool) -> None:
        self._raw, self._name, self.is_log, self._is_lost = raw, name, is_log, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def write(self, data: Any) -> int:
        if self._is_lost:
            return len(data)
        try:
            while (written := self._raw.write(data)) is None:  # another program made the terminal non-blocking
                select.select([], [self._raw], [])
            return int(written)
        except OSError as error:
            self._is_lost = True  # so that Python's flush at exit does not fail again
            if not self.is_log:
                raise OSError(error.errno, error.strerror, self._name) from error
            if self._name != "standard error":
                note = f"note: {self._name} cannot be written ({error.strerror}); going on without it"
                print(note, file=sys.stderr, flush=True)  # noqa: T201
            return len(data)


def _wrap_stream(stream: io.TextIOWrapper, name: str, *, is_log: bool) -> TextIO:
    raw = getattr(stream.buffer, "raw", stream.buffer)  # under python -u there is no buffer in between
    # File names may hold undecodable bytes; print them as escapes.
    errors = "backslashreplace" if stream.errors == "strict" else stream.errors
    buffer = io.BufferedWriter(_GuardedStream(raw, name, is_log))
    return io.TextIOWrapper(buffer, stream.encoding, errors, line_buffering=stream.line_buffering)


def _flush(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        stream.flush()


def _open_closed_descriptors() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)
            if getattr(sys, name) is None:
                mode = "r" if number == 0 else "w"
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process
