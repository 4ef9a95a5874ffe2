"""The headers of the mesh: their names, and the envelope they are read into.

On the way of a message: written by the outbound layers' last step, read before the first inbound layer. No
other module spells a header's name. Three families: W3C Trace Context and Baggage, CloudEvents' Kafka
binding in binary mode (https://github.com/cloudevents/spec, kafka-protocol-binding 3.2), and `mesh-`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from broker_mesh.errors import InvalidArgument
from broker_mesh.status import StatusCode

RawHeaders = list[tuple[str, bytes | None]]
"""Headers as Kafka keeps them: ordered, names may repeat."""

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
CE_ID = "ce_id"
CE_SOURCE = "ce_source"
CE_TYPE = "ce_type"
CE_SPECVERSION = "ce_specversion"
CE_TIME = "ce_time"
DEADLINE = "mesh-deadline"
ATTEMPT = "mesh-attempt"
REPLY_TO = "mesh-reply-to"
CORRELATION_ID = "mesh-correlation-id"
IDEMPOTENCY_KEY = "mesh-idempotency-key"
STATUS = "mesh-status"
STATUS_MESSAGE = "mesh-status-message"
STATUS_DETAILS = "mesh-status-details"
ORIGIN = "mesh-origin"
REPLAY_ID = "mesh-replay-id"
SIGNATURE = "mesh-signature"
EXCEPTION = "mesh-exception"
FIRST_FAILURE = "mesh-first-failure"
LAST_FAILURE = "mesh-last-failure"
RETRY_AT = "mesh-retry-at"
DEAD_LETTER = "mesh-dead-letter"
REQUEST_DIGEST = "mesh-request-digest"
GROUP = "mesh-group"
SOURCE = "mesh-source"

FAILURE_FACTS = frozenset(
    {
        ATTEMPT,
        STATUS,
        STATUS_MESSAGE,
        STATUS_DETAILS,
        EXCEPTION,
        FIRST_FAILURE,
        LAST_FAILURE,
        RETRY_AT,
    }
)
"""What says how a record failed: the latest failure's replace the earlier ones', and a replay goes without."""

SPEC_VERSION = "1.0"
_SPEC_VERSION_HEADER = (CE_SPECVERSION, SPEC_VERSION.encode())
MAX_TEXT_BYTES = 2048
"""Bound of each free text that the mesh writes (status message, details, exception), in bytes."""

MAX_READ_BYTES = 16 * 1024
"""Bound of each header that the mesh reads, in bytes; traceparent, ids and status all stay far below."""

# Long enough for a place in the log, which names records that came without an id (topic names take up to 249).
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")  # org.apache.kafka.common.internals.Topic
_MAX_PARTITION = 2**31 - 1
_LONGEST_NAME = 300
_ID = re.compile(rf"[\x21-\x7e]{{1,{_LONGEST_NAME}}}")
_SHA_256 = re.compile(r"[0-9a-f]{64}")

_RFC3339 = re.compile(rb"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d)\.(\d{3})Z")

LATEST_TIME = 253_402_300_799_999
"""The end of the year 9999, epoch ms: RFC 3339 has four digits for a year."""


class ReplyTo(NamedTuple):
    """Where a caller waits for its reply: a topic and the one partition it reads."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Envelope(NamedTuple):
    """What the headers of one message say, typed.

    Args:
        id: the message's id, a UUIDv7 (RFC 9562); kept over retries and replays.
        source: the service that sent it.
        type: the operation or event; an operation's replies have ``.reply`` behind it.
        time: when it was made, epoch ms; -1 when the sender did not say.
        traceparent, tracestate, baggage: W3C trace context, as text.
        deadline: when the work is no longer worth doing, epoch ms; None for no limit.
        attempt: 1 for the first delivery to a handler.
        reply_to: where the reply goes; None for one-way messages.
        correlation_id: on a reply, the id of its request.
        idempotency_key: the caller's key, the same on requests that mean the same work.
        status: on a reply or dead letter, how it ended; None elsewhere.
        status_message, status_details: on an error, its sentence and its facts.
        origin: on retries and dead letters, the first record.
        replay_id: on what was put back from a dead letter, that replay's id.
        signature: the sender's signature, where identity is signed.
        exception: on a dead letter, the type of what the handler raised.
        first_failure, last_failure: on retries and dead letters, when attempts failed, epoch ms.
        retry_at: on a record of a retry topic, when its next attempt is due, epoch ms.
        dead_letter: on an error reply, where the request is kept for replay.
        request_digest: on a result that is kept for repeats of its request, the SHA-256 of the request's value, hex.
        group: on retries and dead letters, the consumer group whose they are, where it is not the service's own.
    """

    id: str = ""
    source: str = ""
    type: str = ""
    time: int = -1
    traceparent: str | None = None
    tracestate: str | None = None
    baggage: str | None = None
    deadline: int | None = None
    attempt: int = 1
    reply_to: ReplyTo | None = None
    correlation_id: str | None = None
    idempotency_key: str | None = None
    status: StatusCode | None = None
    status_message: str | None = None
    status_details: Mapping[str, Any] = MappingProxyType({})
    origin: Place | None = None
    replay_id: str | None = None
    signature: bytes | None = None
    exception: str | None = None
    first_failure: int | None = None
    last_failure: int | None = None
    retry_at: int | None = None
    dead_letter: Place | None = None
    request_digest: str | None = None
    group: str | None = None


def write(envelope: Envelope) -> RawHeaders:
    """Write an envelope as headers, without those that are absent or at their default."""
    e = envelope
    # A record made by a plain Kafka client names no source, and neither does its retry.
    raw: RawHeaders = []
    if e.id:
        raw.append((CE_ID, e.id.encode()))
    if e.source:
        raw.append((CE_SOURCE, _encoded(e.source)))
    if e.type:
        raw.append((CE_TYPE, _encoded(e.type)))
    raw.append(_SPEC_VERSION_HEADER)
    if e.time >= 0:
        raw.append((CE_TIME, _rfc3339(e.time)))
    if e.traceparent:
        raw.append((TRACEPARENT, e.traceparent.encode()))
    if e.tracestate:
        raw.append((TRACESTATE, e.tracestate.encode()))
    if e.baggage:
        raw.append((BAGGAGE, e.baggage.encode()))
    if e.deadline is not None:
        raw.append((DEADLINE, b"%d" % e.deadline))
    if e.attempt != 1:
        raw.append((ATTEMPT, b"%d" % e.attempt))
    if e.reply_to is not None:
        raw.append((REPLY_TO, _reply_address(e.reply_to)))
    if e.correlation_id is not None:
        raw.append((CORRELATION_ID, e.correlation_id.encode()))
    if e.idempotency_key is not None:
        raw.append((IDEMPOTENCY_KEY, e.idempotency_key.encode()))
    if e.status is not None:
        raw.append((STATUS, e.status.name.encode()))
    if e.status_message is not None:
        raw.append((STATUS_MESSAGE, bounded(e.status_message)))
    if e.status_details:
        raw.append((STATUS_DETAILS, _details(e.status_details)))
    if e.origin is not None:
        raw.append((ORIGIN, str(e.origin).encode()))
    if e.replay_id is not None:
        raw.append((REPLAY_ID, e.replay_id.encode()))
    if e.signature is not None:
        raw.append((SIGNATURE, e.signature))
    if e.exception is not None:
        raw.append((EXCEPTION, bounded(e.exception)))
    if e.first_failure is not None:
        raw.append((FIRST_FAILURE, b"%d" % e.first_failure))
    if e.last_failure is not None:
        raw.append((LAST_FAILURE, b"%d" % e.last_failure))
    if e.retry_at is not None:
        raw.append((RETRY_AT, b"%d" % e.retry_at))
    if e.dead_letter is not None:
        raw.append((DEAD_LETTER, str(e.dead_letter).encode()))
    if e.request_digest is not None:
        raw.append((REQUEST_DIGEST, e.request_digest.encode()))
    if e.group is not None:
        raw.append((GROUP, e.group.encode()))
    return raw


def read(raw: Iterable[tuple[str, bytes | None]] | None) -> tuple[Envelope, InvalidArgument | None]:
    """Read the mesh's headers out of a record's; others are left alone. The last of a repeated name counts.

    Returns:
        What could be read, and the first problem met: a malformed header must not cost a caller its answer,
        so the readable ones (reply-to, id) count even then.
    """
    if not raw:
        return Envelope(), None
    fields: dict[str, Any] = {}
    problem: InvalidArgument | None = None
    for name, value in raw:
        known = _READERS.get(name)
        if known is None or value is None:
            continue
        field, parse = known
        try:
            if len(value) > MAX_READ_BYTES:
                raise ValueError(f"more than {MAX_READ_BYTES} bytes")
            fields[field] = parse(value)
        except (ValueError, KeyError, OverflowError, RecursionError) as error:
            if name in _IGNORED_WHEN_MALFORMED:
                continue
            shown = value[:60].decode("utf-8", "backslashreplace")
            problem = problem or InvalidArgument(f"header {name} is malformed: {shown!r}")
            problem.__cause__ = error
    if "sender" in fields:  # beside CloudEvents attributes that are a program's own
        fields["source"] = fields.pop("sender")
    return Envelope(**fields), problem


def mesh_names() -> frozenset[str]:
    """Tell the names of all headers that the mesh writes and reads."""
    return frozenset(_READERS) | {CE_SPECVERSION}


def bounded(text: str, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Encode a free text as UTF-8 of at most `limit` bytes; what is cut off is marked with an ellipsis."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data
    mark = "…".encode() if limit >= 3 else b""
    return data[: limit - len(mark)].decode("utf-8", "ignore").encode() + mark


def _details(details: Mapping[str, Any]) -> bytes:
    try:
        data = json.dumps(dict(details), default=str, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # A handler's details must not keep its answer from being sent.
        return json.dumps({"unreadable": type(error).__name__}).encode()
    if len(data) <= MAX_TEXT_BYTES:
        return data
    return json.dumps({"truncated": True, "bytes": len(data)}).encode()


def _rfc3339(epoch_ms: int) -> bytes:
    return f"{_second(epoch_ms // 1000)}.{epoch_ms % 1000:03d}Z".encode()


@lru_cache(maxsize=16)  # thousands of messages are sent within one second
def _second(epoch_seconds: int) -> str:
    return f"{datetime.fromtimestamp(epoch_seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _encoded(name: str) -> bytes:
    # A record's type is any text, and a retry keeps it: what is long is not remembered.
    return _encoded_once(name) if len(name) <= _LONGEST_NAME else name.encode()


# What few callers write on many messages is written and read once: names are short, or refused and not remembered.
@lru_cache(maxsize=1024)
def _encoded_once(name: str) -> bytes:
    return name.encode()


@lru_cache(maxsize=1024)
def _reply_address(reply_to: ReplyTo) -> bytes:
    return str(reply_to).encode()


def _text(value: bytes) -> str:
    return value.decode()


def _identifier(value: bytes) -> str:
    text = value.decode("ascii")
    if not _ID.fullmatch(text):
        raise ValueError(text)
    return text


_name = lru_cache(maxsize=1024)(_identifier)


def _number(value: bytes) -> int:
    if not (value.isdigit() and len(value) <= 18):
        raise ValueError(value)
    return int(value)


def _attempt(value: bytes) -> int:
    number = _number(value)
    if number < 1:
        raise ValueError(number)
    return number


def _time(value: bytes) -> int:
    if (usual := _RFC3339.fullmatch(value)) is not None:  # as this mesh writes it
        second, thousandths = usual.groups()
        return _epoch_seconds(second) * 1000 + int(thousandths)
    moment = datetime.fromisoformat(value.decode("ascii"))
    if moment.tzinfo is None:
        raise ValueError(value)
    epoch_ms = round(moment.timestamp() * 1000)
    if epoch_ms > LATEST_TIME:  # an offset can push a moment of 9999 into a year that can't be written again
        raise ValueError(value)
    return epoch_ms


@lru_cache(maxsize=16)
def _epoch_seconds(value: bytes) -> int:
    return round(datetime.fromisoformat(value.decode("ascii")).replace(tzinfo=UTC).timestamp())


def is_topic(name: str) -> bool:
    """Tell whether Kafka may have a topic of this name."""
    return _TOPIC.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _reply_to(value: bytes) -> ReplyTo:
    topic, _, partition = _text(value).rpartition("/")
    number = _number(partition.encode())
    if not is_topic(topic) or number > _MAX_PARTITION:
        raise ValueError(value)
    return ReplyTo(topic, number)


def _place(value: bytes) -> Place:
    topic, partition, offset = _text(value).rsplit("/", 2)
    if not topic:
        raise ValueError(value)
    return Place(topic, _number(partition.encode()), _number(offset.encode()))


def _digest(value: bytes) -> str:
    text = value.decode("ascii")
    if not _SHA_256.fullmatch(text):
        raise ValueError(text)
    return text


def _status(value: bytes) -> StatusCode:
    return StatusCode[_text(value)]


def _json_object(value: bytes) -> Mapping[str, Any]:
    parsed = json.loads(value)
    if not isinstance(parsed, dict):
        raise ValueError(value)  # noqa: TRY004 - all malformed headers are ValueErrors to read()
    return parsed


# W3C Trace Context: who can't read the context begins a new trace; the message itself is none the worse.
_IGNORED_WHEN_MALFORMED = frozenset({TRACEPARENT, TRACESTATE, BAGGAGE})

_READERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    CE_ID: ("id", _identifier),
    CE_SOURCE: ("source", _name),
    CE_TYPE: ("type", _text),
    CE_TIME: ("time", _time),
    TRACEPARENT: ("traceparent", _text),
    TRACESTATE: ("tracestate", _text),
    BAGGAGE: ("baggage", _text),
    DEADLINE: ("deadline", _number),
    ATTEMPT: ("attempt", _attempt),
    REPLY_TO: ("reply_to", _reply_to),
    CORRELATION_ID: ("correlation_id", _identifier),
    IDEMPOTENCY_KEY: ("idempotency_key", _identifier),
    STATUS: ("status", _status),
    STATUS_MESSAGE: ("status_message", _text),
    STATUS_DETAILS: ("status_details", _json_object),
    ORIGIN: ("origin", _place),
    REPLAY_ID: ("replay_id", _identifier),
    SIGNATURE: ("signature", bytes),
    EXCEPTION: ("exception", _text),
    FIRST_FAILURE: ("first_failure", _number),
    LAST_FAILURE: ("last_failure", _number),
    RETRY_AT: ("retry_at", _number),
    DEAD_LETTER: ("dead_letter", _place),
    REQUEST_DIGEST: ("request_digest", _digest),
    GROUP: ("group", _text),
    SOURCE: ("sender", _name),
}
