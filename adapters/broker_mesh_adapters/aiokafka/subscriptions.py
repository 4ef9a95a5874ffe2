"""What a program has asked to read, and what aiokafka is asked for: the same, and the topics of retries.

On the way of a message: before it is fetched. Retry topics are made on the mesh's event loop, so that what aiokafka is
asked for follows a moment later.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError
from aiokafka.structs import TopicPartition

from broker_mesh.adapter import Connection, Reception
from broker_mesh_adapters.aiokafka.membership import Membership

_LOOK_AGAIN_SECONDS = 0.1

# What the mesh keeps beside a topic; a pattern that finds one of these must not have more made beside it.
_BESIDE = (".retry", ".dead", ".replies", ".idempotency")


class Wish(NamedTuple):
    """What the program asks for: one of the three.

    Args:
        topics: by name.
        pattern: as it was given, a text or compiled.
        partitions: assigned by the program itself.
        listener: of rebalances; None for none.
    """

    topics: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None
    partitions: tuple[TopicPartition, ...] | None = None
    listener: ConsumerRebalanceListener | None = None


def subscribed(topics: Any, pattern: Any, listener: Any) -> Wish:
    """Read the arguments of `subscribe`, with aiokafka's own errors.

    Raises:
        TypeError: neither or both are given, or one is of a wrong type.
        ValueError: the pattern is none.
    """
    if not (topics or pattern):
        raise TypeError("You should provide either `topics` or `pattern`")
    if topics and pattern:
        raise TypeError("You can't provide both `topics` and `pattern`")
    if listener is not None and not isinstance(listener, ConsumerRebalanceListener):
        raise TypeError("listener should be an instance of ConsumerRebalanceListener")
    if pattern is not None and not topics:
        try:
            return Wish(pattern=re.compile(pattern), listener=listener)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a valid pattern: {error}") from error
    if not isinstance(topics, tuple | set | list):
        raise TypeError("Topics should be list of strings")
    return Wish(topics=frozenset(topics), listener=listener)


def may_have_retries(topics: Iterable[str]) -> set[str]:
    """Leave out what the mesh itself keeps beside other topics."""
    return {each for each in topics if not (each.endswith(_BESIDE) or each.startswith("_mesh."))}


def pattern_with(pattern: re.Pattern[str], topics: Collection[str]) -> re.Pattern[str]:
    """Have a pattern find some topics as well."""
    # The program's part comes first and whole: its global flags must stand at the start, and `|` binds weakest.
    separator = "\n|" if pattern.flags & re.VERBOSE else "|"
    others = "|".join(f"{re.escape(each)}$" for each in sorted(topics))
    return re.compile(f"{pattern.pattern}{separator}{others}", pattern.flags) if topics else pattern


class Subscriber:
    """Has aiokafka read what the program asks for, and the topics of its retries.

    Args:
        inner: aiokafka's consumer.
        has_group: whether it has a group; without one nothing waits in a retry topic.
    """

    def __init__(self, inner: Any, *, has_group: bool) -> None:
        self._inner = inner
        self._has_group = has_group
        self._wish: Wish | None = None
        self._known: set[str] = set()  # topics whose retry topic exists and is read
        self._task: asyncio.Task[None] | None = None
        self._is_running = False
        self._connection: Connection | None = None
        self._reception: Reception
        self._membership: Membership
        self._failed: Callable[[Exception], None]

    @property
    def is_used(self) -> bool:
        """Whether the program has asked for anything."""
        return self._wish is not None

    async def start(
        self,
        connection: Connection,
        reception: Reception,
        membership: Membership,
        failed: Callable[[Exception], None],
    ) -> None:
        """Ask aiokafka for what the program has asked for; later wishes follow by themselves.

        Args:
            connection, reception, membership: of the consumer.
            failed: called with what goes wrong with later wishes.

        Raises:
            FailedPrecondition: a topic is another service's operation.
            MeshError: Kafka refuses something.
        """
        self._connection, self._reception, self._membership = connection, reception, membership
        self._failed = failed
        if self._wish is not None:
            await self._carry_out(self._wish)
        self._is_running = True

    def stop(self) -> None:
        """Carry out no more wishes."""
        if self._task is not None:
            self._task.cancel()

    def wish(self, wish: Wish) -> None:
        """Note what the program asks for, and see to it.

        Raises:
            IllegalStateError: it asks for another kind of thing than before.
        """
        if self._wish is not None and _kind(self._wish) != _kind(wish):
            raise IllegalStateError("Subscription to topics, partitions and pattern are mutually exclusive")
        self._wish = wish
        if wish.partitions is not None:
            self._inner.assign(list(wish.partitions))
        if self._connection is not None:
            if wish.partitions is not None:
                self._membership.look()
            self._begin(wish)

    def clear(self) -> None:
        """Read nothing any more."""
        self.stop()
        self._wish = None
        if self._connection is None:
            self._inner.unsubscribe()
            return
        self._membership.give_up()
        self._inner.unsubscribe()

    def topics(self) -> frozenset[str]:
        """Tell the topics that are read for the program."""
        if self._wish is None:
            return frozenset()
        if self._wish.pattern is None:
            return self._wish.topics or frozenset(self._inner.subscription())
        found = frozenset(self._inner.subscription())
        if self._connection is None:
            return found
        return frozenset(each for each in found if not self._membership.is_retry(each))

    def found(self, topics: Collection[str]) -> None:
        """Have retries read of topics that came after the subscription."""
        wish = self._wish
        if wish is None or wish.partitions is not None or not self._has_group:
            return
        # Of an assignment that comes late it is not all that the program still asks for.
        new = {each for each in may_have_retries(topics) - self._known if _wants(wish, each)}
        if new:
            self._begin(wish._replace(topics=wish.topics | new), only_if_more=True)

    def _begin(self, wish: Wish, *, only_if_more: bool = False) -> None:
        self.stop()
        self._task = asyncio.ensure_future(self._watched(wish, only_if_more=only_if_more))

    async def _watched(self, wish: Wish, *, only_if_more: bool) -> None:
        try:
            await self._carry_out(wish, only_if_more=only_if_more)
        except Exception as error:  # noqa: BLE001 - the program hears of it with its next call
            self._failed(error)

    async def _carry_out(self, wish: Wish, *, only_if_more: bool = False) -> None:
        assert self._connection is not None  # started
        topics = {each.topic for each in wish.partitions or ()} or set(wish.topics)
        prepared = await asyncio.wrap_future(
            self._connection.run(self._reception.prepare(may_have_retries(topics)))
        )
        self._membership.listener = wish.listener
        self._reception.may_park(reads_retries=wish.partitions is None)
        if wish.partitions is not None:
            return
        if only_if_more and prepared.keys() <= self._known:
            return
        self._known |= prepared.keys()
        retries = {self._reception.retry_topic(each) for each in self._known if _wants(wish, each)}
        if not self._has_group:
            retries = set()
        await self._visible(retries)
        await self._membership.make_way(for_pattern=wish.pattern is not None)
        if wish.pattern is not None:
            self._inner.subscribe(pattern=pattern_with(wish.pattern, retries), listener=self._membership)
        else:
            self._inner.subscribe(topics=[*wish.topics, *retries], listener=self._membership)

    async def _visible(self, topics: set[str]) -> None:
        """Wait until the broker that aiokafka asks knows topics which were made just now."""
        if self._is_running:
            while topics - await self._inner.topics():  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _wants(wish: Wish, topic: str) -> bool:
    return topic in wish.topics if wish.pattern is None else wish.pattern.match(topic) is not None


def _kind(wish: Wish) -> str:
    if wish.partitions is not None:
        return "partitions"
    return "topics" if wish.pattern is None else "pattern"
