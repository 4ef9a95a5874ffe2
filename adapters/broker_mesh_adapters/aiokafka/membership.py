"""Which partitions a wrapped consumer has: rebalances, where retries begin to be read, and what rests.

On the way of a message: before it is fetched and after it is settled. aiokafka tells this listener of rebalances; the
program's own listener hears of them from here, without the partitions of retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from typing import Any

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from broker_mesh.adapter import Intake, Reception
from broker_mesh_adapters.aiokafka.commits import Commits, Offsets, Partition
from broker_mesh_adapters.aiokafka.hands import Hands

logger = logging.getLogger(__name__)

_DRAIN_SECONDS = 5.0
_COMMIT_SECONDS = 5.0
_PAUSE_SECONDS = 1.0


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """The partitions of one wrapped consumer.

    Args:
        inner: aiokafka's consumer.
        reception: of the mesh.
        commits, hands: of the consumer.
        auto_commit: whether what is settled is committed without the program's word.
        commit_seconds: how often; None for a consumer without a group.
        changed: called when messages may flow again.
        found: called with the program's topics of a new assignment.
        failed: called with what the program has to hear of.

    Attributes:
        listener: the program's.
    """

    def __init__(
        self,
        inner: Any,
        reception: Reception,
        commits: Commits,
        hands: Hands,
        *,
        auto_commit: bool,
        commit_seconds: float | None,
        changed: Callable[[], None],
        found: Callable[[set[str]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._inner = inner
        self._reception = reception
        self._intake: Intake = reception.intake
        self._commits = commits
        self._hands = hands
        self._auto_commit = auto_commit
        self._commit_seconds = commit_seconds
        self._changed = changed
        self._found = found
        self._failed = failed
        self.listener: ConsumerRebalanceListener | None = None
        self._in_rebalance = False  # aiokafka's
        self._makes_way = False
        self._seen: frozenset[TopicPartition] = (
            frozenset()
        )  # aiokafka's own set: another one is another assignment
        self._paused: set[TopicPartition] = set()  # by the program
        self._resting: set[TopicPartition] = set()  # too much of them is taken and not settled
        self._unplaced: set[TopicPartition] = set()  # retries whose begin is being looked up
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def rebalancing(self) -> bool:
        """Whether nothing may be given to the program now."""
        return self._in_rebalance or self._makes_way

    # ── assignments ───────────────────────────────────────────────────────────────────────────────────────

    def is_retry(self, topic: str) -> bool:
        """Tell whether a topic is one where messages of this consumer wait for their next attempt."""
        return self._reception.operation_of(topic) != topic

    def own(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Leave out the partitions of retries."""
        return {each for each in partitions if not self.is_retry(each.topic)}

    def with_retries(self, partitions: Iterable[TopicPartition]) -> tuple[TopicPartition, ...]:
        """Add the partitions where retries of some partitions wait, as far as this consumer reads them."""
        chosen = tuple(partitions)
        retries = (TopicPartition(self._reception.retry_topic(each.topic), each.partition) for each in chosen)
        return chosen + tuple(each for each in retries if each in self._seen)

    def look(self) -> None:
        """Take note of a new assignment, before anything of it is taken; without a group aiokafka tells nobody."""
        if not self.rebalancing:
            self._look()

    def _look(self) -> None:
        current = self._inner.assignment()
        if current is self._seen or current == self._seen == frozenset():
            return
        self._drop()
        self._seen = current
        self._intake.assigned(_keys(current))
        own = self.own(current)
        self.began(own)
        if self._commit_seconds is not None:
            self._begin(self._commit_now_and_then(self._commit_seconds))
        self._found({each.topic for each in own})

    def _drop(self) -> None:
        self._intake.ended(_keys(self._seen))
        self._commits.forget(_keys(self._seen))
        for facts in (self._paused, self._resting, self._unplaced):
            facts.clear()
        for task in self._tasks:
            task.cancel()
        self._seen = frozenset()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Let the program finish within bounds, commit what is settled, and take nothing more of the partitions."""
        self._in_rebalance = True
        try:
            if self.listener is not None:
                await _called(self.listener.on_partitions_revoked, self.own(revoked))
        finally:
            await self.finish(waits_for_program=self._auto_commit)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Take over partitions; those of retries begin where the group is, or at their beginning."""
        self._look()
        retries = {each for each in assigned if self.is_retry(each.topic)}
        if retries:
            for partition in retries:  # a position of any kind: `auto_offset_reset` is not for retries
                self._inner.seek(partition, 0)
            self._unplaced |= retries
            self._apply_pauses()
            self._begin(self._place(retries))
        try:
            if self.listener is not None:
                await _called(self.listener.on_partitions_assigned, self.own(assigned))
        finally:
            self._in_rebalance = False
            self._changed()

    async def make_way(self, *, for_pattern: bool) -> None:
        """Commit what is settled before another subscription: from then on aiokafka commits nothing of this assignment.

        The assignment ends with that, except for a pattern: one that finds the same topics changes nothing, and no
        rebalance would begin the assignment anew.
        """
        if not self._seen or self._commit_seconds is None:
            return  # without a group there is nothing to commit, and nobody tells of the next assignment
        if for_pattern:
            await self._commit()
            return
        self._makes_way = True
        try:
            while seen := self._seen:  # another one, where a rebalance came to its end meanwhile
                await self._settle(seen, waits_for_program=self._auto_commit)
                if self._seen is seen:
                    await self._commit_last()
                if self._seen is seen:
                    self._drop()  # not before: where this is cancelled, the assignment goes on as it was
        finally:
            self._makes_way = False
            self._changed()

    async def finish(self, *, waits_for_program: bool) -> None:
        """End the assignment: what is settled within bounds is committed, the rest comes again elsewhere."""
        seen = self._seen
        await self._settle(seen, waits_for_program=waits_for_program)
        if self._seen is not seen:
            return  # it was ended meanwhile, and another one may have begun
        if tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._commit_last()
        if self._seen is seen:
            self._drop()

    async def _settle(self, seen: Collection[TopicPartition], *, waits_for_program: bool) -> None:
        keys = _keys(seen)
        in_hand = self._hands.unsettled(keys) if waits_for_program else []
        if in_hand:
            await asyncio.wait(
                {asyncio.wrap_future(each.settled) for each in in_hand}, timeout=_DRAIN_SECONDS
            )
        await asyncio.to_thread(self._intake.wait_settled, keys, _DRAIN_SECONDS)

    async def _commit_last(self) -> None:
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                await self._commit()
        except TimeoutError:
            logger.warning("the last offsets can't be committed now: what they cover comes again")

    def give_up(self) -> None:
        """End the assignment as it is, without a commit; aiokafka tells nobody of a rebalance's end any more."""
        self._in_rebalance = False
        self._drop()
        self._changed()

    # ── positions ─────────────────────────────────────────────────────────────────────────────────────────

    def chosen(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Read the partitions that the program seeks in: those that it names, or all.

        Raises:
            TypeError, IllegalStateError: as aiokafka's.
        """
        chosen = set(partitions)
        if not all(isinstance(each, TopicPartition) for each in chosen):
            raise TypeError("partitions must be TopicPartition instances")
        assigned = self.own(self._inner.assignment())
        if chosen - assigned:
            raise IllegalStateError(f"Partitions {chosen - assigned} are not assigned")
        assert chosen or assigned, "No partitions are currently assigned"
        return chosen or assigned

    def sought(self, partitions: Iterable[TopicPartition], offset: int | None = None) -> None:
        """Begin partitions anew, in the same step as aiokafka: what was taken of them is forgotten.

        Args:
            partitions: which the program has sought.
            offset: where it goes on; None where that is not known yet.
        """
        keys = _keys(partitions)
        self._intake.assigned(keys)
        self._commits.forget(keys)
        if offset is not None:
            for key in keys:
                self._commits.began(key, offset)

    async def go_to(
        self, partitions: Iterable[TopicPartition], seek: Callable[..., Awaitable[object]]
    ) -> bool:
        """Go on elsewhere in the partitions that the program names, or in all; `seek` is aiokafka's.

        Raises:
            As `chosen`.
        """
        chosen = self.chosen(partitions)
        self.sought(chosen)
        done = bool(await seek(*chosen))
        self.began(chosen)
        return done

    def began(self, partitions: Iterable[TopicPartition]) -> None:
        """Have it noted where partitions begin, once aiokafka knows."""
        self._begin(self._learn_starts(partitions))

    async def _learn_starts(self, partitions: Iterable[TopicPartition]) -> None:
        """Note where untouched partitions begin, so that the group goes on there even if nothing comes."""
        try:
            for partition in partitions:
                self._commits.began(_key(partition), await self._inner.position(partition))
        except IllegalStateError:
            return  # it is not assigned any more
        except KafkaError as error:  # of the group: aiokafka tells it once, and the program has to hear of it
            self._failed(error)

    async def _place(self, retries: set[TopicPartition]) -> None:
        """Have retries read from where the group is, or from their beginning, whatever the program says of resets."""
        while True:
            try:
                beginnings = await self._inner.beginning_offsets(list(retries))
                committed = await asyncio.gather(*(self._inner.committed(each) for each in retries))
                break
            except KafkaError as error:
                logger.info("where retries begin can't be looked up now: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
        for partition, offset in zip(retries, committed, strict=True):
            self._inner.seek(partition, max(offset or 0, beginnings[partition]))
        self._unplaced -= retries
        self._apply_pauses()

    # ── what rests ────────────────────────────────────────────────────────────────────────────────────────

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Pause partitions and their retries, on the program's word."""
        chosen = self.with_retries(partitions)
        self._paused.update(chosen)
        self._intake.pause(_keys(chosen))
        self._apply_pauses()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Resume partitions and their retries, on the program's word."""
        chosen = self.with_retries(partitions)
        self._paused.difference_update(chosen)
        self._intake.resume(_keys(chosen))
        self._apply_pauses()
        self._changed()

    @contextlib.contextmanager
    def limited_to(self, partitions: Collection[TopicPartition]) -> Iterator[None]:
        """Have nothing given out but of some partitions and their retries; of all, where there are none."""
        if not partitions:
            yield
            return
        others = _keys(self._seen - set(self.with_retries(partitions)) - self._paused)
        self._intake.pause(others)
        try:
            yield
        finally:
            self._intake.resume(others)

    def paused(self) -> set[TopicPartition]:
        """Tell what the program has paused."""
        return self.own(self._paused)

    def regulate(self) -> None:
        """Let partitions rest of which too much is taken, and go on with those that have room again."""
        full = {TopicPartition(*key) for key in self._intake.full}
        if full != self._resting:
            self._resting = full
            self._apply_pauses()

    def _apply_pauses(self) -> None:
        wanted = (self._paused | self._resting | self._unplaced) & self._seen
        is_paused = self._inner.paused()
        self._inner.pause(*(wanted - is_paused))
        self._inner.resume(*(is_paused - wanted))

    # ── commits ───────────────────────────────────────────────────────────────────────────────────────────

    async def write(self, offsets: Offsets) -> None:
        """Commit offsets.

        Raises:
            KafkaError: Kafka refuses them.
        """
        await self._inner.commit(offsets)
        self._commits.wrote(offsets)

    async def _commit(self) -> None:
        if self._commit_seconds is None:
            return
        offsets = self._commits.settled() if self._auto_commit else self._commits.overdue()
        if not offsets:
            return
        try:
            await self.write(offsets)
        except CommitFailedError:
            logger.info(
                "offsets can't be committed: the group has rebalanced, and what they cover may come again"
            )
        except KafkaError as error:
            logger.warning("offsets can't be committed now, what they cover may come again: %s", error)

    async def _commit_now_and_then(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._commit()


def _key(partition: TopicPartition) -> Partition:
    return partition.topic, partition.partition


def _keys(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [_key(each) for each in partitions]


async def _called(
    callback: Callable[[set[TopicPartition]], Awaitable[None] | None], own: set[TopicPartition]
) -> None:
    result = callback(own)
    if inspect.isawaitable(result):
        await result
