"""Which task of the program has which messages: each settles its own by asking for the next.

On the way of a message: from `getone` or `getmany` until it is settled. Several tasks may share one consumer; what one
of them still works on is not done because another asks for more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import NamedTuple

from broker_mesh.adapter import Delivery, Intake, State

logger = logging.getLogger(__name__)

_WITH_THE_PROGRAM = (State.HANDED, State.HELD)

_numbers = itertools.count()


class Caller(NamedTuple):
    """Who asks for messages, and when.

    Args:
        task: None outside of any.
        number: what was given before has a lower one.
    """

    task: asyncio.Task[object] | None
    number: int


def calling() -> Caller:
    """Tell who calls, to be asked where the program calls and not where its coroutine runs.

    `asyncio.wait_for` (until Python 3.12) and `create_task` run what a task calls in a task of their own, which has
    ended when the caller begins to work.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs yet, as in loop.run_until_complete(consumer.getone())
        task = None
    return Caller(task, next(_numbers))


class Hands:
    """The messages in the program's hands.

    Args:
        intake: that gave them.
        ended: called when a task has ended that had some; `settle_ended` is to follow.
    """

    def __init__(self, intake: Intake, ended: Callable[[], None]) -> None:
        self._intake = intake
        self._ended = ended
        # A task stays here until it has ended, so that it is watched once.
        self._by_task: dict[asyncio.Task[object] | None, list[tuple[int, Delivery]]] = {}
        self._held: list[Delivery] = []  # by tasks that have asked for more meanwhile

    def give(self, delivery: Delivery, caller: Caller) -> None:
        """Note that a task has it."""
        if caller.task is not None and caller.task not in self._by_task:
            caller.task.add_done_callback(lambda _: self._ended())
        self._by_task.setdefault(caller.task, []).append((next(_numbers), delivery))

    def asks_for_more(self, caller: Caller) -> None:
        """Settle as done what a task has had when it called."""
        if has := self._by_task.get(caller.task):
            self._by_task[caller.task] = [each for each in has if each[0] > caller.number]
            self._conclude([delivery for number, delivery in has if number < caller.number])

    def settle_ended(self, *, stays: bool = True) -> None:
        """Settle what tasks had that have ended.

        What a task had that ended by an exception has failed: its work was not done.

        Args:
            stays: whether there will be another attempt here; else failed work is left to come again elsewhere.
        """
        concluded: list[Delivery] = []
        for task in [task for task in self._by_task if task is None or task.done()]:
            had = [delivery for _, delivery in self._by_task[task]]
            silent = [each for each in had if each.state is State.HANDED]
            if task is not None and silent and not _ended_well(task):
                if not stays:
                    continue
                _fail(task, silent)
            del self._by_task[task]
            concluded += had  # also what has failed: the intake forgets that the program has it
        if concluded:
            self._conclude(concluded)

    def _conclude(self, deliveries: Collection[Delivery]) -> None:
        self._intake.conclude(set(deliveries))
        self._held = [each for each in (*self._held, *deliveries) if each.state is State.HELD]

    def lanes(self) -> set[Hashable]:
        """Tell the lanes of what the program works on and has said nothing of: none of them may be overtaken."""
        return {each.lane for each in self._all() if each.state is State.HANDED and each.lane is not None}

    def unsettled(self, partitions: Collection[tuple[str, int]]) -> list[Delivery]:
        """Give what the program has of some partitions and has not settled."""
        return [
            each
            for each in (*self._all(), *self._held)
            if each.state in _WITH_THE_PROGRAM and (each.record.topic, each.record.partition) in partitions
        ]

    def _all(self) -> Iterable[Delivery]:
        return [delivery for given in self._by_task.values() for _, delivery in given]


def _ended_well(task: asyncio.Task[object]) -> bool:
    return not task.cancelled() and task.exception() is None


def _fail(task: asyncio.Task[object], deliveries: Collection[Delivery]) -> None:
    if task.cancelled():
        for delivery in deliveries:
            _put_back(delivery)
        return
    error = task.exception()
    assert error is not None  # it has not ended well
    for delivery in deliveries:
        logger.error("%s: the task that had it ended by an exception", delivery, exc_info=error)
        if len(deliveries) == 1:
            delivery.fail(error)
        else:  # which of them it was is not known: the error must not make dead letters of all at once
            delivery.retry(reason=f"the task that had it and others ended by {type(error).__name__}: {error}")


def _put_back(delivery: Delivery) -> None:
    """Have a message come again without a failed attempt, as where a `settling()` block is cancelled."""
    with contextlib.suppress(asyncio.CancelledError), delivery.settling():
        raise asyncio.CancelledError
