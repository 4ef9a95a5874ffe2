"""`mesh trace` against a real Kafka: one message's story, over retries, a dead letter and a replay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker_mesh import Context, Event, Mesh, Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import MeshError, Unavailable
from broker_mesh.mesh import Ordering
from broker_mesh.message import new_id
from tests.support.commands import Commands
from tests.support.fleet import Aircraft, FindAircraft, Retired, make_mesh
from tests.support.letters import make_operation, write_letters
from tests.support.names import fresh

PATIENCE = 60.0


class Radar:
    """What the service's handler needs; it is down at first."""

    def __init__(self) -> None:
        self.works = False

    def look(self, tailnum: str) -> Aircraft:
        if not self.works:
            raise Unavailable(f"the radar is down for {tailnum}")
        return Aircraft(tailnum=tailnum, seats=178)


def service_of(
    kafka: EmbeddedKafka, name: str, radar: Radar, ordering: Ordering = "key"
) -> tuple[Mesh, Operation[FindAircraft, Aircraft]]:
    operation = Operation(f"{name}.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
    mesh = make_mesh(name, kafka.bootstrap_servers)

    @mesh.operation(operation, ordering=ordering, retry=Retry(attempts=3, backoff=0.01))
    async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
        return radar.look(request.tailnum)

    return mesh, operation


@pytest.fixture
def mesh(kafka: EmbeddedKafka) -> Commands:
    return Commands(kafka.bootstrap_servers)


def steps(story: Any) -> list[tuple[str, int, int]]:
    return [(step["what"], step["attempt"], step["failed_in_place"]) for step in story["steps"]]


@pytest.mark.parametrize(
    ("ordering", "attempts"),
    [
        ("key", [("failed", 1, 0), ("dead-letter", 3, 1)]),
        (
            "none",
            [("failed", 1, 0), ("retry", 2, 0), ("failed", 2, 0), ("retry", 3, 0), ("dead-letter", 3, 0)],
        ),
    ],
)
async def test_two_retries_a_dead_letter_and_a_replay_are_one_story(
    kafka: EmbeddedKafka, mesh: Commands, ordering: Ordering, attempts: list[tuple[str, int, int]]
) -> None:
    name, caller, radar = fresh("story"), fresh("caller"), Radar()
    service, operation = service_of(kafka, name, radar, ordering)
    async with service.serving(), make_mesh(caller, kafka.bootstrap_servers) as dispatch:
        handle = await dispatch.call(operation, FindAircraft(tailnum="N1"))
        with pytest.raises(MeshError, match="the radar is down"):
            await handle.reply(PATIENCE)
        failed = await mesh.json("trace", str(handle))
        answer = await mesh.json("call", "--attach", str(handle), code=1)
        assert answer["dead_letter"] == failed["steps"][-2]["place"]
        waiting = asyncio.create_task(mesh.json("call", "--attach", str(handle), "--wait-for-replay"))
        radar.works = True
        report = await mesh.json("dead-letters", "replay", "--id", handle.id)
        assert report["replayed"] == 1
        assert (await waiting)["seats"] == 178
        told = await mesh.json("trace", handle.id, "--operation", operation.name)
    assert steps(failed) == [("sent", 1, 0), *attempts, ("answered", 3, 0)]
    assert [standing["state"] for standing in failed["standings"]] == ["dead-letter"]
    assert steps(told) == [*steps(failed), ("replayed", 1, 0), ("answered", 1, 0)]
    assert [standing["state"] for standing in told["standings"]] == ["answered"]
    assert len(told["trace_ids"]) == 1
    times = [step["epoch_ms"] for step in told["steps"]]
    assert times == sorted(times)
    assert told["steps"][-2]["replay_id"] == report["replay_id"]
    # By its id alone, and by the place of its dead letter, it is the same story.
    assert await mesh.json("trace", handle.id) == told
    letter = next(step["place"] for step in told["steps"] if step["what"] == "dead-letter")
    assert await mesh.json("trace", letter) == told
    text = await mesh("trace", handle.id)
    assert told["trace_ids"][0] in text
    assert "UNAVAILABLE: the radar is down for N1 (Unavailable)" in text
    assert f"put back by replay {report['replay_id']}" in text
    assert text.splitlines()[-1].startswith(f"{name} has answered OK")


async def test_a_request_that_nobody_has_taken(kafka: EmbeddedKafka, mesh: Commands) -> None:
    name, caller = fresh("story"), fresh("caller")
    service, operation = service_of(kafka, name, Radar())
    async with service.serving():
        pass
    async with make_mesh(caller, kafka.bootstrap_servers) as dispatch:
        handle = await dispatch.call(operation, FindAircraft(tailnum="N1"))
    assert steps(await mesh.json("trace", handle.id)) == [("sent", 1, 0)]
    async with asyncio.timeout(PATIENCE):  # Kafka counts a member that has left for a moment more
        while not (text := await mesh("trace", handle.id)).rstrip().endswith("which has no instance now"):
            pass
    assert text.splitlines()[-1] == f"it waits for {name}, which has no instance now"


async def test_an_event_stands_with_each_of_its_subscribers(kafka: EmbeddedKafka, mesh: Commands) -> None:
    publisher, reader, failing = fresh("publisher"), fresh("reader"), fresh("failing")
    retired = Event(f"{publisher}.v1.events.retired", Retired, key="tailnum")
    handled = asyncio.Event()
    readers = make_mesh(reader, kafka.bootstrap_servers)
    failures = make_mesh(failing, kafka.bootstrap_servers)

    @readers.subscribe(retired)
    async def on_retired(event: Retired, context: Context) -> None:
        handled.set()

    @failures.subscribe(retired, retry=Retry(attempts=1))
    async def fail_on_retired(event: Retired, context: Context) -> None:
        raise ValueError("no room")

    async with make_mesh(publisher, kafka.bootstrap_servers) as publishing:
        receipt = await publishing.publish(retired, Retired(tailnum="N1"))
        async with readers.serving(), failures.serving():
            await asyncio.wait_for(handled.wait(), PATIENCE)
            letters = await _until_dead(mesh, failing)
    place = f"{receipt.topic}/{receipt.partition}/{receipt.offset}"
    told = await mesh.json("trace", place)
    assert steps(told) == [("sent", 1, 0), ("dead-letter", 1, 0)]
    assert {(standing["service"], standing["state"]) for standing in told["standings"]} == {
        (reader, "handled"),
        (failing, "dead-letter"),
    }
    assert letters[0]["example"] == told["id"]
    await mesh("dead-letters", "drop", failing, "--yes")
    text = await mesh("trace", told["id"])
    assert f"{failing} has failed, and it was dropped for good" in text
    assert f"{reader} has handled it" in text


async def _until_dead(mesh: Commands, service: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := await mesh.json("dead-letters", "list", service)):
            pass
    return found


async def test_a_dead_letter_is_followed_to_another_operation_also_once_its_request_is_gone(
    kafka: EmbeddedKafka, mesh: Commands
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    other, _ = await make_operation(kafka.bootstrap_servers)
    (message_id, *_) = write_letters(kafka.bootstrap_servers, operation, value, 2)
    await mesh("dead-letters", "replay", "--id", message_id, "--to", other)
    told = await mesh.json("trace", message_id)
    assert steps(told) == [("failed", 1, 0), ("dead-letter", 3, 1), ("replayed", 1, 0)]
    assert told["steps"][-1]["place"].startswith(f"{other}/")
    (standing,) = told["standings"]
    assert (standing["service"], standing["state"]) == (other.partition(".")[0], "waiting")
    # The place where it first stood names it too, though nothing stands there any more.
    assert await mesh.json("trace", f"{operation}/0/0") == told


async def test_what_cannot_be_traced(kafka: EmbeddedKafka, mesh: Commands) -> None:
    nobody = new_id()
    await mesh("trace", nobody, code=3)
    assert mesh.said.startswith(f"Error: no record of '{nobody}' is kept in any topic of the mesh")
    await mesh("trace", "no-such.topic/0/0", code=3)
    assert "there is no topic 'no-such.topic'" in mesh.said
    await mesh("trace", nobody, "--operation", "nobody.v1.find-aircraft", code=3)
    assert "there is no operation or event 'nobody.v1.find-aircraft'" in mesh.said
    await mesh("trace", "mesh1.nonsense", code=2)
    assert "is not a handle" in mesh.said
