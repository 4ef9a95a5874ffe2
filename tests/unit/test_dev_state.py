"""The state file, and how a mesh finds a running Kafka through it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker_mesh.dev import processes
from broker_mesh.dev.discovery import require_bootstrap_servers, running_bootstrap_servers
from broker_mesh.dev.local import down
from broker_mesh.dev.state import CURRENT, STATE_FILE, BrokerState, ClusterState, load, save
from broker_mesh.errors import Unavailable

GARBLED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"format": 2}',
    b'{"format": 1}',
    b'{"format": 1, "brokers": [], "ephemeral": false, "started_at": 0}',
    b'{"format": 1, "brokers": [7], "ephemeral": false, "started_at": 0}',
    b'{"format": 1, "brokers": {"id": 1}, "ephemeral": false, "started_at": 0}',
    b'{"format": 1, "brokers": [{"id": 1, "port": "x", "controller_port": 2, "pid": null, "identity": null}],'
    b' "ephemeral": false, "started_at": 0}',
    b'{"format": 1, "brokers": [{"id": 1, "port": 1, "controller_port": 2, "pid": 99999999999999999999, '
    b'"identity": "x"}], "ephemeral": false, "started_at": null}',
]


def running_here() -> BrokerState:
    return BrokerState(1, 21_001, 22_001, os.getpid(), processes.identity(os.getpid()))


def write(home: Path, state: ClusterState) -> None:
    directory = home / "brokers-1"
    directory.mkdir()
    save(directory, state)
    (home / CURRENT).symlink_to(directory.name)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    stopped = BrokerState(2, 21_002, 22_002)
    state = ClusterState((running_here(), stopped), ephemeral=True, started_at=12.5)
    save(tmp_path, state)
    assert load(tmp_path) == state
    assert state.bootstrap_servers == "127.0.0.1:21001,127.0.0.1:21002"
    assert state.running == [state.brokers[0]]
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]


@pytest.mark.parametrize("content", GARBLED, ids=range(len(GARBLED)))
def test_a_garbled_file_means_that_nothing_runs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CURRENT).mkdir()
    (tmp_path / CURRENT / STATE_FILE).write_bytes(content)
    assert load(tmp_path / CURRENT) is None
    assert running_bootstrap_servers({"MESH_DEV_DIR": str(tmp_path)}) is None


def test_no_file_means_that_nothing_runs(tmp_path: Path) -> None:
    assert running_bootstrap_servers({"MESH_DEV_DIR": str(tmp_path / "none")}) is None


def test_a_running_kafka_is_found(tmp_path: Path) -> None:
    write(tmp_path, ClusterState((running_here(),), ephemeral=False, started_at=0))
    assert running_bootstrap_servers({"MESH_DEV_DIR": str(tmp_path)}) == "127.0.0.1:21001"


def test_a_recycled_process_id_is_not_taken_for_a_broker(tmp_path: Path) -> None:
    earlier = BrokerState(1, 21_001, 22_001, os.getpid(), "the same id before the last reboot")
    write(tmp_path, ClusterState((earlier,), ephemeral=False, started_at=0))
    assert running_bootstrap_servers({"MESH_DEV_DIR": str(tmp_path)}) is None


def test_a_zombie_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = processes.identity(process.pid)
        assert identity is not None
        assert processes.is_running(process.pid, identity)
        assert process.stdin is not None
        process.stdin.close()
        # Waits for the end without reaping: the process is a zombie then.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not processes.is_running(process.pid, identity)


def test_looking_for_a_running_kafka_imports_nothing_heavy() -> None:
    program = (
        "import sys, json; from broker_mesh.dev import discovery; "
        "discovery.running_bootstrap_servers({'MESH_DEV_DIR': '/nonexistent'}); print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    dev = {name for name in json.loads(done.stdout) if name.startswith("broker_mesh.dev.")}
    assert dev == {f"broker_mesh.dev.{name}" for name in ("discovery", "paths", "processes", "state")}
    if sys.platform == "linux":
        assert "psutil" not in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("broker", "said"),
    [
        (None, "no 'mesh dev' runs: start one with 'mesh dev up', name one"),
        (BrokerState(1, 21_001, 22_001), "no 'mesh dev' runs"),
        (BrokerState(1, 21_001, 22_001, os.getpid(), "another process"), "has crashed: start it again"),
    ],
    ids=["none", "stopped", "crashed"],
)
def test_who_needs_a_kafka_is_told_why_there_is_none(
    tmp_path: Path, broker: BrokerState | None, said: str
) -> None:
    if broker is not None:
        write(tmp_path, ClusterState((broker,), ephemeral=False, started_at=0))
    with pytest.raises(Unavailable, match=said):
        require_bootstrap_servers({"MESH_DEV_DIR": str(tmp_path)}, "name one")


def test_what_an_interrupted_start_left_of_ephemeral_data_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "ephemeral-1" / "broker-1").mkdir(parents=True)
    (tmp_path / "brokers-1").mkdir()
    (tmp_path / CURRENT).symlink_to("ephemeral-1")
    down(tmp_path)
    assert not (tmp_path / "ephemeral-1").exists()
    assert not (tmp_path / CURRENT).is_symlink()
    assert (tmp_path / "brokers-1").exists()
