"""Several processes at one registry, and processes that die on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid

import pytest

from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.settings import Settings

_PROCESSES = 8
_SECONDS = 60

# Waits for a line, so that all begin at once; then registers the schemas it was given, and prints their ids.
_REGISTER = """
import json, sys
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.settings import Settings

servers, topic, schemas = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
wanted = {subject: AvroSchema.of(definition) for subject, definition in schemas.items()}
registry = Registry(Settings(bootstrap_servers=servers), topic=topic, write_timeout=45)
print("ready", flush=True)
sys.stdin.readline()
found = registry.register_all(wanted)
print(json.dumps({subject: [r.version, r.id] for subject, r in found.items()}))
"""

# Registers, and kills itself where an argument says.
_DIE = """
import os, signal, sys
from broker_mesh.contracts import registry as module
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.settings import Settings

servers, topic, subject, definition, where = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "before the commit":
    module.FencedWriter.commit = die
elif where == "before the copy":
    Registry._copy = die
elif where == "after the copy":
    copy = Registry._copy
    Registry._copy = lambda *arguments: (copy(*arguments), die())
Registry(Settings(bootstrap_servers=servers), topic=topic).register(subject, AvroSchema.parse(definition))
"""


def definition(name: str) -> dict[str, object]:
    return {
        "type": "record",
        "name": name,
        "namespace": "fleet.v1",
        "fields": [{"name": "x", "type": "string"}],
    }


@pytest.fixture
def topic() -> str:
    return f"_schemas-{uuid.uuid4().hex}"


def test_eight_processes_at_once(kafka: EmbeddedKafka, topic: str) -> None:
    # Each registers the same three, two of its own, and a version of a subject that all of them extend.
    common = {f"common{i}-value": definition(f"Common{i}") for i in range(3)}
    processes = []
    for number in range(_PROCESSES):
        extended = definition("Extended")
        extended["doc"] = f"written by {number}"
        own = {f"own{number}.{i}-value": definition(f"Own{number}x{i}") for i in range(2)}
        schemas = {**common, **own, "extended-value": extended}
        arguments = [sys.executable, "-c", _REGISTER, kafka.bootstrap_servers, topic, json.dumps(schemas)]
        processes.append(
            subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads(process.communicate(timeout=_SECONDS)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    registry = Registry(Settings(bootstrap_servers=kafka.bootstrap_servers), topic=topic)
    registry.refresh()
    for result in results:
        for subject, (version, schema_id) in result.items():
            found = registry.versions(subject)[version - 1]
            assert (found.version, found.id) == (version, schema_id)
    for subject in common:
        assert len({tuple(result[subject]) for result in results}) == 1
        assert len(registry.versions(subject)) == 1
    assert [found.version for found in registry.versions("extended-value")] == list(range(1, _PROCESSES + 1))
    ids = [found.id for subject in registry.subjects() for found in registry.versions(subject)]
    assert sorted(ids) == list(range(1, 3 + 2 * _PROCESSES + _PROCESSES + 1))
    # The raw records say the same: no id ever stood for two schemas.
    table = CompactedTable(
        Settings(bootstrap_servers=kafka.bootstrap_servers),
        topic,
        client_id="test",
        isolation="read_uncommitted",
    )
    texts: dict[int, set[str]] = {}
    for record in table.read_to_end():
        value = json.loads(record.value or b"")
        texts.setdefault(value["id"], set()).add(value["schema"])
    assert all(len(text) == 1 for text in texts.values())


@pytest.mark.parametrize("where", ["before the commit", "before the copy", "after the copy"])
def test_a_writer_that_is_killed(kafka: EmbeddedKafka, topic: str, where: str) -> None:
    died = subprocess.run(
        [sys.executable, "-c", _DIE, kafka.bootstrap_servers, topic, "dead-value",
         json.dumps(definition("Dead")), where],
        timeout=_SECONDS,
        check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)
    registry = Registry(settings, topic=topic)
    registry.refresh()
    stated = where != "before the commit"
    assert registry.subjects() == (["dead-value"] if where == "after the copy" else [])

    alive = registry.register("alive-value", AvroSchema.of(definition("Alive")))
    assert alive.id == (2 if stated else 1)
    assert registry.subjects() == (["alive-value", "dead-value"] if stated else ["alive-value"])
    assert registry.register("dead-value", AvroSchema.of(definition("Dead"))).id == (1 if stated else 2)
    # Another reader sees the same.
    again = Registry(settings, topic=topic)
    again.refresh()
    assert [again.versions(subject) for subject in again.subjects()] == [
        registry.versions(subject) for subject in registry.subjects()
    ]
