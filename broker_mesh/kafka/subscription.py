"""A consumer's subscription: made at its start, and anew where the group and this member have lost sight of each other.

On the way of a message: before it, on the consumer's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from broker_mesh.kafka.positions import Partition

logger = logging.getLogger(__name__)

Rebalanced = Callable[[Consumer, list[TopicPartition]], Any]


class Subscription:
    """What a consumer subscribes to; all but `renew` is called on its thread.

    Args:
        topics: what to subscribe to.
        on_assign: called with what comes to this member.
        on_revoke: called with what it has to give up.
        on_lost: called with what it has lost already.
    """

    def __init__(
        self, topics: Sequence[str], on_assign: Rebalanced, on_revoke: Rebalanced, on_lost: Rebalanced
    ) -> None:
        self._topics = list(topics)
        self._callbacks = {"on_assign": on_assign, "on_revoke": on_revoke, "on_lost": on_lost}
        self._subscribed = False
        self._doubted: frozenset[Partition] | None = None

    def renew(self, own: Collection[Partition]) -> None:
        """Have this member leave the group and join it again, soon; from any thread.

        Args:
            own: what it had when it was found to be out of step; where that has changed meanwhile, it stays.
        """
        self._doubted = frozenset(own)

    def keep(self, consumer: Consumer, assigned: Mapping[Partition, int]) -> None:
        """Subscribe where it is time to, or leave where that was asked for; called between two polls.

        Args:
            consumer: of the group.
            assigned: what it has; given up in order when it leaves, before it joins again.
        """
        if not self._subscribed:
            if not assigned:
                consumer.subscribe(self._topics, **self._callbacks)
                self._subscribed = True
            return
        doubted, self._doubted = self._doubted, None
        if doubted is not None and doubted == assigned.keys():
            logger.warning("leaving the group to join it again: it has another idea of what is assigned here")
            consumer.unsubscribe()
            self._subscribed = False
