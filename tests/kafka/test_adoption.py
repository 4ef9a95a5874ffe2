"""Adopting a topic that was there before the mesh, on a real Kafka: three commands, then one step at a time, live."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker_mesh import Mesh
from broker_mesh.adapter import Validation, connect
from broker_mesh.cli import execute
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.topic_contracts import TopicContracts
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, NotFound, PermissionDenied, SchemaError
from broker_mesh.message import received
from broker_mesh.settings import Settings
from broker_mesh.status import StatusCode
from broker_mesh_adapters.confluent_kafka import Consumer
from tests.support import legacy
from tests.support.access import Rules
from tests.support.dead_letters import DeadLetters
from tests.support.documents import ROOT, blocks
from tests.support.legacy import Place
from tests.support.names import fresh
from tests.support.processes import Processes


@pytest.fixture
def topic(kafka: EmbeddedKafka) -> Iterator[str]:
    name = fresh("legacy_orders")
    yield name
    with suppress(NotFound):
        Rules(kafka.bootstrap_servers).store.delete("Topic", name)


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> Any:
        assert execute([*arguments, "-o", "json"]) == code
        return json.loads(self._capsys.readouterr().out)

    def prints(self, *arguments: str, code: int = 0) -> str:
        assert execute(list(arguments)) == code
        return self.printed()

    def printed(self) -> str:
        printed = self._capsys.readouterr()
        return printed.out + printed.err


@pytest.fixture
def shell(
    kafka: EmbeddedKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MESH_CONFIG", raising=False)
    monkeypatch.setenv("MESH_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    return Shell(capsys)


def three_commands(topic: str) -> list[list[str]]:
    """The commands of docs/adopt.md, for another topic."""
    page = ROOT / "docs" / "adopt.md"
    section = page.read_text().count("\n", 0, page.read_text().index("## Adopting an existing topic"))
    block = next(block for block in blocks(page, "sh") if block.line > section)
    commands = [line.replace("legacy_orders", topic).split() for line in block.text.splitlines()]
    assert [command[0] for command in commands] == ["mesh"] * 3
    return [command[1:] for command in commands]


def test_three_commands_adopt_a_topic_and_name_what_enforce_would_refuse(
    kafka: EmbeddedKafka, shell: Shell, topic: str, tmp_path: Path
) -> None:
    broken = legacy.fill(kafka.bootstrap_servers, topic)
    (tmp_path / "mesh.toml").write_text("# mine\nconcurrency = 7\n")

    adopt, look, register = three_commands(topic)
    assert "JSON objects" in shell.prints(*adopt)
    assert (tmp_path / "mesh.toml").read_text() == (
        f'# mine\nconcurrency = 7\n\n[topics."{topic}"]\nowner = "shop"\nkind = "event"\nvalidation = "audit"\n'
        'encoding = "json"\n'
    )
    draft = tmp_path / "schemas" / "_topics" / f"{topic}.avsc"
    schema = json.loads(draft.read_text())
    assert schema["mesh-key"] == "id"
    assert {field["name"]: field["type"] for field in schema["fields"]} == {
        "id": "long",
        "customer": "string",
        "amount": "double",
        "placed_at": "string",
        "lines": {"type": "array", "items": schema["fields"][4]["type"]["items"]},
        "paid": "boolean",
        "coupon": ["null", "string"],
        "colour": ["null", "string"],
    }
    # The draft is there for review: a field that a few records had by mistake is for somebody to strike out.
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "colour"]
    draft.write_text(json.dumps(schema))

    report = shell.run(*look, code=1)
    assert {Place(row["partition"], row["offset"]): row["key"] for row in report["refused"]} == {
        place: str(place.offset * legacy.PARTITIONS + place.partition) for place in broken
    }
    (summary,) = report["topics"]
    assert (summary["records"], summary["tombstones"], summary["refused"]) == (2100, 42, len(broken))
    expected = {
        "missing": ("customer", "is missing"),
        "type": ("amount", "expected double"),
        "inside": ("lines[1].sku", "expected string"),
        "unknown": ("colour", "is not in the schema"),
        "cut": (None, "not JSON"),
        "text": (None, "not JSON"),
        "number": (None, "not an object with the schema's fields"),
        "protobuf": (None, "not JSON"),
        "wire": (None, "not JSON"),
        "empty": (None, "not JSON"),
    }
    for row in report["refused"]:
        kind = broken[Place(row["partition"], row["offset"])]
        assert (row["field"], row["reason"]) == expected[kind]
    assert {(row["field"], row["reason"]): row["records"] for row in summary["reasons"]} == Counter(
        expected[kind] for kind in broken.values()
    )
    assert summary["schema"] == f"{Path('schemas', '_topics', topic)}.avsc, which is not registered yet"

    assert {"subject": f"{topic}-value", "state": "registered"}.items() <= shell.run(*register)[0].items()
    again = shell.run(*look, code=1)
    assert again["topics"][0]["schema"] == f"{topic}-value, version 1"
    assert again["refused"] == report["refused"]
    newest = shell.run("topics", "report", topic, "--last", "30", code=1 if _among_newest(broken, 10) else 0)
    assert newest["topics"][0]["records"] == 30
    assert len(newest["refused"]) == _among_newest(broken, 10)


def _among_newest(broken: dict[Place, str], offsets: int) -> int:
    return sum(place.offset >= 700 - offsets for place in broken)


def read_by_a_program(
    processes: Processes, directory: Path, kafka: EmbeddedKafka, service: str, topic: str, count: int
) -> dict[Place, str]:
    """Have a program of its own read so many records; gives what kind of data each has."""
    environment = {
        "MESH_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "MESH_CONFIG": str(directory / "mesh.toml"),
    }
    program = processes.start("tests.support.adopters", service, topic, str(count), **environment)
    said, _ = program.communicate(timeout=90)
    assert program.returncode == 0, processes.log_of(0).read_text()
    rows = [json.loads(line) for line in said.splitlines()]
    read = {Place(partition, offset): kind for partition, offset, kind in rows}
    assert len(read) == len(rows) == count
    return read


def test_in_audit_a_program_gets_every_record_and_once_enforced_all_but_those_of_the_report(
    kafka: EmbeddedKafka,
    shell: Shell,
    topic: str,
    tmp_path: Path,
    processes: Processes,
    dead_letters: DeadLetters,
) -> None:
    broken = legacy.fill(kafka.bootstrap_servers, topic)
    shell.prints("adopt", topic, "--owner", "shop", "--write")
    draft = tmp_path / "schemas" / "_topics" / f"{topic}.avsc"
    schema = json.loads(draft.read_text())
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "colour"]
    draft.write_text(json.dumps(schema))
    shell.prints("schemas", "register")

    audited, enforced = fresh("billing"), fresh("billing")
    read = read_by_a_program(processes, tmp_path, kafka, audited, topic, 2100)
    assert Counter(read[place] for place in broken) == Counter(
        {"missing": "dict", "type": "dict", "inside": "dict", "unknown": "dict", "number": "int"}.get(
            kind, "bytes"
        )
        for kind in broken.values()
    )
    assert Counter(kind for place, kind in read.items() if place not in broken) == {
        "dict": 2100 - 42 - len(broken),
        "NoneType": 42,
    }
    assert dead_letters.all(f"{audited}.v1.from.{topic}", legacy.PARTITIONS) == []

    file = tmp_path / "topic.yaml"
    file.write_text(f"kind: Topic\nname: {topic}\nspec: {{owner: shop, encoding: json, validation: enforce}}")
    shell.prints("apply", "-f", str(file))
    read = read_by_a_program(processes, tmp_path, kafka, enforced, topic, 2100 - len(broken))
    assert not read.keys() & broken.keys()
    letters = dead_letters.all(f"{enforced}.v1.from.{topic}", legacy.PARTITIONS)
    refused = {}
    for letter in letters:
        envelope = received(letter, topic).envelope
        assert envelope.status is StatusCode.INVALID_ARGUMENT
        assert envelope.origin is not None
        refused[Place(envelope.origin.partition, envelope.origin.offset)] = letter.value
    assert refused == {place: legacy.BROKEN[kind] for place, kind in broken.items()}
    assert len(letters) == len(broken)
    named = shell.run("topics", "report", topic, "--all", code=1)["refused"]
    assert {Place(row["partition"], row["offset"]) for row in named} == refused.keys()


class Client:
    """What a wrapped client is to its connection: something that can be collected."""


def follows(contracts: TopicContracts, topic: str, mode: Validation) -> None:
    deadline = time.monotonic() + 20
    while contracts.of(topic).validation is not mode:
        assert time.monotonic() < deadline, f"{topic} is still in {contracts.of(topic).validation}"
        time.sleep(0.01)


def test_a_running_process_follows_each_step_and_no_step_is_left_out(
    kafka: EmbeddedKafka, shell: Shell, topic: str, tmp_path: Path
) -> None:
    legacy.fill(kafka.bootstrap_servers, topic, orders=3)
    shell.prints("adopt", topic, "--owner", "shop", "--write")
    file = tmp_path / "topic.yaml"

    def apply(validation: str, code: int = 0) -> str:
        file.write_text(
            f"kind: Topic\nname: {topic}\nspec: {{owner: shop, encoding: json, validation: {validation}}}"
        )
        return shell.prints("apply", "-f", str(file), code=code)

    assert f"topic '{topic}' can't be enforced: nothing is registered" in apply("enforce", code=1)
    shell.prints("schemas", "register")
    for arguments, code, sentence in (
        (["adopt", topic, "--write"], 1, f'mesh.toml has a section [topics."{topic}"] already'),
        (["adopt", f"{topic}s"], 3, f"there is no topic '{topic}s': did you mean '{topic}'?"),
        (["adopt", "shop.v1.order"], 2, "has the name of an operation of the mesh"),
        (["topics", "report", f"{topic}s"], 3, f"there is no topic '{topic}s': did you mean '{topic}'?"),
        (["topics", "report", "shop.v1.order"], 2, "is the mesh's own and always enforced"),
        (["topics", "report", "--all", "--since", "2h"], 2, "give either --all or --since"),
    ):
        assert sentence in shell.prints(*arguments, code=code)
    mesh = Mesh("shop")
    client = Client()
    connection, other = connect(mesh, client), connect(Mesh("billing"), client)
    try:
        outbound = connection.outbound()
        connection.wait(outbound.ready(topic))

        def sends(value: Any) -> bool:
            try:
                outbound.prepare(topic, value).failed(FailedPrecondition("only looked at"))
            except SchemaError:
                return False
            return True

        other_outbound = other.outbound()
        other.wait(other_outbound.ready(topic))

        def writes_as_another() -> None:
            other_outbound.prepare(topic, fits).failed(FailedPrecondition("only looked at"))

        fits, broken = json.dumps(legacy.order(1)).encode(), legacy.BROKEN["type"]
        assert [sends(value) for value in (fits, broken, None, legacy.order(2))] == [True] * 4
        assert not sends(
            {**legacy.order(2), "amount": "twelve"}
        )  # what the mesh encodes must fit in every mode
        writes_as_another()
        audited = {family.instrument.name: family.samples for family in mesh.metrics.collect()}
        assert audited["mesh.validation.audited"] == {(topic, "sent"): 1}

        apply("enforce")
        follows(connection.contracts, topic, Validation.ENFORCE)
        assert [sends(value) for value in (fits, broken, None)] == [True, False, True]
        follows(other.contracts, topic, Validation.ENFORCE)
        with pytest.raises(PermissionDenied, match="belongs to 'shop': only its owner publishes it"):
            writes_as_another()
        apply("off")
        follows(connection.contracts, topic, Validation.OFF)
        assert sends(broken)
        said = apply("enforce", code=1)
        assert f"topic '{topic}': validation goes from off to enforce by way of audit: apply" in said
        assert connection.contracts.of(topic).validation is Validation.OFF
        apply("audit")
        apply("enforce")
        follows(connection.contracts, topic, Validation.ENFORCE)
        shell.prints("delete", "Topic", topic)
        follows(connection.contracts, topic, Validation.AUDIT)  # the section holds again
    finally:
        connection.release(client)
        other.release(client)


def test_can_says_that_a_default_of_deny_waits_for_enforcement(shell: Shell, tmp_path: Path) -> None:
    topic = fresh("legacy_orders")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mesh.yaml").write_text(
        "kind: Mesh\nname: default\nspec: {access: {default: deny}}\n"
    )
    for validation, code, action in (("audit", 0, "audit"), ("enforce", 1, "deny")):
        section = f'[topics."{topic}"]\nowner = "shop"\nvalidation = "{validation}"\n'
        (tmp_path / "mesh.toml").write_text(section)
        assert shell.run("access", "can", "billing", topic, code=code)["action"] == action
    hint = f"or a topic that is adopted: did you mean '{topic}'?"
    assert hint in shell.prints("access", "can", "billing", f"{topic}s", code=2)


def test_an_adopted_topic_that_is_not_there_stops_no_report_and_is_told_by_check(
    shell: Shell, tmp_path: Path
) -> None:
    topic = fresh("ghost")
    (tmp_path / "mesh.toml").write_text(f'[topics."{topic}"]\nowner = "shop"\n')
    assert f"left out: there is no topic '{topic}'" in shell.prints("topics", "report")
    assert shell.run("topics", "report") == {"refused": [], "topics": []}
    assert execute(["check", "-o", "json"]) in (0, 1)  # the cluster is shared with other tests
    assert f"{topic}: it is adopted, and there is no such topic" in shell.printed()


async def test_a_kind_that_a_process_does_not_know_stops_it_only_where_access_may_be_meant(
    kafka: EmbeddedKafka, caplog: pytest.LogCaptureFixture
) -> None:
    rules, name = Rules(kafka.bootstrap_servers), fresh("gadget")
    record = {"format": 1, "kind": "Gadget", "name": name, "spec": {}, "optional": True}
    rules.write(f"Gadget/{name}", json.dumps(record).encode())
    try:
        async with Mesh(fresh("shop"), bootstrap_servers=kafka.bootstrap_servers):
            assert "kind 'Gadget' is unknown" in caplog.text
            assert "this process goes on without it" in caplog.text
        rules.write(f"Gadget/{name}", json.dumps({**record, "optional": False}).encode())
        with pytest.raises(FailedPrecondition, match="what can't be enforced is not left out"):
            async with Mesh(fresh("shop"), bootstrap_servers=kafka.bootstrap_servers):
                pass
    finally:
        rules.store.delete("Gadget", name)


def test_avro_that_can_not_be_read_passes_in_audit_and_is_kept_once_enforced(
    kafka: EmbeddedKafka, topic: str, dead_letters: DeadLetters
) -> None:
    schema = AvroSchema.of(
        {"type": "record", "name": "Order", "fields": [{"name": topic.replace("-", "_"), "type": "int"}]},
        topic,
    )
    registry = Registry(Settings(bootstrap_servers=kafka.bootstrap_servers))
    schema_id = registry.register(f"{topic}-value", schema).id.to_bytes(4, "big")
    broken = [
        b"\x01" + schema_id + b"\x02",  # a wrong magic byte
        b"\x00\x7f\xff\xff\xff\x02",  # an id that nobody registered
        b"\x00" + schema_id,  # cut
        b"\x00" + schema_id + b"\x02\x02",  # too long
        b'{"a": 1}',
    ]
    legacy.write(kafka.bootstrap_servers, topic, [b"\x00" + schema_id + b"\x02", None, *broken])

    def reads(mode: str, count: int) -> list[Any]:
        service = fresh("billing")
        mesh = Mesh(
            service,
            bootstrap_servers=kafka.bootstrap_servers,
            topics={topic: {"owner": "shop", "validation": mode}},
        )
        consumer = Consumer({"group.id": service, "auto.offset.reset": "earliest"}, mesh=mesh)
        consumer.subscribe([topic])
        got: list[Any] = []
        deadline = time.monotonic() + 60
        while len(got) < count and time.monotonic() < deadline:
            if (message := consumer.poll(0.5)) is not None:
                got.append(message.data)
        if mode == "enforce":
            while len(kept(service)) < len(broken) and time.monotonic() < deadline:
                consumer.poll(0.1)
        consumer.close()
        # Without keys there is no order: what has to be looked up in the registry comes after what has not.
        assert sorted(kept(service)) == (sorted(broken) if mode == "enforce" else [])
        return sorted(got, key=repr)

    def kept(service: str) -> list[bytes]:
        return [letter.value or b"" for letter in dead_letters.all(f"{service}.v1.from.{topic}", 1)]

    fitting: list[Any] = [{topic.replace("-", "_"): 1}, None]
    assert reads("enforce", 2) == sorted(fitting, key=repr)
    for mode in ("audit", "off"):
        assert reads(mode, 7) == sorted([*fitting, *broken], key=repr)
