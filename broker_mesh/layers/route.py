"""Routing: which topic and key a message goes to, and that the topic exists before anything is produced.

On the way of a message: outbound, after the body is known to be good. A wrong name is NOT_FOUND at once,
while a stopped service is only latency: its topic is there.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from broker_mesh.errors import InvalidArgument
from broker_mesh.layer import Layer, R, Step
from broker_mesh.message import Message


def key_of(body: Any, field: str | None) -> bytes | None:
    """Read a message's key from its body.

    Args:
        body: a model or a mapping.
        field: the key field; None for no key.

    Returns:
        The value's text in UTF-8 (bytes as they are), so that other clients find the same partition; None
        when there is no key field or its value is None.

    Raises:
        InvalidArgument: a mapping does not have the field, or the value's type has no one text form.
    """
    if field is None:
        return None
    if isinstance(body, Mapping) and field not in body:
        raise InvalidArgument(f"the body has no key field {field!r}: give it a value, or None for no key")
    value = body[field] if isinstance(body, Mapping) else getattr(body, field)
    if isinstance(value, bytes):
        return value
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int | uuid.UUID) and not isinstance(value, bool):
        return str(value).encode()
    raise InvalidArgument(
        f"key field {field!r} is a {type(value).__name__}: use a string, integer, UUID or bytes"
    )


def record_key(message: Message, field: str | None) -> bytes | None:
    """Decide a message's record key: its key field's, else its idempotency key.

    All requests of one idempotency key have to reach one partition: there the first of them is known. With a key field
    a repeat, which has the same body, has the same key anyway.

    Args:
        message: with its body.
        field: the key field; None for no key.

    Raises:
        InvalidArgument: as `key_of`.
    """
    key = key_of(message.body, field)
    if key is None and message.envelope.idempotency_key is not None:
        return message.envelope.idempotency_key.encode()
    return key


def layer(
    key_field_of: Callable[[Message], str | None],
    ensure_topic: Callable[[str], Awaitable[None]],
) -> Layer[R]:
    """Make the outbound layer.

    Args:
        key_field_of: tells the field that keys a message.
        ensure_topic: returns when the topic exists, from a cache where it can; raises `NotFound` otherwise.
    """

    def around(rest: Step[R]) -> Step[R]:
        async def step(message: Message) -> R:
            await ensure_topic(message.topic)
            return await rest(message._replace(key=record_key(message, key_field_of(message))))

        return step

    return Layer("route", around)


def existing(ensure_topic: Callable[[str], Awaitable[None]]) -> Layer[R]:
    """Make the layer for messages whose topic somebody else has named: a reply's address.

    Args:
        ensure_topic: returns when the topic exists; raises `NotFound` at once otherwise, where the producer
            would wait half a minute for it to appear.
    """

    def around(rest: Step[R]) -> Step[R]:
        async def step(message: Message) -> R:
            await ensure_topic(message.topic)
            return await rest(message)

        return step

    return Layer("route", around)
