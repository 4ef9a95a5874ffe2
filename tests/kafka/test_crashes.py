"""SIGKILL at each step between send, receive, settle and commit: nothing that Kafka has acknowledged is lost.

Real processes, really killed; what happened is counted from topics and from a file that handlers append to.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.fleet import CALLER_STEPS, FIND_AIRCRAFT, Aircraft, FindAircraft, make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line
from tests.support.stalling import CLASSIC, Work, operations
from tests.support.topics import Topics

PATIENCE = 60.0

CALLEE_STEPS = [
    "received",
    "taken, not handled",
    "handled, not settled",
    "settled, not done",
    "done, not committed",
    "commit handed over, not sent",
    "commit sent, not acknowledged",
    "commit acknowledged",
]


@pytest.fixture(scope="module", autouse=True)
def short_sessions(kafka: EmbeddedKafka) -> None:
    shorten_sessions(kafka.bootstrap_servers, "fleet")


@pytest.mark.parametrize("step", CALLEE_STEPS)
async def test_a_callee_killed_at_any_step_loses_no_request(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path, step: str
) -> None:
    effects, mark = tmp_path / "effects", tmp_path / "crashed"
    environment = {"CRASH_AT": step, "CRASH_MARK": str(mark)}
    dying = processes.start("tests.support.fleet", kafka.bootstrap_servers, str(effects), **environment)
    async with make_mesh("dispatch", kafka.bootstrap_servers) as dispatch:
        await asyncio.to_thread(wait_for_line, dying, "ready")
        handles = [await dispatch.call(FIND_AIRCRAFT, FindAircraft(tailnum=f"N{n % 7}")) for n in range(40)]
        assert await asyncio.to_thread(dying.wait, PATIENCE) == -9, "the process did not reach the step"
        processes.start("tests.support.fleet", kafka.bootstrap_servers, str(effects), **environment)
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert [reply.tailnum for reply in replies] == [f"N{n % 7}" for n in range(40)]
    ours = {handle.id for handle in handles}  # a test before this one may have left uncommitted records
    handled = Counter(line.split()[2] for line in effects.read_text().splitlines() if line.split()[2] in ours)
    assert handled.keys() == ours
    # At least once: only what was in work at the kill may have run twice, and nothing more often.
    assert max(handled.values()) <= 2


@pytest.mark.parametrize("step", [*CALLER_STEPS, "acknowledged, waiting"])
async def test_a_caller_killed_at_any_step_finds_every_persisted_request_answered(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path, step: str
) -> None:
    effects, mark = tmp_path / "effects", tmp_path / "crashed"
    callee = processes.start("tests.support.fleet", kafka.bootstrap_servers, str(effects))
    await asyncio.to_thread(wait_for_line, callee, "ready")
    caller = processes.start(
        "tests.support.caller", kafka.bootstrap_servers, "10", step, CRASH_MARK=str(mark)
    )
    printed, _ = await asyncio.to_thread(caller.communicate, None, PATIENCE)
    assert caller.returncode == -9, "the process did not reach the step"
    persisted = [line.split()[1] for line in printed.splitlines() if line.startswith("persisted")]
    assert persisted
    async with make_mesh("dispatch", kafka.bootstrap_servers) as later:
        replies = [await later.attach(handle, FIND_AIRCRAFT).reply(PATIENCE) for handle in persisted]
    assert [reply.tailnum for reply in replies] == [f"N{n}" for n in range(len(persisted))]
    assert all(isinstance(reply, Aircraft) for reply in replies)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A Kafka to be killed; who kills it starts it again."""
    with EmbeddedKafka(tmp_path_factory.mktemp("mortal"), ephemeral=True, attached=True) as broker:
        yield broker


@pytest.mark.timeout(300)  # with a start and a restart of the broker, each of which may take 90 s
async def test_a_broker_killed_under_load_costs_latency_and_no_request(
    mortal: EmbeddedKafka, processes: Processes, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    callee = processes.start("tests.support.fleet", mortal.bootstrap_servers, str(effects))
    await asyncio.to_thread(wait_for_line, callee, "ready")
    async with make_mesh("dispatch", mortal.bootstrap_servers) as dispatch:
        asked = [
            asyncio.create_task(dispatch.request(FIND_AIRCRAFT, FindAircraft(tailnum=f"N{n}"), timeout=None))
            for n in range(50)
        ]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(mortal.kill)
        asked += [
            asyncio.create_task(dispatch.request(FIND_AIRCRAFT, FindAircraft(tailnum=f"N{n}"), timeout=None))
            for n in range(50, 100)
        ]
        await asyncio.to_thread(mortal.start)
        replies = await asyncio.gather(*asked)
    assert [reply.tailnum for reply in replies] == [f"N{n}" for n in range(100)]


@pytest.mark.timeout(300)
async def test_a_stop_while_the_broker_is_away_is_bounded_and_loses_nothing(
    mortal: EmbeddedKafka, processes: Processes, tmp_path: Path
) -> None:
    servers, topics = mortal.bootstrap_servers, Topics(mortal.bootstrap_servers)
    go, effects = tmp_path / "go", tmp_path / "effects"
    effects.touch()
    services = {fresh("stalling"): {}, fresh("stalling"): CLASSIC}
    leaving = []
    for service, properties in services.items():
        arguments = (servers, service, str(go), str(effects), json.dumps(properties))
        members = [processes.start("tests.support.stalling", *arguments) for _ in range(2)]
        for member in members:
            await asyncio.to_thread(wait_for_line, member, "ready")
        leaving.append(members[0])
    async with make_mesh(fresh("caller"), servers) as mesh:
        handles = [
            await mesh.call(operations(service)[0], Work(key=f"k{number}", end="reply"))
            for service in services
            for number in range(12)
        ]
        async with asyncio.timeout(PATIENCE):
            while len(effects.read_text().splitlines()) < len(handles):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(mortal.kill)
        go.touch()  # all handlers end, and no reply can be written
        for member in leaving:
            member.terminate()
        for member in leaving:
            assert await asyncio.to_thread(member.wait, PATIENCE) == 0, "it waited for the broker"
        await asyncio.to_thread(mortal.start)
        await asyncio.gather(*(handle.reply() for handle in handles))
    async with asyncio.timeout(PATIENCE):
        for service in services:  # who stayed commits at last what was settled
            while await topics.settled(service, operations(service)[0].name) < 12:
                await asyncio.sleep(0.05)
