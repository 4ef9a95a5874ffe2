"""Pydantic models and Avro schemas: one made from the other, or checked against it.

On the way of a message: before it, when a mesh starts. A service without schema files gets its schemas from its
models; one with files has each model checked against its file, so that neither drifts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from broker_mesh.contracts.binding import differences
from broker_mesh.contracts.logical import unscaled_bytes
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.shapes import (
    NO_DEFAULT,
    Choice,
    Either,
    Entries,
    Items,
    Record,
    Scalar,
    Shape,
    shape_of,
)
from broker_mesh.errors import SchemaError

_EPOCH = datetime(1970, 1, 1)


def schema_of_model(model: type[BaseModel], namespace: str) -> AvroSchema:
    """Make the Avro schema of a model.

    Docstrings and descriptions are left out: a corrected sentence would be a new version of the schema.

    Args:
        model: a pydantic model; field names, or aliases where there are any, become Avro's.
        namespace: of the record and all types in it, for instance ``fleet.v1``; hyphens become underscores.

    Raises:
        SchemaError: a field has a type or default that Avro can't have; names the field and what to do.
    """
    where = f"model {model.__name__}"
    definition = _Writer(where).record(shape_of(model))
    return AvroSchema.of({**definition, "namespace": re.sub(r"[^A-Za-z0-9_.]", "_", namespace)}, where)


def check_binding(model: type[BaseModel], schema: AvroSchema, subject: str = "") -> None:
    """Check that every value of a model can be written by a schema, and every value of the schema read as the model.

    Args:
        model: a pydantic model.
        schema: what is registered, or stands in a file.
        subject: to name in the error; the schema's own description where empty.

    Raises:
        SchemaError: they differ; one sentence with all differences.
    """
    found = differences(shape_of(model), schema)
    if found:
        raise SchemaError(
            f"model {model.__name__} does not fit the schema of {subject or schema.where!r}: {'; '.join(found)}",
            details={"subject": subject, "differences": found},
        )


class _Writer:
    """Turns one tree of shapes into a schema; remembers the names it has given."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._named: dict[str, Any] = {}

    def record(self, record: Record) -> Any:
        name = self._claim(record.name, record.model)
        if name is None:
            return record.name
        fields = []
        for field in record.fields:
            where = f"model {record.model.__name__}: field {field.name!r}"
            shape = _default_first(field.shape, field.default)
            entry = {"name": field.wire, "type": self._type(shape, f"{name}{_camel(field.wire)}")}
            if field.default is not NO_DEFAULT:
                entry["default"] = _default(shape, field.default, where)
            fields.append(entry)
        return {"type": "record", "name": name, "fields": fields}

    def _type(self, shape: Shape | None, name: str) -> Any:
        match shape:
            case None:
                return "null"
            case Scalar(avro=avro):
                return avro
            case Choice():
                own = shape.name or name
                if self._claim(own, tuple(shape.names)) is None:
                    return own
                return {"type": "enum", "name": own, "symbols": shape.names}
            case Items(item=item):
                return {"type": "array", "items": self._type(item, f"{name}Item")}
            case Entries(value=value):
                return {"type": "map", "values": self._type(value, f"{name}Value")}
            case Either(branches=branches):
                return [self._type(branch, name) for branch in branches]
            case Record():
                return self.record(shape)

    def _claim(self, name: str, owner: Any) -> str | None:
        """Take a name for a type; None when the same type has it already."""
        if name not in self._named:
            self._named[name] = owner
            return name
        if self._named[name] == owner:
            return None
        raise SchemaError(f"{self._where} holds two different types called {name}: rename one of them")


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _default_first(shape: Shape, default: Any) -> Shape:
    """Put the branch of the default first, as Avro up to 1.11 demands of unions."""
    if not isinstance(shape, Either):
        return shape
    if default is NO_DEFAULT:
        # null first is what every other tool writes too.
        return Either(tuple(sorted(shape.branches, key=lambda branch: branch is not None)))
    return Either(tuple(sorted(shape.branches, key=lambda branch: not is_of(branch, default))))


def is_of(shape: Shape | None, value: Any) -> bool:
    """Tell whether a value that a model holds is of a shape; exact, so that unions are written as they are read."""
    match shape:
        case None:
            return value is None
        case Scalar(python=python):
            return type(value) is python
        case Choice(symbols=symbols):
            return isinstance(value, (str, *{type(key) for key in symbols})) and value in symbols
        case Items():
            return isinstance(value, (list, tuple, set, frozenset))
        case Entries():
            return isinstance(value, Mapping)
        case Record(model=model):
            return isinstance(value, model)
        case Either(branches=branches):
            return any(is_of(branch, value) for branch in branches)


def _default(shape: Shape | None, value: Any, where: str) -> Any:
    """Write a default as Avro has it in schemas: JSON, of the first branch of a union."""
    match shape:
        case Either(branches=branches):
            return _default(branches[0], value, where)
        case Scalar(python=python) if python is float and type(value) is int:
            return float(value)
    if not is_of(shape, value):
        raise SchemaError(f"{where} has a default of another type than its own: {type(value).__name__}")
    match shape:
        case Scalar(avro=avro):
            return _scalar_default(avro, value)
        case Choice(symbols=symbols):
            return symbols[value]
        case Items(item=item):
            return [_default(item, part, where) for part in value]
        case Entries(value=part_shape):
            return {key: _default(part_shape, part, where) for key, part in value.items()}
        case Record(fields=fields):
            return {
                field.wire: _default(
                    _default_first(field.shape, field.default), getattr(value, field.name), where
                )
                for field in fields
            }
    return None


def _scalar_default(avro: Any, value: Any) -> Any:
    match value:
        case datetime():
            naive = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            since = naive - _EPOCH
            return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        case date():
            return (value - _EPOCH.date()).days
        case time():
            return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
        case UUID():
            return str(value)
        case Decimal():
            return unscaled_bytes(value, avro).decode("latin-1")
        case bytes():
            return value.decode("latin-1")
        case _:
            return value
