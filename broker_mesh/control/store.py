"""What stands on `_mesh.policy`: one record a resource, its key `<kind>/<name>`, its value JSON.

On the way of a message: beside it. Written by `apply.py`, read at the start of every process and followed by it.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from broker_mesh.control import resources
from broker_mesh.control.resources import Resource, key_of, plain
from broker_mesh.errors import InvalidArgument

POLICY_TOPIC = "_mesh.policy"

FORMAT = 1
"""Of the value. A writer that means something else by it counts up, so that nobody misreads it."""


OPTIONAL = "optional"
"""The field that is true where a process that can't understand the record may go on without it."""


class NotUnderstood(InvalidArgument):
    """A record that this process can't understand, and may go on without."""


class Applied(NamedTuple):
    """A resource as it was applied.

    Args:
        resource: what holds.
        by: who applied it, as far as that machine knows: `user@host`.
        at: when, epoch ms.
    """

    resource: Resource
    by: str
    at: int


def encode(applied: Applied) -> bytes:
    """Give the value of a resource's record."""
    value = {"format": FORMAT, **plain(applied.resource), "applied": {"by": applied.by, "at": applied.at}}
    if applied.resource.optional:
        value[OPTIONAL] = True
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def decode(key: bytes, value: bytes) -> Applied:
    """Read a record.

    Raises:
        NotUnderstood: it can't be understood, and says that this is no reason to stop.
        InvalidArgument: it can't be understood: something else wrote it, or a newer version of the mesh.
    """
    name = key.decode("utf-8", "backslashreplace")
    place = f"topic {POLICY_TOPIC}, key {name!r}"
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{place}: the value is no JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        given = found.get("format") if isinstance(found, dict) else None
        raise InvalidArgument(
            f"{place}: its format is {given!r}, and this version of the mesh knows {FORMAT}"
        )
    document = {field: part for field, part in found.items() if field not in ("format", "applied", OPTIONAL)}
    try:
        resource = resources.parse(document, lambda _: place)
    except InvalidArgument as error:
        if found.get(OPTIONAL) is True:
            raise NotUnderstood(error.message) from error
        raise
    if key_of(resource) != name:
        raise InvalidArgument(f"{place}: the value is of {key_of(resource)!r}")
    return Applied(resource, *_when(found.get("applied")))


def _when(applied: Any) -> tuple[str, int]:
    """Who and when are for people: what is missing or strange there makes no rule unenforceable."""
    facts = applied if isinstance(applied, dict) else {}
    by, at = facts.get("by"), facts.get("at")
    return by if isinstance(by, str) else "", at if type(at) is int else 0
