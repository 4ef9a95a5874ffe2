"""The ledger of groups: where a group has ever committed, so that losing its offsets is noticed.

On the way of a message: before it. Kafka drops offsets that were not committed anew for `offsets.retention.minutes`
(7 days by default) once their group is empty, each partition's by itself, while requests are kept 30 days. To a
consumer such a partition looks new: it would run all of its past again. The ledger is a compacted topic that remembers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from broker_mesh.errors import DataLoss
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.settings import Settings

Partition: TypeAlias = tuple[str, int]

LEDGER_TOPIC = "_mesh.groups"


class Held(NamedTuple):
    """What a partition holds.

    Args:
        topic_id: of its topic; one that was deleted and made anew has another (KIP-516).
        first: offset of the first record that is kept.
        end: offset that the next record gets.
    """

    topic_id: str
    first: int
    end: int


class GroupLedger:
    """The ledger, as one group sees it. Blocking.

    Args:
        settings: with `bootstrap_servers` set.
        group: the consumer group.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, group: str, *, client_id: str) -> None:
        self._group = group
        self._table = CompactedTable(settings, LEDGER_TOPIC, client_id=client_id, create=True)

    def entries(self) -> dict[Partition, str]:
        """Read on which partitions the group has committed before, each with the id its topic had then.

        Raises:
            MeshError: Kafka can't be asked.
        """
        self._table.read_to_end()
        found = {}
        for key, topic_id in self._table.items.items():
            group, topic, partition = key.decode().split("/")
            if group == self._group:
                found[topic, int(partition)] = topic_id.decode()
        return found

    def key(self, partition: Partition) -> bytes:
        """Give the key under which it stands that the group has committed on a partition; the value is the topic id."""
        topic, number = partition
        return f"{self._group}/{topic}/{number}".encode()


def refuse_lost_offsets(
    group: str,
    entries: Mapping[Partition, str],
    committed: Collection[Partition],
    held: Mapping[Partition, Held],
) -> None:
    """Let a group start unless it has worked on a partition before and Kafka no longer knows how far.

    Args:
        group: the consumer group.
        entries: partitions on which it has committed, by the ledger, with the ids of their topics.
        committed: partitions for which Kafka has an offset of the group.
        held: what the partitions that the group is about to read hold.

    Raises:
        DataLoss: there is one whose position is lost and that holds records; the sentence says how to choose where
            to go on.
    """
    for partition in sorted(held):
        holds = held[partition]
        known = entries.get(partition) == holds.topic_id
        if known and partition not in committed and holds.end > holds.first:
            topic, number = partition
            raise DataLoss(
                f"Kafka has dropped the offset of group {group!r} on {topic} partition {number}: "
                "offsets.retention.minutes of the brokers is shorter than it was idle; say where to go on with 'mesh "
                f"topics reset-offsets {topic} --group {group} --to earliest' (handles again what is kept) or "
                "'--to latest' (skips it)"
            )
