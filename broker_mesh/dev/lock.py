"""A lock between processes, held on a file: two commands at once take turns instead of breaking each other's work."""

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
