"""The JSON that a command is given: as an argument, from a file, or on standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from broker_mesh.errors import InvalidArgument

STDIN = "-"


def read_object(text: str | None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: the JSON itself, `-` for standard input, or `@` and a file's name; None where nothing was given.

    Raises:
        InvalidArgument: nothing was given, it can't be read, or it is no JSON object; tells line and column.
    """
    if text is None:
        raise InvalidArgument(
            "no JSON was given: write it as an argument, as - for standard input, or as @file"
        )
    if text == STDIN:
        return _parse(_decode(sys.stdin.buffer.read(), "standard input"), "standard input")
    if text.startswith("@"):
        return _parse(_decode(_read_file(text[1:]), text[1:]), text[1:])
    return _parse(text, "the argument")


def _read_file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{name!r} can't be read: {error.strerror or error}") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{where} is not UTF-8 at byte {error.start}") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"{where} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise InvalidArgument(f"{where} is not valid JSON: {reason}") from error
    if not isinstance(value, dict):
        raise InvalidArgument(
            f"{where} holds {_KINDS[type(value)]}: write a JSON object, as in '{{\"name\": 1}}'"
        )
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is given twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON: write it as a string, {json.dumps(name)}")


_KINDS = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
