"""The embedded Kafka itself: starts that meet trouble, and what is left when they fail."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from broker_mesh.dev import cluster, installation, ports, processes
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.dev.java import Runtime
from broker_mesh.dev.lock import claim
from broker_mesh.dev.progress import Progress
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable


def processes_over(directory: Path) -> list[int]:
    """The processes that were started over a directory."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [each.pid for each in found if any(str(directory) in word for word in each.info["cmdline"] or ())]


@pytest.fixture
def single(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A single-node Kafka, not started yet."""
    kafka = EmbeddedKafka(tmp_path / "kafka", attached=True)
    yield kafka
    kafka.kill()
    kafka.stop()
    assert processes_over(tmp_path) == []


def test_the_session_fixture_runs_over_an_ephemeral_directory(kafka: EmbeddedKafka) -> None:
    assert kafka.ephemeral
    assert [broker.running for broker in kafka.state.brokers] == [True]
    with socket.create_connection(("127.0.0.1", kafka.state.brokers[0].port), 5):
        pass


def test_runs_on_without_its_object_and_keeps_its_ports(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: EmbeddedKafka(tmp_path / "kafka").kill())  # also after a failure
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.start()
    servers = kafka.bootstrap_servers
    del kafka
    gc.collect()
    with pytest.raises(BlockingIOError), claim(tmp_path / "kafka" / "broker-1" / "lock"):
        pytest.fail("the broker does not hold the lock on its directory")
    found = EmbeddedKafka(tmp_path / "kafka")
    assert len(found.state.running) == 1
    pid = found.state.brokers[0].pid
    assert pid is not None
    assert os.getsid(pid) == pid, "it would hear Ctrl-C in the terminal"
    found.start()
    assert found.state.brokers[0].pid == pid, "what runs was started again"
    assert found.stop().cleanly == (1,)
    assert found.stop().cleanly == ()
    assert processes_over(tmp_path) == []

    with EmbeddedKafka(tmp_path / "kafka", attached=True) as again:
        assert again.bootstrap_servers == servers
    with (
        socket.create_server(("127.0.0.1", again.state.brokers[0].port)),
        EmbeddedKafka(tmp_path / "kafka", attached=True) as moved,
    ):
        assert moved.bootstrap_servers != servers


def test_a_port_that_is_taken_at_the_last_moment_is_replaced(
    single: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        taken = rival.getsockname()[1]
        offers = [[taken, *ports.pick(1)], ports.pick(2)]
        monkeypatch.setattr(ports, "pick", lambda count, avoid=(): offers.pop(0))
        single.start()
    assert offers == []
    assert single.state.brokers[0].port != taken
    assert len(processes_over(single.directory)) == 1


def test_a_second_kafka_over_the_same_data_is_refused(single: EmbeddedKafka) -> None:
    single.start()
    (single.directory / "cluster.json").write_text("garbled: the second one does not know of the first")
    properties = (single.directory / "broker-1" / "server.properties").read_bytes()
    with (
        pytest.raises(FailedPrecondition, match="another Kafka uses the data"),
        EmbeddedKafka(single.directory, attached=True),
    ):
        pytest.fail("it was started")
    assert processes_over(single.directory) == [single.state.brokers[0].pid]
    assert (single.directory / "broker-1" / "server.properties").read_bytes() == properties
    single.restart_broker(1)


def test_no_broker_is_started_where_another_holds_the_data_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "prepare", lambda _: Runtime(Path("/bin/false"), tmp_path))
    second = tmp_path / "broker-2"
    second.mkdir()
    with (
        claim(second / "lock"),
        pytest.raises(FailedPrecondition, match=f"another Kafka uses the data in {second}"),
    ):
        EmbeddedKafka(tmp_path, brokers=3, attached=True).start()
    assert sorted(path.name for path in tmp_path.glob("**/*") if path.is_file()) == ["lock", "lock"]
    with claim(tmp_path / "broker-1" / "lock"):
        pass


def test_a_damaged_class_cache_stops_no_start(
    single: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "kafka.aot"
    damaged.write_bytes(b"\0" * 100_000)

    def prepare(progress: Progress) -> Runtime:
        runtime = installation.prepare(progress)
        return Runtime(runtime.java, runtime.jars, class_cache=damaged)

    monkeypatch.setattr(cluster, "prepare", prepare)
    single.start()
    assert single.state.running


def test_java_that_crashes_over_the_class_cache_is_tried_without(
    single: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    crash = "echo '# A fatal error has been detected by the Java Runtime Environment:'; exit 134"
    java.write_text(
        f"#!/bin/sh\ncase \"$*\" in *-XX:AOTCache=*) {crash};; esac\necho 'Error: another one'; exit 1\n"
    )
    java.chmod(0o755)
    cache = tmp_path / "kafka.aot"
    cache.touch()
    monkeypatch.setattr(cluster, "prepare", lambda _: Runtime(java, tmp_path, cache))
    with pytest.raises(Unavailable, match="another one"):
        single.start()
    assert not cache.exists()


def test_java_that_fails_is_told(
    single: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho 'Error: could not find libjava.so' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(cluster, "prepare", lambda _: Runtime(broken, tmp_path))
    with pytest.raises(Unavailable, match=r"could not find libjava\.so"):
        single.start()


def test_what_is_no_java_is_told(
    single: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "java"
    foreign.write_bytes(b"\x7fELF of another machine")
    foreign.chmod(0o755)
    monkeypatch.setattr(cluster, "prepare", lambda _: Runtime(foreign, tmp_path))
    with pytest.raises(FailedPrecondition, match="no Java runtime for this platform"):
        single.start()


def test_wrong_use_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="1 broker or 3, not 2"):
        EmbeddedKafka(tmp_path, brokers=2)
    kafka = EmbeddedKafka(tmp_path, brokers=3)
    with pytest.raises(FailedPrecondition, match="before it was started"):
        _ = kafka.bootstrap_servers
    with pytest.raises(NotFound, match="no broker 4: they are numbered from 1 to 3"):
        kafka.kill(4)


def test_an_attached_kafka_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from broker_mesh.dev.cluster import EmbeddedKafka; "
        f"kafka = EmbeddedKafka(pathlib.Path({str(tmp_path)!r}), attached=True); kafka.start(); "
        "print(kafka.state.brokers[0].pid, kafka.state.brokers[0].identity, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, identity = starter.stdout.readline().split()
        assert processes.is_running(int(pid), identity)
        starter.kill()
    assert processes.wait_gone(int(pid), identity, 10)
