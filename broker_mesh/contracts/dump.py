"""Empties a model into what fastavro writes: faster than `model_dump`, and exact about unions.

On the way of a message: called by `codec.py` for each request, reply and event of a model. The function is put
together once per model and schema; where a model's own dict will do as it is, nothing is copied. A model's
serializers shape its JSON and are not used here: a schema speaks of the fields' types.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from broker_mesh.contracts.binding import fits
from broker_mesh.contracts.canonical import branch_name
from broker_mesh.contracts.errors import shown
from broker_mesh.contracts.models import is_of
from broker_mesh.contracts.shapes import Choice, Either, Entries, FieldShape, Items, Record, Scalar, Shape
from broker_mesh.contracts.strict import Misfit, compile_prepare

Convert = Callable[[Any], Any]

# Types that fastavro writes right whatever value of the model's type it is given. The others have limits that
# the model does not know: a 32-bit range, a time zone, a size.
_WRITTEN_AS_IS = frozenset({"string", "long", "double", "boolean", "bytes", "null"})
_LOGICAL_WRITTEN_AS_IS = frozenset({"date", "uuid"})


def compile_dump(shape: Record, form: Any) -> Convert:
    """Give the function that turns a model into what fastavro writes by a schema.

    Args:
        shape: the model's; it fits the schema (`models.check_binding`).
        form: the schema as `AvroSchema.fastavro_form` has it.

    The function raises Misfit for what only the value shows, such as a datetime without time zone.
    """
    return _Compiler(form.get("__named_schemas", {})).record(shape, form)


def plain(value: Any) -> Any:
    """Give a model as dicts, lists and scalars, for the strict check to find what is wrong with it."""
    if isinstance(value, BaseModel):
        names = {name: info.serialization_alias or name for name, info in type(value).model_fields.items()}
        return {names.get(name, name): plain(part) for name, part in value.__dict__.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part) for part in value]
    return value


class _Compiler:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._records: dict[tuple[int, str], Convert] = {}

    def record(self, shape: Record, node: Any) -> Convert:
        key = (id(shape), node["name"])
        if key in self._records:
            return self._records[key]
        # A model that holds itself finds this while its own function is being made.
        self._records[key] = lambda value: self._records[key](value)
        types = {field["name"]: field["type"] for field in node["fields"]}
        written = [field for field in shape.fields if field.wire in types]
        renamed = any(field.name != field.wire for field in written)
        conversions = [
            (field.name, field.wire, convert)
            for field in written
            if (convert := self._convert(field.shape, types[field.wire])) is not None or renamed
        ]
        checked = _check_unwritten(shape, [field for field in shape.fields if field.wire not in types])

        def dump_as_is(value: Any) -> Any:
            return value.__dict__

        def dump(value: Any) -> Any:
            if checked is not None:
                checked(value)
            fields = value.__dict__
            result = {} if renamed else fields.copy()
            for name, wire, convert in conversions:
                try:
                    result[wire] = fields[name] if convert is None else convert(fields[name])
                except Misfit as misfit:
                    raise misfit.at(wire)  # noqa: B904 - the same exception, on its way out
            return result

        self._records[key] = dump if conversions or checked is not None else dump_as_is
        return self._records[key]

    def _convert(self, shape: Shape | None, node: Any) -> Convert | None:
        """Give the function that converts a field's value; None where fastavro takes it as it is."""
        node = self._named.get(node, node) if isinstance(node, str) else node
        if isinstance(shape, Either) or isinstance(node, list):
            return self._union(shape, node)
        match shape:
            case None:
                return None
            case Scalar():
                return _scalar(node)
            case Choice(symbols=symbols):
                return None if all(key == symbol for key, symbol in symbols.items()) else symbols.__getitem__
            case Record():
                return self.record(shape, node)
            case Items():
                return _items(self._convert(shape.item, node["items"]))
            case Entries():
                return _entries(self._convert(shape.value, node["values"]))

    def _union(self, shape: Shape | None, node: Any) -> Convert | None:
        branches = shape.branches if isinstance(shape, Either) else (shape,)
        nodes = node if isinstance(node, list) else [node]
        pairs = [
            (branch, branch_name(match, None), self._convert(branch, match))
            for branch in branches
            for match in nodes
            if branch is not None and fits(branch, match, self._named)
        ]
        if len(pairs) == 1:
            return _optional(*pairs[0])

        def convert(value: Any) -> Any:
            if value is None:
                return None
            for branch, name, convert_branch in pairs:
                if is_of(branch, value):
                    return name, value if convert_branch is None else convert_branch(value)
            raise Misfit(f"{shown(value)} is of none of the types in its union")

        return convert


def _optional(branch: Shape, name: str, convert: Convert | None) -> Convert | None:
    if isinstance(branch, Scalar):
        # fastavro finds the branch of a scalar faster than it takes our word for it.
        return convert and (lambda value: None if value is None else convert(value))
    if convert is None:
        return lambda value: None if value is None else (name, value)
    return lambda value: None if value is None else (name, convert(value))


def _scalar(node: Any) -> Convert | None:
    if isinstance(node, dict) and "logicalType" in node:
        logical_type = node["logicalType"]
        as_is = logical_type in _LOGICAL_WRITTEN_AS_IS or logical_type.endswith("decimal")
    else:
        as_is = (node if isinstance(node, str) else node["type"]) in _WRITTEN_AS_IS
    return None if as_is else compile_prepare(node)


def _items(convert: Convert | None) -> Convert:
    if convert is None:
        # A tuple would be taken for a branch of a union.
        return lambda value: value if type(value) is list else list(value)

    def convert_items(value: Any) -> Any:
        result = []
        for index, item in enumerate(value):
            try:
                result.append(convert(item))
            except Misfit as misfit:
                raise misfit.at(index)  # noqa: B904 - the same exception, on its way out
        return result

    return convert_items


def _entries(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None

    def convert_entries(value: Any) -> Any:
        result = {}
        for key, item in value.items():
            try:
                result[key] = convert(item)
            except Misfit as misfit:
                raise misfit.at(key[:60])  # noqa: B904 - the same exception, on its way out
        return result

    return convert_entries


def _check_unwritten(shape: Record, unwritten: list[FieldShape]) -> Callable[[Any], None] | None:
    """Give the check for what the schema has no field for; None where nothing can be lost."""
    may_have_more = shape.model.model_config.get("extra") == "allow"
    if not unwritten and not may_have_more:
        return None

    def check(value: Any) -> None:
        if may_have_more and value.__pydantic_extra__:
            raise Misfit("is not in the schema").at(next(iter(value.__pydantic_extra__))[:60])
        for field in unwritten:
            if field.name in value.__pydantic_fields_set__ and value.__dict__[field.name] != field.default:
                raise Misfit("is set, and the schema in use does not have it").at(field.wire)

    return check
