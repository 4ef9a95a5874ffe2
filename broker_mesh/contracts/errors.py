"""What can be wrong with a value, its bytes or a schema.

On the way of a message: raised by `codec.py` on both sides of a hop, and by `registry.py` at start-up. All are
kinds of `SchemaError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from uuid import UUID

from broker_mesh.errors import SchemaError
from broker_mesh.status import StatusCode

_SHOWN_CHARACTERS = 60


class NotAvro(SchemaError):
    """The bytes do not begin as Confluent's wire format does: magic byte 0 and a schema id of 4 bytes."""


class NotJson(SchemaError):
    """The bytes are no JSON text, where JSON was promised."""


class UnknownSchemaId(SchemaError):
    """No schema with this id is known here; it is wrong for good only once the registry was read to its end.

    Args:
        schema_id: the id in the bytes.
    """

    def __init__(self, schema_id: int) -> None:
        super().__init__(
            f"schema id {schema_id} is not in the registry: the sender registers its schemas elsewhere, "
            "or the bytes are no message of the mesh",
            details={"schema_id": schema_id},
        )
        self.schema_id = schema_id


class Undecodable(SchemaError):
    """The bytes are cut short, go on after the value, or are no value of the schema that their id names."""


class NoSchema(SchemaError):
    """Nothing is registered under a topic's subject, so its values can't be checked.

    Args:
        topic: whose values.
        subject: under which its schema is looked for.
    """

    def __init__(self, topic: str, subject: str) -> None:
        super().__init__(
            f"{topic}: nothing is registered under the subject {subject!r}, so its values can't be checked: register "
            f"a schema, as with 'mesh schemas register'",
            details={"subject": subject},
        )
        self.subject = subject


class IncompatibleSchema(SchemaError):
    """A schema may not follow the ones registered before it.

    Args:
        subject: the registry's subject.
        mode: the compatibility rule that applies, for instance ``BACKWARD``.
        reasons: what would break, one sentence each.
    """

    status = StatusCode.FAILED_PRECONDITION

    def __init__(self, subject: str, mode: str, reasons: Sequence[str]) -> None:
        super().__init__(
            f"the schema for {subject!r} is not {mode} compatible: {'; '.join(reasons)}",
            details={"subject": subject, "mode": mode, "reasons": list(reasons)},
        )
        self.subject = subject
        self.mode = mode
        self.reasons = tuple(reasons)


def shown(value: object) -> str:
    """Give a value as it may stand in an error: as plain JSON has it, and short: it may be a whole payload."""
    # Cut before repr where that is possible: the repr of a payload of megabytes costs as much as the payload.
    if isinstance(value, (str, bytes)):
        text = repr(value[:_SHOWN_CHARACTERS])
    elif isinstance(value, Mapping):
        return f"an object of {len(value)}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        return f"an array of {len(value)}"
    elif value is None or isinstance(value, bool):
        text = json.dumps(value)
    elif isinstance(value, (date, time)):  # a datetime is a date
        text = repr(value.isoformat())
    elif isinstance(value, (Decimal, UUID)):
        text = repr(str(value))
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def joined(path: Sequence[str | int]) -> str:
    """Write the way to a field as people do: ``legs[2].origin``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
