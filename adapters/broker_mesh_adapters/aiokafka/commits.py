"""What a wrapped consumer may commit, and where it stands for the program: pure bookkeeping of one assignment.

On the way of a message: at its end. Never passes what is unsettled; a retry's offset in its retry topic goes with the
program's own, who sees only the first record's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.errors import IllegalStateError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from aiokafka.util import commit_structure_validate

from broker_mesh.adapter import Delivery, Intake
from broker_mesh_adapters.aiokafka.messages import Place, place_of

Partition = tuple[str, int]
Offsets = dict[TopicPartition, OffsetAndMetadata]

_PARKED_KEPT = 10_000


class Commits:
    """The offsets of one wrapped consumer.

    Args:
        intake: knows what is settled.
        is_retry: tells whether a topic is a retry topic of this consumer.
        assigned: tells the partitions that are assigned.
    """

    def __init__(
        self,
        intake: Intake,
        is_retry: Callable[[str], bool],
        assigned: Callable[[], Iterable[TopicPartition]],
    ) -> None:
        self._intake = intake
        self._is_retry = is_retry
        self._assigned = assigned
        self._starts: dict[Partition, int] = {}  # where reading began
        self._settled: dict[Partition, int] = {}  # the end of the settled prefix, where there is one
        self._committed: dict[Partition, int] = {}
        self._held_back: dict[Partition, int] = {}  # what the program has committed, and was not settled yet
        self._held_back_of_transactions: dict[Partition, int] = {}
        self._parked: dict[
            Place, Delivery
        ] = {}  # retries from the retry topic, by their first record's place

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────

    def began(self, partition: Partition, offset: int) -> None:
        """Note where reading a partition begins; the first word counts."""
        self._starts.setdefault(partition, offset)

    def gave(self, delivery: Delivery) -> None:
        """Note that the program was given a message."""
        place = place_of(delivery)
        if delivery.record.topic == delivery.topic:
            self._parked.pop(place, None)
            return
        self._parked[place] = delivery
        if len(self._parked) > _PARKED_KEPT:
            del self._parked[next(iter(self._parked))]

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Begin partitions anew: they are assigned, revoked or sought."""
        for partition in partitions:
            for facts in (
                self._starts,
                self._settled,
                self._committed,
                self._held_back,
                self._held_back_of_transactions,
            ):
                facts.pop(partition, None)

    def wrote(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Note that Kafka has some offsets."""
        for partition, (offset, _) in offsets.items():
            self._committed[partition] = offset
            if self._held_back.get(partition, offset + 1) <= offset:
                del self._held_back[partition]

    def position(self, partition: Partition) -> int | None:
        """Tell the offset that the program is given next, as far as it is known here."""
        given = self._intake.positions().get(partition)
        return self._starts.get(partition) if given is None else given

    # ── what to commit ────────────────────────────────────────────────────────────────────────────────────

    def settled(self) -> Offsets:
        """Give what is settled and not committed yet; of untouched partitions where reading began, so that it stays."""
        self._look()
        starts = {key: offset for key, offset in self._starts.items() if not self._is_retry(key[0])}
        return self._new({**starts, **self._settled})

    def overdue(self) -> Offsets:
        """Give what the program has committed before it was settled, as far as it is settled now."""
        self._look()
        return self._new(
            {
                key: min(asked, self._settled[key])
                for key, asked in self._held_back.items()
                if self._settled.get(key, -1) > self._committed.get(key, -1)
            }
        )

    def all_given(self) -> Offsets:
        """Settle as done all that the program was given, and give what may be committed.

        Raises:
            FailedPrecondition: the program holds one of the messages.
        """
        wanted = {**self._starts, **self._intake.positions()}
        return self._allowed({key: OffsetAndMetadata(offset, "") for key, offset in wanted.items()})

    def asked(self, offsets: Mapping[Any, Any]) -> Offsets:
        """Settle as done what the program was given below some offsets, and give what may be committed.

        Raises:
            ValueError: the offsets are malformed.
            IllegalStateError: a partition is not assigned.
            FailedPrecondition: the program holds a message below.
        """
        wanted = self._without_parked(commit_structure_validate(offsets))
        assigned = self._assigned()
        for partition in wanted:
            if partition not in assigned:
                raise IllegalStateError(f"Partition {partition} is not assigned")
        return self._allowed(wanted) | self._retries()

    def asked_in_transaction(self, offsets: Mapping[Any, Any]) -> Offsets:
        """Give what a transaction may commit for offsets, of which some may be other consumers'.

        Raises:
            ValueError: the offsets are malformed.
            FailedPrecondition: the program holds a message below.
        """
        wanted = self._without_parked(commit_structure_validate(offsets))
        assigned = self._assigned()
        foreign = {key: offset for key, offset in wanted.items() if key not in assigned}
        own = {
            key: offset._replace(offset=max(offset.offset, self._held_back_of_transactions.pop(key, 0)))
            for key, offset in wanted.items()
            if key in assigned
        }
        return foreign | self._allowed(own, self._held_back_of_transactions) | self._retries()

    def _look(self) -> None:
        self._settled.update(self._intake.committable())

    def _new(self, offsets: Mapping[Partition, int]) -> Offsets:
        return {
            TopicPartition(*key): OffsetAndMetadata(offset, "")
            for key, offset in offsets.items()
            if self._committed.get(key) != offset
        }

    def _retries(self) -> Offsets:
        self._look()
        return self._new({key: offset for key, offset in self._settled.items() if self._is_retry(key[0])})

    def _without_parked(self, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> Offsets:
        """Settle retries that the program commits by their first record's place; its own partition is long past it."""
        rest: Offsets = {}
        for partition, offset in wanted.items():
            parked = self._parked.get(Place(partition.topic, partition.partition, offset.offset - 1))
            if parked is None:
                rest[partition] = offset
            else:
                record = parked.record
                self._intake.settle_up_to({(record.topic, record.partition): record.offset + 1})
        return rest

    def _allowed(
        self,
        wanted: Mapping[Partition, OffsetAndMetadata],
        held_back: dict[Partition, int] | None = None,
    ) -> Offsets:
        held_back = self._held_back if held_back is None else held_back
        allowed = self._intake.settle_up_to({(key[0], key[1]): each.offset for key, each in wanted.items()})
        offsets: Offsets = {}
        for key, offset in allowed.items():
            if offset < wanted[key].offset:
                held_back[key] = wanted[key].offset
                offsets[TopicPartition(*key)] = OffsetAndMetadata(offset, "")
            else:
                held_back.pop(key, None)
                offsets[TopicPartition(*key)] = wanted[key]
        return offsets
