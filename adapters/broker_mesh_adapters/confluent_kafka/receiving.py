"""How a wrapped consumer's poll and consume come to their messages.

On the way of a message: between the client's own poll and the program's. What the program was given is settled as it
polls on; then what is ready is given, and only then the client is asked for more, no more than what is asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import KafkaError
from confluent_kafka import Message as PlainMessage

from broker_mesh.adapter import Intake, to_record
from broker_mesh_adapters.confluent_kafka.committing import Commits
from broker_mesh_adapters.confluent_kafka.message import Message
from broker_mesh_adapters.confluent_kafka.subscription import Subscription
from broker_mesh_adapters.confluent_kafka.unseen import Unseen

logger = logging.getLogger(__name__)

# Other threads may settle messages meanwhile, and nothing wakes a client that waits.
_SLICE_SECONDS = 0.1
# However much is ready: a client that is not polled for long (`max.poll.interval.ms`) leaves its group.
_POLL_SECONDS = 1.0
_QUIET = frozenset({KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})


class Receiving:
    """The polling of one wrapped consumer.

    Args:
        raw: the client.
        intake: what has been taken.
        subscription: which topics the program sees.
        commits: told of what is given out.
        unseen: what is ready and was not given yet.
        keep_up: does what is due meanwhile: offsets, pauses, retries to be started.

    Attributes:
        abandoned: set, from any thread, when nobody waits for what is being received any more: it ends soon then.
    """

    def __init__(
        self,
        raw: PlainConsumer,
        intake: Intake,
        subscription: Subscription,
        commits: Commits,
        unseen: Unseen,
        keep_up: Callable[[], None],
    ) -> None:
        self._raw = raw
        self._intake = intake
        self._subscription = subscription
        self._commits = commits
        self._unseen = unseen
        self._keep_up = keep_up
        self._polled_at = time.monotonic()
        self.abandoned = threading.Event()

    def receive(self, limit: int, timeout: float | None) -> list[PlainMessage]:
        """Give what the client and the mesh have for the program, error events among it.

        Args:
            limit: how many at most.
            timeout: seconds to wait for that many; None or below 0 to wait for ever.

        Raises:
            RuntimeError: the consumer is closed.
            MeshError: the mesh can't go on.
        """
        if kept := self._unseen.take(limit):  # a callback or a signal has ended the call before
            return kept
        self._intake.conclude()
        until = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        self._fill(limit, until)
        return self._unseen.take(limit)

    def put_back(self, received: list[PlainMessage]) -> None:
        """Give messages again, which did not come to the program."""
        self._unseen.put_back(received)

    def _fill(self, limit: int, until: float | None) -> None:
        ready = self._unseen
        lanes: set[Hashable] = set()
        asked = False
        if time.monotonic() - self._polled_at >= _POLL_SECONDS:
            self._keep_up()
            self._take(limit, 0)
        while True:
            self._give(lanes, limit)
            if len(ready) >= limit or self.abandoned.is_set():
                return
            self._keep_up()
            rest = _SLICE_SECONDS if until is None else min(_SLICE_SECONDS, until - time.monotonic())
            soonest = self._intake.next_in()
            if ready and soonest == 0:
                rest = 0.0  # what is ready belongs to lanes of this batch: it comes with the next
            if asked and rest <= 0:
                return
            self._take(limit, max(0.0, rest if soonest is None else min(rest, soonest)))
            asked = True

    def _give(self, lanes: set[Hashable], limit: int) -> None:
        while len(self._unseen) < limit and (delivery := self._intake.next(lanes)) is not None:
            record = delivery.record
            self._commits.given(delivery)
            self._unseen.add(Message(delivery, self._commits.ownership((record.topic, record.partition))))
            if delivery.lane is not None:
                lanes.add(delivery.lane)

    def _take(self, limit: int, timeout: float) -> None:
        """Take from the client what it has, of which no more is asked for than fits.

        One by one: a callback that raises would take along all that the client's `consume` has gathered until then.
        """
        for _ in range(limit - len(self._unseen)):
            message = self._raw.poll(timeout)
            self._polled_at = time.monotonic()
            if message is None:
                return
            timeout = 0.0
            error = message.error()
            if error is None:
                self._intake.take(to_record(message), message)
            elif self._is_shown(message, error):
                self._unseen.add(message)

    def _is_shown(self, message: PlainMessage, error: KafkaError) -> bool:
        topic = message.topic()
        if topic is None or not self._subscription.is_hidden(topic):
            return True
        if error.code() not in _QUIET:
            logger.warning("retries in %s can't be read: %s", topic, error)
        return False
