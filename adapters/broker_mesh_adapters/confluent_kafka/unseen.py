"""What a wrapped consumer has ready and the program has not got: no commit of the program's speaks of it.

On the way of a message: from when the mesh hands it over until `poll` or `consume` returns. Meanwhile the client calls
the program's callbacks, which may commit all that was given, and a callback or a signal may end the call: then the
messages stay here for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from confluent_kafka import Message as PlainMessage

from broker_mesh.adapter import State
from broker_mesh.errors import Aborted, FailedPrecondition
from broker_mesh_adapters.confluent_kafka.message import Message
from broker_mesh_adapters.confluent_kafka.places import Partition


class Unseen:
    """The messages and error events that are ready, in the order in which they will be given."""

    def __init__(self) -> None:
        self._ready: list[PlainMessage] = []

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, message: PlainMessage) -> None:
        """Add one at the end."""
        self._ready.append(message)

    def put_back(self, messages: list[PlainMessage]) -> None:
        """Put those first that were taken and did not come to the program."""
        self._ready[:0] = messages

    def take(self, limit: int) -> list[PlainMessage]:
        """Take out the first, as many as are asked for, without those whose partition has gone meanwhile."""
        self._ready[:] = [each for each in self._ready if not _has_gone(each)]
        taken = self._ready[:limit]
        del self._ready[:limit]
        return taken

    def begins(self) -> dict[Partition, int]:
        """Tell of each partition the lowest offset that is here."""
        begins: dict[Partition, int] = {}
        for message in self._ready:
            if isinstance(message, Message):
                record = message.delivery.record
                place = record.topic, record.partition
                begins[place] = min(record.offset, begins.get(place, record.offset))
        return begins

    def below(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        """Give offsets of partitions, lowered to where they cover nothing that is here."""
        begins = self.begins() if self._ready else {}
        return {place: min(offset, begins.get(place, offset)) for place, offset in offsets.items()}

    def hold(self) -> None:
        """Keep what is here from being done by the end of the program: it comes again."""
        for message in self._ready:
            if isinstance(message, Message):
                with suppress(Aborted, FailedPrecondition):  # it has gone
                    message.hold()


def _has_gone(message: PlainMessage) -> bool:
    return isinstance(message, Message) and message.delivery.state is State.GONE
