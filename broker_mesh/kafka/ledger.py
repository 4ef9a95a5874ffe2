"""The ledger of groups: on which topics a group has ever committed, so that losing its offsets is noticed.

On the way of a message: before it. Kafka drops the offsets of a group that had no member for
`offsets.retention.minutes` (7 days by default), while requests are kept 30 days. To a consumer such a group looks
new: it would run all of its past again. The ledger is a compacted topic that remembers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from broker_mesh.errors import DataLoss
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.settings import Settings

Partition: TypeAlias = tuple[str, int]

LEDGER_TOPIC = "_mesh.groups"


class GroupLedger:
    """The ledger, as one service sees it. Blocking.

    Args:
        settings: with `bootstrap_servers` set.
        group: the service's consumer group.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, group: str, *, client_id: str) -> None:
        self._group = group
        self._table = CompactedTable(settings, LEDGER_TOPIC, client_id=client_id, create=True)

    def topics(self) -> frozenset[str]:
        """Read on which topics the group has committed before.

        Raises:
            MeshError: Kafka can't be asked.
        """
        self._table.read_to_end()
        prefix = f"{self._group}/".encode()
        return frozenset(
            key.removeprefix(prefix).decode() for key in self._table.items if key.startswith(prefix)
        )

    def key(self, topic: str) -> bytes:
        """Give the key under which it stands that the group has committed on a topic; the value is `b"1"`."""
        return f"{self._group}/{topic}".encode()


def refuse_lost_offsets(
    group: str, known: Iterable[str], committed: Collection[Partition], ends: Mapping[Partition, int]
) -> None:
    """Let a group start unless it has worked on a topic before and Kafka no longer knows how far.

    Args:
        group: the consumer group.
        known: topics on which it has committed, by the ledger.
        committed: partitions for which Kafka has an offset of the group.
        ends: of the partitions of those topics, the offset of the next record.

    Raises:
        DataLoss: it has; the sentence says how to choose where to go on.
    """
    kept = {topic for topic, _ in committed}
    for topic in sorted(known):
        holds_records = any(end > 0 for (name, _), end in ends.items() if name == topic)
        if topic not in kept and holds_records:
            raise DataLoss(
                f"Kafka has dropped the offsets of group {group!r} on {topic} (offsets.retention.minutes of the "
                "brokers is shorter than the service was away); say where to go on with 'mesh topics reset-offsets "
                f"{topic} --group {group} --to earliest' (handles again what is kept) or '--to latest' (skips it)"
            )
