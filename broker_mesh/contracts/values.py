"""How the values of one topic are written and read: as Avro in the wire format, as JSON text, or not at all.

On the way of a message: `topic_contracts.py` hands one of these to the validate layers of wrapped clients.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Protocol

from pydantic import BaseModel

from broker_mesh.contracts.codec import Codec, SchemaCache
from broker_mesh.contracts.dump import plain
from broker_mesh.contracts.errors import NoSchema, NotJson, shown
from broker_mesh.contracts.plain_json import json_to_value, value_to_json
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.contracts.strict import Misfit, compile_prepare
from broker_mesh.errors import SchemaError


class Values(Protocol):
    """Writes and reads values; both raise `SchemaError` for what does not fit."""

    def encode(self, value: Any) -> bytes:
        """Write a value."""
        ...

    def decode(self, data: bytes) -> Any:
        """Read a value that is there."""
        ...


class AvroValues:
    """Avro in Confluent's wire format, read as the newest schema of a subject.

    Args:
        topic: named in errors.
        subject: of the schema.
        registered: its newest version; None where there is none.
        writer_schemas: finds the schemas that others wrote by.

    Raises:
        SchemaError: the schema can't be read.
    """

    def __init__(
        self, topic: str, subject: str, registered: RegisteredSchema | None, writer_schemas: SchemaCache
    ) -> None:
        self._topic = topic
        self._subject = subject
        self._codec = (
            None
            if registered is None
            else Codec(subject, registered.schema, registered.id, None, writer_schemas)
        )

    def encode(self, value: Any) -> bytes:
        """Write a model or a dict."""
        return self._known().encode(value)

    def decode(self, data: bytes) -> Any:
        """Read a dict."""
        return self._known().decode(data)

    def _known(self) -> Codec:
        if self._codec is None:
            raise NoSchema(self._topic, self._subject)
        return self._codec


class JsonValues:
    """JSON text (RFC 8259, in UTF-8) whose values fit the newest Avro schema of a subject, as plain JSON has them.

    Args:
        topic: named in errors.
        subject: of the schema.
        registered: its newest version; None where there is none.

    Raises:
        SchemaError: the schema can't be read.
    """

    def __init__(self, topic: str, subject: str, registered: RegisteredSchema | None) -> None:
        self._topic = topic
        self._subject = subject
        self._schema = None if registered is None else registered.schema
        self._check = None if registered is None else compile_prepare(registered.schema.fastavro_form)
        self._is_as_json_has_it = registered is not None and _is_as_json_has_it(
            registered.schema.fastavro_form
        )

    def encode(self, value: Any) -> bytes:
        """Write a model or a dict as JSON text."""
        ready = plain(value) if isinstance(value, BaseModel) else value
        self._fit(ready)
        try:
            return _ENCODER.encode(ready).encode()
        except UnicodeEncodeError as error:
            raise SchemaError(
                f"{self._subject}: the string {shown(error.object)} can't be written as UTF-8"
            ) from error
        except ValueError:  # a number that JSON has not: plain JSON has its name
            return _ENCODER.encode(value_to_json(ready)).encode()

    def decode(self, data: bytes) -> Any:
        """Read JSON text; times, decimals and bytes come as Python has them."""
        if self._schema is None:
            raise NoSchema(self._topic, self._subject)
        value = loads_strictly(data, self._topic)
        if self._is_as_json_has_it and self._fits(value):
            return value  # what does not fit may still be a number that JSON has no other form for, such as "NaN"
        value = json_to_value(self._schema, value, self._subject)
        self._fit(value)
        return value

    def _fits(self, value: Any) -> bool:
        try:
            self._fit(value)
        except SchemaError:
            return False
        return True

    def _fit(self, value: Any) -> None:
        if self._check is None:
            raise NoSchema(self._topic, self._subject)
        try:
            self._check(value)
        except Misfit as misfit:
            raise misfit.as_error(self._subject) from misfit
        except RecursionError as error:
            raise SchemaError(f"{self._subject}: the value is nested too deep, or holds itself") from error


class AnyBytes:
    """Bytes of which nobody has said anything: they stay what they are.

    Args:
        topic: named in errors.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def encode(self, value: Any) -> bytes:
        """Write nothing: there is no schema to write by."""
        raise SchemaError(
            f"topic {self._topic!r} has no schema, so {shown(value)} can't be encoded: send bytes, or adopt the topic "
            f"('mesh adopt {self._topic}')"
        )

    def decode(self, data: bytes) -> Any:
        """Give the bytes."""
        return data


def is_json(data: bytes | None) -> bool:
    """Tell whether a value is JSON text of an object or an array: other programs' values, shown and edited as such."""
    if data is None or data[:1] not in (b"{", b"["):
        return False  # a number or a word alone may be anything
    try:
        loads_strictly(data, "")
    except NotJson:
        return False
    return True


def loads_strictly(data: bytes, where: str) -> Any:
    """Read JSON text as RFC 8259 has it: UTF-8, without the numbers that Python alone writes (NaN, Infinity).

    Raises:
        NotJson: it is none; the sentence begins with `where`.
    """
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotJson(f"{where}: the value is not JSON: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at")
        raise NotJson(f"{where}: the value is not JSON: {problem} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise NotJson(f"{where}: the value is not usable JSON: it is nested too deep") from error
    except NoJsonNumber as error:
        raise NotJson(f"{where}: the value is not usable JSON: {error}") from error
    except ValueError as error:
        raise NotJson(
            f"{where}: the value is not usable JSON: a number in it has more than "
            f"{sys.get_int_max_str_digits():,} digits"
        ) from error


def _is_as_json_has_it(node: Any) -> bool:
    """Tell whether all types of a schema have values of JSON's own: no bytes, times, decimals."""
    if isinstance(node, list):
        return all(map(_is_as_json_has_it, node))
    if isinstance(node, str):
        return node != "bytes"
    parts = [node.get("items"), node.get("values"), *(field["type"] for field in node.get("fields", ()))]
    return (
        node["type"] not in ("bytes", "fixed")
        and "logicalType" not in node
        and all(_is_as_json_has_it(part) for part in parts if part is not None)
    )


class NoJsonNumber(ValueError):
    """A number that Python alone writes."""


def _refuse_constant(name: str) -> Any:
    raise NoJsonNumber(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=value_to_json)
