"""confluent_kafka's DeserializingConsumer behind the mesh: its deserializers run on checked messages.

On the way of a message: after `consumer.py`, before the program.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import confluent_kafka

from broker_mesh import Mesh, Retry
from broker_mesh.adapter import Declaration
from broker_mesh_adapters.confluent_kafka import conf as client_conf
from broker_mesh_adapters.confluent_kafka.consumer import Consumer

K = TypeVar("K")
V = TypeVar("V")


class _Inner(Consumer):
    """What confluent_kafka's class takes for the plain consumer below it."""

    _options: dict[str, Any]

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__(conf, **self._options)


class DeserializingConsumer(confluent_kafka.DeserializingConsumer[K, V], _Inner):  # type: ignore[misc]
    """A `Consumer` with `key.deserializer` and `value.deserializer`; `poll` gives what these make of key and value.

    What can't be deserialized raises as ever; the message is `error.kafka_message`, and done once the program polls on.

    Args:
        conf: properties and deserializers, as for `confluent_kafka.DeserializingConsumer`.
        mesh, ordering, retry, declared: as for `Consumer`.

    Raises:
        SettingsError: an option or property can't be had behind a mesh.
        Unavailable: Kafka can't be reached, or the access rules can't be read.
    """

    def __init__(
        self,
        *args: Any,
        mesh: Mesh,
        ordering: Literal["key", "partition", "none"] = "key",
        retry: Retry | None = None,
        declared: Iterable[Declaration] = (),
        **named: Any,
    ) -> None:
        self._options = {"mesh": mesh, "ordering": ordering, "retry": retry, "declared": declared}
        super().__init__(client_conf.given(args, named))
