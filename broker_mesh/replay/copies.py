"""The record that is put back: what it keeps of the dead letter, and what it must fit.

On the way of a message: from behind its end to a new beginning. Pure. It keeps the original's key, bytes, id, reply
address, trace and foreign headers, and which consumer group it is for; it loses how it failed and its old deadline, and
says which replay it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from broker_mesh import headers, naming
from broker_mesh.contracts.codec import Codec, json_to_value
from broker_mesh.contracts.values import is_json
from broker_mesh.dead_letters.letter import DeadLetter
from broker_mesh.errors import InvalidArgument, MeshError, SchemaError
from broker_mesh.headers import Envelope, RawHeaders
from broker_mesh.kafka.fenced import NewRecord
from broker_mesh.layers.route import key_of
from broker_mesh.message import Message

_REWRITTEN = headers.FAILURE_FACTS | {
    headers.CE_ID,
    headers.CE_TYPE,
    headers.REPLY_TO,
    headers.ORIGIN,
    headers.REPLAY_ID,
    headers.DEADLINE,
    headers.TRACEPARENT,
    headers.TRACESTATE,
    headers.BAGGAGE,
}


EndSpan: TypeAlias = Callable[[MeshError | None], None]
"""Ends a span: well, or with the reason why its record was not written."""


@dataclass(frozen=True)
class Target:
    """Where dead letters are put back to.

    Args:
        name: the operation or event whose schema they have to fit; or the topic of other programs, whose consumer
            judges anew what it reads.
        topic: that they are written to.
        partitions: how many it has.
        codec: of its present schema, giving and taking dicts; None for a topic of other programs without one.
        key_field: the field that keys its records, if there is one.
    """

    name: str
    topic: str
    partitions: int
    codec: Codec | None
    key_field: str | None

    @property
    def is_of_the_mesh(self) -> bool:
        """Whether all that goes there has to fit the schema."""
        return naming.is_target(self.name)


class Terms(NamedTuple):
    """What all copies of one replay have in common.

    Args:
        replay_id: of the replay.
        deadline: when the work is no longer worth doing, epoch ms; None for no limit.
        traced: begins the span of a copy; gives it with the span's context, and what ends the span.
    """

    replay_id: str
    deadline: int | None
    traced: Callable[[Message], tuple[Message, EndSpan]]


class Copy(NamedTuple):
    """A record to be put back.

    Args:
        letter: the dead letter it is a copy of.
        record: to be written.
        end_span: to be called once it is written, or is not, with the reason.
    """

    letter: DeadLetter
    record: NewRecord
    end_span: EndSpan


def as_it_was(letter: DeadLetter, target: Target, terms: Terms) -> Copy:
    """Copy a dead letter with its own bytes, to where it failed.

    Raises:
        SchemaError: it does not fit the present schema: it would only fail again.
        InvalidArgument: one of its headers is malformed.
    """
    record = letter.record
    if target.is_of_the_mesh:
        if record.value is None:
            raise SchemaError(f"the value is null: {target.name} takes an Avro record")
        _codec_of(target).decode(record.value)
    return _copy(letter, target, terms, value=record.value, key=record.key, partition=record.partition)


def edited(letter: DeadLetter, target: Target, terms: Terms, body: Any) -> Copy:
    """Copy a dead letter with another body, as plain JSON; its key is read from that.

    Raises:
        SchemaError: the body does not fit the target's present schema.
        InvalidArgument: its key field can't be a key.
    """
    if not target.is_of_the_mesh and is_json(letter.record.value):
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return _copy(
            letter, target, terms, value=text, key=letter.record.key, partition=letter.record.partition
        )
    codec = _codec_of(target)
    if not isinstance(body, dict):
        raise SchemaError(f"{codec.subject}: the edited body is no JSON object")
    return converted(letter, target, terms, json_to_value(codec.schema, body, codec.subject))


def converted(letter: DeadLetter, target: Target, terms: Terms, value: Any) -> Copy:
    """Copy a dead letter to another operation, or with another value, by the target's present schema and key field.

    Raises:
        SchemaError: the value does not fit that schema.
        InvalidArgument: its key field can't be a key.
    """
    codec = _codec_of(target)
    data = codec.encode(value)
    # What the schema has defaults for may be left out of the value, and be the key all the same.
    key = letter.record.key
    if target.key_field is not None and target.is_of_the_mesh:
        key = key_of(codec.decode(data), target.key_field)
    same_place = key == letter.record.key and target.name == letter.operation
    partition = letter.record.partition if same_place else -1
    return _copy(letter, target, terms, value=data, key=key, partition=partition)


def _codec_of(target: Target) -> Codec:
    if target.codec is None:
        raise SchemaError(
            f"topic {target.name!r} has no schema to write an Avro record by: put it back as it is, or register one"
        )
    return target.codec


def _copy(
    letter: DeadLetter,
    target: Target,
    terms: Terms,
    *,
    value: bytes | None,
    key: bytes | None,
    partition: int,
) -> Copy:
    original = letter.envelope
    envelope = original._replace(
        type=original.type if target.name == letter.operation else target.name,
        # A caller takes the reply of the service that it asked, and of no other.
        reply_to=original.reply_to if _is_of_same_service(letter, target) else None,
        deadline=terms.deadline,
        replay_id=terms.replay_id,
        origin=original.origin or letter.place,
    )
    kept = _kept(letter, is_changed=value != letter.record.value)
    if target.name != letter.operation:  # who handles another operation is another group
        kept = [(name, value) for name, value in kept if name != headers.GROUP]
    # What was malformed may be gone with the headers that are written anew; what is left of it would fail again.
    if letter.fault is not None and target.is_of_the_mesh and (problem := headers.read(kept)[1]) is not None:
        raise InvalidArgument(problem.message)
    if partition >= target.partitions:
        partition = -1
    message, end_span = terms.traced(
        Message(target.topic, target.name, envelope, key=key, value=value, partition=partition)
    )
    raw = kept + _written(message.envelope, {name for name, _ in kept})
    return Copy(letter, NewRecord(target.topic, key, value, raw, partition), end_span)


def _kept(letter: DeadLetter, *, is_changed: bool) -> RawHeaders:
    # Who changes a message can't sign it as its sender.
    gone = _REWRITTEN | {headers.SIGNATURE} if is_changed else _REWRITTEN
    return [(name, value) for name, value in letter.record.headers if name not in gone]


def _written(envelope: Envelope, present: set[str]) -> RawHeaders:
    written = headers.write(
        Envelope(
            id=envelope.id,
            type=envelope.type,
            reply_to=envelope.reply_to,
            origin=envelope.origin,
            replay_id=envelope.replay_id,
            deadline=envelope.deadline,
            traceparent=envelope.traceparent,
            tracestate=envelope.tracestate,
            baggage=envelope.baggage,
        )
    )
    return [(name, value) for name, value in written if name not in present]


def _is_of_same_service(letter: DeadLetter, target: Target) -> bool:
    return naming.owner(target.name) == naming.owner(letter.operation)
