"""What `mesh tap` says of a record: its place, kind, id and status, and its value as JSON or, failing that, bytes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from broker_mesh import naming
from broker_mesh.cli.output import printable
from broker_mesh.contracts.codec import Codec, schema_id_of
from broker_mesh.contracts.errors import UnknownSchemaId
from broker_mesh.contracts.plain_json import value_to_json
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.values import is_json, loads_strictly
from broker_mesh.errors import MeshError
from broker_mesh.headers import Envelope
from broker_mesh.message import Record, received

_SHOWN_BYTES = 64
_ASK_AGAIN_SECONDS = 5.0


class Value(NamedTuple):
    """A record's value.

    Args:
        json: JSON values; None where there is no value or it can't be decoded.
        problem: why it can't be decoded; None where it can, or nothing was to be decoded.
    """

    json: Any = None
    problem: str | None = None


class Decoder:
    """Decodes values by the schemas they were written by. Blocking, where an id is new.

    Args:
        registry: the schemas; None decodes nothing.
    """

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self._codecs: dict[int, Codec] = {}
        self._asked: dict[int, float] = {}  # unknown ids, with the monotonic time when the registry was read

    def decode_all(self, values: Sequence[bytes | None]) -> list[Value]:
        """Decode values; never raises."""
        return [self.decode(data) for data in values]

    def decode(self, data: bytes | None) -> Value:
        """Decode a value; never raises, since a tap goes on."""
        if data is None or self._registry is None:
            return Value()
        try:
            if is_json(data):
                return Value(json=loads_strictly(data, "the value"))
            return Value(json=value_to_json(self._codec(schema_id_of(data), self._registry).decode(data)))
        except MeshError as error:
            return Value(problem=error.message)

    def _codec(self, schema_id: int, registry: Registry) -> Codec:
        found = self._codecs.get(schema_id)
        if found is not None:
            return found
        schema = registry.by_id(schema_id)
        if schema is None:
            now = time.monotonic()
            if now - self._asked.get(schema_id, float("-inf")) >= _ASK_AGAIN_SECONDS:
                self._asked[schema_id] = now
                registry.refresh()
                schema = registry.by_id(schema_id)
        if schema is None:
            raise UnknownSchemaId(schema_id)
        self._codecs[schema_id] = Codec(schema.where, schema, schema_id, None, registry)
        return self._codecs[schema_id]


def kind_of(topic: str) -> str:
    """Tell what the records of a topic are: request, event, reply, retry, dead, or record for other programs'."""
    if naming.is_target(topic):
        return "event" if naming.is_event(topic) else "request"
    stem, _, last = topic.rpartition(".")
    if naming.source_of_failures(topic) is not None:
        return last
    return "reply" if topic == naming.reply_topic(stem) and naming.is_group(stem) else "record"


def as_json(record: Record, value: Value, *, with_headers: bool) -> dict[str, Any]:
    """Describe a record for programs."""
    envelope, kind = received(record, record.topic).envelope, kind_of(record.topic)
    described: dict[str, Any] = {
        "time": as_time(record.timestamp),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": as_text(record.key),
        "kind": kind,
        "id": envelope.id,
        "correlation_id": envelope.correlation_id,
        "source": envelope.source or None,
        "type": envelope.type or None,
        "status": envelope.status.name if envelope.status is not None else None,
        "status_message": envelope.status_message,
        "value": value.json,
    }
    if value.json is None and record.value is not None:
        described["bytes"] = base64.b64encode(record.value).decode()
        described["problem"] = value.problem
    if with_headers:
        described["headers"] = _headers(record)
    return described


def as_line(record: Record, value: Value, *, with_headers: bool) -> str:
    """Describe a record for people, in one line."""
    envelope, kind = received(record, record.topic).envelope, kind_of(record.topic)
    place = f"{record.topic}/{record.partition}/{record.offset}"
    # A reply is named by its request's id, so that both lines show the same one.
    parts = [as_time(record.timestamp) or "-", kind.ljust(7), place, f"key={as_text(record.key) or '-'}"]
    parts.append(envelope.correlation_id or envelope.id)
    parts += [_status(envelope), content(record, value)]
    if with_headers:
        parts.append(json.dumps(_headers(record), ensure_ascii=False))
    return printable(" ".join(part for part in parts if part))


def _status(envelope: Envelope) -> str:
    if envelope.status is None:
        return ""
    return envelope.status.name + (f": {envelope.status_message}" if envelope.status_message else "")


def content(record: Record, value: Value) -> str:
    """Show a record's value in one line: as JSON or, failing that, as bytes with the reason."""
    if record.value is None:
        return "" if kind_of(record.topic) == "reply" else "null"
    if value.json is not None:
        return json.dumps(value.json, ensure_ascii=False)
    shown = record.value[:_SHOWN_BYTES].hex() + ("…" if len(record.value) > _SHOWN_BYTES else "")
    return f"0x{shown} ({len(record.value)} bytes{f'; {value.problem}' if value.problem else ''})"


def as_time(epoch_ms: int) -> str | None:
    """Give a time in this machine's zone, ISO 8601; None where there is none."""
    if epoch_ms < 0:
        return None
    try:
        return datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # other programs write any number they like
        return None


def as_clock(epoch_ms: int) -> str:
    """Give a time in this machine's zone, for people."""
    return (as_time(epoch_ms) or "-").replace("T", " ")[:23]


def as_text(data: bytes | None) -> str | None:
    """Give bytes as text; what is not UTF-8 in them is escaped."""
    return None if data is None else data.decode("utf-8", "backslashreplace")


def _headers(record: Record) -> Mapping[str, str | None]:
    return {name: as_text(value) for name, value in record.headers}
