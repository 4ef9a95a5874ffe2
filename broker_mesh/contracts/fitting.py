"""Which values a schema refuses, and for what reason: what enforcing it would come to.

On the way of a message: beside it, when `mesh topics report` reads what a topic holds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from broker_mesh.adoption import Adoption
from broker_mesh.contracts.codec import Codec, SchemaCache
from broker_mesh.contracts.errors import NotAvro, NotJson, Undecodable, UnknownSchemaId
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.contracts.values import JsonValues, Values
from broker_mesh.errors import SchemaError

_KINDS: tuple[tuple[type[SchemaError], str], ...] = (
    (NotJson, "not JSON"),
    (NotAvro, "not Avro in the wire format"),
    (UnknownSchemaId, "unknown schema id"),
    (Undecodable, "not written by the schema that its id names"),
)
# What differs from value to value: what was given, how far out of range, which fields there are instead.
_OF_ONE_VALUE = re.compile(r", got .*$|^.* (?=is out of the range)|(?<=is not in the schema)[:,].*$", re.S)


class Refusal(NamedTuple):
    """Why a value does not fit.

    Args:
        field: at fault; empty for the value as a whole.
        reason: the same for all values that fail alike.
        message: the whole sentence.
    """

    field: str
    reason: str
    message: str


class Fitting:
    """Tells of values whether a topic would take them if it were enforced.

    Args:
        topic: named in errors.
        adoption: how its values are written, and under which subject.
        schema: they have to fit.
        writer_schemas: finds the schemas that others wrote by.

    Raises:
        SchemaError: the schema can't be read.
    """

    def __init__(
        self, topic: str, adoption: Adoption, schema: AvroSchema, writer_schemas: SchemaCache
    ) -> None:
        subject = adoption.subject_of(topic)
        self._values: Values = (
            JsonValues(topic, subject, RegisteredSchema(subject, 0, 0, schema))
            if adoption.encoding == "json"
            else Codec(subject, schema, None, None, writer_schemas)
        )

    def refusal(self, value: bytes | None) -> Refusal | None:
        """Tell why a value would be refused; None where it would not. Tombstones never are."""
        if value is None:
            return None
        try:
            self._values.decode(value)
        except SchemaError as error:
            return refusal_of(error)
        return None


def refusal_of(error: SchemaError) -> Refusal:
    """Give an error's field, and its reason without what is of this value alone."""
    for kind, reason in _KINDS:
        if isinstance(error, kind):
            return Refusal("", reason, error.message)
    field = str(error.details.get("field", ""))
    _, _, problem = error.message.partition(f"field {field!r}: " if field else "the value: ")
    if not field and problem.startswith("expected the fields"):
        return Refusal("", "not an object with the schema's fields", error.message)
    return Refusal(field, _OF_ONE_VALUE.sub("", problem or error.message), error.message)
