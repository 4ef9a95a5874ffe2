"""The codec: a value to bytes in Confluent's wire format, and back.

On the way of a message: the `validate` layers call it on both sides of every hop. A message is magic byte 0, the id
of the schema it was written by (4 bytes, big-endian), then Avro binary
(https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format).
Bytes come from anybody: decoding ends for any of them, in memory of the order of the message, with a value or a
SchemaError.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Mapping
from copy import deepcopy
from io import BytesIO
from typing import Any, NamedTuple, Protocol

import fastavro
from fastavro.read import SchemaResolutionError
from pydantic import BaseModel, ValidationError

from broker_mesh.contracts import skim
from broker_mesh.contracts.dump import compile_dump, plain
from broker_mesh.contracts.errors import NotAvro, Undecodable, UnknownSchemaId, joined, shown
from broker_mesh.contracts.models import check_binding
from broker_mesh.contracts.plain_json import json_to_value, value_to_json
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.shapes import shape_of
from broker_mesh.contracts.strict import Misfit, compile_prepare
from broker_mesh.errors import FailedPrecondition, SchemaError

__all__ = [
    "Codec",
    "NotAvro",
    "SchemaCache",
    "Undecodable",
    "UnknownSchemaId",
    "decode_as_written",
    "json_to_value",
    "schema_id_of",
    "value_to_json",
]

_HEADER_BYTES = 5
_fastavro_read: Any = inspect.getmodule(fastavro.schemaless_reader)
_MAX_SCHEMA_ID = 2**31 - 1

_UNWRITABLE = (TypeError, ValueError, OverflowError, AttributeError, KeyError, IndexError, RecursionError)
_UNREADABLE: tuple[type[Exception], ...] = (
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    SchemaResolutionError,
    struct.error,
    # Of fastavro's compiled half alone, which exports it nowhere: a float cut short.
    getattr(_fastavro_read, "ReadError", EOFError),
)


class SchemaCache(Protocol):
    """Where the codec finds the schemas of writers; the registry is one. Must answer from memory."""

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Give the schema that an id stands for, or None where it is not known here."""


class _Reader(NamedTuple):
    """How to read what was written by one schema."""

    writer: Any
    reader: Any  # None where it is the same schema, so that nothing has to be resolved
    recursive: bool


class Codec:
    """Encodes and decodes the values of one subject.

    Args:
        subject: for instance ``fleet.v1.find-aircraft-value``; named in errors.
        schema: what values are written by, and read as.
        schema_id: the id under which it is registered; None for who only reads, before the writer registered it.
        model: the pydantic model of the values; None for callers by name, who get and give dicts.
        writer_schemas: finds the schemas that others wrote by.

    Raises:
        SchemaError: the model does not fit the schema, or the schema can't be read safely.
    """

    def __init__(
        self,
        subject: str,
        schema: AvroSchema,
        schema_id: int | None,
        model: type[BaseModel] | None,
        writer_schemas: SchemaCache,
    ) -> None:
        if schema_id is not None and not 0 <= schema_id <= _MAX_SCHEMA_ID:
            raise SchemaError(f"{subject}: schema id {schema_id} does not fit into 4 bytes")
        self.subject = subject
        self.schema = schema
        self.schema_id = schema_id
        self.model = model
        self._writer_schemas = writer_schemas
        self._form = schema.fastavro_form
        self._prefix = b"" if schema_id is None else b"\x00" + schema_id.to_bytes(4, "big")
        self._prepare = compile_prepare(self._form)
        self._dump: Callable[[Any], Any] | None = None
        if model is not None:
            check_binding(model, schema, subject)
            self._dump = compile_dump(shape_of(model), self._form)
        self._own = _Reader(self._form, None, skim.is_recursive(self._form))
        # Ids never change their meaning, so what is found once is kept for ever.
        self._readers: dict[bytes, _Reader] = {self._prefix: self._own} if self._prefix else {}

    def encode(self, value: BaseModel | Mapping[str, Any]) -> bytes:
        """Write a value.

        Args:
            value: an instance of the model, or a mapping; with a model, a mapping is validated by it first.

        Raises:
            SchemaError: the value does not fit; names the field, what is expected and what was given.
            FailedPrecondition: the codec has no schema id, and only reads.
        """
        if not self._prefix:
            raise FailedPrecondition(
                f"{self.subject}: the schema is not registered, so nothing can be written by it"
            )
        if self.model is not None and not isinstance(value, self.model):
            if isinstance(value, BaseModel):
                raise SchemaError(
                    f"{self.subject}: expected {self.model.__name__}, got {type(value).__name__}"
                )
            value = self._validated(value)
        out = BytesIO()
        out.write(self._prefix)
        try:
            if self._dump is not None:
                ready = self._dump(value)
            else:
                ready = self._prepare(plain(value) if isinstance(value, BaseModel) else value)
            fastavro.schemaless_writer(out, self._form, ready)
        except Misfit as misfit:
            raise misfit.as_error(self.subject) from misfit
        except _UNWRITABLE as error:
            raise self._unwritable(value, error) from error
        data = out.getvalue()
        if self._own.recursive:
            # What a reader would refuse must not be sent.
            self._check_depth(self._own, data)
        return data

    def decode(self, data: bytes) -> Any:
        """Read a value.

        Args:
            data: the whole value of a record.

        Returns:
            An instance of the model, or a dict where the codec has none.

        Raises:
            NotAvro: too short, or without the magic byte.
            UnknownSchemaId: the id is not in the cache; refresh the registry and try once more.
            Undecodable: cut short, too long, or no value of the writer's schema.
            SchemaError: the value does not fit the model; names the field and the problem.
        """
        value = self._read(self._readers.get(data[:_HEADER_BYTES]) or self._find_reader(data), data)
        return value if self.model is None else self._validated(value)

    def _find_reader(self, data: bytes) -> _Reader:
        schema_id = schema_id_of(data)
        writer = self._writer_schemas.by_id(schema_id)
        if writer is None:
            raise UnknownSchemaId(schema_id)
        form = writer.fastavro_form
        reader = None if writer == self.schema else self._form
        found = _Reader(form, reader, skim.is_recursive(form))
        self._readers[bytes(data[:_HEADER_BYTES])] = found
        return found

    def _read(self, how: _Reader, data: bytes) -> Any:
        if how.recursive:
            self._check_depth(how, data)
        source = BytesIO(data)
        source.seek(_HEADER_BYTES)
        try:
            value = fastavro.schemaless_reader(source, how.writer, how.reader)
        except _UNREADABLE as error:
            raise Undecodable(
                f"{self.subject}: the bytes can't be decoded by schema id {schema_id_of(data)}: {_reason(error)}"
            ) from error
        if source.tell() != len(data):
            raise Undecodable(
                f"{self.subject}: {len(data) - source.tell()} bytes are left after the value: "
                f"it was not written by schema id {schema_id_of(data)}"
            )
        # Defaults come out of the schema itself; a caller may change what it is given.
        return deepcopy(value) if self.model is None and how.reader is not None else value

    def _check_depth(self, how: _Reader, data: bytes) -> None:
        try:
            skim.check_depth(how.writer, data, _HEADER_BYTES)
        except Undecodable as error:
            raise Undecodable(f"{self.subject}: {error.message}") from error

    def _validated(self, value: Any) -> BaseModel:
        assert self.model is not None
        try:
            # Not strict even where the model is: Avro has lists for sets and strings for enums.
            validated: BaseModel = self.model.__pydantic_validator__.validate_python(
                value, strict=False, by_alias=True
            )
        except ValidationError as error:
            raise self._invalid(error) from error
        return validated

    def _invalid(self, error: ValidationError) -> SchemaError:
        # Without the input: it may be a secret, and it is in the record anyway.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = joined(first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        where = f"field {place!r}" if place else "the value"
        return SchemaError(f"{self.subject}: {where}: {first['msg'][:100]}{more}", details={"field": place})

    def _unwritable(self, value: Any, error: Exception) -> SchemaError:
        """Find what fastavro did not like; it seldom says where it was."""
        if isinstance(error, RecursionError):
            return SchemaError(f"{self.subject}: the value is nested too deep, or holds itself")
        if isinstance(error, UnicodeEncodeError):
            return SchemaError(f"{self.subject}: the string {shown(error.object)} can't be written as UTF-8")
        try:
            self._prepare(plain(value))
        except Misfit as misfit:
            return misfit.as_error(self.subject)
        return SchemaError(f"{self.subject}: the value can't be written: {_reason(error)}")


def schema_id_of(data: bytes) -> int:
    """Give the schema id in a message's first bytes.

    Raises:
        NotAvro: too short, or without the magic byte.
    """
    if len(data) < _HEADER_BYTES:
        raise NotAvro(f"{len(data)} bytes are too few for a magic byte and a schema id")
    if data[0] != 0:
        raise NotAvro(f"the first byte is {data[0]}, not the magic byte 0: the sender does not write Avro")
    return int.from_bytes(data[1:_HEADER_BYTES], "big")


def decode_as_written(data: bytes, writer_schemas: SchemaCache) -> Any:
    """Read a value by the schema it was written by, for those who only look on, such as `mesh tap`.

    Args:
        data: the whole value of a record.
        writer_schemas: finds the schema.

    Raises:
        SchemaError: as `Codec.decode`.
    """
    schema_id = schema_id_of(data)
    schema = writer_schemas.by_id(schema_id)
    if schema is None:
        raise UnknownSchemaId(schema_id)
    return Codec(schema.where, schema, schema_id, None, writer_schemas).decode(data)


def _reason(error: Exception) -> str:
    if isinstance(error, (EOFError, IndexError, struct.error)) or not str(error):
        return "they end within the value or name a branch or symbol that the schema does not have"
    return f"{type(error).__name__}: {error}"[:100]
