"""The registry of the mesh: schemas on the topic `_schemas`, read in process.

On the way of a message: before it, and when a message comes with an id not seen before.

`_schemas` may have no transactions, since other registries stall on them. So a writer first states what it is about
to write in a transaction on `_mesh.registry` whose id all writers share; opening it fences all writers before. Then
it copies its records to `_schemas`, reads that topic to its end, and takes the statement back. The next writer finds
a statement that was not taken back only where one died in between, and copies it first. Thus each id and each version
is given out once, by a writer who has read everything before it.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from broker_mesh.contracts import compatibility
from broker_mesh.contracts.errors import IncompatibleSchema
from broker_mesh.contracts.registry_records import StoredRecord, config_record, parse_json, schema_record
from broker_mesh.contracts.registry_state import RegistryState
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.errors import Aborted, FailedPrecondition, Unavailable
from broker_mesh.kafka.fenced import FencedWriter, NewRecord, send_all
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.settings import Settings

SCHEMAS_TOPIC = "_schemas"
INTENT_TOPIC = "_mesh.registry"
TRANSACTIONAL_ID = "_mesh.registry"

# An intent is one record; what does not fit into one is registered in turns. Kafka's default limit is 1 MiB.
_INTENT_BYTES = 512 * 1024

_WRITE_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.05
_LONGEST_BACKOFF_SECONDS = 2.0

Plan = Callable[[], Sequence[StoredRecord]]


class Registry:
    """The schemas of a Kafka cluster. Blocking; safe to use from several threads.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this process.
        topic: where the schemas are; other registries may be set to another than `_schemas`.
        write_timeout: seconds after which a registration gives up, rivals and outages included.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client_id: str = "mesh-registry",
        topic: str = SCHEMAS_TOPIC,
        write_timeout: float = _WRITE_SECONDS,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._write_timeout = write_timeout
        self._lock = (
            threading.Lock()
        )  # held while Kafka is read or written: never taken by what answers from memory
        self._memory = threading.Lock()  # held for a moment, while what was read is taken over or looked up
        self._state = RegistryState(topic)
        # Nobody has transactions on it, and one that somebody left open must not hide schemas.
        self._schemas = CompactedTable(
            settings, topic, client_id=client_id, isolation="read_uncommitted", create=True
        )
        self._intents = CompactedTable(settings, INTENT_TOPIC, client_id=client_id, create=True)
        self._intent_key = topic.encode()

    def refresh(self) -> None:
        """Read what was registered since the last read.

        Raises:
            Unavailable: Kafka did not answer in time.
            MeshError: the topic can't be read.
        """
        with self._lock:
            self._read()

    def register(self, subject: str, schema: AvroSchema) -> RegisteredSchema:
        """Register one schema; see `register_all`."""
        return self.register_all({subject: schema})[subject]

    def register_all(self, schemas: Mapping[str, AvroSchema]) -> dict[str, RegisteredSchema]:
        """Register schemas by subject. Those that are registered cost one read and no transaction.

        Returns:
            What is registered now, by subject.

        Raises:
            IncompatibleSchema: a schema may not follow its subject's earlier ones; none is registered.
            Unavailable: Kafka did not answer, or rivals were faster, for all of the write timeout.
            MeshError: the topics can't be read or written.
        """

        def plan() -> Sequence[StoredRecord]:
            return self._new_versions(schemas)

        with self._lock:
            self._read()
            if plan():
                self._write(plan)
            registered = {subject: self._state.find(subject, schema) for subject, schema in schemas.items()}
        return {subject: found for subject, found in registered.items() if found is not None}

    def find(self, subject: str, schema: AvroSchema) -> RegisteredSchema | None:
        """Give the version of a subject that has this schema, as of the last read."""
        with self._memory:
            return self._state.find(subject, schema)

    def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the newest version of a subject, as of the last read."""
        return self._state.latest(subject)  # without the lock, as in `by_id`

    def is_foreign(self, subject: str) -> bool:
        """Tell whether a subject has versions, and none that is Avro without references, as of the last read."""
        with self._memory:
            return self._state.is_foreign(subject)

    def versions(self, subject: str) -> list[RegisteredSchema]:
        """Give all versions of a subject that are not deleted, oldest first, as of the last read."""
        with self._memory:
            return self._state.versions(subject)

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Give a schema by its id, as of the last read; an id never changes its meaning."""
        # Without the lock, which a registration may hold for long: a dict may be read while it grows.
        return self._state.by_id(schema_id)

    def subjects(self) -> list[str]:
        """Give all subjects that have a version, sorted, as of the last read."""
        with self._memory:
            return self._state.subjects()

    def check(self, subject: str, schema: AvroSchema) -> list[str]:
        """List why a schema may not be the subject's next version, as of the last read; nothing is registered.

        Returns:
            One sentence per reason; empty when it may, or is registered already.

        Raises:
            SchemaError: the schema is no Avro.
        """
        with self._memory:
            if self._state.find(subject, schema) is not None:
                return []
            return self._reasons(subject, schema)

    def compatibility(self, subject: str | None = None) -> str:
        """Give the compatibility mode of a subject, or the one that applies where a subject has none."""
        with self._memory:
            return self._state.mode(subject).value

    def set_compatibility(self, subject: str | None, mode: str) -> None:
        """Set the compatibility mode of a subject, or the one that applies where a subject has none.

        Raises:
            SchemaError: there is no such mode.
            MeshError: as `register_all`.
        """
        wanted = compatibility.Compatibility.of(mode)

        def plan() -> Sequence[StoredRecord]:
            if self._state.own_mode(subject) is wanted:
                return ()
            return (config_record(subject, wanted.value),)

        with self._lock:
            self._read()
            if plan():
                self._write(plan)

    def _read(self) -> None:
        records = self._schemas.read_to_end()
        with self._memory:
            for record in records:
                self._state.apply(record.key, record.value, record.offset)

    def _reasons(self, subject: str, schema: AvroSchema) -> list[str]:
        existing = [version.schema for version in self._state.versions(subject)]
        return compatibility.check(self._state.mode(subject).value, schema, existing)

    def _new_versions(self, schemas: Mapping[str, AvroSchema]) -> list[StoredRecord]:
        """Give the records that are missing for some schemas to be registered, as of what was read."""
        records = []
        next_id = self._state.highest_id + 1
        fresh: dict[str, int] = {}
        for subject, schema in schemas.items():
            if self._state.find(subject, schema) is not None:
                continue
            reasons = self._reasons(subject, schema)
            if reasons:
                raise IncompatibleSchema(subject, self._state.mode(subject).value, reasons)
            schema_id = self._state.id_of(schema) or fresh.get(schema.canonical)
            if schema_id is None:
                schema_id = fresh[schema.canonical] = next_id
                next_id += 1
            # Under an id that exists its first text is repeated, since Confluent compares texts.
            text = self._state.by_id(schema_id) or AvroSchema(schema.canonical, subject)
            version = self._state.next_version(subject)
            records.append(schema_record(RegisteredSchema(subject, version, schema_id, text)))
        return records

    def _write(self, plan: Plan) -> None:
        """Write what is planned as the only writer, and try anew where a rival takes over."""
        deadline = time.monotonic() + self._write_timeout
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                self._write_alone(plan, deadline)
            except Aborted as error:
                if time.monotonic() + backoff >= deadline:
                    raise Unavailable(
                        f"the schema registry could not be written within {self._write_timeout:g} s, since other "
                        "processes were writing all the time; try again"
                    ) from error
                # Rivals fence each other in turns: at random, one of them gets through.
                time.sleep(random.uniform(0, backoff))  # noqa: S311 - nothing secret about it
                backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
                self._read()
                if plan():
                    continue
            return

    def _write_alone(self, plan: Plan, deadline: float) -> None:
        # The topic has to exist before the transaction, in which nothing may be waited for.
        self._intents.read_to_end()
        with FencedWriter(
            self._settings, TRANSACTIONAL_ID, client_id=self._client_id, deadline=deadline
        ) as writer:
            # Only what is read from here on counts: before, another writer might not have been fenced yet.
            self._finish_intent(deadline)
            wrote = False
            while records := _first_part(plan()):
                if time.monotonic() >= deadline:
                    raise Unavailable("the schema registry could not be written in time; try again")
                writer.commit([NewRecord(INTENT_TOPIC, self._intent_key, _intent(records))])
                wrote = True
                self._copy(records, deadline)
            if wrote or self._intents.items.get(self._intent_key) is not None:
                writer.commit([NewRecord(INTENT_TOPIC, self._intent_key, None)])

    def _finish_intent(self, deadline: float) -> None:
        """Copy what a writer stated and, as it died, did not copy; then read `_schemas` to its end."""
        self._intents.read_to_end()
        self._read()
        stated = self._intents.items.get(self._intent_key)
        if stated is None:
            return
        left = [
            record
            for record in _records_of(stated)
            if self._schemas.items.get(record.key_bytes()) != record.value_bytes()
        ]
        if left:
            self._copy(left, deadline)

    def _copy(self, records: Sequence[StoredRecord], deadline: float) -> None:
        """Write records to `_schemas`, and read them back."""
        new = [NewRecord(self._schemas.topic, record.key_bytes(), record.value_bytes()) for record in records]
        written = send_all(self._settings, new, client_id=self._client_id, deadline=deadline)
        self._read()
        if self._schemas.position <= written[self._schemas.topic]:
            raise Unavailable(
                f"Kafka does not yet show what was written to {self._schemas.topic!r}; try again"
            )


def _first_part(records: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Take as many records as fit into one intent, at least one."""
    part: list[StoredRecord] = []
    size = 0
    for record in records:
        size += len(record.value_bytes() or b"")
        if part and size > _INTENT_BYTES:
            break
        part.append(record)
    return part


def _intent(records: Sequence[StoredRecord]) -> bytes:
    return json.dumps(
        {"records": [{"key": record.key, "value": record.value} for record in records]},
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


def _records_of(intent: bytes) -> list[StoredRecord]:
    try:
        return [StoredRecord(entry["key"], entry["value"]) for entry in parse_json(intent)["records"]]
    except (ValueError, KeyError, TypeError) as error:
        # To go on could give an id out twice.
        raise FailedPrecondition(
            f"topic {INTENT_TOPIC!r} holds a record that the mesh did not write; delete its key "
            "before anything new is registered"
        ) from error
