"""The circuit of one operation: whether what fails is a record's own matter, or an outage of what its handler needs.

On the way of a message: asked by `guard.py` before each attempt and after it. A pure state machine: it waits for
nothing, and the time is passed in (seconds of a clock that only grows).

States::

    CLOSED ── `keys` distinct keys failed of one cause, and nothing succeeded in between ──▶ OPEN
    CLOSED ── a last attempt had waited `undecided` seconds, and two keys or more … ───────▶ OPEN
    OPEN ──── a probe succeeded ───────────────────────────────────────────────────────────▶ RAMPING
    RAMPING ─ as many keys failed as ran at once (at most `keys`), and nothing succeeded ──▶ OPEN
    RAMPING ─ as many succeed as `concurrency`, or nothing waits ──────────────────────────▶ CLOSED

An attempt that takes long (`Pace.slow`) keeps no others waiting for ever: it may hang, or wait for one of them.

Two words carry the decisions. A *streak* is what has failed since the last success. A record is *proven* to fail by
itself where something else has succeeded since it failed first: it counts for no streak, and ends when its attempts do.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, StrEnum
from typing import NamedTuple

from broker_mesh.status import StatusCode

_MOST_CAUSES = 50
_FIRST_AT_ONCE = 2


class CircuitState(StrEnum):
    """How attempts of an operation may begin."""

    CLOSED = "closed"  # freely
    OPEN = "open"  # one by one, with pauses
    RAMPING = "ramping"  # some at once, more and more


class Cause(NamedTuple):
    """What failures are told apart by.

    Args:
        status: of the error.
        exception: the class of what was raised.
    """

    status: StatusCode
    exception: str

    def __str__(self) -> str:
        return f"{self.status.name} ({self.exception})"


class Failure(NamedTuple):
    """An attempt that failed.

    Args:
        cause: of what.
        key: the record's, or what stands for it where it has none.
        ends: whether no attempt is left, so that the record would become a dead letter.
        curable: whether another attempt may help: not by its status, or not where the policy grants one attempt alone.
        since: when the record failed for the first time.
    """

    cause: Cause
    key: Hashable
    ends: bool
    curable: bool
    since: float


class Verdict(Enum):
    """What a failure comes to."""

    STANDS = "stands"  # what the retry policy says of it
    FREE = "free"  # the record waits in its place for another attempt, and has used up none
    UNDECIDED = "undecided"  # it would be its end, and what comes next tells whether it is


class Pace(NamedTuple):
    """The times of a circuit, in seconds.

    Args:
        first_pause: before the first probe; it doubles with each that fails.
        longest_pause: what it grows to.
        undecided: how long a last attempt waits for what comes next.
        patience: how long probes use up no attempts.
        slow: after how long one more may begin beside those that run, and a ramp with nothing to do is over.
    """

    first_pause: float
    longest_pause: float
    undecided: float
    patience: float
    slow: float = 30.0


class Streak:
    """What has failed since the last success; `opened` once that opened the circuit, so that it is given back."""

    def __init__(self) -> None:
        self.opened = False
        self._keys: dict[Cause, set[Hashable]] = {}

    def add(self, cause: Cause, key: Hashable) -> None:
        """Note a failure."""
        if cause not in self._keys and len(self._keys) >= _MOST_CAUSES:
            self._keys.pop(next(iter(self._keys)))  # who makes up exception classes must not fill the memory
        self._keys.setdefault(cause, set()).add(key)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has failed in it yet."""
        return not self._keys

    def keys_of(self, cause: Cause) -> int:
        """Tell how many distinct keys have failed of a cause."""
        return len(self._keys.get(cause, ()))


class Ticket(NamedTuple):
    """Leave for one attempt; it says before or after which opening the attempt began."""

    generation: int


class Circuit:
    """The circuit of one operation in one process.

    Args:
        keys: of how many distinct keys one cause must be, 2 or more.
        concurrency: how many attempts run at once when all is well.
        pace: its times.

    Attributes:
        state: as it is now.
        streak: what has failed since the last success.
        cause: what it opened for last.
        probes: how many probes have failed since it opened.
        opened_at: when it opened.
    """

    def __init__(self, keys: int, concurrency: int, pace: Pace) -> None:
        self.state = CircuitState.CLOSED
        self.streak = Streak()
        self.cause: Cause | None = None
        self.probes = 0
        self.opened_at = 0.0
        self._keys = keys
        self._concurrency = concurrency
        self._pace = pace
        self._generation = 0
        self._running = 0  # attempts of this generation
        self._begun_at = float("-inf")  # the last of them
        self._last_success = float("-inf")
        self._pause = 0.0
        self._probe_at = 0.0
        self._at_once = 0
        self._succeeded = 0  # in this step of the ramp

    # ── before an attempt ─────────────────────────────────────────────────────────────────────────────────

    def may_begin(self, now: float) -> bool:
        """Tell whether one more attempt may begin."""
        match self.state:
            case CircuitState.CLOSED:
                return True
            case CircuitState.OPEN:
                return now >= self._probe_at and (not self._running or self._is_slow(now))
            case CircuitState.RAMPING:
                return self._running < self._at_once or self._is_slow(now)

    @property
    def next_probe_at(self) -> float | None:
        """When a probe may begin; None where none is waited for, or only for the one that runs."""
        return self._probe_at if self.state is CircuitState.OPEN and not self._running else None

    def _is_slow(self, now: float) -> bool:
        return now - self._begun_at >= self._pace.slow

    def begin(self, now: float) -> Ticket:
        """Give leave for an attempt, which `may_begin` has granted."""
        self._running += 1
        self._begun_at = now
        return Ticket(self._generation)

    def is_overtaken(self, ticket: Ticket) -> bool:
        """Tell whether the circuit has opened since leave was given: what has not begun yet must ask again."""
        return ticket.generation != self._generation

    # ── after it ──────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, ticket: Ticket) -> None:
        """Note that an attempt is over; once for each, whatever became of it."""
        if not self.is_overtaken(ticket):
            self._running -= 1

    def works_since(self, moment: float) -> bool:
        """Tell whether something has succeeded after a moment."""
        return self._last_success > moment

    def succeeded(self, ticket: Ticket, now: float, *, waiting: bool) -> None:
        """Note that the handler has done what it is for.

        Args:
            ticket: of the attempt. What began before an opening says nothing of what follows it.
            now: the time.
            waiting: whether others wait for leave.
        """
        if self.is_overtaken(ticket) and self.state is not CircuitState.CLOSED:
            return
        self._last_success = now
        self.streak = Streak()
        if self.state is CircuitState.OPEN:
            self.state = CircuitState.RAMPING
            self._at_once, self._succeeded = _FIRST_AT_ONCE, 0
        elif self.state is CircuitState.RAMPING:
            self._succeeded += 1
            if self._succeeded >= self._at_once:
                self._at_once, self._succeeded = 2 * self._at_once, 0
                if self._at_once >= self._concurrency or not waiting:
                    self.state = CircuitState.CLOSED

    def calmed(self, now: float) -> None:
        """Note that nothing waits for leave: a ramp in which nothing has happened for long is over."""
        if (
            self.state is CircuitState.RAMPING
            and self._is_slow(now)
            and not self.works_since(now - self._pace.slow)
        ):
            self.state = CircuitState.CLOSED

    def failed(self, ticket: Ticket, failure: Failure, now: float) -> Verdict:
        """Decide what an attempt that failed comes to."""
        if self.is_overtaken(ticket):
            return Verdict.FREE
        if self.state is CircuitState.OPEN:
            return self._probe_failed(failure, now)
        proven = self.works_since(failure.since)
        if not proven:
            self.streak.add(failure.cause, failure.key)
        keys = self.streak.keys_of(failure.cause)
        needed = self._keys if self.state is CircuitState.CLOSED else min(self._keys, self._at_once)
        if keys >= needed:
            # In a ramp something has succeeded just before: what fails then has its attempt counted all the same, or
            # bad records and a few good ones between them would open it again and again, and none would ever end.
            gives_back = self.state is CircuitState.CLOSED
            self._open(failure.cause, now, gives_back=gives_back)
            return Verdict.FREE if failure.ends or gives_back else Verdict.STANDS
        if not failure.ends:
            return Verdict.STANDS
        if keys <= 1 and (proven or not failure.curable):
            return Verdict.STANDS
        return Verdict.UNDECIDED

    def decide(self, failure: Failure, *, proven: bool, streak: Streak) -> Verdict:
        """Decide on an attempt that was undecided, after what came next.

        Args:
            failure: what the attempt ended with.
            proven: whether the record was proven to fail by itself when it did.
            streak: the one that it failed in.
        """
        if streak is self.streak and not streak.opened:
            return Verdict.UNDECIDED
        if streak.opened or self.state is CircuitState.OPEN:
            return Verdict.FREE
        # Others succeed again: now another attempt tells, unless the record has failed beside others before.
        return Verdict.STANDS if proven or not failure.curable else Verdict.FREE

    def waited(self, failure: Failure, now: float) -> Verdict:
        """Decide on an attempt that was undecided for as long as may be: of one key alone nothing can be said."""
        if self.streak.keys_of(failure.cause) < 2:
            return Verdict.STANDS
        self._open(failure.cause, now, gives_back=self.state is CircuitState.CLOSED)
        return Verdict.FREE

    def _open(self, cause: Cause, now: float, *, gives_back: bool) -> None:
        self.state = CircuitState.OPEN
        self.cause = cause
        self.opened_at = now
        self.probes = 0
        self._generation += 1
        self._running = 0
        self._pause = self._pace.first_pause
        self._probe_at = now + self._pause
        self.streak.opened = gives_back
        self.streak = Streak()

    def _probe_failed(self, failure: Failure, now: float) -> Verdict:
        self.probes += 1
        self._pause = min(2 * self._pause, self._pace.longest_pause)
        self._probe_at = now + self._pause
        if failure.ends and not failure.curable:
            return Verdict.STANDS
        # What has found no success in so long may never find one: from then on attempts count, as few as they are.
        return Verdict.STANDS if now - self.opened_at >= self._pace.patience else Verdict.FREE
