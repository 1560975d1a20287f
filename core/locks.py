"""Locks on open files and folders by ``flock``, which the kernel releases when the last process that holds one ends."""

from __future__ import annotations

import errno
import fcntl


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes, without waiting; False if another one holds the lock.

    True as well on a network file system that has no locks: whatever is published there is complete all the same.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
