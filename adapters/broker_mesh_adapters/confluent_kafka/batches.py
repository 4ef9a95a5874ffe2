"""A batch of messages, produced one by one: librdkafka's call for whole batches carries no headers.

On the way of a message: between a program's `produce_batch()` and `produce()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from pydantic import BaseModel

from broker_mesh.errors import MeshError
from broker_mesh_adapters.confluent_kafka.sending import Callback

_VALUES = (bytes, str, BaseModel, Mapping, type(None))
_KEYS = (bytes, str, type(None))


def produce_each(
    produce: Callable[..., None],
    topic: str,
    messages: list[dict[str, Any]],
    partition: int,
    callback: Callback | None,
) -> int:
    """Produce messages of one topic, and note in each one's dict why it was not taken.

    Args:
        produce: a wrapped producer's.
        topic: of all.
        messages: dicts of `value`, `key`, `partition`, `callback`, `timestamp` and `headers`, all optional.
        partition: of those that name none.
        callback: of those that have none.

    Returns:
        How many were taken.

    Raises:
        TypeError: a message is of the wrong shape; none was produced.
    """
    _check(messages)
    taken = 0
    for message in messages:
        try:
            produce(
                topic,
                message.get("value"),
                message.get("key"),
                message.get("partition", partition),
                message.get("callback", callback),
                timestamp=message.get("timestamp", 0),
                headers=message.get("headers"),
            )
        except BufferError:
            message["_error"] = KafkaError(KafkaError._QUEUE_FULL, "Message failed: Local: Queue full")
        except KafkaException as error:
            message["_error"] = error.args[0]
        except MeshError as error:
            message["_error"] = error
        else:
            taken += 1
    return taken


def _check(messages: Any) -> None:
    if not isinstance(messages, list):
        raise TypeError("messages must be a list")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise TypeError(f"Message at index {index} must be a dict")
        if not isinstance(message.get("value"), _VALUES):
            raise TypeError(f"Message value at index {index} must be bytes or str")
        if not isinstance(message.get("key"), _KEYS):
            raise TypeError(f"Message key at index {index} must be bytes or str")
        if not isinstance(message.get("partition", -1), int):
            raise TypeError(f"Message partition at index {index} must be int")
