"""What `mesh dead-letters` makes of its options, and what it says; with Kafka it is in tests/kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from broker_mesh import headers
from broker_mesh.cli import letters
from broker_mesh.cli.editing import Editor
from broker_mesh.cli.selecting import select
from broker_mesh.dead_letters import Cause, Claim, DeadLetter, Selection
from broker_mesh.dead_letters.letter import letter_of, source_of
from broker_mesh.errors import FailedPrecondition, InvalidArgument, MeshError, SettingsError
from broker_mesh.headers import Envelope, Place
from broker_mesh.kafka.claims import Action
from broker_mesh.message import Record
from broker_mesh.replay import Refusal, Report
from broker_mesh.status import StatusCode

OPERATION = "fleet.v1.find-aircraft"
NOTHING: tuple[Any, ...] = (None, None, None, None, None, None, None, None, None, None)


def letter(topic: str = f"{OPERATION}.dead", value: bytes = b"no Avro", **envelope: Any) -> DeadLetter:
    facts: dict[str, Any] = {
        "id": "id-1",
        "source": "dispatch",
        "status": StatusCode.UNAVAILABLE,
        "status_message": "the radar is down",
        "status_details": {"radar": 3},
        "exception": "RadarDown",
        "attempt": 3,
        "origin": Place(OPERATION, 3, 17),
        "first_failure": 1_385_000_000_000,
        "last_failure": 1_385_000_060_000,
    }
    source = source_of(topic)
    assert source is not None
    written = headers.write(Envelope(**{**facts, **envelope}))
    return letter_of(Record(topic, 3, 0, 1_385_000_060_001, b"N1", value, written), source)


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        (("fleet", None, None), Selection(service="fleet")),
        ((OPERATION, None, None), Selection(operation=OPERATION)),
        ((OPERATION, "fleet", None), Selection(service="fleet", operation=OPERATION)),
        (("fleet", "fleet", OPERATION), Selection(service="fleet", operation=OPERATION)),
        ((None, None, None), Selection()),
    ],
)
def test_the_argument_is_a_service_or_has_dots(named: tuple[str | None, ...], wanted: Selection) -> None:
    assert select(*named, *NOTHING[3:]) == wanted


def test_all_options_make_one_selection() -> None:
    chosen = select(None, None, None, ["OK", "UNKNOWN"], "KeyError", 1, 2, "N1", ["a", "b"], "seats")
    assert chosen == Selection(
        status=frozenset({StatusCode.OK, StatusCode.UNKNOWN}),
        exception="KeyError",
        since=1,
        until=2,
        key=b"N1",
        ids=frozenset({"a", "b"}),
        where="seats",
    )


@pytest.mark.parametrize(
    "given",
    [
        ("fleet", "billing", *NOTHING[2:]),
        (OPERATION, None, "fleet.v1.retire", *NOTHING[3:]),
        (*NOTHING[:5], 5, 5, *NOTHING[7:]),
    ],
)
def test_options_that_contradict_each_other(given: tuple[Any, ...]) -> None:
    with pytest.raises(typer.BadParameter):
        select(*given)


def test_a_letter_in_a_line_and_in_a_page() -> None:
    line = letters.letter_line(letter())
    assert f"{OPERATION}.dead/3/0 key=N1 id-1 UNAVAILABLE: the radar is down (RadarDown) 0x" in line
    claim = Claim(Action.REPLAYED, "replay-1", 1_385_000_070_000, OPERATION)
    page = "\n".join(letters.letter_page(letter(replay_id="replay-0"), claim))
    for said in (
        f"first stood at    {OPERATION}/3/17",
        'details           {"radar": 3}',
        "came from replay  replay-0",
        f"replayed to {OPERATION} at",
        "by replay-1",
        "  mesh-exception: RadarDown",
        f"  0x{b'no Avro'.hex()} (7 bytes)",
    ):
        assert said in page
    assert "open: neither replayed nor dropped" in "\n".join(letters.letter_page(letter(), None))


def test_a_letter_does_not_steer_the_terminal() -> None:
    evil = letter(status_message="\x1b[2J", exception="\x9b31m", value=b"\x1b]0;title\x07")
    lines = [letters.letter_line(evil), *letters.letter_page(evil, None)]
    cause = Cause(OPERATION, None, None, "\x1b", "\x1b[2J", 1, 0, 0, "id-1")
    assert all(text.isprintable() for text in [*lines, *letters.cause_row(cause)])


def test_a_report_names_the_first_refusals_and_how_to_see_the_rest() -> None:
    report = Report("replay-1", selected=3, replayed=2, taken_by_others=1, already_settled=4)
    assert list(letters.report_lines(report, dry_run=False, done="replayed")) == [
        "3 selected, 2 replayed, 1 taken by others meanwhile"
    ]
    for number in range(7):
        report = report.with_refusal(Refusal(Place(f"{OPERATION}.dead", 0, number), "it does not fit"))
    assert list(letters.report_lines(report, dry_run=False, done="replayed")) == [
        "10 selected, 2 replayed, 1 taken by others meanwhile, 7 refused"
    ]
    told = list(letters.refusal_lines(report))
    assert told[0] == f"refused: {OPERATION}.dead/0/0: it does not fit"
    assert told[5:] == ["2 more were refused: -o json names the first 7"]
    assert len(letters.report_as_json(report, dry_run=False)["refusals"]) == 7
    dry = Report("", selected=5, refused=2)
    assert list(letters.report_lines(dry, dry_run=True, done="replayed")) == [
        "5 selected, 3 would be replayed, 2 would be refused"
    ]
    nothing = Report("replay-1", already_settled=2)
    assert list(letters.report_lines(nothing, dry_run=False, done="dropped"))[1] == (
        "2 had been replayed or dropped before"
    )


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "no editor is named: set VISUAL or EDITOR"),
        ({"EDITOR": " "}, "no editor is named"),
        ({"VISUAL": "no-such-editor -w"}, "VISUAL names 'no-such-editor', which is not there"),
        ({"EDITOR": "vi 'unclosed"}, "EDITOR is no command"),
    ],
)
def test_an_editor_that_is_not_there_is_said_before_anything_is_done(
    environ: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        Editor(None, None, environ=environ)  # type: ignore[arg-type]


def edited(directory: Path, program: str, body: Any = None) -> Any:
    """Give what an editor makes of a body that is to go to where no schema is known."""

    class Nothing:
        def refresh(self) -> None:
            pass

        def latest(self, _: str) -> None:
            return None

    script = directory / "editor"
    script.write_text(program)
    script.chmod(0o700)
    edit = Editor(Nothing(), None, environ={"EDITOR": str(script)})  # type: ignore[arg-type]
    return edit(letter(), {"seats": 7} if body is None else body)


def test_a_body_that_is_emptied_or_left_as_it_is_is_none(tmp_path: Path) -> None:
    assert edited(tmp_path, "#!/bin/sh\n") is None
    assert edited(tmp_path, '#!/bin/sh\n: > "$1"\n') is None
    assert edited(tmp_path, '#!/bin/sh\nsed -i.old s/7/8/ "$1"\n') == {"seats": 8}


def test_nobody_else_can_read_a_body_while_it_is_edited(tmp_path: Path) -> None:
    modes = tmp_path / "modes"
    edited(tmp_path, f'#!/bin/sh\nls -ld "$(dirname "$1")" > {modes}\n')
    assert modes.read_text().startswith("drwx------")


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("#!/bin/sh\nexit 3\n", FailedPrecondition, "ended with exit code 3: the replay ends here"),
        ('#!/bin/sh\nrm "$1"\n', FailedPrecondition, "what the editor has left can't be read"),
        ("#!/no/such/interpreter\n", FailedPrecondition, "can't be started: "),
        ('#!/bin/sh\necho "[1" > "$1"\n', InvalidArgument, "the edited body is not valid JSON"),
    ],
)
def test_an_editor_that_fails(tmp_path: Path, program: str, error: type[MeshError], said: str) -> None:
    with pytest.raises(error) as caught:
        edited(tmp_path, program)
    assert said in caught.value.message
