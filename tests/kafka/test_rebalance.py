"""Members that come, go, stall and die: each request is answered, and each key stays in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.fleet import FIND_AIRCRAFT, FindAircraft, make_mesh
from tests.support.groups import shorten_sessions
from tests.support.processes import Processes, wait_for_line

PATIENCE = 90.0
REQUESTS = 1500
KEYS = 30


@pytest.fixture(autouse=True)
def short_sessions(kafka: EmbeddedKafka) -> None:
    shorten_sessions(kafka.bootstrap_servers, "fleet")


async def test_requests_survive_members_that_join_leave_stall_and_die(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"

    async def member() -> int:
        process = processes.start("tests.support.fleet", kafka.bootstrap_servers, str(effects))
        await asyncio.to_thread(wait_for_line, process, "ready")
        return process.pid

    first = await member()
    order: dict[str, list[str]] = defaultdict(list)
    async with make_mesh("dispatch", kafka.bootstrap_servers) as dispatch:
        handles = []

        async def send(count: int) -> None:
            for _ in range(count):
                tailnum = f"N{len(handles) % KEYS}"
                handle = await dispatch.call(FIND_AIRCRAFT, FindAircraft(tailnum=tailnum))
                handles.append(handle)
                order[tailnum].append(handle.id)

        sending = asyncio.create_task(send(REQUESTS))
        second = await member()  # a rebalance under load
        os.kill(first, signal.SIGSTOP)  # stalls past its session: its partitions move while it holds records
        await asyncio.sleep(4)
        os.kill(first, signal.SIGCONT)  # and comes back with completions of an assignment that is gone
        third = await member()
        os.kill(second, signal.SIGTERM)  # leaves
        os.kill(third, signal.SIGKILL)  # dies
        await sending
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert len(replies) == REQUESTS
    handled = [line.split()[1:3] for line in effects.read_text().splitlines()]
    for tailnum, sent in order.items():
        wanted = {message_id: place for place, message_id in enumerate(sent)}
        seen = [
            wanted[message_id] for name, message_id in handled if name == tailnum and message_id in wanted
        ]
        assert set(seen) == set(range(len(sent))), f"{tailnum}: some were never handled"
        # At least once: a record may come again after a fault, with what followed it; none may overtake another
        # on its first time.
        firsts = [place for count, place in enumerate(seen) if place not in seen[:count]]
        assert firsts == sorted(firsts), f"{tailnum}: order was lost"
