"""What the records of `_schemas` add up to: subjects, versions, ids, compatibility modes.

On the way of a message: before it; the codec asks it for the schemas of writers. Pure: `registry.py` feeds it the
records in their order. What can't be understood is skipped and logged with its offset, since the topic is also
others' to write to.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from broker_mesh.contracts.compatibility import Compatibility
from broker_mesh.contracts.registry_records import IGNORED_KINDS, parse_json
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.errors import SchemaError

logger = logging.getLogger(__name__)

DEFAULT_COMPATIBILITY = Compatibility.BACKWARD


class _Version(NamedTuple):
    registered: RegisteredSchema | None  # None for what is not Avro: its number and id are taken all the same
    deleted: bool


class RegistryState:
    """The registry as of the records applied so far.

    Args:
        topic: where the records stand, to name in the log.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.highest_id = 0
        self._schemas: dict[int, AvroSchema] = {}
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, dict[int, _Version]] = {}
        self._latest: dict[str, RegisteredSchema | None] = {}  # asked for every message of a wrapped client
        self._modes: dict[str | None, Compatibility] = {}

    def apply(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Take in a record of the topic; one that makes no sense is logged and skipped."""
        subject = None
        try:
            parsed = parse_json(key)
            kind, subject = parsed.get("keytype"), parsed.get("subject")
            if kind == "SCHEMA":
                self._apply_schema(parsed, value)
            elif kind == "CONFIG":
                self._apply_config(parsed, value)
            elif kind == "DELETE_SUBJECT":
                self._apply_delete(parsed, value)
            elif kind not in IGNORED_KINDS:
                raise ValueError("of a kind that is not known")
        except (ValueError, KeyError, TypeError) as error:
            self._skipped(offset, f"{type(error).__name__}: {error}")
        except SchemaError as error:
            self._skipped(offset, error.message)
        if isinstance(subject, str) and subject in self._subjects:
            self._latest[subject] = next(reversed(self.versions(subject)), None)

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Give the schema that an id stands for."""
        return self._schemas.get(schema_id)

    def id_of(self, schema: AvroSchema) -> int | None:
        """Give the id of a schema, registered under whatever subject."""
        return self._ids.get(schema.canonical)

    def subjects(self) -> list[str]:
        """Give the subjects that have a version, sorted."""
        return sorted(subject for subject in self._subjects if self.versions(subject))

    def versions(self, subject: str) -> list[RegisteredSchema]:
        """Give a subject's versions that are not deleted, oldest first."""
        versions = self._subjects.get(subject, {})
        return [
            version.registered
            for _, version in sorted(versions.items())
            if version.registered is not None and not version.deleted
        ]

    def latest(self, subject: str) -> RegisteredSchema | None:
        """Give a subject's newest version that is not deleted."""
        return self._latest.get(subject)

    def is_foreign(self, subject: str) -> bool:
        """Tell whether a subject has versions that are not deleted, and none that can be read."""
        held = [version for version in self._subjects.get(subject, {}).values() if not version.deleted]
        return bool(held) and all(version.registered is None for version in held)

    def next_version(self, subject: str) -> int:
        """Give the number of a subject's next version; numbers of deleted ones are not used again."""
        return max(self._subjects.get(subject, {}), default=0) + 1

    def find(self, subject: str, schema: AvroSchema) -> RegisteredSchema | None:
        """Give the version of a subject that has this schema."""
        return next((version for version in self.versions(subject) if version.schema == schema), None)

    def mode(self, subject: str | None) -> Compatibility:
        """Give the compatibility mode that applies to a subject."""
        return self._modes.get(subject) or self._modes.get(None, DEFAULT_COMPATIBILITY)

    def own_mode(self, subject: str | None) -> Compatibility | None:
        """Give the compatibility mode that was set for exactly this subject, or for all (None)."""
        return self._modes.get(subject)

    def _apply_schema(self, key: dict[str, Any], value: bytes | None) -> None:
        subject, version = _text(key, "subject"), _number(key, "version")
        versions = self._subjects.setdefault(subject, {})
        # Whatever stands there now, the record before it is gone, as it will be once the topic is compacted.
        versions.pop(version, None)
        if not value:
            return
        parsed = parse_json(value)
        schema_id, text = _number(parsed, "id"), _text(parsed, "schema")
        deleted = bool(parsed.get("deleted", False))
        self.highest_id = max(self.highest_id, schema_id)
        if parsed.get("schemaType", "AVRO") != "AVRO" or parsed.get("references"):
            versions[version] = _Version(None, deleted)
            return
        schema = self._schema(schema_id, text)
        versions[version] = _Version(RegisteredSchema(subject, version, schema_id, schema), deleted)

    def _schema(self, schema_id: int, text: str) -> AvroSchema:
        """Give the schema of an id; the first record of an id decides what it means."""
        schema = AvroSchema(text, f"schema id {schema_id}")
        first = self._schemas.get(schema_id)
        if first is None:
            self._ids.setdefault(schema.canonical, schema_id)
            self._schemas[schema_id] = schema
            return schema
        if first.text != text and first != schema:
            raise SchemaError(f"schema id {schema_id} stands for another schema already")
        return first

    def _apply_config(self, key: dict[str, Any], value: bytes | None) -> None:
        subject = key.get("subject")
        if subject is not None and not isinstance(subject, str):
            raise ValueError("its subject is no string")
        if not value:
            self._modes.pop(subject, None)
            return
        level = parse_json(value).get("compatibilityLevel")
        if level is None:  # a record that sets something else
            self._modes.pop(subject, None)
        else:
            self._modes[subject] = Compatibility(level)

    def _apply_delete(self, key: dict[str, Any], value: bytes | None) -> None:
        if not value:
            return
        versions = self._subjects.get(_text(key, "subject"), {})
        last = _number(parse_json(value), "version")
        for number, version in versions.items():
            if number <= last:
                versions[number] = version._replace(deleted=True)

    def _skipped(self, offset: int, problem: str) -> None:
        logger.warning("the record at offset %d of %s is skipped: %s", offset, self._topic, problem[:200])


def _text(record: dict[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {name} is no string")
    value.encode()  # half a surrogate pair can't be written again
    return value


def _number(record: dict[str, Any], name: str) -> int:
    value = record[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"its {name} is no number")
    return value
