"""The brokers' log files: their last lines, and what is written to them from now on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

_POLL_SECONDS = 0.2

Line = tuple[int, str]
"""The number of a broker, and a line of its log."""


def last_lines(files: Mapping[int, Path], count: int) -> Iterator[Line]:
    """The last lines of each log, broker by broker.

    Args:
        files: the log file of each broker, by its number.
        count: how many lines of each at most.
    """
    for broker, file in files.items():
        try:
            with file.open(errors="replace") as content:
                for line in deque(content, maxlen=count):
                    yield broker, line.rstrip("\n")
        except FileNotFoundError:  # never started so far as to write one
            continue


def follow(files: Mapping[int, Path]) -> Iterator[Line]:
    """Each line that is written from now on, without end; waits for files that are not there yet.

    Args:
        files: the log file of each broker, by its number.
    """
    positions = {broker: _size(file) for broker, file in files.items()}
    while True:
        for broker, file in files.items():
            if _size(file) < positions[broker]:  # a new file in the place of one that had grown too long
                positions[broker] = 0
            for line, end in _complete_lines(file, positions[broker]):
                positions[broker] = end
                yield broker, line
        time.sleep(_POLL_SECONDS)


def _complete_lines(file: Path, position: int) -> Iterator[tuple[str, int]]:
    """The lines from a position on, each with the position behind it; a line still being written is left for later."""
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
