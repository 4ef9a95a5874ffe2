"""The outage guard: what a handler can't do for anybody waits, instead of filling the dead letters.

On the way of a message: `lanes.py` asks it before each attempt, and `layers/settle.py` before an outcome is carried
out. What it decides by is `circuit.py`, one for each operation of this process; here is what waits. Nothing of it is
kept anywhere: who takes over finds out by himself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

from broker_mesh import turn
from broker_mesh.circuit import Cause, Circuit, CircuitState, Failure, Pace, Ticket, Verdict
from broker_mesh.endpoint import Endpoint
from broker_mesh.errors import Unavailable
from broker_mesh.evidence import again, failure_of, is_expired, is_result, pace_of
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, now_ms
from broker_mesh.outcome import DeadLetter, Outcome, RetryLater
from broker_mesh.passage import Passage
from broker_mesh.turn import HandedBack

logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 30.0  # deadlines are of the wall clock, which may be set meanwhile

Turned: TypeAlias = Callable[[str, CircuitState | None, Cause | None], None]
"""Told how a circuit stands: the operation, its state or None at the end, and where it has just opened for what."""


class _Gate:
    """What waits at one operation's circuit."""

    def __init__(self, circuit: Circuit, pace: Pace, retry: Retry) -> None:
        self.circuit = circuit
        self.pace = pace
        self.retry = retry
        self.told = CircuitState.CLOSED
        self.undecided: set[asyncio.Future[None]] = set()
        self._fresh: deque[asyncio.Future[Ticket]] = deque()
        self._failed: deque[asyncio.Future[Ticket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_waiting(self) -> bool:
        return bool(self._fresh or self._failed)

    @property
    def has_fresh(self) -> bool:
        """Whether something waits that has not failed yet."""
        return bool(self._fresh)

    def queue(self, passage: Passage) -> asyncio.Future[Ticket]:
        """Stand in line for leave: what has failed before stands behind what may succeed."""
        waiter: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        (self._failed if passage.has_failed else self._fresh).append(waiter)
        self.let_go()
        return waiter

    def unqueue(self, waiter: asyncio.Future[Ticket]) -> None:
        """Stand in line no more."""
        for line in (self._fresh, self._failed):
            with suppress(ValueError):
                line.remove(waiter)

    def let_go(self) -> None:
        """Give leave to as many as may begin now, and look again when the next probe may."""
        while self.has_waiting and self.circuit.may_begin(time.monotonic()):
            waiter = (self._fresh or self._failed).popleft()
            waiter.set_result(self.circuit.begin(time.monotonic()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.has_waiting and (at := self.circuit.next_probe_at) is not None:
            delay = max(0.001, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.let_go)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class OutageGuard:
    """The outage guard of one service.

    Args:
        endpoints: what the service handles.
        keys: how many distinct keys must fail of one cause, with no success in between; 0 for no guard.
        concurrency: how many handlers may run at once.
        turned: told how each circuit stands, at first and whenever that changes.
    """

    def __init__(self, endpoints: Iterable[Endpoint], keys: int, concurrency: int, turned: Turned) -> None:
        self._turned = turned
        self._gates: dict[str, _Gate] = {}
        self._passages: dict[Hashable, Passage] = {}
        for endpoint in endpoints if keys else ():
            pace = pace_of(endpoint.retry)
            circuit = Circuit(max(keys, 2), concurrency, pace)  # one key alone is never an outage
            self._gates[endpoint.name] = _Gate(circuit, pace, endpoint.retry)
            turned(endpoint.name, CircuitState.CLOSED, None)

    def state(self, operation: str) -> CircuitState:
        """Tell how the circuit of an operation stands."""
        gate = self._gates.get(operation)
        return CircuitState.CLOSED if gate is None else gate.circuit.state

    def holds(self, operation: str) -> bool:
        """Tell whether nothing more of an operation is to be taken: what was taken already is probed first."""
        gate = self._gates.get(operation)
        return gate is not None and gate.circuit.state is CircuitState.OPEN and gate.has_fresh

    def tend(self) -> None:
        """Let go what waits for an attempt that takes long, and end ramps that nothing goes on; some times a second."""
        for operation, gate in self._gates.items():
            if gate.circuit.state is not CircuitState.CLOSED:
                if not gate.has_waiting:
                    gate.circuit.calmed(time.monotonic())
                self._look(operation, gate)

    def close(self) -> None:
        """Probe nothing more."""
        for operation, gate in self._gates.items():
            gate.close()
            self._turned(operation, None, None)

    # ── before an attempt ─────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def admitted(self, passage: Passage, message: Message) -> AsyncIterator[Message]:
        """Wait until an attempt may begin; it is over with the block.

        Args:
            passage: of the message's record.
            message: as it is for this attempt.

        Yields:
            The message, with what an outage has given back. One whose work has expired is let through at once.

        Raises:
            HandedBack: its partition is being given up.
        """
        gate = self._gates.get(message.operation)
        if gate is None:
            yield message
            return
        passage.handled = False
        passage.has_failed |= message.envelope.attempt > 1  # elsewhere, perhaps
        message = passage.refund(message)
        passage.ticket = await self._leave_for(gate, passage, message)
        place = _place_of(message)
        self._passages[place] = passage
        try:
            yield message
        finally:
            del self._passages[place]
            self._end(gate, passage)

    def is_overtaken(self, passage: Passage, message: Message) -> bool:
        """Tell whether the circuit has opened since an attempt was admitted: one that waits for a place asks again."""
        gate = self._gates.get(message.operation)
        return gate is not None and passage.ticket is not None and gate.circuit.is_overtaken(passage.ticket)

    async def _leave_for(self, gate: _Gate, passage: Passage, message: Message) -> Ticket | None:
        """Wait for leave; None where the work expires meanwhile."""
        if gate.circuit.state is CircuitState.CLOSED:
            return gate.circuit.begin(time.monotonic())
        waiter = gate.queue(passage)
        leaving: asyncio.Future[bool] = asyncio.ensure_future(passage.leaving.wait())
        either: set[asyncio.Future[Any]] = {waiter, leaving}
        try:
            while not (waiter.done() or leaving.done() or is_expired(message, now_ms())):
                deadline = message.envelope.deadline
                left = _LONGEST_WAIT_SECONDS if deadline is None else (deadline - now_ms()) / 1000
                await asyncio.wait(
                    either,
                    timeout=min(max(left, 0.001), _LONGEST_WAIT_SECONDS),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if leaving.done():
                raise HandedBack
        except BaseException:
            if waiter.done():  # it was given leave in the same moment
                gate.circuit.leave(waiter.result())
                gate.let_go()
            raise
        finally:
            leaving.cancel()
            if not waiter.done():
                gate.unqueue(waiter)
        return waiter.result() if waiter.done() else None

    def _end(self, gate: _Gate, passage: Passage) -> None:
        if passage.ticket is not None:
            gate.circuit.leave(passage.ticket)
            passage.ticket = None
            gate.let_go()

    # ── after it ──────────────────────────────────────────────────────────────────────────────────────────

    def handling(self, message: Message) -> None:
        """Note that an attempt has passed all checks: what comes of it now is the handler's.

        Raises:
            Unavailable: an outage has begun while it was checked; it waits for its turn once more.
        """
        passage = self._passages.get(_place_of(message))
        if passage is None:
            return
        if self.is_overtaken(passage, message):
            raise Unavailable("an outage began before it came to its handler")
        passage.handled = True

    async def decide(self, message: Message, outcome: Outcome) -> Outcome:
        """Decide what an outcome comes to, before it is carried out.

        Returns:
            The outcome; or, in an outage, another attempt in place that uses up none.

        Raises:
            HandedBack: the partition is given up before it is known.
        """
        gate, passage = self._gates.get(message.operation), self._passages.get(_place_of(message))
        if gate is None or passage is None or passage.ticket is None or not passage.handled:
            return outcome
        now = time.monotonic()
        circuit, ticket = gate.circuit, passage.ticket
        if is_result(outcome):
            circuit.succeeded(ticket, now, waiting=gate.has_waiting)
            self._look(message.operation, gate)
            return outcome
        failure = failure_of(message, outcome, gate.retry, now=now, at=now_ms())
        if failure is None:
            return outcome
        assert isinstance(outcome, RetryLater | DeadLetter)
        passage.has_failed = True
        streak = circuit.streak
        verdict = circuit.failed(ticket, failure, now)
        self._look(message.operation, gate)
        if verdict is Verdict.UNDECIDED:
            verdict = await self._what_comes_next(message, gate, passage, failure)
        if verdict is Verdict.FREE:
            return again(outcome)
        if isinstance(outcome, RetryLater) and not outcome.parked:
            passage.spend(streak)
        return outcome

    async def _what_comes_next(
        self, message: Message, gate: _Gate, passage: Passage, failure: Failure
    ) -> Verdict:
        """Wait, in nobody's place, for a success, for an outage, or until enough time has passed."""
        circuit, streak = gate.circuit, gate.circuit.streak
        proven = circuit.works_since(failure.since)
        self._end(gate, passage)
        logger.info(
            "%s %s: no attempt is left; whether others fail too is waited for, up to %g s",
            message.operation,
            message.envelope.id,
            gate.pace.undecided,
        )
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.undecided.add(told)
        leaving: asyncio.Future[bool] = asyncio.ensure_future(passage.leaving.wait())
        either: set[asyncio.Future[Any]] = {told, leaving}
        try:
            async with turn.waiting():
                await asyncio.wait(either, timeout=gate.pace.undecided, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gate.undecided.discard(told)
            leaving.cancel()
        if passage.leaving.is_set():
            raise HandedBack
        verdict = circuit.decide(failure, proven=proven, streak=streak)
        if verdict is Verdict.UNDECIDED:
            verdict = circuit.waited(failure, time.monotonic())
            self._look(message.operation, gate)
        return verdict

    def _look(self, operation: str, gate: _Gate) -> None:
        """Tell of what has changed, and let go what may go on by it."""
        circuit = gate.circuit
        if circuit.streak.is_empty:  # something has succeeded, or it has opened
            for told in gate.undecided:
                if not told.done():
                    told.set_result(None)
        if gate.told is not circuit.state:
            self._log(operation, gate)
            opened = circuit.cause if circuit.state is CircuitState.OPEN else None
            gate.told = circuit.state
            self._turned(operation, circuit.state, opened)
        gate.let_go()

    def _log(self, operation: str, gate: _Gate) -> None:
        circuit = gate.circuit
        match circuit.state:
            case CircuitState.OPEN:
                logger.warning(
                    "%s: nothing succeeds, and several keys fail of %s: taken for an outage; from now on single "
                    "messages probe whether it is over, the next in %.1f s",
                    operation,
                    circuit.cause,
                    gate.pace.first_pause,
                )
            case CircuitState.RAMPING:
                logger.warning(
                    "%s: a message succeeds again after %.1f s and %d probes in vain: going on, a few at once at first",
                    operation,
                    time.monotonic() - circuit.opened_at,
                    circuit.probes,
                )
            case CircuitState.CLOSED:
                logger.info("%s: the outage is over", operation)


def _place_of(message: Message) -> Hashable:
    record = message.record
    return None if record is None else (record.topic, record.partition, record.offset, message.epoch)
