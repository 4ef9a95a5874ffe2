"""An instance that is out of step with its group joins it anew, and goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from broker_mesh import Context, Operation, agreement
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.kafka.groups import Group, Groups
from tests.support.fleet import Aircraft, FindAircraft, make_mesh
from tests.support.names import fresh

PATIENCE = 60.0
REQUESTS = 300


async def test_an_instance_that_joins_anew_repeats_nothing_that_was_settled_and_goes_on_in_order(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agreement, "LOOK_SECONDS", 0.1)
    handled: list[str] = []
    service = fresh("agreeing")
    find = Operation(f"{service}.v1.find", request=FindAircraft, reply=Aircraft, key="tailnum")
    mesh = make_mesh(service, kafka.bootstrap_servers)

    @mesh.operation(find)
    async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
        handled.append(context.id)
        return Aircraft(tailnum=request.tailnum, seats=4)

    async with mesh.serving(), make_mesh(f"{service}-caller", kafka.bootstrap_servers) as caller:
        sent: list[str] = []

        async def ask(count: int) -> None:
            handles = [await caller.call(find, FindAircraft(tailnum="N1")) for _ in range(count)]
            sent.extend(handle.id for handle in handles)
            await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))

        await ask(REQUESTS)
        describe = Groups.describe

        async def want_nothing(groups: Groups, names: Sequence[str]) -> dict[str, Group]:
            """Say that the group wants nothing of this instance."""
            group = (await describe(groups, names))[service]
            return {
                service: group._replace(members=tuple(each._replace(target=()) for each in group.members))
            }

        with caplog.at_level("INFO", logger="broker_mesh"):
            monkeypatch.setattr(Groups, "describe", want_nothing)
            asking = asyncio.create_task(ask(REQUESTS))
            async with asyncio.timeout(PATIENCE):
                while "took over" not in caplog.text:
                    await asyncio.sleep(0.05)
            monkeypatch.setattr(Groups, "describe", describe)
            await asking
            await ask(1)
    assert "gave up" in caplog.text, "it did not give its partitions up in order"
    firsts = [request for place, request in enumerate(handled) if request not in handled[:place]]
    assert firsts == sent
