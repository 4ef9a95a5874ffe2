"""The metrics of one mesh in one process: told what happens, asked for figures.

Beside the way of a message. Told by the measure layers, `settle.py`, `replies.py` and `client.py`, on the event loop;
collected by `telemetry/otlp_metrics.py` and `telemetry/prometheus.py`, on threads of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from broker_mesh import headers, naming
from broker_mesh.circuit import Cause, CircuitState
from broker_mesh.errors import MeshError, SettingsError
from broker_mesh.layers.measure import Attempt, error_name
from broker_mesh.layers.validate import direction_of
from broker_mesh.message import Message, now_ms
from broker_mesh.outcome import OUTCOME_NAMES, Done, Parked, RetryLater
from broker_mesh.status import StatusCode
from broker_mesh.telemetry import instruments
from broker_mesh.telemetry.aggregation import (
    OTHER,
    Counter,
    Family,
    Histogram,
    Labels,
    Names,
    Samples,
    Value,
    counts,
    merged,
)

MAX_CALLERS = 100
"""How many callers are told apart, by the source that they name; all others are "other"."""

MAX_CALLER_LENGTH = 100
"""A source that is longer is "other" too."""

MAX_TARGETS = 500
"""How many operations, events and topics a caller's metrics tell apart; all others are "other"."""

UNNAMED = "unnamed"
"""The caller of what came without a source, as from a plain Kafka client."""


class PartitionState(StrEnum):
    """Whether records of a partition are being taken."""

    RUNNING = "running"
    PAUSED = "paused"
    HELD = "held"


class Backlog(NamedTuple):
    """What waits of one partition that is assigned.

    Args:
        topic, partition: which.
        lag: records that are not settled; None where the end of the partition is not known yet.
        in_flight: records that are taken and not settled.
        oldest: timestamp of the oldest of them, epoch ms; None where there is none, or it has none.
        state: whether more are being taken.
        parked: how many of its keys are parked in the retry topic.
        window: how many records of its topic may be in flight; None where that is not known.
    """

    topic: str
    partition: int
    lag: int | None
    in_flight: int
    oldest: int | None
    state: PartitionState
    parked: int = 0
    window: int | None = None


class Metrics:
    """All metrics of one mesh.

    Args:
        service: whose.

    Attributes:
        exported: figures that an earlier connection of the mesh has exported, by the instrument's name; the next one
            has another name (`service.instance.id`), and tells only what came since.
        exported_ns: when, epoch ns; before the first, when all of it began.
    """

    def __init__(self, service: str) -> None:
        self.exported: Mapping[str, Samples] = {}
        self.exported_ns = time.time_ns()
        self._service = service
        self._callers = Names(MAX_CALLERS, _is_service)
        self._callers[""] = UNNAMED
        self._targets = Names(MAX_TARGETS, headers.is_topic)
        self._requests = Counter()
        self._consumed = Counter()
        self._retries = Counter()
        self._timeouts = Counter()
        self._dead_letters = Counter()
        self._openings = Counter()
        self._circuits: dict[str, CircuitState] = {}
        self._audited = Counter()
        self._sending = Histogram(instruments.SENDING.bounds)
        self._processing = Histogram(instruments.PROCESSING.bounds)
        self._attempts = Histogram(instruments.ATTEMPTS_NEEDED.bounds)
        self._queue = Histogram(instruments.QUEUE_SECONDS.bounds)
        self._request_seconds = Histogram(instruments.REQUEST_SECONDS.bounds)
        self._backlog: tuple[Backlog, ...] = ()

    # ── the callee's side ─────────────────────────────────────────────────────────────────────────────────

    def consumed(self, topic: str, number: int) -> None:
        """Note how many more records of a topic Kafka has delivered."""
        self._consumed.add((topic,), number)

    def begun(self, message: Message, at: int) -> None:
        """Note that an attempt begins, at `at` (epoch ms); only a message's first one counts."""
        envelope = message.envelope
        # What could not even be checked has no first failure, since that was no attempt of its handler.
        if envelope.first_failure is not None or envelope.last_failure is not None:
            return
        # What stood in line behind an earlier one of its key was counted when it was put there.
        if message.topic != message.operation and envelope.replay_id is None and envelope.origin is not None:
            return
        self._requests.add(("callee", message.operation, self._callers[envelope.source]))
        record = message.record
        if record is not None and record.timestamp >= 0:
            # Clocks differ: what seems to come from the future has not waited.
            self._queue.record((message.operation,), max(0, at - record.timestamp) / 1000)

    def attempted(self, attempt: Attempt) -> None:
        """Note how an attempt ended."""
        message, outcome, _, seconds = attempt
        name, error = OUTCOME_NAMES[type(outcome)], outcome.error
        status = "OK" if error is None else error.status.name
        # An answer such as NOT_FOUND is a result of the work, not its failure.
        failure = "" if error is None or isinstance(outcome, Done) else status
        self._processing.record((message.topic, name, failure), seconds)
        if isinstance(outcome, RetryLater):
            self._retries.add((message.operation, status))
        elif not isinstance(outcome, Parked):
            self._attempts.record((message.operation, name, status), message.envelope.attempt)

    def dead_lettered(self, message: Message, error: MeshError) -> None:
        """Note that Kafka has a dead letter."""
        self._dead_letters.add((message.operation, error.status.name))

    def circuit_turned(self, operation: str, state: CircuitState | None, opened_for: Cause | None) -> None:
        """Note how an operation's circuit stands from now on.

        Args:
            operation: whose.
            state: None where it is handled no more.
            opened_for: what it has just opened for.
        """
        others = {name: each for name, each in self._circuits.items() if name != operation}
        self._circuits = others if state is None else {**others, operation: state}
        if opened_for is not None:
            self._openings.add((operation, opened_for.status.name))

    def observe(self, backlog: Iterable[Backlog]) -> None:
        """Take what waits now, in place of what waited before."""
        self._backlog = tuple(backlog)

    # ── the caller's side ─────────────────────────────────────────────────────────────────────────────────

    def sent(self, message: Message, error: BaseException | None, seconds: float) -> None:
        """Note that a message was sent, or why it was not."""
        is_reply = message.topic != message.operation
        # Where a reply goes to is said by its caller, and may be no topic at all: those that are none take no place.
        topic = (
            self._targets.get(message.topic, OTHER)
            if is_reply and error is not None
            else self._targets[message.topic]
        )
        self._sending.record((topic, "" if error is None else error_name(error)), seconds)
        if error is None and not is_reply:
            self._requests.add(("caller", topic, self._service))

    def replied(self, operation: str, status: StatusCode, seconds: float) -> None:
        """Note that a reply has arrived, so many seconds after its request was made."""
        self._request_seconds.record((self._targets[operation], status.name), seconds)

    def timed_out(self, operation: str) -> None:
        """Note that a wait for a reply ended by its timeout."""
        self._timeouts.add((self._targets[operation],))

    # ── both sides ────────────────────────────────────────────────────────────────────────────────────────

    def audited(self, message: Message) -> None:
        """Note a value that did not fit and passed, since its topic is only audited."""
        self._audited.add((self._targets[message.operation], direction_of(message).value))

    # ── figures ───────────────────────────────────────────────────────────────────────────────────────────

    def end_export(self) -> None:
        """Note that what was measured up to now has been exported, as far as it could be."""
        self.exported, self.exported_ns = samples_of(self.collect()), time.time_ns()

    def collect(self) -> list[Family]:
        """Give all figures as they are now; from any thread."""
        sending, attempts = self._sending.samples(), self._attempts.samples()
        return [
            Family(instruments.SENT, counts(sending)),
            Family(instruments.SENDING, sending),
            Family(instruments.CONSUMED, self._consumed.samples()),
            Family(instruments.PROCESSING, self._processing.samples()),
            Family(instruments.REQUESTS, self._requests.samples()),
            Family(instruments.OUTCOMES, counts(attempts)),
            Family(instruments.RETRIES, self._retries.samples()),
            Family(instruments.ATTEMPTS_NEEDED, merged(attempts, keep=2)),
            Family(instruments.REQUEST_SECONDS, self._request_seconds.samples()),
            Family(instruments.TIMEOUTS, self._timeouts.samples()),
            Family(instruments.QUEUE_SECONDS, self._queue.samples()),
            Family(instruments.DEAD_LETTERS, self._dead_letters.samples()),
            Family(instruments.OPENINGS, self._openings.samples()),
            Family(
                instruments.CIRCUIT,
                {
                    (operation, each.value): float(each is state)
                    for operation, state in self._circuits.items()
                    for each in CircuitState
                },
            ),
            Family(instruments.AUDITED_VALUES, self._audited.samples()),
            *backlog_families(self._backlog, now_ms()),
        ]


def samples_of(families: Iterable[Family]) -> dict[str, Samples]:
    """Give figures by the name of their instrument."""
    return {family.instrument.name: family.samples for family in families}


def backlog_families(backlog: Sequence[Backlog], now: int) -> list[Family]:
    """Give the figures of what waits, at a time (epoch ms)."""
    lag: dict[Labels, Value] = {
        (each.topic, str(each.partition)): each.lag for each in backlog if each.lag is not None
    }
    topics = dict.fromkeys(each.topic for each in backlog)
    in_flight: dict[Labels, float] = dict.fromkeys(((topic,) for topic in topics), 0)
    ages: dict[Labels, float] = dict.fromkeys(((topic,) for topic in topics), 0.0)
    parked: dict[Labels, float] = dict.fromkeys(((topic,) for topic in topics), 0)
    windows: dict[Labels, Value] = {(each.topic,): each.window for each in backlog if each.window is not None}
    states: dict[Labels, float] = {(topic, state.value): 0 for topic in topics for state in PartitionState}
    for each in backlog:
        in_flight[each.topic,] += each.in_flight
        parked[each.topic,] += each.parked
        if each.oldest is not None:
            ages[each.topic,] = max(ages[each.topic,], (now - each.oldest) / 1000)
        states[each.topic, each.state.value] += 1
    return [
        Family(instruments.LAG, lag),
        Family(instruments.IN_FLIGHT, in_flight),
        Family(instruments.WINDOW, windows),
        Family(instruments.OLDEST_AGE, ages),
        Family(instruments.PARKED_KEYS, parked),
        Family(instruments.PARTITIONS, states),
    ]


def _is_service(name: str) -> bool:
    if len(name) > MAX_CALLER_LENGTH:
        return False
    try:
        naming.check_service(name)
    except SettingsError:
        return False
    return True
