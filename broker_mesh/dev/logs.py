"""The brokers' log files: their last lines, and what is written to them from now on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

_POLL_SECONDS = 0.2

Line = tuple[int, str]
"""The number of a broker, and a line of its log."""


def read(files: Mapping[int, Path], last: int, *, follow: bool) -> Iterator[Line]:
    """The last lines of each log, broker by broker, and then, without end, each line that comes after them.

    Args:
        files: the log file of each broker, by its number; a file that is not there (yet) has no lines (yet).
        last: how many lines of each at most.
        follow: whether to wait for more.
    """
    positions = dict.fromkeys(files, 0)
    for broker, file in files.items():
        recent: deque[str] = deque(maxlen=last)
        for line, end in _complete_lines(file, 0):
            recent.append(line)
            positions[broker] = end
        yield from ((broker, line) for line in recent)
    while follow:
        for broker, file in files.items():
            if _size(file) < positions[broker]:  # a new file in the place of one that had grown too long
                positions[broker] = 0
            for line, end in _complete_lines(file, positions[broker]):
                positions[broker] = end
                yield broker, line
        time.sleep(_POLL_SECONDS)


def _complete_lines(file: Path, position: int) -> Iterator[tuple[str, int]]:
    """The lines from a position on, each with the position behind it; one that is still being written waits."""
    if _size(file) <= position:
        return
    with file.open("rb") as content:
        content.seek(position)
        for line in content:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            yield line[:-1].decode(errors="replace"), position


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
