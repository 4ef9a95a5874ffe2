"""Whether a group has members that read retries in another way, so that each retry is read by two.

On the way of a message: beside it. Wrapped consumers of confluent_kafka read retries beside their partitions; native
services, and other clients' wrappers, subscribe to them. Kafka lets both into one group; its description tells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from broker_mesh.adapter import Connection, Reception
from broker_mesh.errors import MeshError

logger = logging.getLogger(__name__)

_SETTLED_SECONDS = 5.0  # until then, members may have no assignment yet


class Mixing:
    """Looks at the group after each rebalance, and warns once.

    Args:
        connection: the mesh's.
        reception: knows the group and its topics of retries.
    """

    def __init__(self, connection: Connection, reception: Reception) -> None:
        self._connection = connection
        self._reception = reception
        self._look_at: float | None = None
        self._has_warned = False

    def rebalanced(self) -> None:
        """Note that members have come or gone."""
        if not self._has_warned:
            self._look_at = time.monotonic() + _SETTLED_SECONDS

    def keep_up(self, topics: Collection[str]) -> None:
        """Look where it is time, in the background; called as the program polls.

        Args:
            topics: those of the program, whose retries are read.
        """
        if self._look_at is not None and time.monotonic() >= self._look_at:
            self._look_at = None
            self._connection.run(self._look(set(topics)))

    async def _look(self, topics: set[str]) -> None:
        try:
            others = await self._reception.subscribed_to_retries(topics)
        except MeshError as error:
            logger.debug("whether the group is mixed can't be told now: %s", error)
            return
        if others and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "group %r has members that are not wrapped by this kind of client (%s): they subscribe to the retries "
                "that this consumer reads as well, so each is handled twice; give them a group of their own",
                self._reception.group,
                ", ".join(others),
            )
