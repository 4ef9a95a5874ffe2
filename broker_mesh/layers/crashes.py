"""Crashes: a record that ends its process each time it is handled becomes a dead letter without being handled again.

On the way of a message: inbound, before anything looks at the body. A handler that takes the interpreter down raises
nothing that `settle.py` could count: the next owner of the partition tells from what was committed which record it was
(`suspicion.py`), and that one of its attempts is used up. When all are, it must not run once more; but one end may have
come from outside (a deployment's SIGKILL, a machine that went away) while the record happened to run.
"""

from __future__ import annotations

from collections.abc import Callable

from broker_mesh.errors import InternalError
from broker_mesh.layer import Layer, R, check
from broker_mesh.message import Message

ENDS_TO_REFUSE = 2
"""So many attempts must have ended with their process, however few the policy allows."""


def refuse_deadly(message: Message, attempts: int) -> Message:
    """Let a message pass unless its attempts are used up, and more than one of them ended with its process.

    Args:
        message: with the number of the attempt that is about to begin.
        attempts: how many the operation's policy allows.

    Raises:
        InternalError: it is so; not retriable, so that the record is kept and its caller answered.
    """
    made = message.envelope.attempt - 1
    if message.died >= ENDS_TO_REFUSE and made >= attempts:
        raise InternalError(
            f"{message.operation}: the process of the service ended while it handled this record and nothing else of "
            f"its partition, more than once, and all {made} attempts are used up; look into the service's logs and the "
            "kernel's for what ended it (a segfault, no memory, a kill), then replay the record",
            details={"attempts": made, "ended_process": True},
        )
    return message


def layer(attempts_of: Callable[[Message], int]) -> Layer[R]:
    """Make the inbound layer; `attempts_of` tells how many attempts a message's operation allows."""
    return check("crashes", lambda message: refuse_deadly(message, attempts_of(message)))
