"""What is measured: one table of instruments, with their names, units, labels and buckets.

Beside the way of a message. Names are those of OpenTelemetry's messaging conventions, version 1.44, where they have one
(https://github.com/open-telemetry/semantic-conventions/blob/v1.44.0/docs/messaging/messaging-metrics.md), else `mesh.`;
`telemetry/prometheus.py` makes Prometheus' names of them. docs/guide/observing.md lists them for users.
"""

from __future__ import annotations

from typing import Final

from broker_mesh.telemetry.aggregation import Instrument, Kind, Label

# The conventions' buckets, for what takes as long as Kafka or a handler takes.
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# For what may wait as long as a service is away: from a millisecond to a week.
WAITING_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0),
)

ATTEMPTS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0)

_TOPIC: Final = Label("messaging.destination.name", "topic")
_ERROR: Final = Label("error.type", "error")
_OPERATION: Final = Label("mesh.operation", "operation")
_OUTCOME: Final = Label("mesh.outcome", "outcome")
_STATUS: Final = Label("mesh.status", "status")
_SIDE: Final = Label("mesh.side", "side")
_CALLER: Final = Label("mesh.caller", "caller")
_PARTITION: Final = Label("messaging.destination.partition.id", "partition")
_STATE: Final = Label("mesh.partition.state", "state")
_CIRCUIT: Final = Label("mesh.circuit.state", "state")
_DIRECTION: Final = Label("mesh.direction", "direction")


def _does(name: str, kind: str) -> tuple[tuple[str, str], ...]:
    """Give the attributes that the conventions ask of whatever a messaging client does."""
    return (
        ("messaging.system", "kafka"),
        ("messaging.operation.name", name),
        ("messaging.operation.type", kind),
    )


SENT: Final = Instrument(
    "messaging.client.sent.messages",
    Kind.COUNTER,
    "{message}",
    "Messages that were to be sent; with an error where they were refused.",
    (_TOPIC, _ERROR),
    constants=_does("send", "send"),
)
SENDING: Final = Instrument(
    "messaging.client.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "How long sending took, from the first check to Kafka's acknowledgement.",
    (_TOPIC, _ERROR),
    SECONDS,
    _does("send", "send"),
)
CONSUMED: Final = Instrument(
    "messaging.client.consumed.messages",
    Kind.COUNTER,
    "{message}",
    "Messages that Kafka has delivered to the service.",
    (_TOPIC,),
    constants=_does("poll", "receive"),
)
PROCESSING: Final = Instrument(
    "messaging.process.duration",
    Kind.HISTOGRAM,
    "s",
    "How long one attempt took: checks, the handler, and the settlement that Kafka acknowledges.",
    (_TOPIC, _OUTCOME, _ERROR),
    SECONDS,
    _does("process", "process"),
)
REQUESTS: Final = Instrument(
    "mesh.requests",
    Kind.COUNTER,
    "{message}",
    "Requests, one-way messages and events: sent by this service, or begun to be handled.",
    (_SIDE, _OPERATION, _CALLER),
)
OUTCOMES: Final = Instrument(
    "mesh.outcomes",
    Kind.COUNTER,
    "{message}",
    "Messages that were settled, by what became of them.",
    (_OPERATION, _OUTCOME, _STATUS),
)
RETRIES: Final = Instrument(
    "mesh.retries",
    Kind.COUNTER,
    "{attempt}",
    "Attempts that failed and are followed by another, by their status.",
    (_OPERATION, _STATUS),
)
ATTEMPTS_NEEDED: Final = Instrument(
    "mesh.attempts",
    Kind.HISTOGRAM,
    "{attempt}",
    "How many attempts a message had when it was settled.",
    (_OPERATION, _OUTCOME),
    ATTEMPTS,
)
REQUEST_SECONDS: Final = Instrument(
    "mesh.request.duration",
    Kind.HISTOGRAM,
    "s",
    "How long after it was made the reply to a request arrived at its caller, by the reply's status.",
    (_OPERATION, _STATUS),
    WAITING_SECONDS,
)
TIMEOUTS: Final = Instrument(
    "mesh.request.timeouts",
    Kind.COUNTER,
    "{wait}",
    "Waits that ended by their timeout; their requests stay pending.",
    (_OPERATION,),
)
QUEUE_SECONDS: Final = Instrument(
    "mesh.queue.duration",
    Kind.HISTOGRAM,
    "s",
    "How long a message was in Kafka before its first attempt began, by its record's timestamp.",
    (_OPERATION,),
    WAITING_SECONDS,
)
DEAD_LETTERS: Final = Instrument(
    "mesh.dead_letters",
    Kind.COUNTER,
    "{message}",
    "Dead letters that Kafka has acknowledged.",
    (_OPERATION, _STATUS),
)
OPENINGS: Final = Instrument(
    "mesh.circuit.openings",
    Kind.COUNTER,
    "{opening}",
    "How often so much of an operation failed in a row that it was taken for an outage, by the status it failed with.",
    (_OPERATION, _STATUS),
)
CIRCUIT: Final = Instrument(
    "mesh.circuit",
    Kind.GAUGE,
    "{circuit}",
    "How an operation's circuit stands in this process: 1 for its state, 0 for the others.",
    (_OPERATION, _CIRCUIT),
)
AUDITED_VALUES: Final = Instrument(
    "mesh.validation.audited",
    Kind.COUNTER,
    "{message}",
    "Values that did not fit their topic's schema and passed, since the topic is audited: sent or received.",
    (_TOPIC, _DIRECTION),
)
LAG: Final = Instrument(
    "mesh.consumer.lag",
    Kind.GAUGE,
    "{message}",
    "Messages of a partition that are not settled: waiting, being handled, or waiting for another attempt.",
    (_TOPIC, _PARTITION),
)
IN_FLIGHT: Final = Instrument(
    "mesh.in_flight", Kind.GAUGE, "{message}", "Messages that are taken and not settled.", (_TOPIC,)
)
WINDOW: Final = Instrument(
    "mesh.window",
    Kind.GAUGE,
    "{message}",
    "How many messages may be taken and not settled: as many as are settled in a second, within bounds.",
    (_TOPIC,),
)
PARKED_KEYS: Final = Instrument(
    "mesh.parked_keys",
    Kind.GAUGE,
    "{key}",
    "Keys that are parked in the retry topic, so that all that is theirs waits there in order.",
    (_TOPIC,),
)
OLDEST_AGE: Final = Instrument(
    "mesh.oldest_age",
    Kind.GAUGE,
    "s",
    "Age of the oldest message that is taken and not settled, by its record's timestamp; 0 where there is none.",
    (_TOPIC,),
)
PARTITIONS: Final = Instrument(
    "mesh.partitions",
    Kind.GAUGE,
    "{partition}",
    "Partitions of this process: running, paused, or held since one record keeps back what is done behind it.",
    (_TOPIC, _STATE),
)

ALL: Final = (
    *(SENT, SENDING, CONSUMED, PROCESSING, REQUESTS, OUTCOMES, RETRIES, ATTEMPTS_NEEDED),
    *(
        REQUEST_SECONDS,
        TIMEOUTS,
        QUEUE_SECONDS,
        DEAD_LETTERS,
        OPENINGS,
        CIRCUIT,
        AUDITED_VALUES,
        LAG,
        IN_FLIGHT,
        WINDOW,
        OLDEST_AGE,
        PARKED_KEYS,
        PARTITIONS,
    ),
)
