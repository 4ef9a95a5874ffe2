"""Attempts: each record's way through the pipeline, and what becomes of it, while a program polls.

On the way of a message: the inside of `intake.py`. A pipeline is driven in whatever thread has something to say: the
one that polls, one of the program's that settles, or the mesh's loop, where it had to wait. All state is under one
lock. What a pipeline does is done outside of it, but for the checks inside `Intake.next`, which go no further than to
the point where the message is handed over.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from broker_mesh.delivery import Delivery, State, Tools
from broker_mesh.errors import InternalError, MeshError
from broker_mesh.holding import Holding
from broker_mesh.kafka.positions import Partition
from broker_mesh.lanes import for_next_attempt, tell_of_retry
from broker_mesh.layer import Step
from broker_mesh.message import Message, now_ms, received
from broker_mesh.outcome import Outcome, RetryLater
from broker_mesh.queueing import Queue, Taken
from broker_mesh.settle import FencedError
from broker_mesh.stepping import Background, Run
from broker_mesh.turn import HandedBack

logger = logging.getLogger(__name__)


class Attempt(Run[Outcome]):
    """One attempt at one record.

    Attributes:
        taken: the record.
        message: as the pipeline began with it.
        delivery: what the program has, or is about to get; None before, and once all is over.
        is_away: whether it was not handed over yet, and is being checked on the mesh's loop.
    """

    __slots__ = ("_attempts", "delivery", "is_away", "message", "taken")

    def __init__(
        self,
        attempts: Attempts,
        taken: Taken,
        message: Message,
        steps: Awaitable[Outcome],
        background: Background,
    ) -> None:
        super().__init__(steps, background)
        self._attempts = attempts
        self.taken = taken
        self.message = message
        self.delivery: Delivery | None = None
        self.is_away = False

    @property
    def is_silent(self) -> bool:
        """Whether the program has the message and has said nothing of it."""
        return self.delivery is not None and self.delivery.state is State.HANDED

    def _handed(self, message: Message) -> None:
        self._attempts.handed_over(self, message)

    def _left(self) -> None:
        self._attempts.left(self)

    def _ended(self, result: Outcome | None, error: BaseException | None) -> None:
        self._attempts.ended(self, result, error)


class _Again(NamedTuple):
    due: int
    number: int
    taken: Taken


class Attempts:
    """All attempts of one wrapped consumer, and the state that they share.

    Args:
        steps: the inbound pipeline for wrapped clients.
        background: the mesh's event loop.
        tools: what deliveries need of the mesh.
        woken: called when there may be something for the program that was not there before.

    Attributes:
        lock: under which all of this changes.
        changed: told of every attempt that ends.
        holdings: the partitions that are assigned.
        queue: what may be started, and what has to wait.
        handed: what has passed all checks and was not given to the program yet.
        checking: how many attempts are away.
        pending: how many records are taken and not settled.
        is_polled: whether the program is polling right now, so that nobody need be woken.
        failure: why the mesh can't go on; None while it can.
    """

    def __init__(
        self, steps: Step[Outcome], background: Background, tools: Tools, woken: Callable[[], None] | None
    ) -> None:
        self._steps = steps
        self._background = background
        self._tools = tools
        self._woken = woken
        self._again: list[_Again] = []  # retries in place: a heap
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.holdings: dict[Partition, Holding[Attempt]] = {}
        self.queue = Queue()
        self.handed: deque[Attempt] = deque()
        self.checking = 0
        self.pending = 0
        self.is_polled = False
        self.failure: MeshError | None = None

    def start(self, taken: Taken) -> None:
        """Begin an attempt: run the checks, to the point where the message is handed over or goes elsewhere."""
        message = taken.again or received(taken.record, taken.operation, taken.epoch)
        Attempt(self, taken, message, self._steps(message), self._background).start()

    def left(self, attempt: Attempt) -> None:
        """Note that an attempt goes on on the mesh's loop; its lane waits where it is still being checked."""
        with self.lock:
            if attempt.delivery is None and not attempt.is_away:
                attempt.is_away = True
                self.checking += 1
                self.queue.block(attempt.taken)

    def handed_over(self, attempt: Attempt, message: Message) -> None:
        """Take a message that has passed all checks."""
        taken = attempt.taken
        with self.lock:
            self._has_come_back(attempt)
            delivery = Delivery(message, taken.source, attempt, taken.lane, self._move, self._tools)
            attempt.delivery = delivery
            holding = self._holding_of(taken)
            if holding is None:
                delivery.state = State.GONE
            else:
                holding.open[taken.record.offset] = attempt
                self.handed.append(attempt)
                if delivery.state is State.HELD:
                    self.queue.block(taken)
                self._wake()
        if holding is None:
            delivery.give_up(HandedBack())

    def ended(self, attempt: Attempt, outcome: Outcome | None, error: BaseException | None) -> None:
        """Take what has become of an attempt."""
        taken, delivery = attempt.taken, attempt.delivery
        with self.lock:
            self._has_come_back(attempt)
            if (holding := self._holding_of(taken)) is not None:
                if delivery is not None:
                    holding.settling -= 1
                    del holding.open[taken.record.offset]
                self._conclude(holding, attempt, outcome, error)
            if delivery is not None and delivery.state is not State.GONE:
                delivery.state = State.SETTLED
            self.changed.notify_all()
        if delivery is not None:
            attempt.delivery = None  # they refer to each other
            delivery.over()

    def drop(self, partitions: Collection[Partition]) -> None:
        """Give up everything of partitions: from now on nothing settles what was taken of them."""
        given_up: list[Delivery] = []
        with self.lock:
            for partition in partitions:
                holding = self.holdings.pop(partition)
                holding.is_over = True
                self.pending -= holding.tracker.pending
                for delivery in (each.delivery for each in holding.open.values()):
                    assert delivery is not None  # until it is over, which takes it out of what is open
                    if delivery.state is not State.SETTLING:
                        given_up.append(delivery)
                    delivery.state = State.GONE
            self.queue.drop(partitions)
            self._again = [each for each in self._again if each.taken.partition not in partitions]
            heapq.heapify(self._again)
            self.handed = deque(each for each in self.handed if each.taken.partition not in partitions)
            self.changed.notify_all()
        for delivery in given_up:
            delivery.give_up(HandedBack())

    # ── retries in place ──────────────────────────────────────────────────────────────────────────────────

    @property
    def next_due(self) -> int | None:
        """When the next attempt in place is due, epoch ms; None where none is."""
        return self._again[0].due if self._again else None

    def queue_due(self) -> None:
        """Queue what is due for its next attempt."""
        while self._again and self._again[0].due <= now_ms():
            self.queue.put(heapq.heappop(self._again).taken)

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────

    def done(self, holding: Holding[Attempt], offset: int) -> None:
        """Note that a record is settled."""
        holding.tracker.done(offset)
        self.pending -= 1

    def stop(self, error: MeshError) -> None:
        """Note that the mesh can't go on; the program hears of it when it polls."""
        self.failure = self.failure or error
        self._wake()

    def _move(self, delivery: Delivery, state: State, only_silent: bool) -> bool:
        """Let a delivery go over into a state, where it may; who asks goes on with its attempt then."""
        with self.lock:
            if delivery.state is not State.HANDED and (only_silent or delivery.state is not State.HELD):
                return False
            delivery.state = state
            record = delivery.record
            holding = self.holdings[record.topic, record.partition]
            if not only_silent:  # it may be tried again: nothing of its lane may pass it from now on
                self.queue.block(holding.open[record.offset].taken)
            if state is State.SETTLING:
                holding.settling += 1
            return True

    def _conclude(
        self,
        holding: Holding[Attempt],
        attempt: Attempt,
        outcome: Outcome | None,
        error: BaseException | None,
    ) -> None:
        taken = attempt.taken
        if outcome is None:
            if not isinstance(error, HandedBack | FencedError):
                self._fail(taken, error)
            return
        if isinstance(outcome, RetryLater):
            tell_of_retry(attempt.message, outcome)
        if isinstance(outcome, RetryLater) and not outcome.parked:
            self.queue.block(taken)
            again = taken._replace(again=for_next_attempt(attempt.message, outcome))
            heapq.heappush(self._again, _Again(outcome.at, taken.number, again))
            self._wake()
        else:
            self.done(holding, taken.record.offset)
            if self.queue.free(taken):
                self._wake()

    def _fail(self, taken: Taken, error: BaseException | None) -> None:
        if not isinstance(error, MeshError):
            logger.error("settling a record of %s failed inside the mesh", taken.operation, exc_info=error)
            stopped = InternalError(f"{type(error).__name__} inside the mesh: {error}")
            stopped.__cause__ = error
            error = stopped
        self.stop(error)

    def _has_come_back(self, attempt: Attempt) -> None:
        if attempt.is_away:
            attempt.is_away = False
            self.checking -= 1

    def _holding_of(self, taken: Taken) -> Holding[Attempt] | None:
        holding = self.holdings.get(taken.partition)
        return holding if holding is not None and holding.epoch == taken.epoch else None

    def _wake(self) -> None:
        if self._woken is not None and not self.is_polled:
            self._woken()
