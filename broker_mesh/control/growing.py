"""Growing a topic: which steps it takes, and each of them, so that order by key holds throughout.

On the way of a message: beside it, for `mesh topics grow`. The steps, each of which may be done again by a later run:

1. record: the growth is written down, without ends. From here on new partitions are held by every group.
2. add: the topic gets its partitions, and what stands beside it as many.
3. settle: until every producer has learnt of them, and none writes a key's next record into its old partition.
4. draw: where the old partitions end now is written down. That is the barrier (`barrier.py`), which each group passes
   by itself when it has handled what stands before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.barrier import Growth, keeps_order
from broker_mesh.control.checks import Finding, Level
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from broker_mesh.kafka.admin import Admin, TopicInfo
from broker_mesh.kafka.config import refresh_ms
from broker_mesh.kafka.crossing import Ways
from broker_mesh.settings import Settings, nearest

_LEAST_SETTLING_SECONDS = 1.0
_LOOK_SECONDS = 0.5


class Plan(NamedTuple):
    """What a growth has to do.

    Args:
        topic: the operation or event.
        partitions: how many it is to have.
        growth: to be carried out, or finished; None where the topic has its partitions, and no barrier is missing.
        adds: which topics get how many partitions.
        followers: the groups whose order is kept, each with its retry topic.
    """

    topic: str
    partitions: int
    growth: Growth | None
    adds: Mapping[str, int]
    followers: Mapping[str, str]


def plan(
    topic: str,
    partitions: int,
    *,
    found: Mapping[str, TopicInfo],
    growths: Sequence[Growth],
    adopted: Collection[str],
) -> Plan:
    """Decide what has to be done for a topic to have so many partitions.

    Args:
        topic: an operation's or event's.
        partitions: how many it is to have.
        found: it, and the topics beside it, as far as there are such (`related`).
        growths: of the topic, as it is now.
        adopted: topics of other programs that have an owner in the mesh.

    Raises:
        InvalidArgument: it can't have so many.
        FailedPrecondition: it is not the mesh's to grow, or another growth of it is not finished.
    """
    if topic in adopted or not naming.is_target(topic):
        stem = topic.rpartition(".")[0]
        hint = f": grow {stem!r}, it grows with it" if stem in found and naming.is_of_the_mesh(topic) else ""
        raise FailedPrecondition(
            f"{topic!r} is no operation or event of the mesh, and only those keep their order when they grow{hint}"
        )
    now = found[topic].partitions
    unfinished = next((growth for growth in growths if growth.ends is None), None)
    if unfinished is not None and unfinished.after != partitions:
        raise FailedPrecondition(
            f"{topic!r} is being grown to {unfinished.after} partitions: let '{unfinished.command}' finish first"
        )
    if unfinished is None and partitions < now:
        raise InvalidArgument(f"{topic!r} has {now} partitions: Kafka adds partitions, and takes none away")
    if unfinished is None and not keeps_order(now, partitions):
        fitting = now * -(-partitions // now)
        raise InvalidArgument(
            f"{topic!r} can't grow from {now} to {partitions} partitions in order: keys would move among the old ones; "
            f"take a multiple of {now}, as {fitting}"
        )
    growth = unfinished
    if growth is None and partitions > now:
        growth = Growth(topic, found[topic].id, now, partitions)
    count = max(partitions, now)
    adds = {name: count for name, info in found.items() if info.partitions < count}
    return Plan(topic, partitions, growth, adds, followers(found))


def related(topic: str, names: Collection[str]) -> list[str]:
    """Name what grows with a topic, and it: retries and dead letters, of an event those of all subscribers, results."""
    results = naming.idempotency_topic(topic)
    return [name for name in names if name in (topic, results) or naming.source_of_failures(name) == topic]


def followers(found: Collection[str]) -> dict[str, str]:
    """Tell the groups that handle a topic, by the retry topics beside it."""
    return {
        naming.group(naming.owner(name)): name
        for name in sorted(found)
        if naming.source_of_failures(name) is not None and name == naming.retry_topic(name.rpartition(".")[0])
    }


def check_growths(growths: Iterable[Growth]) -> list[Finding]:
    """Find growths that are not finished, for `mesh check`."""
    return [
        Finding(
            "topics",
            Level.WARNING,
            f"{growth.topic}: it is being grown from {growth.before} to {growth.after} partitions, and services hold "
            "the new ones until that is finished",
            f"if it was broken off, run {growth.command}",
        )
        for growth in growths
        if growth.ends is None
    ]


def settling_seconds(settings: Settings) -> float:
    """Tell how long it takes at most until producers with these settings have learnt of new partitions.

    Twice as long as they take from one look to the next: one may fail.
    """
    return max(_LEAST_SETTLING_SECONDS, 2 * refresh_ms(settings) / 1000)


async def find(topic: str, partitions: int, settings: Settings, admin: Admin, ways: Ways) -> Plan:
    """Look at what there is, and decide what has to be done.

    Raises:
        NotFound: there is no such topic.
        MeshError: as of `plan`; or Kafka can't be asked.
    """
    names = await admin.topic_names()
    if topic not in names:
        hint = nearest(topic, filter(naming.is_target, names)) or "; mesh topics list shows what there is"
        raise NotFound(f"there is no operation or event {topic!r}{hint}")
    beside = related(topic, names)
    if not naming.is_target(topic):  # it may itself stand beside another, to point at
        beside += [name for name in names if name == topic.rpartition(".")[0]]
    found, growths = await admin.describe(beside), await ways.growths([topic])
    return plan(topic, partitions, found=found, growths=growths, adopted=settings.topics)


class Growing:
    """Carries a plan out, step by step.

    Args:
        plan: what is to be done.
        admin: adds partitions.
        ways: writes the growth down.
    """

    def __init__(self, plan: Plan, admin: Admin, ways: Ways) -> None:
        self._plan = plan
        self._admin = admin
        self._ways = ways

    async def record(self) -> None:
        """Write the growth down, before any partition is added.

        Raises:
            MeshError: Kafka does not take it, or a rival grows the topic.
        """
        if self._plan.growth is not None:
            await self._ways.record(self._plan.growth)

    async def add(self) -> None:
        """Add the partitions.

        Raises:
            MeshError: Kafka refuses.
        """
        await self._admin.grow(self._plan.adds)

    async def settle(self, seconds: float, told: Callable[[float], None]) -> None:
        """Wait until every producer knows of the new partitions.

        Args:
            seconds: how long that takes.
            told: is told how many of them have passed.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        while (passed := clock() - begun) < seconds:
            told(passed)
            await asyncio.sleep(min(_LOOK_SECONDS, seconds - passed))
        told(seconds)

    async def draw(self) -> Growth | None:
        """Write down where the old partitions end; waits while a transaction is open on one.

        Returns:
            The growth with its ends; None where there was none to finish.

        Raises:
            MeshError: Kafka can't be asked, or does not take it.
        """
        growth = self._plan.growth
        if growth is None:
            return None
        while (ends := await self._ways.ends(growth.topic, growth.before)) is None:  # noqa: ASYNC110 - no event
            await asyncio.sleep(_LOOK_SECONDS)
        finished = growth._replace(ends={number: end for (_, number), end in ends.items()})
        await self._ways.record(finished)
        return finished
