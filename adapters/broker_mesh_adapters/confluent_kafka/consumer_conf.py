"""What a wrapped consumer's configuration says, and how its client is configured so that the mesh can keep its promise.

On the way of a message: nowhere; read once, when the consumer is made. All of librdkafka's properties pass through but
one: offsets are stored by the mesh (`enable.auto.offset.store`), once a message is settled, and the client commits what
is stored as the program has asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from broker_mesh.errors import SettingsError

_TRUE = frozenset({"true", "t", "1"})


class ConsumerConf(NamedTuple):
    """What the mesh needs to know of a consumer's configuration.

    Args:
        group: its consumer group.
        client_id: its `client.id`.
        commits_itself: the client commits stored offsets at intervals, on revocation and on close.
        program_stores: the program says with `store_offsets` what may be committed.
        incremental: rebalances add and remove partitions, instead of replacing all.
    """

    group: str | None
    client_id: str
    commits_itself: bool
    program_stores: bool
    incremental: bool


def read(conf: Mapping[str, Any]) -> ConsumerConf:
    """Read a program's configuration.

    Raises:
        SettingsError: it asks for what the mesh can't give.
    """
    level = conf.get("isolation.level", "read_committed")
    if level != "read_committed":
        raise SettingsError(
            f"isolation.level is {level!r}: a wrapped consumer reads committed records alone, since the mesh sends in "
            "transactions that may be undone; leave it out"
        )
    return ConsumerConf(
        group=conf.get("group.id"),
        client_id=str(conf.get("client.id", "")),
        commits_itself=_is_true(conf.get("enable.auto.commit", True)),
        program_stores=not _is_true(conf.get("enable.auto.offset.store", True)),
        incremental=(
            str(conf.get("group.protocol", "classic")).lower() == "consumer"
            or "cooperative" in str(conf.get("partition.assignment.strategy", ""))
        ),
    )


def check_wrapped(conf: ConsumerConf) -> None:
    """Refuse to wrap a finished client that would commit what is not settled.

    Raises:
        SettingsError: it stores offsets by itself and commits them.
    """
    if conf.commits_itself and not conf.program_stores:
        raise SettingsError(
            "this consumer commits what it has given out before it is settled, and a finished client can't be "
            "changed: make it with enable.auto.offset.store=False, or make a Consumer(conf, mesh=mesh) instead"
        )


def _is_true(value: Any) -> bool:
    return str(value).lower() in _TRUE
