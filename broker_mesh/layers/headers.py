"""Headers: a record whose mesh headers are malformed is refused, not guessed at.

On the way of a message: inbound, the first check inside settlement, so that the refusal is answered as far as
the readable headers allow and the record is kept with its bytes.
"""

from __future__ import annotations

from broker_mesh.layer import Layer, R, check
from broker_mesh.message import Message


def refuse_malformed(message: Message) -> Message:
    """Let a message pass unless reading its headers met a problem.

    Raises:
        InvalidArgument: it did; the sentence names the header.
    """
    if message.fault is not None:
        raise message.fault
    return message


def layer() -> Layer[R]:
    """Make the inbound layer."""
    return check("headers", refuse_malformed)
