"""A handler may take as long as it does: its process never leaves its group for that.

librdkafka leaves a group by itself where nobody polls for `max.poll.interval.ms`; here that is 1.5 s, and each handler
takes twelve times as long.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient
from pydantic import BaseModel

from broker_mesh import Context, Operation
from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.fleet import make_mesh
from tests.support.membership import membership
from tests.support.names import fresh

POLL_INTERVAL_SECONDS = 1.5
HANDLING_SECONDS = 12 * POLL_INTERVAL_SECONDS
LOOK_AGAIN_SECONDS = 0.25
PATIENCE = HANDLING_SECONDS + 60


class Work(BaseModel):
    key: str


class Worked(BaseModel):
    attempt: int


@pytest.mark.long
async def test_a_handler_that_takes_twelve_times_the_poll_interval_never_leaves_its_group(
    kafka: EmbeddedKafka, caplog: pytest.LogCaptureFixture
) -> None:
    servers = kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers})

    def member_ids(group: str) -> object:
        description = admin.describe_consumer_groups([group])[group].result(10)
        return tuple(member.member_id for member in description.members)

    interval = round(POLL_INTERVAL_SECONDS * 1000)
    # A member that has left is another one when it comes back, in the classic protocol; in KIP-848 it keeps its id,
    # and the group has another epoch.
    await asyncio.gather(
        check(servers, {"max.poll.interval.ms": interval}, lambda group: membership(servers, group)),
        check(
            servers,
            {
                "group.protocol": "classic",
                "max.poll.interval.ms": interval,
                "session.timeout.ms": interval,
                "heartbeat.interval.ms": 200,
            },
            member_ids,
        ),
    )
    assert not [record for record in caplog.records if "lost" in record.message]


async def check(servers: str, kafka: dict[str, str | int], look: Callable[[str], object]) -> None:
    name = fresh("slow")
    asleep = Operation(f"{name}.v1.asleep", request=Work, reply=Worked, key="key")
    blocking = Operation(f"{name}.v1.blocking", request=Work, reply=Worked, key="key")
    mesh = make_mesh(name, servers, kafka=kafka)
    handled: Counter[str] = Counter()

    @mesh.operation(asleep)
    async def sleep(request: Work, context: Context) -> Worked:
        handled[context.id] += 1
        await asyncio.sleep(HANDLING_SECONDS)
        return Worked(attempt=context.attempt)

    @mesh.operation(blocking)
    def block(request: Work, context: Context) -> Worked:
        handled[context.id] += 1
        time.sleep(HANDLING_SECONDS)
        return Worked(attempt=context.attempt)

    async with mesh.serving() as service, make_mesh(fresh("caller"), servers) as caller:
        await service.joined()
        handles = [
            await caller.call(operation, Work(key=f"k{number}"))
            for operation in (asleep, blocking)
            for number in range(3)
        ]
        while len(handled) < len(handles):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        replies = asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
        seen = {await asyncio.to_thread(look, name)}
        while not replies.done():
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            seen.add(await asyncio.to_thread(look, name))
        assert [reply.attempt for reply in await replies] == [1] * len(handles)
    assert len(seen) == 1, seen
    assert handled == {handle.id: 1 for handle in handles}
