"""`mesh` that kills itself with SIGKILL once a step of a growth is done: `python -m tests.support.growing STEP …`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from broker_mesh.cli import execute
from broker_mesh.control.growing import Growing

STEPS = ("record", "add", "settle", "draw")


def die_after(step: str) -> None:
    """Have this process kill itself right after a step."""
    original = getattr(Growing, step)

    async def patched(*args: Any, **kwargs: Any) -> None:
        await original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Growing, step, patched)


if __name__ == "__main__":
    die_after(sys.argv[1])
    sys.exit(execute(sys.argv[2:]))
