"""What a pydantic model looks like as data: its annotations, read once into a small tree.

On the way of a message: before it. `models.py` turns the tree into Avro or compares it with a schema, `dump.py`
turns it into the function that empties a model for writing.
"""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, EmailStr, NaiveDatetime, RootModel
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import TypeAliasType

from broker_mesh.errors import SchemaError

NO_DEFAULT: Any = object()


@dataclass(frozen=True)
class Scalar:
    """One value.

    Args:
        avro: its Avro type, as JSON values.
        python: what the model calls it, for errors.
    """

    avro: Any
    python: type


@dataclass(frozen=True)
class Choice:
    """One of a few strings: an Enum or a Literal.

    Args:
        name: of the Enum; empty for a Literal.
        symbols: the strings on the wire by the values that a model holds.
    """

    name: str
    symbols: dict[Any, str]

    @property
    def names(self) -> list[str]:
        """The symbols in the order of their declaration."""
        return list(dict.fromkeys(self.symbols.values()))


@dataclass(frozen=True)
class Items:
    """A list, tuple or set."""

    item: Shape
    python: type


@dataclass(frozen=True)
class Entries:
    """A dict with strings as keys."""

    value: Shape


@dataclass(frozen=True)
class Either:
    """One of several; `None` stands for null."""

    branches: tuple[Shape | None, ...]


@dataclass(frozen=True)
class FieldShape:
    """A field of a record.

    Args:
        name: in the model.
        wire: in the schema: the alias where there is one.
        shape: its type.
        required: whether the model can't be made without it.
        default: the constant default, as the model has it; NO_DEFAULT where there is none.
    """

    name: str
    wire: str
    shape: Shape
    required: bool
    default: Any


@dataclass(frozen=True, eq=False)
class Record:
    """A model. The list of fields is filled after the record is known, since a model may hold itself."""

    model: type[BaseModel]
    fields: list[FieldShape] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The record's short name in Avro: the class's, with the brackets of generics written away."""
        text = "".join(character if character.isalnum() else "_" for character in self.model.__name__)
        return text.strip("_") if text.isascii() else text.encode("ascii", "ignore").decode() or "Record"


Shape = Scalar | Choice | Items | Entries | Either | Record

_SCALARS: dict[Any, Scalar] = {
    str: Scalar("string", str),
    EmailStr: Scalar("string", str),
    bool: Scalar("boolean", bool),
    int: Scalar("long", int),
    float: Scalar("double", float),
    bytes: Scalar("bytes", bytes),
    datetime: Scalar({"type": "long", "logicalType": "timestamp-micros"}, datetime),
    AwareDatetime: Scalar({"type": "long", "logicalType": "timestamp-micros"}, datetime),
    NaiveDatetime: Scalar({"type": "long", "logicalType": "local-timestamp-micros"}, datetime),
    date: Scalar({"type": "int", "logicalType": "date"}, date),
    time: Scalar({"type": "long", "logicalType": "time-micros"}, time),
    UUID: Scalar({"type": "string", "logicalType": "uuid"}, UUID),
}

_LISTS: dict[Any, type] = {
    list: list,
    set: set,
    frozenset: frozenset,
    tuple: tuple,
    collections.abc.Sequence: list,
    collections.abc.Set: set,
}
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

_FACTORIES = (list, dict, set, frozenset, tuple)


@cache
def shape_of(model: type[BaseModel]) -> Record:
    """Read a model's annotations.

    Raises:
        SchemaError: a field has a type that has no counterpart in Avro; names the field and what to do.
    """
    return _Reader().record(model)


class _Reader:
    def __init__(self) -> None:
        self._records: dict[type[BaseModel], Record] = {}

    def record(self, model: type[BaseModel]) -> Record:
        if model in self._records:
            return self._records[model]
        if issubclass(model, RootModel):
            raise SchemaError(
                f"model {model.__name__}: a RootModel has no fields: use a BaseModel with one field"
            )
        try:
            model.model_rebuild()
        except (PydanticUserError, NameError) as error:
            raise SchemaError(
                f"model {model.__name__} refers to a type that is not defined: {error}"
            ) from error
        record = self._records[model] = Record(model)
        for name, info in model.model_fields.items():
            where = f"model {model.__name__}: field {name!r}"
            record.fields.append(
                FieldShape(
                    name=name,
                    wire=_wire_name(name, info, where),
                    shape=self._shape(info.annotation, info.metadata, where),
                    required=info.is_required(),
                    default=_default(info),
                )
            )
        return record

    def _shape(self, annotation: Any, metadata: list[Any], where: str) -> Shape:
        while True:  # unwrap what only decorates
            if typing.get_origin(annotation) is typing.Annotated:
                annotation, *more = typing.get_args(annotation)
                metadata = [*metadata, *more]
            elif isinstance(annotation, TypeAliasType):
                annotation = annotation.__value__
            elif isinstance(annotation, typing.NewType):
                annotation = annotation.__supertype__
            else:
                break
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        if annotation is Decimal:
            return _decimal(metadata, where)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return self._either(arguments, where)
        if origin is typing.Literal:
            return _literal(arguments, where)
        if origin in _LISTS or annotation in _LISTS:
            return self._items(origin or annotation, arguments, where)
        if origin in _DICTS or annotation in _DICTS:
            if len(arguments) != 2 or self._shape(arguments[0], [], where) != _SCALARS[str]:
                raise SchemaError(f"{where} is a dict: Avro's keys are strings, so write dict[str, …]")
            return Entries(self._shape(arguments[1], [], where))
        if isinstance(annotation, type):
            if issubclass(annotation, BaseModel):
                return self.record(annotation)
            if issubclass(annotation, enum.Enum):
                return _enumeration(annotation, where)
            if issubclass(annotation, str):
                return _SCALARS[str]
        shown = getattr(annotation, "__name__", None) or str(annotation)
        raise SchemaError(
            f"{where} has the type {shown}, which has no counterpart in Avro: use a scalar, list, dict[str, …], "
            "Enum, Literal of strings or another model"
        )

    def _items(self, origin: Any, arguments: tuple[Any, ...], where: str) -> Items:
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            raise SchemaError(
                f"{where} is a tuple: Avro's arrays have one type, so write tuple[T, ...] or a model"
            )
        if not arguments:
            raise SchemaError(f"{where} is a {origin.__name__} of anything: say of what, as in list[str]")
        return Items(self._shape(arguments[0], [], where), _LISTS[origin])

    def _either(self, arguments: tuple[Any, ...], where: str) -> Either:
        branches: list[Shape | None] = []
        for argument in arguments:
            shape = None if argument is types.NoneType else self._shape(argument, [], where)
            flat = shape.branches if isinstance(shape, Either) else (shape,)
            branches.extend(branch for branch in flat if branch not in branches)
        _check_telling_apart([branch for branch in branches if branch is not None], where)
        return Either(tuple(branches))


def avro_kind(shape: Shape | None) -> str:
    """Name the Avro type of a shape, as unions tell branches apart."""
    match shape:
        case None:
            return "null"
        case Scalar(avro=avro):
            return str(avro if isinstance(avro, str) else avro["type"])
        case Choice(name=name):
            return name or "enum"
        case Items():
            return "array"
        case Entries():
            return "map"
        case Record():
            return shape.name
        case Either():
            return "union"


def _check_telling_apart(branches: list[Shape], where: str) -> None:
    for i, one in enumerate(branches):
        for other in branches[:i]:
            if avro_kind(one) == avro_kind(other):
                raise SchemaError(
                    f"{where} is a union of two types that are both {avro_kind(one)} in Avro: "
                    "put each into a model of its own"
                )
            if isinstance(one, Record) and isinstance(other, Record) and not _differ(one, other):
                raise SchemaError(
                    f"{where} is a union of {other.model.__name__} and {one.model.__name__}, which have the same "
                    "fields: give each a field of its own Literal to tell them apart"
                )


def _differ(one: Record, other: Record) -> bool:
    """Tell whether pydantic can tell the two apart by fields, or by a Literal with no value in common."""
    fields = {part.wire: part.shape for part in one.fields}
    if fields.keys() != {part.wire for part in other.fields}:
        return True
    for part in other.fields:
        mine = fields[part.wire]
        if (
            isinstance(mine, Choice)
            and isinstance(part.shape, Choice)
            and not set(mine.names) & set(part.shape.names)
        ):
            return True
    return False


def _enumeration(kind: type[enum.Enum], where: str) -> Shape:
    if issubclass(kind, int):
        return _SCALARS[int]
    symbols: dict[Any, str] = {}
    for member in kind:
        _check_symbol(member.value, f"{where}: {kind.__name__}.{member.name}")
        # With use_enum_values a model holds the value, not the member.
        symbols[member] = symbols[member.value] = member.value
    if not symbols:
        raise SchemaError(f"{where}: {kind.__name__} has no members")
    return Choice(kind.__name__, symbols)


def _literal(values: tuple[Any, ...], where: str) -> Shape:
    for value in values:
        if value is not None:
            _check_symbol(value, where)
    choice = Choice("", {value: value for value in values if value is not None})
    return Either((None, choice)) if None in values else choice


def _check_symbol(value: Any, where: str) -> None:
    if not (isinstance(value, str) and value.isascii() and value.isidentifier()):
        raise SchemaError(
            f"{where} has the value {value!r}, which can't be a symbol of an Avro enum: use strings of letters, "
            "digits and underscores, an IntEnum, or a plain str"
        )


def _decimal(metadata: list[Any], where: str) -> Scalar:
    limits: dict[str, int] = {}
    for entry in metadata:
        for part in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
            for limit in ("max_digits", "decimal_places"):
                if getattr(part, limit, None) is not None:
                    limits[limit] = getattr(part, limit)
    if len(limits) < 2:
        raise SchemaError(
            f"{where} is a Decimal: Avro needs its size, so write "
            "Annotated[Decimal, Field(max_digits=12, decimal_places=2)]"
        )
    return Scalar(
        {
            "type": "bytes",
            "logicalType": "decimal",
            "precision": limits["max_digits"],
            "scale": limits["decimal_places"],
        },
        Decimal,
    )


def _wire_name(name: str, info: FieldInfo, where: str) -> str:
    wire = info.alias or name
    if (info.validation_alias or name) != wire or (info.serialization_alias or name) != wire:
        raise SchemaError(f"{where} has different names for reading and writing: give it one `alias`")
    if not (wire.isascii() and wire.isidentifier()):
        raise SchemaError(f"{where} would be called {wire!r} in Avro: use letters, digits and underscores")
    return wire


def _default(info: FieldInfo) -> Any:
    if info.default is not PydanticUndefined:
        return info.default
    # Other factories give another value each time, such as a new id.
    return info.default_factory() if info.default_factory in _FACTORIES else NO_DEFAULT
