"""Who may write to a run folder: one training at a time, until the last of its processes has ended.

The lock is on the folder itself and needs no cleaning up. The ranks that a launcher starts inherit it, so that it is
held as long as one of them lives, whatever became of the launcher.
"""

from __future__ import annotations

import errno
import fcntl
import os
from multiprocessing import reduction
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.errors import TrainError


class Claim:
    """A folder that is held, or nothing (``descriptor`` -1). Can be sent to a process that is being spawned."""

    def __init__(self, descriptor: int = -1) -> None:
        """Hold what ``descriptor`` has locked."""
        self._descriptor = descriptor

    @classmethod
    def of(cls, folder: Path) -> Claim:
        """Hold a folder that exists. Raises TrainError if another training does."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise TrainError(
                    f"--run {folder} is in use by another training; wait for it, stop it, or give another folder"
                ) from None
            # Some network file systems know no locks; checkpoints are complete all the same.
        return cls(descriptor)

    def __enter__(self) -> Claim:
        """Held already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let go."""
        self.close()

    def __del__(self) -> None:
        """Let go."""
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that is being spawned: the same lock."""
        return (Claim, ()) if self._descriptor < 0 else (_arrived, (reduction.DupFd(self._descriptor),))

    def close(self) -> None:
        """Let go, as far as this process is concerned."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _arrived(duplicate: Any) -> Claim:
    return Claim(duplicate.detach())
