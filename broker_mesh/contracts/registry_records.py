"""The records of `_schemas`, byte for byte as Confluent's registry writes them.

On the way of a message: before it. Other registries read the same topic, and compaction goes by the bytes of the
key: the order of the fields is part of the format (Confluent Schema Registry, package `…schemaregistry.storage`,
the classes *Key and *Value).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from broker_mesh.contracts.store import RegisteredSchema

# Written by other registries, and of no meaning for the mesh.
IGNORED_KINDS = frozenset({"NOOP", "MODE", "CONTEXT", "CLEAR_SUBJECT", "ASSOC"})


class StoredRecord(NamedTuple):
    """One record.

    Args:
        key, value: the JSON objects, in Confluent's order of fields; a null value deletes.
    """

    key: dict[str, Any]
    value: dict[str, Any] | None

    def key_bytes(self) -> bytes:
        """Give the key as it stands on the topic."""
        return _dump(self.key)

    def value_bytes(self) -> bytes | None:
        """Give the value as it stands on the topic."""
        return None if self.value is None else _dump(self.value)


def schema_record(registered: RegisteredSchema) -> StoredRecord:
    """Give the record of a version. Without `schemaType` it is Avro."""
    return StoredRecord(
        {"keytype": "SCHEMA", "subject": registered.subject, "version": registered.version, "magic": 1},
        {
            "subject": registered.subject,
            "version": registered.version,
            "id": registered.id,
            # Confluent compares texts, not schemas, where two subjects share an id.
            "schema": registered.schema.text,
            "deleted": False,
        },
    )


def config_record(subject: str | None, mode: str) -> StoredRecord:
    """Give the record that sets a compatibility mode; None for all subjects without their own."""
    named = {} if subject is None else {"subject": subject}
    return StoredRecord({"keytype": "CONFIG", **named, "magic": 0}, {**named, "compatibilityLevel": mode})


def parse_json(data: bytes) -> dict[str, Any]:
    """Read a key or value.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        parsed = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one kind of error for all garbage
    return parsed


def _dump(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
