"""Batches that a program fills itself: `create_batch()`, whose messages go through the layers with `send_batch()`.

On the way of a message: before `producer.py` prepares it. A batch learns its topic only when it is sent, and what the
mesh adds depends on the topic; so the messages are kept here, and room for the mesh's headers is reserved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import MessageSizeTooLargeError

from broker_mesh.adapter import Outgoing, RawHeaders
from broker_mesh.errors import InvalidArgument

# Stands for what the mesh writes on a message of a producer: an id, source, type, time and trace, 330 bytes as a rule.
_RESERVED: RawHeaders = [("mesh", b"\0" * 600)]

Serialize = Callable[[Any, Any], tuple[bytes | None, Any]]


class Appended(NamedTuple):
    """One message of a batch; its timestamp is epoch ms, or None for now."""

    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Batch:
    """What aiokafka's `BatchBuilder` is to a plain producer.

    Args:
        measure: an empty builder of aiokafka's; it tells how much has room.
        serialize: applies the producer's serializers to a key and a value.
    """

    def __init__(self, measure: Any, serialize: Serialize) -> None:
        self._measure = measure
        self._serialize = serialize
        self.messages: list[Appended] = []

    def append(
        self, *, timestamp: int | None, key: Any, value: Any, headers: Sequence[tuple[str, bytes | None]] = ()
    ) -> Any:
        """Add a message.

        Args:
            timestamp: epoch ms; None for now.
            key, value: bytes, or what the producer's serializers take; not both None.
            headers: of the program.

        Returns:
            Facts of the message; None where the batch is full or closed.

        Raises:
            InvalidArgument: the value is no bytes after the serializer: a batch learns its topic only by `send_batch`,
                so that the mesh can't encode a model for it.
        """
        key_bytes, value_bytes = self._serialize(key, value)
        if not isinstance(value_bytes, bytes | None):
            raise InvalidArgument(
                f"a batch takes bytes, not {type(value_bytes).__name__}: it learns its topic, and with it the schema, "
                "only by send_batch(…); send models with send(…), or give the producer a value_serializer"
            )
        headers = list(headers or ())
        metadata = self._measure.append(
            timestamp=timestamp, key=key_bytes, value=value_bytes, headers=[*headers, *_RESERVED]
        )
        if metadata is not None:
            self.messages.append(Appended(timestamp, key_bytes, value_bytes, headers))
        return metadata

    def close(self) -> None:
        """Let nothing more be added."""
        self._measure.close()

    def closed(self) -> bool:
        """Tell whether nothing more can be added."""
        return bool(self._measure.closed())

    def size(self) -> int:
        """Tell the batch's size in bytes, with the room that is reserved for the mesh's headers."""
        return int(self._measure.size())

    def record_count(self) -> int:
        """Tell how many messages there are."""
        return len(self.messages)

    def build(self, builder: Any, prepared: Sequence[Outgoing]) -> Any:
        """Fill a builder of aiokafka's with the messages as they are to be produced.

        Raises:
            MessageSizeTooLargeError: the mesh's headers need more than is reserved: the trace's baggage is very long.
        """
        self.close()
        for appended, outgoing in zip(self.messages, prepared, strict=True):
            added = builder.append(
                timestamp=appended.timestamp,
                key=outgoing.key,
                value=outgoing.value,
                headers=outgoing.headers,
            )
            if added is None:
                raise MessageSizeTooLargeError(
                    f"the batch of {len(prepared)} messages has no room for the mesh's headers: put fewer in it, "
                    "or raise the producer's max_batch_size"
                )
        builder.close()
        return builder
