"""A walk over Avro bytes that builds nothing: how deep are they nested, and do they end where they should?

On the way of a message: before `codec.py` hands bytes of a recursive schema to fastavro, whose compiled reader
follows them to any depth, over the end of the C stack: a garbled megabyte would end the process. Other schemas
are as deep as they are written, and need no walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from broker_mesh.contracts.errors import Undecodable
from broker_mesh.errors import SchemaError

MAX_DEPTH = 100

_WIDTHS = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def is_recursive(form: Any) -> bool:
    """Tell whether values of a schema may be nested to any depth.

    Args:
        form: a schema as `AvroSchema.fastavro_form` has it.

    Raises:
        SchemaError: the schema has arrays of items that take no bytes, so that a few bytes may stand for
            billions of items.
    """
    named = _named(form)
    for node in _nodes(form):
        if isinstance(node, dict) and node["type"] == "array" and not _takes_bytes(node["items"], named, ()):
            raise SchemaError(
                "the schema has an array of items that take no bytes, which can't be read safely"
            )
    return any(_reaches(name, name, named) for name in named)


def check_depth(form: Any, data: bytes, start: int) -> None:
    """Walk over one value.

    Args:
        form: a schema as `AvroSchema.fastavro_form` has it.
        data: the bytes; the value begins at `start`.

    Raises:
        Undecodable: nested more than 100 types deep, or cut short.
    """
    try:
        end = _skip(form, _named(form), data, start, 0)
    except IndexError as error:
        raise Undecodable(
            "the bytes end within the value or name a branch that is not in the schema"
        ) from error
    if end > len(data):
        raise Undecodable("the bytes end within the value")


def _named(form: Any) -> Mapping[str, Any]:
    named: Mapping[str, Any] = form.get("__named_schemas", {}) if isinstance(form, dict) else {}
    return named


def _nodes(node: Any) -> Iterator[Any]:
    """Give every type that stands in a schema."""
    yield node
    if isinstance(node, list):
        for branch in node:
            yield from _nodes(branch)
    elif isinstance(node, dict):
        for field in node.get("fields", ()):
            yield from _nodes(field["type"])
        for part in ("items", "values"):
            if part in node:
                yield from _nodes(node[part])


def _reaches(start: str, goal: str, named: Mapping[str, Any]) -> bool:
    """Tell whether a named type refers to another over any number of references."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for node in _nodes(named[waiting.pop()]):
            if isinstance(node, str) and node in named and node not in seen:
                if node == goal:
                    return True
                seen.add(node)
                waiting.append(node)
    return False


def _takes_bytes(node: Any, named: Mapping[str, Any], within: tuple[str, ...]) -> bool:
    """Tell whether every value of a type takes at least one byte."""
    if isinstance(node, str) and node in named:
        return node not in within and _takes_bytes(named[node], named, (*within, node))
    if isinstance(node, dict) and "fields" in node:
        return any(_takes_bytes(field["type"], named, (*within, node["name"])) for field in node["fields"])
    if isinstance(node, dict) and node["type"] == "fixed":
        return bool(node["size"])
    return node != "null" and not (isinstance(node, dict) and node["type"] == "null")


def _skip(node: Any, named: Mapping[str, Any], data: bytes, at: int, depth: int) -> int:
    if isinstance(node, list):
        index, at = _long(data, at)
        if index < 0:
            raise IndexError(index)
        return _skip(node[index], named, data, at, depth)
    if isinstance(node, str) and node in named:
        node = named[node]
    kind = node if isinstance(node, str) else node["type"]
    if kind in _WIDTHS:
        return at + _WIDTHS[kind]
    if kind in ("int", "long", "enum"):
        return _long(data, at)[1]
    if kind in ("bytes", "string"):
        return _skip_bytes(data, at)
    if kind == "fixed":
        return at + int(node["size"])
    if depth >= MAX_DEPTH:
        raise Undecodable(f"the value is nested more than {MAX_DEPTH} types deep")
    if kind in ("record", "error"):
        for field in node["fields"]:
            at = _skip(field["type"], named, data, at, depth + 1)
        return at
    return _skip_blocks(node, named, data, at, depth + 1)


def _skip_blocks(node: Any, named: Mapping[str, Any], data: bytes, at: int, depth: int) -> int:
    """Skip the blocks of an array or map (Avro 1.12, "Binary Encoding", Arrays and Maps)."""
    while True:
        count, at = _long(data, at)
        if count == 0:
            return at
        if count < 0:
            count = -count
            _, at = _long(data, at)
        for _ in range(count):
            if node["type"] == "map":
                at = _skip_bytes(data, at)
                at = _skip(node["values"], named, data, at, depth)
            else:
                at = _skip(node["items"], named, data, at, depth)
            if at > len(data):
                raise IndexError(at)


def _skip_bytes(data: bytes, at: int) -> int:
    size, at = _long(data, at)
    if size < 0:
        raise IndexError(size)
    return at + size


def _long(data: bytes, at: int) -> tuple[int, int]:
    """Read a zig-zag varint of at most 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise IndexError(at)
