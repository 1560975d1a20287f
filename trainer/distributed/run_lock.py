"""Lock of a run folder: one training at a time may write to it, until the last process of that training has ended.

The lock (``flock``) is on the folder itself and leaves nothing to clean up. Spawned ranks inherit a duplicate of its
descriptor, so that the folder stays locked while any of them lives, even if the launcher was killed.
"""

from __future__ import annotations

import os
from multiprocessing import reduction
from pathlib import Path
from types import TracebackType
from typing import Any

from alexstream.core.locks import try_lock
from alexstream.trainer.errors import TrainError


class RunLock:
    """A lock on a folder, released by ``close``; ``descriptor`` -1 is no lock. Can be passed to a spawned process.

    The process that receives it need not use it: the duplicated descriptor alone keeps the folder locked.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> RunLock:
        """Lock an existing folder. Raises TrainError if another training has locked it."""
        descriptor = os.open(folder, os.O_RDONLY)
        if not try_lock(descriptor):
            os.close(descriptor)
            raise TrainError(
                f"`folder` {folder} is in use by another training; wait for it, stop it, or give another folder"
            )
        return cls(descriptor)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (RunLock, ()) if self._descriptor < 0 else (_rebuild_lock, (reduction.DupFd(self._descriptor),))

    def close(self) -> None:
        """Release the lock in this process; processes that inherited it still hold it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _rebuild_lock(duplicate: Any) -> RunLock:
    return RunLock(duplicate.detach())
