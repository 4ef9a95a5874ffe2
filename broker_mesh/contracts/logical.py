"""Logical types: what Avro writes as bytes, strings and numbers, and Python has as decimals, UUIDs and times.

On the way of a message: called by fastavro inside `codec.py`. Decimals are the mesh's own, registered with fastavro
under a name of ours: fastavro's converts bytes of any length, and a megabyte of them takes minutes. Defaults in
schemas are JSON; readers get them as the same Python values that a decoded field would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from functools import cache
from typing import Any
from uuid import UUID

import fastavro

_DECIMAL = "broker-mesh-decimal"

_MOST_DECIMAL_BYTES = 1024

_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


def substituted(node: Any) -> Any:
    """Give a schema in which the mesh's decimal stands for Avro's."""
    if isinstance(node, list):
        return [substituted(part) for part in node]
    if not isinstance(node, dict):
        return node
    result = {name: part if name == "default" else substituted(part) for name, part in node.items()}
    if node.get("logicalType") == "decimal" and node.get("type") in ("bytes", "fixed"):
        if "precision" in node:
            result["logicalType"] = _DECIMAL
        else:
            # An invalid logical type is to be ignored (Avro 1.12, "Logical Types").
            del result["logicalType"]
    return result


def with_python_defaults(parsed: Any) -> Any:
    """Put Python values in place of the JSON defaults of a schema that fastavro has parsed; changes it."""
    named = parsed.get("__named_schemas", {}) if isinstance(parsed, dict) else {}
    fields = [
        field for definition in named.values() for field in definition.get("fields", ()) if "default" in field
    ]
    # All are worked out before the first is changed: a default of a record type reads those of its fields.
    values = [default_value(field["type"], field["default"], named) for field in fields]
    for field, value in zip(fields, values, strict=True):
        field["default"] = value
    return parsed


def default_value(kind: Any, default: Any, named: Mapping[str, Any]) -> Any:
    """Give the Python value of a field's default.

    Args:
        kind: the field's type, as JSON values with full names.
        default: as Avro writes it: bytes as a string of code points up to 255, a union's as of its first branch
            (Avro 1.12 allows any branch; the first that fits is taken).
        named: definitions of the named types by full name.
    """
    if isinstance(kind, list):
        kind = next((branch for branch in kind if _default_fits(branch, default, named)), kind[0])
    kind = named.get(kind, kind) if isinstance(kind, str) else kind
    if isinstance(kind, str):
        return (
            default.encode("latin-1")
            if kind == "bytes"
            else float(default)
            if kind in ("float", "double")
            else default
        )
    base = kind["type"]
    if base == "array":
        return [default_value(kind["items"], item, named) for item in default]
    if base == "map":
        return {key: default_value(kind["values"], item, named) for key, item in default.items()}
    if base in ("record", "error"):
        return {
            field["name"]: default_value(
                field["type"], default.get(field["name"], field.get("default")), named
            )
            for field in kind["fields"]
        }
    raw = default.encode("latin-1") if base in ("bytes", "fixed") else default
    convert = _FROM_RAW.get(kind.get("logicalType", ""))
    return convert(raw, kind) if convert else raw


def _default_fits(kind: Any, default: Any, named: Mapping[str, Any]) -> bool:
    kind = named.get(kind, kind) if isinstance(kind, str) else kind
    base = kind["type"] if isinstance(kind, dict) else kind
    if base == "null":
        return default is None
    if base == "boolean":
        return isinstance(default, bool)
    if base in ("int", "long"):
        return isinstance(default, int) and not isinstance(default, bool)
    if base in ("float", "double"):
        return isinstance(default, (int, float)) and not isinstance(default, bool)
    if base == "enum":
        return default in kind["symbols"]
    if base == "array":
        return isinstance(default, list)
    if base in ("map", "record", "error"):
        return isinstance(default, dict)
    return isinstance(default, str)


@cache
def _context(precision: int) -> Context:
    return Context(prec=precision)


def _largest_decimal_bytes(precision: int) -> int:
    """Tell how many bytes the largest unscaled value of a precision takes, with its sign."""
    return math.ceil((precision * math.log2(10) + 1) / 8)


def _read_decimal(data: Any, schema: Any, _reader: object = None) -> Decimal:
    precision = schema["precision"]
    # Conversion costs the square of the length. A fixed is as long as it is declared, with sign bytes in front.
    longest = min(schema.get("size", _largest_decimal_bytes(precision)), _MOST_DECIMAL_BYTES)
    if len(data) > longest:
        raise ValueError(f"a decimal of {len(data)} bytes, more than {precision} digits take")
    unscaled = int.from_bytes(data, "big", signed=True)
    if abs(unscaled) >= 10**precision:
        raise ValueError(f"a decimal of more than {precision} digits")
    return Decimal(unscaled).scaleb(-schema.get("scale", 0), _context(precision))


def decimal_problem(value: Decimal, schema: Mapping[str, Any]) -> str | None:
    """Say why a decimal can't be written without loss, or None when it can."""
    precision, scale = schema["precision"], schema.get("scale", 0)
    if not value.is_finite():
        return "a finite decimal"
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # a finite decimal's is
    dropped = -exponent - scale
    if dropped > 0 and any(digits[-dropped:]):
        return f"a decimal with at most {scale} decimal places"
    if value and value.adjusted() + 1 + scale > precision:
        return f"a decimal with at most {precision} digits, {scale} of them after the point"
    return None


def unscaled_bytes(value: Decimal, schema: Mapping[str, Any]) -> bytes:
    """Write a decimal as Avro does: its digits without the point, as a big-endian two's complement.

    Raises:
        ValueError: it does not fit the precision and scale.
    """
    problem = decimal_problem(value, schema)
    if problem:
        raise ValueError(f"expected {problem}")
    unscaled = int(value.scaleb(schema.get("scale", 0), _context(schema["precision"] + 1)))
    size = schema.get("size") or (unscaled + (unscaled < 0)).bit_length() // 8 + 1
    return unscaled.to_bytes(size, "big", signed=True)


def _write_decimal(value: Any, schema: Mapping[str, Any]) -> Any:
    # A union whose branch is not yet known offers its other values too.
    return unscaled_bytes(value, schema) if isinstance(value, Decimal) else value


def logical_name(node: Mapping[str, Any]) -> str:
    """Give Avro's name of a type's logical type; empty where it has none."""
    name = str(node.get("logicalType", ""))
    return "decimal" if name == _DECIMAL else name


_FROM_RAW: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    _DECIMAL: _read_decimal,
    "uuid": lambda raw, _: UUID(raw) if isinstance(raw, str) else UUID(bytes=raw),
    "date": lambda raw, _: date(1970, 1, 1) + timedelta(days=raw),
    "time-millis": lambda raw, _: (_EPOCH + timedelta(milliseconds=raw)).time(),
    "time-micros": lambda raw, _: (_EPOCH + timedelta(microseconds=raw)).time(),
    "timestamp-millis": lambda raw, _: _EPOCH_UTC + timedelta(milliseconds=raw),
    "timestamp-micros": lambda raw, _: _EPOCH_UTC + timedelta(microseconds=raw),
    "local-timestamp-millis": lambda raw, _: _EPOCH + timedelta(milliseconds=raw),
    "local-timestamp-micros": lambda raw, _: _EPOCH + timedelta(microseconds=raw),
}

# fastavro's documented way to add logical types; the names are ours alone, so nobody else's reading changes.
for _base in ("bytes", "fixed"):
    fastavro.read.LOGICAL_READERS[f"{_base}-{_DECIMAL}"] = _read_decimal
    fastavro.write.LOGICAL_WRITERS[f"{_base}-{_DECIMAL}"] = _write_decimal
