"""Identity: who sent it, and that nobody is answered for another.

On the way of a message: inbound, before any rule that asks who the caller is. The source is asserted by the
sender; a reply address must belong to it.
"""

from __future__ import annotations

from broker_mesh import naming
from broker_mesh.errors import InvalidArgument, PermissionDenied
from broker_mesh.layer import Layer, R, check
from broker_mesh.message import Message


def refuse_foreign_reply_address(message: Message) -> Message:
    """Let a message pass unless it asks for its answer on a topic that is not its sender's.

    Raises:
        InvalidArgument: a reply is asked for, but the sender is not named.
        PermissionDenied: the reply address belongs to another service.
    """
    reply_to = message.envelope.reply_to
    if reply_to is None:
        return message
    source = message.envelope.source
    if not source:
        raise InvalidArgument(
            "header ce_source is missing: a request names the service that waits for its reply"
        )
    if reply_to.topic != naming.reply_topic(source):
        raise PermissionDenied(
            f"service {source!r} asks for its reply on {reply_to.topic!r}, which is not its own reply topic"
        )
    return message


def is_from(message: Message, service: str) -> bool:
    """Tell whether a reply comes from the service that was asked; others' are ignored."""
    return message.envelope.source == service


def layer() -> Layer[R]:
    """Make the inbound layer."""
    return check("identity", refuse_foreign_reply_address)
