"""The commands of `mesh` against a real Kafka, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from prometheus_client.parser import text_string_to_metric_families

from broker_mesh.cli import execute
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.dev.ports import pick

PATIENCE_SECONDS = 60.0

SERVICE = """
from pydantic import BaseModel
from broker_mesh import Context, Event, Mesh, Operation
from broker_mesh.errors import NotFound

class FindAircraft(BaseModel):
    tailnum: str

class Aircraft(BaseModel):
    tailnum: str
    seats: int

class Retire(BaseModel):
    tailnum: str

FIND_AIRCRAFT = Operation("{name}.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
RETIRE = Operation("{name}.v1.retire", request=Retire, key="tailnum")
RETIRED = Event("{name}.v1.events.retired", Retire, key="tailnum")
mesh = Mesh("{name}")

@mesh.operation(FIND_AIRCRAFT)
async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
    if request.tailnum.startswith("X"):
        raise NotFound("no such aircraft", details={{"register": "2013"}})
    return Aircraft(tailnum=request.tailnum, seats=178)

@mesh.operation(RETIRE)
def retire(request: Retire, context: Context) -> None:
    context.sync().publish(RETIRED, Retire(tailnum=request.tailnum))
"""


class Shell:
    """Runs `mesh` in a folder, in this process where nothing has to be killed, else in one of its own."""

    def __init__(self, directory: Path, bootstrap_servers: str) -> None:
        self.directory = directory
        self.bootstrap_servers = bootstrap_servers
        self.started: list[subprocess.Popen[str]] = []

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
        return {**kept, "MESH_BOOTSTRAP_SERVERS": self.bootstrap_servers, "NO_COLOR": "1"}

    def write_service(self, name: str) -> str:
        """Write the module of a service; gives what `mesh run` takes."""
        (self.directory / f"{name}_service.py").write_text(SERVICE.format(name=name))
        return f"{name}_service:mesh"

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker_mesh.cli", *arguments],
            cwd=self.directory,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def serve(self, target: str, *more: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start `mesh run`; gives what it says once it serves."""
        process = self.start("run", target, "--health-port", "0", "-o", "json", "--log-level", "error", *more)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        return process, json.loads(line)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE_SECONDS)


def stop(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Stop a service as an operator does, gracefully."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return out, err


def until(holds: Callable[[], Any], what: str) -> Any:
    patience = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < patience:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {PATIENCE_SECONDS:g} s: {what}")


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def shell(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("cli"), kafka.bootstrap_servers)
    yield shell
    shell.end()


@pytest.fixture(scope="module")
def fleet(shell: Shell) -> Iterator[dict[str, Any]]:
    """A service that runs while this module's tests do."""
    process, said = shell.serve(shell.write_service("clifleet"))
    yield said
    out, err = stop(process)
    assert (out, err.count("\n")) == ("", 1)  # the line that tells where health is answered


class Mesh:
    """Runs commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.said = ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        ended = execute(arguments)
        out, self.said = self._capture.readouterr()
        assert ended == code, out + self.said
        assert "Traceback" not in self.said
        return out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "-o", "json", code=code))


@pytest.fixture
def mesh(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mesh:
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MESH_BOOTSTRAP_SERVERS", shell.bootstrap_servers)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(shell.directory)
    return Mesh(capsys)


# ── call, send ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_prints_its_handle_first_and_then_the_reply(fleet: dict[str, Any], mesh: Mesh) -> None:
    assert mesh.json("call", "clifleet.v1.find-aircraft", '{"tailnum": "N1"}') == {
        "tailnum": "N1",
        "seats": 178,
    }
    first, hint = mesh.said.splitlines()
    assert first.startswith("handle: mesh1.")
    handle = first.removeprefix("handle: ")
    assert f"mesh call --attach {handle}" in hint
    assert mesh.json("call", "--attach", handle) == {"tailnum": "N1", "seats": 178}
    mesh("call", "clifleet.v1.retire", "--attach", handle, code=2)


def test_an_error_answer(fleet: dict[str, Any], mesh: Mesh) -> None:
    assert mesh.json("call", "clifleet.v1.find-aircraft", '{"tailnum": "X1"}', code=1) == {
        "status": "NOT_FOUND",
        "message": "no such aircraft",
        "details": {"register": "2013"},
        "attempts": 1,
        "dead_letter": None,
    }
    assert mesh("call", "clifleet.v1.find-aircraft", '{"tailnum": "X1"}', code=1) == ""
    assert mesh.said.splitlines()[-1] == "NOT_FOUND: no such aircraft"


def test_what_is_wrong_before_anything_is_sent(shell: Shell, fleet: dict[str, Any], mesh: Mesh) -> None:
    mesh("call", "clifleet.v1.find-aircrat", "{}", code=3)
    assert "did you mean 'clifleet.v1.find-aircraft'?" in mesh.said
    mesh("call", "clifleet.v1.find-aircraft", '{"tailnum": 3}', code=2)
    assert mesh.said == ("Error: clifleet.v1.find-aircraft-value: field 'tailnum': expected string, got 3\n")
    mesh("call", "clifleet.v1.find-aircraft", "{}", code=2)
    mesh("call", "clifleet.v1.retire", '{"tailnum": "N1"}', code=2)
    assert "use mesh send" in mesh.said
    mesh("send", "clifleet.v1.no-such", "{}", code=3)
    mesh("send", "no-operation", "{}", code=2)
    mesh("call", "no-operation", "{}", code=2)
    mesh("tap", "no-such-service", code=3)
    (shell.directory / "empty").mkdir()
    for command in ("check", "register"):
        mesh("schemas", command, "empty", code=3)
        assert "holds no schema file" in mesh.said
    mesh("topics", "show", "clifleet.v1.find-aircrat", code=3)
    mesh("schemas", "show", "clifleet.v1.find-aircrat-value", code=3)
    mesh("schemas", "show", "clifleet.v1.retire-value", "--version", "7", code=3)


def test_send_and_publish_say_where_it_is_kept(shell: Shell, fleet: dict[str, Any], mesh: Mesh) -> None:
    receipt = mesh.json("send", "clifleet.v1.retire", '{"tailnum": "N2"}')
    assert receipt["topic"] == "clifleet.v1.retire"
    events = ("tap", "clifleet.v1.events.retired", "--from-beginning")
    # Not with the command, which needs the topic's leaders: they come a moment after the topic.
    admin = AdminClient({"bootstrap.servers": shell.bootstrap_servers, "log_level": 0})
    until(
        lambda: "clifleet.v1.events.retired" in admin.list_topics(timeout=PATIENCE_SECONDS).topics,
        "the handler publishes its event",
    )
    assert mesh.json(*events, "--limit", "1")["value"] == {"tailnum": "N2"}
    published = mesh.json("send", "clifleet.v1.events.retired", '{"tailnum": "N3"}', "--as", "clifleet")
    assert published["topic"] == "clifleet.v1.events.retired"


def test_a_call_killed_while_it_waits_is_answered_later(shell: Shell, mesh: Mesh) -> None:
    """The operation is made, and its schemas are registered, before the service has ever run."""
    folder = shell.directory / "late-schemas" / "clilate"
    folder.mkdir(parents=True)
    for name, record, fields in (
        ("v1.find-aircraft.avsc", "FindAircraft", [("tailnum", "string")]),
        ("v1.find-aircraft.reply.avsc", "Aircraft", [("tailnum", "string"), ("seats", "long")]),
    ):
        schema: dict[str, Any] = {
            "type": "record",
            "name": record,
            "namespace": "clilate.v1",
            "fields": [{"name": field, "type": kind} for field, kind in fields],
        }
        if record == "FindAircraft":
            schema["mesh-key"] = "tailnum"
        (folder / name).write_text(json.dumps(schema))
    states = [row["state"] for row in mesh.json("schemas", "check", "late-schemas")]
    assert states == ["new", "new"]
    assert {row["state"] for row in mesh.json("schemas", "register", "late-schemas")} == {"registered"}
    assert {row["state"] for row in mesh.json("schemas", "register", "late-schemas")} == {"unchanged"}
    assert len(mesh.json("topics", "create", "clilate.v1.find-aircraft")["made"]) == 3
    assert mesh.json("topics", "create", "clilate.v1.find-aircraft") == {"made": []}

    mesh("call", "clilate.v1.find-aircraft", '{"tailnum": "N4"}', "--timeout", "2s", code=5)
    assert "still pending" in mesh.said

    waiting = shell.start("call", "clilate.v1.find-aircraft", '{"tailnum": "N5"}')
    assert waiting.stderr is not None
    handle = waiting.stderr.readline().removeprefix("handle: ").strip()
    waiting.kill()
    waiting.wait(PATIENCE_SECONDS)

    interrupted = shell.start("call", "--attach", handle)
    until(lambda: _assigned(interrupted), "the call is connected")
    interrupted.send_signal(signal.SIGINT)
    assert f"mesh call --attach {handle}" in interrupted.communicate(timeout=PATIENCE_SECONDS)[1]
    assert interrupted.returncode == 130

    service, _ = shell.serve(shell.write_service("clilate"))
    assert mesh.json("call", "--attach", handle) == {"tailnum": "N5", "seats": 178}

    # What is incompatible is refused as a whole.
    (folder / "v1.find-aircraft.avsc").write_text(
        '{"type": "record", "name": "FindAircraft", "namespace": "clilate.v1", "mesh-key": "tailnum",'
        ' "fields": [{"name": "tailnum", "type": "string"}, {"name": "year", "type": "int"}]}'
    )
    for command in ("check", "register"):
        verdicts = mesh.json("schemas", command, "late-schemas", code=1)
        assert "has no default" in verdicts[0]["problems"][0]
    assert mesh.json("schemas", "show", "clilate.v1.find-aircraft-value")["version"] == 1

    # Offsets are set anew only once nobody works on them.
    reset = (
        "topics",
        "reset-offsets",
        "clilate.v1.find-aircraft",
        "--group",
        "clilate",
        "--to",
        "earliest",
    )
    for how in ("--yes", "--dry-run"):
        assert mesh(*reset, how, code=1) == ""
        assert "has 1 members" in mesh.said
    stop(service)
    mesh(*reset, code=2)
    assert "add --yes" in mesh.said
    assert mesh.json(*reset, "--dry-run")["done"] is False
    assert _waiting(mesh, "clilate.v1.find-aircraft") == 0
    mesh(*reset, "--yes")
    assert _waiting(mesh, "clilate.v1.find-aircraft") == 2

    # A group that Kafka has dropped, or that has never worked, is set before its service starts; no other name is.
    mesh(*reset[:4], "clinever", *reset[5:], "--yes")
    assert "Kafka knows no group 'clinever' now" in mesh.said
    mesh(*reset[:4], "clilate.v1", *reset[5:], "--yes", code=3)
    assert "did you mean 'clilate'?" in mesh.said


def _assigned(process: subprocess.Popen[str]) -> bool:
    """Whether the process has connected: librdkafka's threads have a connection to the broker then."""
    return any(
        c.status == psutil.CONN_ESTABLISHED for c in psutil.Process(process.pid).net_connections("tcp")
    )


def _waiting(mesh: Mesh, name: str) -> int:
    (row,) = [row for row in mesh.json("topics", "list") if row["name"] == name]
    waiting: int = row["waiting"]
    return waiting


# ── tap, check ────────────────────────────────────────────────────────────────────────────────────────────


def test_tap_shows_request_and_reply_as_they_come(shell: Shell, fleet: dict[str, Any], mesh: Mesh) -> None:
    tap = shell.start("tap", "clifleet.v1.find-aircraft", "--since", "1h", "-o", "json", "--headers")
    mesh("call", "clifleet.v1.find-aircraft", '{"tailnum": "N-TAPPED"}')
    assert tap.stdout is not None
    seen: dict[str, dict[str, Any]] = {}
    for line in tap.stdout:
        record = json.loads(line)
        if (record["value"] or {}).get("tailnum") == "N-TAPPED":
            seen[record["kind"]] = record
        if len(seen) == 2:
            break
    assert seen["request"]["key"] == "N-TAPPED"
    assert seen["reply"]["correlation_id"] == seen["request"]["id"]
    assert seen["reply"]["status"] == "OK"
    assert seen["request"]["headers"]["ce_source"] == "cli"
    tap.send_signal(signal.SIGINT)
    assert tap.communicate(timeout=PATIENCE_SECONDS)[1] == ""
    assert tap.returncode == 130


def test_tap_shows_what_all_filters_fit(fleet: dict[str, Any], mesh: Mesh) -> None:
    operation = "clifleet.v1.find-aircraft"
    mesh("call", operation, '{"tailnum": "N-FILTERED"}')
    mesh("call", operation, '{"tailnum": "X-FILTERED"}', "--as", "clitapper", code=1)
    kept = ("tap", operation, "--from-beginning", "-n", "1")
    request = mesh.json(*kept, "--key", "X-FILTERED", "--source", "clitapper")
    assert request["kind"] == "request"
    answer = mesh.json(*kept, "--id", request["id"], "--kind", "reply", "--status", "not_found")
    assert (answer["correlation_id"], answer["status"]) == (request["id"], "NOT_FOUND")
    reply = mesh.json(*kept, "--kind", "reply", "--where", "tailnum == 'N-FILTERED' && seats > `100`")
    assert reply["value"] == {"tailnum": "N-FILTERED", "seats": 178}


def test_tap_goes_on_over_what_cannot_be_decoded(shell: Shell, mesh: Mesh) -> None:
    topic = "clibytes.orders"
    admin = AdminClient({"bootstrap.servers": shell.bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(PATIENCE_SECONDS)
    producer = Producer({"bootstrap.servers": shell.bootstrap_servers, "log_level": 0})
    for value in (b"\x1b[31m plain", b"\x00\x7f\xff\xff\xff of an unknown id", b"\x00\x00", b"", None):
        producer.produce(topic, value)
    producer.flush(PATIENCE_SECONDS)
    lines = mesh("tap", topic, "--from-beginning", "-n", "5").splitlines()
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)
    assert "magic byte" in lines[0]
    assert str(0x7FFFFFFF) in lines[1]
    assert mesh("tap", "clibytes", "--from-beginning", "-n", "5").splitlines() == lines


def test_check_finds_a_topic_with_wrong_settings(shell: Shell, fleet: dict[str, Any], mesh: Mesh) -> None:
    findings = mesh.json("check")
    assert {finding["section"] for finding in findings} == {
        "settings",
        "kafka",
        "topics",
        "schemas",
        "groups",
        "queues",
    }
    assert any(finding["what"].startswith("clifleet: 1 member") for finding in findings)

    (queue,) = [
        finding
        for finding in findings
        if finding["what"].startswith("clifleet.v1.find-aircraft: 0 records waiting")
    ]
    assert (queue["level"], queue["figures"]["members"], queue["figures"]["circuit"]) == ("fine", 1, "closed")

    # What an operator may do behind the mesh's back.
    mesh("topics", "create", "cliwrong.v1.orders")
    entry = ConfigEntry("retention.ms", "3600000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "cliwrong.v1.orders", incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": shell.bootstrap_servers, "log_level": 0})
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_SECONDS)
    try:
        problems = [finding for finding in mesh.json("check", code=1) if finding["level"] == "problem"]
    finally:
        names = ["cliwrong.v1.orders", "cliwrong.v1.orders.retry", "cliwrong.v1.orders.dead"]
        for future in admin.delete_topics(names).values():
            future.result(PATIENCE_SECONDS)
    assert {problem["section"] for problem in problems} == {"topics", "schemas"}
    assert any("deleted after 1 hour" in problem["what"] for problem in problems)
    assert all(problem["advice"] for problem in problems)


def test_no_broker(mesh: Mesh, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_CONNECT_TIMEOUT_SECONDS", "0.5")
    (port,) = pick(1)
    nowhere = ("--bootstrap-servers", f"127.0.0.1:{port}")
    for command in (
        ("call", "clifleet.v1.find-aircraft", "{}"),
        ("send", "clifleet.v1.retire", "{}"),
        ("tap", "clifleet"),
        ("topics", "list"),
        ("schemas", "list"),
    ):
        mesh(*command, *nowhere, code=4)
        assert mesh.said.count("\n") == 1
        assert f"no Kafka broker answers at 127.0.0.1:{port}" in mesh.said
    problems = [
        row for row in mesh.json("check", "--timeout", "500ms", *nowhere, code=1) if row["level"] == "problem"
    ]
    assert [problem["section"] for problem in problems] == ["kafka"]
    run = shell.start(
        "run",
        shell.write_service("clinobroker"),
        *nowhere,
        "--workers",
        "2",
        MESH_CONNECT_TIMEOUT_SECONDS="0.5",
    )
    run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 4


# ── run ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_health_while_it_runs(fleet: dict[str, Any]) -> None:
    assert fleet["topics"] == ["clifleet.v1.find-aircraft", "clifleet.v1.retire"]
    code, health = get(f"{fleet['health']}/readyz")
    assert code == 200
    assert health["service"] == "clifleet"
    assert health["version"] == "v1"
    assert health["assigned_partitions"] == 12
    assert get(f"{fleet['health']}/livez")[0] == 200


def scrape(url: str) -> dict[str, Counter[str]]:
    """What Prometheus would read at `/metrics`: the sums of each sample, by worker ("" where there are none)."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_SECONDS) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.read().decode()))
    sums: dict[str, Counter[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        sums.setdefault(sample.name, Counter())[sample.labels.get("worker", "")] += sample.value
    return sums


def test_metrics_of_a_run(shell: Shell, mesh: Mesh) -> None:
    process, said = shell.serve(shell.write_service("climetrics"), "--metrics-port", "0")
    assert said["metrics"] != said["health"]
    for tailnum in ("N1", "N2", "X3"):
        code = 1 if tailnum.startswith("X") else 0
        mesh(
            "call",
            "climetrics.v1.find-aircraft",
            json.dumps({"tailnum": tailnum}),
            "--timeout",
            "30",
            code=code,
        )
    until(lambda: scrape(said["metrics"])["mesh_outcomes_total"] == {"": 3}, "all are settled")
    told = scrape(said["metrics"])
    assert told["mesh_requests_total"] == told["mesh_queue_duration_seconds_count"] == {"": 3}
    assert told["process_start_time_seconds"][""] > 0
    assert get(f"{said['health']}/metrics")[0] == 404
    stop(process)


def test_metrics_of_workers_are_told_apart_on_the_port_of_health(shell: Shell, mesh: Mesh) -> None:
    (port,) = pick(1)
    ports = ("--health-port", str(port), "--metrics-port", str(port))
    supervisor, said = shell.serve(shell.write_service("clifigures"), "--workers", "2", *ports)
    assert said["metrics"] == said["health"]
    assert get(f"{said['health']}/readyz")[0] == 200
    for number in range(4):
        tailnum = json.dumps({"tailnum": f"N{number}"})
        mesh("call", "clifigures.v1.find-aircraft", tailnum, "--timeout", "30")
    until(lambda: scrape(said["metrics"])["mesh_outcomes_total"].total() == 4, "all are settled")
    half = 2 * 6  # of two operations and their retries; one that joined first may still have all of them
    until(lambda: scrape(said["metrics"])["mesh_partitions"] == {"1": half, "2": half}, "both have half")
    stop(supervisor)


def test_two_runs_share_the_work(shell: Shell, mesh: Mesh) -> None:
    target = shell.write_service("clitwo")
    (first, one), (second, two) = shell.serve(target), shell.serve(target)

    def partitions() -> list[int]:
        return [get(f"{said['health']}/readyz")[1]["assigned_partitions"] for said in (one, two)]

    until(lambda: partitions() == [6, 6], "both have half of the partitions")
    details = mesh.json("topics", "show", "clitwo.v1.find-aircraft")
    assert len(details["partitions"]) == 6
    for number in range(4):
        mesh("call", "clitwo.v1.find-aircraft", json.dumps({"tailnum": f"N{number}"}), "--timeout", "30")
    stop(first)
    mesh("call", "clitwo.v1.find-aircraft", '{"tailnum": "N9"}', "--timeout", "30")
    stop(second)


def test_a_killed_worker_is_replaced_and_none_is_left_behind(shell: Shell) -> None:
    supervisor, said = shell.serve(shell.write_service("cliworkers"), "--workers", "2")
    workers: list[int] = said["pids"]
    assert len(workers) == 2
    assert get(f"{said['health']}/readyz")[0] == 200
    os.kill(workers[0], signal.SIGKILL)

    def replaced() -> list[int]:
        health = get(f"{said['health']}/readyz")[1]
        pids = [int(each["instance"].rpartition("-")[2]) for each in health["workers"] if each["ready"]]
        return pids if len(pids) == 2 and workers[0] not in pids else []

    now = until(replaced, "the killed worker is replaced")
    assert workers[1] in now
    stop(supervisor)
    assert not any(psutil.pid_exists(pid) for pid in [*workers, *now])


def test_workers_do_not_outlive_a_killed_supervisor(shell: Shell) -> None:
    supervisor, said = shell.serve(shell.write_service("cliorphans"), "--workers", "2")
    supervisor.kill()
    supervisor.communicate(timeout=PATIENCE_SECONDS)
    until(lambda: not any(psutil.pid_exists(pid) for pid in said["pids"]), "the workers end")
