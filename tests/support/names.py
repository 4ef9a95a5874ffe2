"""Names that no other test uses: tests share one broker."""

from __future__ import annotations

import itertools
import os

_counter = itertools.count(1)


def fresh(stem: str) -> str:
    """A service name of its own."""
    return f"{stem}-{os.getpid()}-{next(_counter)}"
