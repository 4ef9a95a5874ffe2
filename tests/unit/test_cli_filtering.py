"""What `mesh tap` shows of what it follows, and how its options are read."""

from __future__ import annotations

import time
from typing import Any

import pytest
import typer

from broker_mesh import headers
from broker_mesh.cli import execute
from broker_mesh.cli.filtering import Filter
from broker_mesh.cli.options import moment, one_of
from broker_mesh.cli.records import Value
from broker_mesh.expression import Expression
from broker_mesh.headers import Envelope
from broker_mesh.message import Record
from broker_mesh.status import StatusCode


def record(topic: str = "fleet.v1.find-aircraft", key: bytes | None = b"N14228", **envelope: Any) -> Record:
    written = headers.write(Envelope(id="id-1", source="cli")._replace(**envelope))
    return Record(topic, 3, 17, 1_385_000_000_123, key, b"x", written)


REQUEST = record()
REPLY = record("cli.replies", source="fleet", id="id-2", correlation_id="id-1", status=StatusCode.OK)
DEAD = record("fleet.v1.find-aircraft.dead", status=StatusCode.UNAVAILABLE)
FOREIGN = record("legacy.orders", key=b"\xff", id="", source="")


@pytest.mark.parametrize(
    ("wanted", "admitted"),
    [
        (Filter(), [REQUEST, REPLY, DEAD, FOREIGN]),
        (Filter(kinds=frozenset({"dead", "record"})), [DEAD, FOREIGN]),
        (Filter(statuses=frozenset({"OK"})), [REPLY]),
        (Filter(statuses=frozenset({"OK", "UNAVAILABLE"})), [REPLY, DEAD]),
        (Filter(key="N14228"), [REQUEST, REPLY, DEAD]),
        (Filter(key="\\xff"), [FOREIGN]),
        (Filter(id="id-1"), [REQUEST, REPLY, DEAD]),
        (Filter(id="legacy.orders/3/17"), [FOREIGN]),
        (Filter(source="fleet"), [REPLY]),
        (Filter(id="id-1", source="cli", kinds=frozenset({"request"})), [REQUEST]),
        (Filter(id="id-1", source="nobody"), []),
    ],
)
def test_all_conditions_have_to_fit(wanted: Filter, admitted: list[Record]) -> None:
    assert [found for found in (REQUEST, REPLY, DEAD, FOREIGN) if wanted.admits(found)] == admitted


def test_no_condition_holds_for_what_cannot_be_decoded() -> None:
    wanted = Filter(where=Expression("!carrier"))
    assert wanted.holds(Value(json={"flight": 1}))
    assert wanted.holds(Value(json=None))
    assert not wanted.holds(Value(json={"carrier": "UA"}))
    assert not wanted.holds(Value(problem="the first byte is not the magic byte 0"))
    assert Filter().holds(Value(problem="the first byte is not the magic byte 0"))


def test_a_point_in_time_is_an_age_or_iso_8601() -> None:
    now = time.time() * 1000
    assert moment("10m") == pytest.approx(now - 600_000, abs=5_000)
    assert moment("2013-01-01T05:17:00Z") == 1_357_017_420_000
    assert moment("2013-01-01T05:17:00+00:00") == 1_357_017_420_000
    assert moment("1900-01-01T00:00:00Z") == 0
    for wrong in ("", "soon", "10 parsecs", "-5", "2013-13-01"):
        with pytest.raises(typer.BadParameter, match="is no time"):
            moment(wrong)


def test_a_name_is_read_in_any_case_and_the_nearest_is_offered() -> None:
    read = one_of("status", (status.name for status in StatusCode))
    assert read("not_found") == read("NOT_FOUND") == "NOT_FOUND"
    with pytest.raises(
        typer.BadParameter, match="there is no status 'UNAVAILABEL': did you mean 'unavailable'"
    ):
        read("UNAVAILABEL")
    with pytest.raises(typer.BadParameter, match=r"there are ok, cancelled"):
        read("?")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--where", "seats >"], "Error: 'seats >' is no JMESPath expression: it ends too early\n"),
        (["--where", "seats", "--raw"], "leave out --raw"),
        (["--status", "UNAVAILABEL"], "did you mean 'unavailable'?"),
        (["--kind", "dead-letter"], "there is no kind 'dead-letter'"),
        (["--since", "yesterday"], "'yesterday' is no time"),
        (["--since", "1h", "--from-beginning"], "give either --from-beginning or --since"),
    ],
)
def test_a_wrong_option_is_said_before_kafka_is_looked_for(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["tap", "fleet", "--bootstrap-servers", "127.0.0.1:1", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
