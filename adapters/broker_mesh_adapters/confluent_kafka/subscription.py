"""Which topics a program reads, and which are the mesh's own and never shown.

On the way of a message: asked by a wrapped consumer for every partition that Kafka gives it. Decisions alone: nothing
here talks to Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from confluent_kafka import TopicPartition

from broker_mesh.errors import FailedPrecondition

# Beside its operations and subscriptions, a service's name begins these topics, which are the mesh's alone.
_SIDES = (".retry", ".dead", ".idempotency", ".replies")


class Subscription:
    """The topics of one wrapped consumer.

    Args:
        service: the mesh's service.
        retry_topic: names the topic where records of one of the program's topics wait for their next attempt.
        operation_of: tells which of the program's topics a topic belongs to: itself, or that of a retry topic.

    Attributes:
        topics: those that the program has named.
        is_set: whether it has a subscription; otherwise it assigns partitions by itself.
    """

    def __init__(
        self,
        service: str,
        retry_topic: Callable[[str], str],
        operation_of: Callable[[str], str],
    ) -> None:
        self._service = service
        self._retry_topic = retry_topic
        self._operation_of = operation_of
        self.topics: frozenset[str] = frozenset()
        self.is_set = False
        self._has_patterns = False
        self._was_set = False

    def choose(self, topics: Collection[str]) -> None:
        """Note what the program subscribes to.

        Args:
            topics: names, and patterns that begin with `^`.

        Raises:
            FailedPrecondition: a topic of retries, which come with their own topic.
        """
        names = frozenset(topic for topic in topics if not topic.startswith("^"))
        for topic in sorted(names):
            if (operation := self._operation_of(topic)) != topic:
                raise FailedPrecondition(
                    f"{topic!r} is where the mesh keeps retries of {operation!r}: subscribe to {operation!r}, "
                    "and they come with it"
                )
        self.topics = names
        self._has_patterns = len(names) < len(frozenset(topics))
        self.is_set = bool(topics)
        self._was_set = True

    def end(self) -> None:
        """Note that the program has unsubscribed; what is still assigned goes with the next rebalance."""
        self.is_set = False

    def is_hidden(self, topic: str) -> bool:
        """Tell whether a topic is the mesh's own, and nothing of it is shown to the program."""
        if topic in self.topics or not self._was_set:
            return False
        if self._operation_of(topic) != topic:
            return True
        # A pattern finds all topics of its form.
        return self._has_patterns and topic.startswith(f"{self._service}.") and topic.endswith(_SIDES)

    def retry_topic(self, topic: str) -> str:
        """Name the topic where records of one of the program's topics wait for their next attempt."""
        return self._retry_topic(topic)

    def shown(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Give those of some partitions that the program knows of."""
        return [place for place in partitions if not self.is_hidden(place.topic)]
