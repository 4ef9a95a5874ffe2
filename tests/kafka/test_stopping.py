"""Stopping: bounded whatever happens, and nobody waits for ever on what is gone."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sys
import threading

import pytest

from broker_mesh import Context, Mesh, MeshError, Operation, Retry
from broker_mesh.assignment import Assignment
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import DataLoss, DeadlineExceeded, FailedPrecondition, Unavailable
from broker_mesh.kafka.groups import Groups
from broker_mesh.settings import Settings
from tests.kafka.test_requests import PATIENCE, Answer, Ask, service
from tests.support.fleet import make_mesh
from tests.support.groups import delete_group
from tests.support.processes import Processes, wait_for_line


async def _members(kafka: EmbeddedKafka, group: str) -> int:
    groups = Groups(Settings(bootstrap_servers=kafka.bootstrap_servers), "test")
    return len((await groups.describe([group]))[group].members)


async def test_a_stop_that_is_cut_short_leaves_no_member_behind(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka, grace_seconds=3600)
    begun = asyncio.Event()

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        return Answer(text="never")

    async def serve() -> None:
        async with mesh.serving():
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        while not await caller._connected().admin.describe([ask.name]):
            await asyncio.sleep(0.05)
        await caller.call(ask, Ask(key="a"))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        serving.cancel()  # a graceful stop begins, with an hour of grace
        await asyncio.sleep(0.2)
        serving.cancel()  # and is cut short
        with pytest.raises(asyncio.CancelledError):
            await serving
        async with asyncio.timeout(PATIENCE):
            while await _members(kafka, mesh.service):
                await asyncio.sleep(0.1)


async def test_waiters_are_told_when_their_mesh_stops(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="")

    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        handle_ = await caller.call(ask, Ask(key="a"))
        pending = asyncio.create_task(handle_.reply())
        await asyncio.sleep(0)
    with pytest.raises(FailedPrecondition, match="attach to it later") as stopped:
        await asyncio.wait_for(pending, PATIENCE)
    assert stopped.value.handle == str(handle_)
    with pytest.raises(FailedPrecondition):
        await asyncio.wait_for(handle_.reply(), PATIENCE)


async def test_the_blocking_face_ends_what_other_threads_wait_for(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="")

    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
    ended = threading.Event()

    def blocking() -> None:
        client = make_mesh("dispatch", kafka.bootstrap_servers).sync()
        with pytest.raises(FailedPrecondition, match="not connected"):
            client.request(ask, Ask(key="a"))
        with client:
            handle = client.call(ask, Ask(key="a"))

            def wait() -> None:
                try:
                    handle.reply()
                except (MeshError, asyncio.CancelledError):
                    ended.set()

            threading.Thread(target=wait, daemon=True).start()
        assert ended.wait(PATIENCE)
        with pytest.raises(FailedPrecondition, match="not connected"):
            client.request(ask, Ask(key="a"))

    await asyncio.to_thread(blocking)


async def test_a_plain_handler_that_never_returns_does_not_keep_its_process(
    kafka: EmbeddedKafka, processes: Processes
) -> None:
    process = processes.start("tests.support.stuck", kafka.bootstrap_servers)
    await asyncio.to_thread(wait_for_line, process, "ready")
    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        await caller.call("stuck.v1.ask", {"key": "a"})
        await asyncio.to_thread(wait_for_line, process, "begun")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, PATIENCE) == 0


async def test_a_consumer_that_fails_stops_its_service_and_leaves_the_group(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="")

    with pytest.raises(MeshError, match="ZeroDivisionError in the consumer"):  # noqa: PT012 - the stop is part of it
        async with mesh.serving() as serving, make_mesh("dispatch", kafka.bootstrap_servers) as caller:
            await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
            monkeypatch.setattr("broker_mesh.kafka.consumer.to_record", lambda _: 1 // 0)
            await caller.call(ask, Ask(key="a"))
            await asyncio.wait_for(serving.failure(), PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while await _members(kafka, mesh.service):
            await asyncio.sleep(0.1)


async def test_a_stop_begins_nothing_that_still_waits_for_a_place(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka, concurrency=1, partitions=1)
    running, finish = asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    @mesh.operation(ask, retry=Retry(attempts=1))
    async def handle(request: Ask, context: Context) -> Answer:
        if request.key != "warm":
            handled.append(request.key)
            running.set()
            await finish.wait()
        return Answer(text=request.key)

    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        async with mesh.serving() as serving, asyncio.timeout(PATIENCE):
            await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
            calls = [await caller.call(ask, Ask(key=f"k{n}")) for n in range(8)]
            while serving.in_flight < 2:
                await asyncio.sleep(0.02)
            await running.wait()
            asyncio.get_running_loop().call_later(0.2, finish.set)  # while the stop waits for it
        assert len(handled) == 1, "work was begun that the next instance could have begun at once"
        async with mesh.serving():
            replies = await asyncio.gather(*(call.reply(PATIENCE) for call in calls))
    assert len(replies) == len(handled) == 8


@pytest.mark.parametrize("part", ["broker_mesh.lanes.Lanes.put", "broker_mesh.relief.to_move"])
async def test_a_bug_beside_the_handlers_stops_the_service_and_strands_nothing(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask, ordering="none")
    async def handle(request: Ask, context: Context) -> Answer:
        raise Unavailable("later", retry_after=3600)

    with pytest.raises(MeshError, match="ZeroDivisionError inside the mesh"):  # noqa: PT012 - the stop is part of it
        async with mesh.serving() as serving, make_mesh("dispatch", kafka.bootstrap_servers) as caller:
            monkeypatch.setattr(part, lambda *_, **__: 1 // 0)
            await caller.call(ask, Ask(key="a"))
            await asyncio.wait_for(serving.failure(), PATIENCE)


async def test_a_service_with_few_places_may_call_itself(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka, concurrency=2)
    inner = Operation(f"{mesh.service}.v1.inner", request=Ask, reply=Answer, key="key")

    @mesh.operation(inner)
    async def handle_inner(request: Ask, context: Context) -> Answer:
        return Answer(text=request.key)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        both = await asyncio.gather(*(context.request(inner, Ask(key=f"{request.key}{n}")) for n in range(2)))
        return Answer(text="+".join(answer.text for answer in both))

    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        asked = [caller.request(ask, Ask(key=f"k{n}"), timeout=PATIENCE) for n in range(8)]
        replies = await asyncio.gather(*asked)
    assert [reply.text for reply in replies] == [f"k{n}0+k{n}1" for n in range(8)]


async def test_a_graceful_handover_repeats_nothing(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka)
    handled: list[str] = []

    def instance() -> None:
        fresh_mesh = make_mesh(mesh.service, kafka.bootstrap_servers)

        @fresh_mesh.operation(ask)
        async def handle(request: Ask, context: Context) -> Answer:
            handled.append(context.id)
            return Answer(text=request.key)

        instances.append(fresh_mesh)

    instances: list = []  # type: ignore[type-arg]
    for _ in range(3):
        instance()
    async with instances[0].serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
        handles = []
        for joining in instances[1:]:
            async with joining.serving() as joined:
                handles += [await caller.call(ask, Ask(key=f"k{number}")) for number in range(150)]
                async with asyncio.timeout(PATIENCE):
                    while not joined.partitions:
                        await asyncio.sleep(0.02)
        await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert sorted(handled[1:]) == sorted(handle.id for handle in handles)


async def test_a_group_whose_offsets_are_lost_stops_instead_of_running_all_again(
    kafka: EmbeddedKafka,
) -> None:
    mesh, ask = service(kafka)
    handled: list[str] = []

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        handled.append(context.id)
        return Answer(text="")

    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        for _ in range(2):  # the second start finds the ledger and the offsets, and goes on
            async with mesh.serving():
                await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
        await asyncio.to_thread(delete_group, kafka.bootstrap_servers, mesh.service)
        with pytest.raises(DataLoss, match="has dropped the offset") as lost:
            async with mesh.serving():
                pytest.fail("started without knowing where")
        assert len(handled) == 2
        command = re.search(r"'mesh (topics reset-offsets [^']*)'", lost.value.message)
        assert command is not None
        await _mesh(*shlex.split(command[1]), "--yes", "--bootstrap-servers", kafka.bootstrap_servers)
        async with mesh.serving():
            await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
    assert len(handled) == 5  # the two from before again, and the one of now


async def _mesh(*arguments: str) -> None:
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker_mesh.cli", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(command.communicate(), PATIENCE)
    assert command.returncode == 0, said.decode()


async def test_an_operation_that_waits_for_another_of_its_service_goes_on_when_it_is_full(
    kafka: EmbeddedKafka,
) -> None:
    mesh, ask = service(kafka, max_in_flight=10)
    inner = Operation(f"{mesh.service}.v1.inner", request=Ask, reply=Answer, key="key")

    @mesh.operation(inner)
    async def handle_inner(request: Ask, context: Context) -> Answer:
        return Answer(text=request.key)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return await context.request(inner, Ask(key=request.key))

    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        asked = [caller.request(ask, Ask(key=f"k{n}"), timeout=PATIENCE) for n in range(60)]
        assert len(await asyncio.gather(*asked)) == 60


async def test_a_plain_handler_may_call_through_a_mesh_of_its_own(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka, concurrency=2)
    asked_mesh, asked = service(kafka)

    @asked_mesh.operation(asked)
    async def handle_asked(request: Ask, context: Context) -> Answer:
        return Answer(text=request.key)

    def blocking() -> None:
        with make_mesh("other", kafka.bootstrap_servers).sync() as client:

            @mesh.operation(ask, retry=Retry(attempts=1))
            def handle(request: Ask, context: Context) -> Answer:
                return client.request(asked, Ask(key=request.key), timeout=PATIENCE)

            asyncio.run(serve())

    async def serve() -> None:
        async with (
            mesh.serving(),
            asked_mesh.serving(),
            make_mesh("dispatch", kafka.bootstrap_servers) as caller,
        ):
            calls = [caller.request(ask, Ask(key=f"k{n}"), timeout=PATIENCE) for n in range(20)]
            assert len(await asyncio.gather(*calls)) == 20

    await asyncio.to_thread(blocking)


async def test_a_partition_that_rested_takes_records_again_when_it_comes_back(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Assignment, "is_crowded", lambda self, rests: self.tracker.beyond >= (5 if rests else 10)
    )
    name = service(kafka)[0].service
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    stuck = asyncio.Event()

    def instance() -> Mesh:
        mesh = make_mesh(
            name, kafka.bootstrap_servers, max_in_flight=10, partitions=2, kafka={"group.protocol": "classic"}
        )

        @mesh.operation(ask)
        async def handle(request: Ask, context: Context) -> Answer:
            if request.key == "stuck":
                await stuck.wait()
            return Answer(text=request.key)

        return mesh

    async with instance().serving() as first, make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        held = await caller.call(ask, Ask(key="stuck"))
        others = []
        async with asyncio.timeout(PATIENCE):
            while not first._held:  # how much is done behind the stuck one is looked at when more comes
                others.append(await caller.call(ask, Ask(key=f"k{len(others)}")))
                await asyncio.sleep(0.02)
        others += [await caller.call(ask, Ask(key=f"more-{n}")) for n in range(40)]
        async with instance().serving() as second, asyncio.timeout(PATIENCE):
            while not second.partitions:  # an eager rebalance takes everything away and gives half of it back
                await asyncio.sleep(0.05)
        stuck.set()
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in [held, *others]))
    assert len(replies) == len(others) + 1


async def test_work_that_expired_in_a_plain_handler_lets_its_offset_go_and_holds_its_key(
    kafka: EmbeddedKafka,
) -> None:
    mesh, ask = service(kafka)
    release = threading.Event()
    order: list[str] = []

    @mesh.operation(ask)
    def handle(request: Ask, context: Context) -> Answer:
        if request.number == 0:
            release.wait(PATIENCE)
        order.append(f"{request.key}{request.number}")
        return Answer(text="")

    async with mesh.serving() as serving, make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        with pytest.raises(DeadlineExceeded, match="did not finish"):
            await caller.request(ask, Ask(key="k", number=0), timeout=PATIENCE, expires_in=2.0)
        async with asyncio.timeout(PATIENCE):
            while serving.in_flight:  # settled: nothing is pending, though its thread still runs
                await asyncio.sleep(0.02)
        successor = await caller.call(ask, Ask(key="k", number=1))
        await caller.request(ask, Ask(key="other", number=2), timeout=PATIENCE)
        assert order == ["other2"], "a successor must not run beside what was given up"
        release.set()
        await successor.reply(PATIENCE)
    assert order == ["other2", "k0", "k1"]
