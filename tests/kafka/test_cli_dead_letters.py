"""`mesh dead-letters` against a real Kafka, as a user types it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.headers import read
from broker_mesh.kafka.claims import CLAIMS_TOPIC
from tests.support.commands import Commands
from tests.support.letters import ids_in, make_operation, records_of, write_letters
from tests.support.terminal import Terminal

PATIENCE = 120.0
MEGABYTE = 1024  # of KiB, which is what Linux counts a process's memory in


@pytest.fixture
def mesh(kafka: EmbeddedKafka) -> Commands:
    return Commands(kafka.bootstrap_servers)


@pytest.fixture
def terminal(mesh: Commands, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path, mesh.environ)
    yield opened
    opened.close()


def editor(directory: Path, program: str) -> str:
    """Make an editor that changes `text` of the file it is given; gives the command."""
    script = directory / "editor.py"
    script.write_text(
        f"import sys\nfile = sys.argv[1]\ntext = open(file).read()\n{program}\nopen(file, 'w').write(text)\n"
    )
    return f"{sys.executable} {script}"


async def test_dead_letters_are_listed_by_cause_or_one_by_one(kafka: EmbeddedKafka, mesh: Commands) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    service = operation.partition(".")[0]
    ids = write_letters(kafka.bootstrap_servers, operation, value, 20)
    (cause,) = await mesh.json("dead-letters", "list", operation)
    assert cause == {
        **cause,
        "count": 20,
        "operation": operation,
        "subscriber": None,
        "status": "INTERNAL",
        "exception": "ValueError",
        "message": "tank … of '…' leaks",
    }
    assert cause["example"] in ids
    _, row = (await mesh("dead-letters", "list", service, "--where", "litres == `7`")).splitlines()
    assert row.split()[:4] == ["20", operation, "INTERNAL", "ValueError"]
    assert mesh.said == ""  # no progress where nobody sees it
    lines = (
        await mesh("dead-letters", "list", "--service", service, "--each", "-n", "3", "-o", "json")
    ).splitlines()
    letters = [json.loads(line) for line in lines]
    assert {letter["id"] for letter in letters} < set(ids)
    assert letters[0]["body"] == {"tailnum": "N14228", "litres": 7}
    (line,) = (await mesh("dead-letters", "list", operation, "--each", "--id", ids[4])).splitlines()
    assert f"{ids[4]} INTERNAL: tank 4 of 'N14228' leaks (ValueError)" in line
    for filters in (["--exception", "KeyError"], ["--until", "1h"]):
        assert await mesh.json("dead-letters", "list", operation, *filters) == []
    assert await mesh("dead-letters", "list", operation, "--where", "litres > `7`") == ""
    assert mesh.said == "There are no such dead letters.\n"


async def test_what_is_not_there_and_what_makes_no_sense(kafka: EmbeddedKafka, mesh: Commands) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    (letter,) = write_letters(kafka.bootstrap_servers, operation, value, 1)
    await mesh("dead-letters", "list", operation[:-1], code=3)
    assert f"did you mean '{operation}'?" in mesh.said
    await mesh("dead-letters", "replay", operation, "--to", "nobody.v1.refuel", code=3)
    assert "operation 'nobody.v1.refuel' does not exist" in mesh.said
    await mesh("dead-letters", "show", "no-such-id", code=3)
    assert mesh.said.startswith("Error: no dead letter has the id or place 'no-such-id'")
    await mesh("dead-letters", "list", operation, "--where", "litres >", code=2)
    assert mesh.said == "Error: 'litres >' is no JMESPath expression: it ends too early\n"
    mesh.environ.pop("EDITOR", None)
    mesh.environ.pop("VISUAL", None)
    await mesh("dead-letters", "replay", operation, "--edit", code=2)
    assert "set VISUAL or EDITOR" in mesh.said
    assert ids_in(kafka.bootstrap_servers, operation) == {}
    assert (await mesh.json("dead-letters", "show", letter))[0]["settled"] is None


async def test_a_replay_is_tried_dry_then_done_once(kafka: EmbeddedKafka, mesh: Commands) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    ids = write_letters(kafka.bootstrap_servers, operation, value, 5)
    assert await mesh("dead-letters", "replay", operation, "--dry-run") == "5 selected, 5 would be replayed\n"
    assert ids_in(kafka.bootstrap_servers, operation) == {}
    assert await mesh("dead-letters", "replay", operation, "--limit", "2", "--rate", "1000") == (
        "2 selected, 2 replayed\n"
    )
    report = await mesh.json("dead-letters", "replay", operation)
    assert (report["replayed"], report["refused"]) == (3, 0)
    assert ids_in(kafka.bootstrap_servers, operation) == dict.fromkeys(ids, 1)
    assert await mesh.json("dead-letters", "list", operation) == []
    (shown,) = await mesh.json("dead-letters", "show", ids[0])
    assert shown["settled"]["action"] == "replayed"
    assert shown["settled"]["target"] == operation
    page = await mesh("dead-letters", "show", shown["place"])
    assert f"replayed to {operation} at" in page
    assert f"mesh-origin: {operation}/0/0" in page
    assert '"litres": 7' in page
    await mesh("dead-letters", "replay", "--id", ids[0], code=1)
    assert "was replayed at" in mesh.said


async def test_a_letter_that_cannot_be_decoded_is_shown_exported_and_refused(
    kafka: EmbeddedKafka, mesh: Commands, tmp_path: Path
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    write_letters(kafka.bootstrap_servers, operation, value, 1)
    # Half a surrogate pair can't be written as UTF-8.
    details = ("mesh-status-details", b'{"half": "\\ud800"}')
    (poison,) = write_letters(kafka.bootstrap_servers, operation, b"no Avro", 1, more=[details])
    assert f"0x{b'no Avro'.hex()}" in await mesh("dead-letters", "show", poison)
    text = await mesh("dead-letters", "replay", operation, code=1)
    assert text == "2 selected, 1 replayed, 1 refused\n"
    assert mesh.said.startswith(f"refused: {operation}.dead/0/1: ")
    file = tmp_path / "letters.jsonl"
    await mesh("dead-letters", "export", operation, "--to-file", str(file))
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert [letter["id"] for letter in exported] == [poison]
    assert base64.b64decode(exported[0]["raw"]["value"]) == b"no Avro"
    assert base64.b64decode(exported[0]["raw"]["key"]) == b"key-0"
    headers = [(name, base64.b64decode(data)) for name, data in exported[0]["raw"]["headers"]]
    assert read(headers)[0].id == poison
    assert exported[0]["details"] == {"half": "\ud800"}
    assert exported[0]["body"] is None
    assert "magic byte" in exported[0]["problem"]
    assert json.loads(await mesh("dead-letters", "export", operation)) == exported[0]
    await mesh("dead-letters", "export", operation, "--to-file", str(file), code=1)
    assert "it exists already" in mesh.said
    assert await mesh("dead-letters", "drop", operation, "--yes") == "1 selected, 1 dropped\n"
    assert await mesh("dead-letters", "export", operation) == ""
    text = await mesh("dead-letters", "replay", operation)
    assert text == "0 selected, 0 replayed\n2 had been replayed or dropped before\n"


async def test_bodies_are_edited_and_have_to_fit(
    kafka: EmbeddedKafka, mesh: Commands, tmp_path: Path
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    ids = write_letters(kafka.bootstrap_servers, operation, value, 2)
    first = ("dead-letters", "replay", "--id", ids[0], "--edit")
    mesh.environ["EDITOR"] = editor(tmp_path, "text = text.replace('7', '\"full\"')")
    await mesh(*first, code=1)
    assert "field 'litres': expected long, got 'full'" in mesh.said
    assert ids_in(kafka.bootstrap_servers, operation) == {}
    mesh.environ["VISUAL"] = editor(tmp_path, "text = text.replace('7', '9000').replace('N14228', 'N1')")
    assert await mesh(*first) == "1 selected, 1 replayed\n"
    assert f"{operation}.dead/0/0: INTERNAL: tank 0 of 'N14228' leaks" in mesh.said
    (record,) = records_of(kafka.bootstrap_servers, operation)
    assert record.key == b"N1"
    assert read(record.headers)[0].id == ids[0]
    tapped = await mesh.json("tap", operation, "--from-beginning", "-n", "1", "--where", "litres == `9000`")
    assert tapped["value"] == {"tailnum": "N1", "litres": 9000}


async def test_on_a_terminal_an_edit_is_offered_again_and_a_drop_is_asked_for(
    kafka: EmbeddedKafka, terminal: Terminal, tmp_path: Path
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    write_letters(kafka.bootstrap_servers, operation, value, 2)
    mesh = f"{sys.executable} -m broker_mesh.cli dead-letters"
    # At its second opening the file holds what was wrong with it.
    mend = editor(
        tmp_path, "text = text.replace('\"full\"', '8') if 'full' in text else text.replace('7', '\"full\"')"
    )

    listing = ("dead-letters", "list")
    later: list[str] = []

    def type_it() -> None:
        replay = f"EDITOR='{mend}' {mesh} replay {operation} --limit 1 --edit\n"
        terminal.paste(replay)
        terminal.read_until("Edit it again?", PATIENCE)
        terminal.paste("\x03")
        terminal.read_until("Interrupted: what was done until now stays done", PATIENCE)
        terminal.paste(replay)
        terminal.read_until("field 'litres': expected long, got 'full'", PATIENCE)
        terminal.read_until("Edit it again?", PATIENCE)
        terminal.paste("y\n")
        terminal.read_until("1 selected, 1 replayed", PATIENCE)
        terminal.paste(f"{mesh} drop {operation}\n")
        terminal.read_until("Drop 1 dead letters for good?", PATIENCE)
        terminal.paste("n\n")
        terminal.read_until("Nothing was done.", PATIENCE)
        terminal.paste(f"{mesh} drop {operation}\n")
        terminal.read_until("Drop 1 dead letters for good?", PATIENCE)
        later.extend(write_letters(kafka.bootstrap_servers, operation, value, 1))
        terminal.paste("y\n")
        terminal.read_until("1 selected, 1 dropped", PATIENCE)

    await asyncio.to_thread(type_it)
    # What failed while the question stood was not asked for.
    assert [
        cause["example"] for cause in await Commands(kafka.bootstrap_servers).json(*listing, operation)
    ] == later


PEAK = """
import resource, sys
from broker_mesh.cli import execute
code = execute(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "KiB, exit code", code)
"""


@pytest.mark.timeout(400)
@pytest.mark.long
async def test_a_hundred_thousand_dead_letters_need_little_memory_and_show_progress(
    kafka: EmbeddedKafka, terminal: Terminal, tmp_path: Path
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 100_000)
    (tmp_path / "peak.py").write_text(PEAK)

    def measured(command: str, shown: str, result: str) -> int:
        # A dumb terminal, as the shell has, would get no bar.
        terminal.paste(f"TERM=xterm COLUMNS=200 {sys.executable} peak.py dead-letters {command}\n")
        terminal.read_until(shown, PATIENCE)
        terminal.read_until("100000/100000", PATIENCE)
        terminal.read_until(result, PATIENCE)
        peak = re.search(r"PEAK (\d+) KiB, exit code 0$", terminal.read_until("exit code 0", PATIENCE))
        assert peak is not None
        return int(peak[1])

    listing = await asyncio.to_thread(measured, f"list {operation}", "reading dead letters", "100000")
    assert listing < 150 * MEGABYTE
    replaying = await asyncio.to_thread(
        measured, f"replay {operation}", "replaying", "100000 selected, 100000 replayed"
    )
    assert replaying < 150 * MEGABYTE
    claims = [
        record.value or b""
        for record in await asyncio.to_thread(
            lambda: list(records_of(kafka.bootstrap_servers, CLAIMS_TOPIC, 1))
        )
        if (record.key or b"").startswith(f"{operation}.dead/".encode())
    ]
    assert sum(map(len, claims)) < 100_000  # by ranges: less than a byte for each letter
