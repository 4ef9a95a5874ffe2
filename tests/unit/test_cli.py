"""The command line without Kafka: what help costs, what wrong usage says, and how errors become exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.cli import execute
from broker_mesh.cli.exits import ExitCode, exit_code, is_answer
from broker_mesh.cli.json_input import read_object
from broker_mesh.cli.options import duration
from broker_mesh.cli.output import print_table
from broker_mesh.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    SchemaError,
    SettingsError,
)
from broker_mesh.status import StatusCode

HEAVY = ("confluent_kafka", "pydantic", "fastavro", "opentelemetry", "rich", "asyncio")

COMMANDS = [
    ["run"],
    ["call"],
    ["send"],
    ["tap"],
    ["trace"],
    *(["dead-letters", command] for command in ("list", "show", "replay", "drop", "export")),
    ["check"],
    ["topics", "list"],
    ["topics", "show"],
    ["topics", "create"],
    ["topics", "reset-offsets"],
    ["schemas", "list"],
    ["schemas", "show"],
    ["schemas", "check"],
    ["schemas", "register"],
    ["access", "can"],
    ["access", "list"],
    ["apply"],
    ["diff"],
    ["get"],
    ["delete"],
    ["dev", "up"],
    ["dev", "down"],
    ["dev", "status"],
    ["dev", "logs"],
]


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """`mesh run` configures the logs of its process: here that is the tests'."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, no running `mesh dev`, no terminal."""
    for name in [name for name in os.environ if name.startswith("MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MESH_DEV_DIR", str(tmp_path / "dev"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = execute(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return code, err


# ── help ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom broker_mesh.cli import execute\nexecute(['--help'])\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_examples_and_every_command_an_output_option(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"mesh {' '.join(command)}" in text.partition("Examples:")[2]
    assert "--output" in text
    arguments = text.partition("[OPTIONS]")[2].splitlines()[0]
    assert arguments == arguments.upper()


@pytest.mark.parametrize("group", [[], ["dev"], ["topics"], ["schemas"]], ids=" ".join)
def test_no_summary_in_a_list_of_commands_is_cut_short(
    group: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert execute([*group, "--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:")[2].partition("Examples:")[0]
    assert commands
    assert "..." not in commands


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    text = capsys.readouterr().out
    for code in ExitCode:
        assert f"{code:<4} " in text


def test_the_module_can_be_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker_mesh.cli", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("mesh ")


# ── exit codes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (StatusCode.INVALID_ARGUMENT, 2),
        (StatusCode.NOT_FOUND, 3),
        (StatusCode.UNAVAILABLE, 4),
        (StatusCode.UNAUTHENTICATED, 4),
        (StatusCode.DEADLINE_EXCEEDED, 5),
        (StatusCode.PERMISSION_DENIED, 1),
        (StatusCode.FAILED_PRECONDITION, 1),
        (StatusCode.INTERNAL, 1),
        (StatusCode.UNKNOWN, 1),
    ],
)
def test_the_exit_code_of_an_error_of_this_side(status: StatusCode, code: int) -> None:
    assert exit_code(MeshError.of(status, "why", handle="mesh1.x")) == code


def test_nothing_is_pending_where_nothing_was_sent() -> None:
    assert exit_code(DeadlineExceeded("expired before it was sent")) == 1


@pytest.mark.parametrize("status", [status for status in StatusCode if status is not StatusCode.OK])
def test_an_answer_is_always_exit_code_1(status: StatusCode) -> None:
    answer = MeshError.of(status, "why", attempts=1, handle="mesh1.x")
    assert is_answer(answer)
    assert exit_code(answer) == 1


@pytest.mark.parametrize("error", [MessageTooLarge("why"), SettingsError("why"), SchemaError("why")])
def test_what_does_not_fit_is_wrong_usage(error: MeshError) -> None:
    assert exit_code(error) == 2


# ── usage ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_kafka_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = failed(capsys, "topics", "list")
    assert code == 4
    assert said.count("\n") == 1
    assert "mesh dev up" in said


def test_no_kafka_is_a_finding_of_check(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mesh.toml").write_text("partitions = 3\n")
    assert execute(["check", "-o", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert [(finding["section"], finding["level"]) for finding in findings] == [
        ("settings", "fine"),
        ("kafka", "problem"),
    ]
    assert "mesh dev up" in findings[1]["what"]


def test_a_run_without_kafka_ends_as_any_other_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    Path("lonely.py").write_text(
        "from pydantic import BaseModel\nfrom broker_mesh import Mesh, Operation\n"
        "class Ask(BaseModel):\n    key: str\n"
        "mesh = Mesh('lonely')\n"
        "@mesh.operation(Operation('lonely.v1.ask', request=Ask))\ndef ask(request, context):\n    pass\n"
    )
    code, said = failed(capsys, "run", "lonely:mesh", "--bootstrap-servers", "")
    assert code == 4
    assert "no Kafka is named" in said


def test_a_wrong_setting(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mesh.toml").write_text("bootstrap_server = 'x:1'\n")
    code, said = failed(capsys, "check")
    assert code == 2
    assert "did you mean 'bootstrap_servers'?" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["call"], "name the operation, or give --attach"),
        (["call", "fleet.v1.find-aircraft"], "no JSON was given"),
        (["call", "fleet.v1.find-aircraft", "{", "--timeout", "1"], "not valid JSON"),
        (["call", "fleet.v1.find-aircraft", "{}", "--timeout", "0"], "no duration above 0"),
        (["call", "fleet.v1.find-aircraft", "{}", "--timeout", "soon"], "no duration above 0"),
        (["call", "--attach", "mesh1.nonsense"], "is not a handle"),
        (["call", "fleet.v1.find-aircraft", "{}", "--attach", "mesh1.x"], "give no new one"),
        (["call", "fleet.v1.find-aircraft", "{}", "--as", "Not A Service"], "not valid"),
        (["send", "fleet.v1.retire", "[]"], "holds a list"),
        (["tap", "fleet", "--since", "1m", "--from-beginning"], "either"),
        (["tap"], "Missing argument"),
        (["run", "fleet.py:fleet"], "write package.module:name, as in fleet:fleet"),
        (["run", "fleet:fleet", "--log-level", "loud"], "'loud' is unknown"),
        (["run", "fleet:fleet", "--workers", "0"], "--workers"),
        (["topics", "reset-offsets", "t", "--group", "g", "--to", "middle"], "middle"),
        (["check", "--bootstrap-servers", "k"], "the command line: bootstrap_servers: 'k' is no address"),
        (["dead-letters", "replay"], "or --all"),
        (["dead-letters", "replay", "a.v1.b", "--all"], "leave one out"),
        (["dead-letters", "replay", "a.v1.b", "--operation", "a.v1.c"], "is named already"),
        (["dead-letters", "list", "a.v1.b", "--limit", "3"], "add --each"),
        (["dead-letters", "list", "--since", "1h", "--until", "2h"], "not after --since"),
        (["dead-letters", "drop", "a.v1.b"], "add --yes"),
        (["teleport"], "teleport"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = failed(capsys, *arguments)
    assert code == 2
    assert said in error


def test_an_event_is_published_by_its_owner_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = failed(capsys, "send", "fleet.v1.events.retired", '{"tailnum": "N1"}')
    assert code == 1
    assert "--as fleet" in said


def test_an_event_is_not_called(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = failed(capsys, "call", "fleet.v1.events.retired", '{"tailnum": "N1"}')
    assert code == 2
    assert "mesh send fleet.v1.events.retired … --as fleet" in said


@pytest.mark.parametrize("command", [["--help"], ["dev", "status"], ["dev", "status", "-o", "json"]])
@pytest.mark.parametrize(
    ("stdout", "reason"), [("> /dev/full", "No space left on device"), (">&-", "stdout is closed")]
)
def test_a_result_that_can_not_be_written_is_one_sentence(
    command: list[str], stdout: str, reason: str
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    line = f"{shlex.quote(sys.executable)} -m broker_mesh.cli {' '.join(command)} {stdout}"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"Error: the result can't be written: {reason}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_it_imports_has_stopped(number: signal.Signals) -> None:
    Path("slow.py").write_text(
        "import threading\nprint('importing', flush=True)\nthreading.Event().wait(60)\n"
    )
    command = [sys.executable, "-m", "broker_mesh.cli", "run", "slow:mesh"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == ""


def test_an_interruption_while_the_commands_are_imported_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "broker_mesh.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "broker_mesh.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert execute(["--help"]) == 130


def test_a_name_in_a_table_is_never_cut_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(["NAME", "PARTITIONS"], [["fleet.v1.find-aircraft", "6"]])
    assert "fleet.v1.find-aircraft" in capsys.readouterr().out


def test_sending_and_the_reply_share_one_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Handle:
        operation = "fleet.v1.find-aircraft"

        async def reply(self, timeout: float, *, wait_for_replay: bool) -> dict[str, Any]:
            waited.append(timeout)
            return {}

    class Connected:
        client: Any = None

        async def call(self, *_: object, **__: object) -> Handle:
            await asyncio.sleep(0.05)
            return Handle()

    @asynccontextmanager
    async def calling(*_: object) -> AsyncIterator[Connected]:
        connected = Connected()
        connected.client = connected
        yield connected

    async def ready_body(*_: object) -> dict[str, Any]:
        return {}

    monkeypatch.setattr("broker_mesh.cli.connection.calling", calling)
    monkeypatch.setattr("broker_mesh.cli.call._ready_body", ready_body)
    assert execute(["call", "fleet.v1.find-aircraft", "{}", "--timeout", "60"]) == 0
    assert waited[0] < 60 - 0.04


def test_a_broken_pipe_is_quiet() -> None:
    """The reader is gone before a byte is written."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "broker_mesh.cli", "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": }', "line 1, column 7"),
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ("{'a': 1}", "line 1, column 2"),
        ("", "line 1, column 1"),
        ("[1]", "holds a list"),
        ("3", "holds a number"),
        ("null", "holds null"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("@missing.json", "'missing.json' can't be read"),
    ],
    ids=lambda value: value[:20],
)
def test_bad_json_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_object(text)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_json_from_a_file_that_is_not_utf_8() -> None:
    Path("latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(InvalidArgument, match=r"latin.json is not UTF-8 at byte 7"):
        read_object("@latin.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_json_is_read_from_argument_stdin_and_file_alike(value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=True)
    assert read_object(text) == value
    Path("given.json").write_text(text)
    assert read_object("@given.json") == value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert read_object("-") == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("1.5", 1.5), ("500ms", 0.5), ("10m", 600), ("2h", 7200), ("7d", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds
