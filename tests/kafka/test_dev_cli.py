"""`mesh dev`, as a user runs it: up, down, status, logs, and what a crash leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker_mesh.dev import local, processes
from broker_mesh.dev.discovery import running_bootstrap_servers
from broker_mesh.dev.state import load
from tests.support.durable_records import create_topic, leader, produce_and_kill, stored

COMMAND = [sys.executable, "-c", "from broker_mesh.cli.dev import app; app(prog_name='mesh dev')"]


class Dev:
    """Runs `mesh dev` over a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {**os.environ, "MESH_DEV_DIR": str(home), "NO_COLOR": "1"}

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*COMMAND, *arguments], env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], env=self.environ, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "-o", "json", code=code).stdout)

    def processes(self) -> list[int]:
        found = psutil.process_iter(["pid", "cmdline"])
        return [
            each.pid for each in found if any(str(self.home) in word for word in each.info["cmdline"] or ())
        ]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    dev = Dev(tmp_path / "dev")
    yield dev
    local.down(dev.home)
    assert dev.processes() == []


def test_a_day_with_kafka(dev: Dev) -> None:
    assert dev.json("status", code=3)["state"] == "stopped"
    assert "no Kafka was started yet" in dev.run("logs", code=3).stderr
    assert "No Kafka was running." in dev.run("down").stdout

    first = dev.json("up")
    servers = first["bootstrap_servers"]
    assert (first["started"], first["state"], first["version"]) == (True, "running", "4.3.1")
    assert running_bootstrap_servers(dev.environ) == servers
    create_topic(servers, copies=1)

    again = dev.run("up")
    assert "Kafka was running already" in again.stdout
    assert servers in again.stdout
    status = dev.json("status")
    assert status["brokers"] == first["brokers"]
    assert status["data_bytes"] > 0
    assert status["uptime_seconds"] > 0
    assert servers in dev.run("status").stdout

    refused = dev.run("up", "--brokers", "3", code=1)
    assert refused.stderr.startswith("Error: A Kafka with 1 broker(s)")
    assert "mesh dev down" in refused.stderr
    assert refused.stderr.count("\n") == 1

    assert dev.json("down") == {"stopped": [1], "killed": [], "data_deleted": False}
    assert dev.processes() == []
    assert running_bootstrap_servers(dev.environ) is None
    assert dev.json("status", code=3)["state"] == "stopped"

    second = dev.json("up")
    assert second["bootstrap_servers"] == servers
    assert leader(servers) == 1, "the topic was not kept"
    assert "controller activation" in dev.run("logs", "--lines", "20").stdout
    line = json.loads(dev.run("logs", "--lines", "1", "-o", "json").stdout)
    assert line["broker"] == 1
    assert "deleted" in dev.run("down", "--delete-data").stdout
    assert [file.name for file in dev.home.iterdir()] == ["lock"]


def test_after_a_crash_up_starts_over_the_same_data(dev: Dev) -> None:
    first = dev.json("up")
    servers = first["bootstrap_servers"]
    broker = first["brokers"][0]
    create_topic(servers, copies=1)
    acknowledged = produce_and_kill(servers, lambda: os.kill(broker["pid"], signal.SIGKILL), goes_on=False)

    status = dev.json("status", code=3)
    assert (status["state"], status["brokers"][0]["state"]) == ("crashed", "crashed")
    assert "mesh dev up" in dev.run("status", code=3).stdout
    assert running_bootstrap_servers(dev.environ) is None

    assert dev.json("up")["bootstrap_servers"] == servers
    assert acknowledged - stored(servers) == set()


def test_two_at_once_start_one_kafka(dev: Dev) -> None:
    with dev.popen("up", "-o", "json") as one, dev.popen("up", "-o", "json") as two:
        outputs = [json.loads(each.communicate(timeout=120)[0]) for each in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0)
    assert sorted(output["started"] for output in outputs) == [False, True]
    assert len({output["bootstrap_servers"] for output in outputs}) == 1
    assert len(dev.processes()) == 1


def test_ephemeral_data_is_gone_after_down(dev: Dev) -> None:
    status = dev.json("up", "--ephemeral")
    assert status["ephemeral"] is True
    directory = Path(status["directory"])
    assert directory.is_dir()
    assert dev.json("up")["started"] is False, "`up` without wishes takes what runs"
    assert dev.json("down") == {"stopped": [1], "killed": [], "data_deleted": False}
    assert not directory.exists()
    assert dev.json("status", code=3)["bootstrap_servers"] is None


def test_a_start_that_is_killed_leaves_no_process(dev: Dev) -> None:
    with dev.popen("up") as up:
        until = time.monotonic() + 60
        while (state := load(dev.home / "brokers-1")) is None or not state.running:
            assert time.monotonic() < until
            assert up.poll() is None
            time.sleep(0.01)
        up.kill()
    broker = state.brokers[0]
    assert broker.pid is not None
    assert broker.identity is not None
    assert processes.wait_gone(broker.pid, broker.identity, 10)
    assert dev.processes() == []


def test_a_start_that_fails_says_so_in_one_line(dev: Dev) -> None:
    data = dev.home / "brokers-1" / "broker-1" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=TheDataOfAnotherBrokr\n")
    failed = dev.run("up", code=1)
    assert failed.stdout == ""
    assert [line for line in failed.stderr.splitlines() if line.startswith("Error: Broker 1 did not start")]
    assert "Traceback" not in failed.stderr
    assert dev.processes() == []
    assert "node" in dev.run("logs").stdout


@pytest.mark.parametrize(
    "arguments", [("up", "--brokers", "2"), ("up", "-o", "xml"), ("logs", "--lines", "-1"), ("upp",)]
)
def test_wrong_usage(dev: Dev, arguments: tuple[str, ...]) -> None:
    assert "Traceback" not in dev.run(*arguments, code=2).stderr


@pytest.mark.parametrize("command", ["up", "down", "status", "logs"])
def test_help_has_examples(dev: Dev, command: str) -> None:
    assert f"mesh dev {command}" in dev.run(command, "--help").stdout


def test_logs_follow_what_is_written(dev: Dev) -> None:
    directory = dev.home / "brokers-1" / "broker-1"
    directory.mkdir(parents=True)
    (dev.home / "current").symlink_to("brokers-1")
    broker = {"id": 1, "port": 21001, "controller_port": 22001, "pid": None, "identity": None}
    state = {"format": 1, "brokers": [broker], "ephemeral": False, "started_at": 0}
    (dev.home / "brokers-1" / "cluster.json").write_text(json.dumps(state))
    log = directory / "broker.log"
    log.write_text("first\nsecond\n")
    with dev.popen("logs", "--follow", "--lines", "1") as logs:
        assert logs.stdout is not None
        stop = threading.Timer(60, logs.kill)
        stop.start()
        assert logs.stdout.readline() == "second\n"
        with log.open("a") as file:
            file.write("half of the third")
            file.flush()
            file.write(" line\n")
        assert logs.stdout.readline() == "half of the third line\n"
        log.write_text("new\n")
        assert logs.stdout.readline() == "new\n"
        logs.send_signal(signal.SIGINT)
        assert logs.wait(30) == 130
        stop.cancel()
