"""Plain JSON in and out: for the command line, and for callers by name who have JSON and no Python types.

On the way of a message: before `Codec.encode` and after `Codec.decode`. JSON has no times, decimals or bytes: they
are ISO 8601 strings, decimal strings and base64 here.
"""

from __future__ import annotations

import base64
import binascii
import enum
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from broker_mesh.contracts.dump import plain
from broker_mesh.contracts.errors import shown
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.strict import Misfit, compile_prepare

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_to_value(schema: AvroSchema, value: Any, subject: str | None = None) -> Any:
    """Turn plain JSON into a value that `Codec.encode` takes.

    What is no JSON form of the schema's type is left as it is, for `encode` to name.

    Args:
        schema: of the subject.
        value: JSON values.
        subject: what an error calls the value; by default where the schema is from.

    Raises:
        SchemaError: a string that should be a time, decimal, UUID or base64 is none; names the field.
    """
    form = schema.fastavro_form
    named = form.get("__named_schemas", {}) if isinstance(form, dict) else {}
    try:
        return _converted(form, value, named)
    except Misfit as misfit:
        raise misfit.as_error(subject or schema.where) from misfit


def value_to_json(value: Any) -> Any:
    """Turn a decoded value, or a model, into plain JSON values."""
    match value:
        case BaseModel() | enum.Enum():
            return value_to_json(plain(value))
        case Mapping():
            return {str(key): value_to_json(part) for key, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [value_to_json(part) for part in value]
        case float() if not math.isfinite(value):
            return next(text for text, number in _NOT_FINITE.items() if str(number) == str(value))
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date() | time():
            return value.isoformat()
        case Decimal():
            return format(value, "f")
        case UUID():
            return str(value)
        case _:
            return value


def _converted(node: Any, value: Any, named: Mapping[str, Any]) -> Any:
    node = named.get(node, node) if isinstance(node, str) else node
    if isinstance(node, list):
        return _of_union(node, value, named)
    kind = node if isinstance(node, str) else node["type"]
    if kind in ("record", "error") and isinstance(value, Mapping):
        types = {field["name"]: field["type"] for field in node["fields"]}
        return {
            name: _step(name, types[name], part, named) if name in types else part
            for name, part in value.items()
        }
    if kind == "map" and isinstance(value, Mapping):
        return {key: _step(key, node["values"], part, named) for key, part in value.items()}
    if kind == "array" and isinstance(value, list):
        return [_step(index, node["items"], part, named) for index, part in enumerate(value)]
    if kind in ("float", "double") and isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    logical_type = node.get("logicalType", "") if isinstance(node, dict) else ""
    if logical_type.endswith("decimal") and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    for name in (logical_type, kind):
        if name in _FROM_TEXT and isinstance(value, str):
            expected, parse = _FROM_TEXT[name]
            try:
                return parse(value)
            except (ValueError, InvalidOperation, binascii.Error) as error:
                raise Misfit(f"expected {expected}, got {shown(value)}") from error
    return value


def _step(step: str | int, node: Any, value: Any, named: Mapping[str, Any]) -> Any:
    try:
        return _converted(node, value, named)
    except Misfit as misfit:
        raise misfit.at(step)  # noqa: B904 - the same exception, on its way out


def _of_union(branches: list[Any], value: Any, named: Mapping[str, Any]) -> Any:
    """Take the first branch that the value fits once converted; without one, say what is wrong with the only one."""
    if value is None:
        return None
    others = [branch for branch in branches if branch != "null"]
    if len(others) == 1:
        return _converted(others[0], value, named)
    for branch in others:
        try:
            converted = _converted(branch, value, named)
            compile_prepare({"type": "array", "items": branch, "__named_schemas": named})([converted])
        except Misfit:
            continue
        return converted
    return value


def _datetime(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment


_FROM_TEXT: dict[str, tuple[str, Callable[[str], Any]]] = {
    "broker-mesh-decimal": ("a decimal number", Decimal),
    "uuid": ("a UUID", UUID),
    "date": ("a date as in 2013-01-01", date.fromisoformat),
    "time-millis": ("a time as in 05:17:00", time.fromisoformat),
    "time-micros": ("a time as in 05:17:00", time.fromisoformat),
    "timestamp-millis": ("a time as in 2013-01-01T05:17:00Z", _datetime),
    "timestamp-micros": ("a time as in 2013-01-01T05:17:00Z", _datetime),
    "local-timestamp-millis": ("a time as in 2013-01-01T05:17:00", _datetime),
    "local-timestamp-micros": ("a time as in 2013-01-01T05:17:00", _datetime),
    "bytes": ("base64", lambda text: base64.b64decode(text, validate=True)),
    "fixed": ("base64", lambda text: base64.b64decode(text, validate=True)),
}
