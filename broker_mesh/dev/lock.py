"""Locks between processes, held on files: two commands take turns, and two Kafkas never work over the same data.

Such a lock belongs to the open file, not to the process that took it: it is held until the last process that inherited
the descriptor has closed it or ended, however it ended.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on a file, made when missing; the system frees it when the process ends, however it ends.

    Args:
        path: the lock file; it stays behind, empty, since deleting it would let two processes hold "the" lock.
        waiting: called once when another process holds the lock and this one is going to wait for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claim(path: Path) -> Iterator[int]:
    """Take an exclusive lock on a file, made when missing; who holds it may do so for days, so that nobody waits.

    Args:
        path: the lock file; it stays behind, empty.

    Yields:
        The descriptor that holds the lock. A process that is started with it inside the block keeps the lock beyond it.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file.fileno()
