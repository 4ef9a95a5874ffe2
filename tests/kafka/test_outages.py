"""Outages on a real Kafka: what a handler can't do for anybody waits, and what fails by itself ends."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from broker_mesh import Context, Mesh, MeshError, Retry, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import DeadlineExceeded, InternalError, NotFound, Unavailable
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.outage import KEYS, QUICK, Result, Work, Works, operation
from tests.support.processes import Processes, wait_for_line

PATIENCE = 60.0
CONCURRENCY = 20


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


async def nothing() -> None:
    pass


class Backend:
    """What a service's handler needs, and a record of who asked for it.

    Attributes:
        down: what it fails with for everybody; None while it is up.
        poison: keys for which it always fails.
        meanwhile: waited for before it fails for one of these.
        calls: key, number, attempt and whether it failed, in order.
    """

    def __init__(self) -> None:
        self.down: MeshError | None = None
        self.poison: set[str] = set()
        self.meanwhile: Callable[[], Awaitable[None]] = nothing
        self.calls: list[tuple[str, int, int, bool]] = []
        self._down_since = 0.0

    async def ask(self, request: Work, attempt: int) -> Result:
        if request.key in self.poison:
            await self.meanwhile()
        error = self.down or (Unavailable("never for this one") if request.key in self.poison else None)
        self.calls.append((request.key, request.number, attempt, error is not None))
        if error is not None:
            raise error
        return Result(key=request.key, number=request.number, attempt=attempt)

    def fails(self, error: MeshError) -> None:
        """Fail for everybody from now on."""
        self.down, self._down_since = error, asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """How long it has failed for everybody."""
        return asyncio.get_running_loop().time() - self._down_since

    def recovers(self) -> float:
        """Fail no more; tell how many probes the time has had room for."""
        self.down = None
        return self.seconds / QUICK.max_backoff + 1

    @property
    def failures(self) -> int:
        return sum(failed for *_, failed in self.calls)

    async def reaches(self, failures: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.failures < failures:
                await asyncio.sleep(0.02)


def serve(
    kafka: EmbeddedKafka,
    backend: Backend,
    name: str | None = None,
    *,
    retry: Retry = QUICK,
    ordering: Literal["key", "partition", "none"] = "key",
    **settings: Any,
) -> tuple[Mesh, Works]:
    settings = {"outage_keys": KEYS, "concurrency": CONCURRENCY, **settings}
    mesh = make_mesh(name or fresh("outage"), kafka.bootstrap_servers, **settings)
    works = operation(mesh.service)

    @mesh.operation(works, retry=retry, ordering=ordering)
    async def handle(request: Work, context: Context) -> Result:
        await asyncio.sleep(0)
        return await backend.ask(request, context.attempt)

    return mesh, works


def figures(mesh: Mesh, name: str) -> dict[tuple[str, ...], Any]:
    return next(dict(each.samples) for each in mesh.metrics.collect() if each.instrument.name == name)


async def until_it_is(mesh: Mesh, works: Works, state: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while figures(mesh, "mesh.circuit")[works.name, state] != 1:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_an_outage_of_thirty_times_the_longest_retry_leaves_no_dead_letters(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters, ordering: Literal["key", "none"]
) -> None:
    backend = Backend()
    mesh, works = serve(kafka, backend, ordering=ordering)
    keys = [f"k{number}" for number in range(200)]
    async with mesh.serving():
        await caller.request(works, Work(key="warm"), timeout=PATIENCE)
        backend.fails(Unavailable("away"))
        first = await asyncio.gather(*(caller.call(works, Work(key=key, number=1)) for key in keys))
        await until_it_is(mesh, works, "open")
        second = await asyncio.gather(*(caller.call(works, Work(key=key, number=2)) for key in keys))
        while backend.seconds < 30 * QUICK.max_backoff:
            await asyncio.sleep(0.05)
        probes = backend.recovers()
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in (*first, *second)))
        await until_it_is(mesh, works, "closed")
    assert len(replies) == 2 * len(keys)
    assert dead_letters.all(works.name) == []
    assert figures(mesh, "mesh.circuit.openings") == {(works.name, "UNAVAILABLE"): 1}
    assert backend.failures <= KEYS + CONCURRENCY + probes
    done = defaultdict(list)
    for key, number, _, failed in backend.calls:
        if not failed:
            done[key].append(number)
    if ordering == "key":
        assert {key: done[key] for key in keys} == {key: [1, 2] for key in keys}
        assert {reply.attempt for reply in replies} <= {1, 2}, "an attempt was used up by the outage"


async def test_a_deployment_that_fails_for_good_fills_the_dead_letters_no_faster_than_its_probes(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    backend = Backend()
    mesh, works = serve(kafka, backend)
    async with mesh.serving():
        await caller.request(works, Work(key="warm"), timeout=PATIENCE)
        backend.fails(InternalError("a bug"))
        handles = await asyncio.gather(*(caller.call(works, Work(key=f"k{number}")) for number in range(100)))
        await backend.reaches(CONCURRENCY + 10)
        probes = backend.recovers()
        ends = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles), return_exceptions=True)
    failed = [end for end in ends if isinstance(end, BaseException)]
    letters = dead_letters.all(works.name)
    assert {type(end) for end in failed} == {InternalError}
    assert len(letters) == len(failed)
    # The first one, which nothing tells from a bad record, and the probes; not all that had begun before it opened.
    assert 0 < len(letters) <= 1 + probes
    assert len(letters) < backend.failures


async def test_a_bad_key_among_good_ones_has_its_attempts_and_no_more(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    backend = Backend()
    backend.poison = {"bad", "worse"}
    mesh, works = serve(kafka, backend, outage_keys=2)
    over = asyncio.Event()
    answered = 0

    async def traffic(number: int) -> None:
        nonlocal answered
        while not over.is_set():
            await caller.request(works, Work(key=f"good-{number}"), timeout=PATIENCE)
            answered += 1

    async def others_succeed() -> None:
        enough = answered + 5  # one more than run at once: one at least has begun since
        while answered < enough:
            await asyncio.sleep(0.01)

    backend.meanwhile = others_succeed

    async with mesh.serving():
        await caller.request(works, Work(key="good"), timeout=PATIENCE)
        good = [asyncio.create_task(traffic(number)) for number in range(4)]
        for key in ("bad", "worse"):
            with pytest.raises(Unavailable, match="never") as caught:
                await caller.request(works, Work(key=key), timeout=PATIENCE)
            assert caught.value.attempts == QUICK.attempts
        over.set()
        await asyncio.gather(*good)
    attempts = [(key, attempt) for key, _, attempt, failed in backend.calls if failed]
    assert attempts == [(key, attempt) for key in ("bad", "worse") for attempt in (1, 2, 3)]
    assert len(dead_letters.all(works.name)) == 2
    assert figures(mesh, "mesh.circuit.openings") == {}


@pytest.mark.long
async def test_bad_keys_alone_open_it_a_good_one_has_its_turn_and_the_bad_ones_end(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    backend = Backend()
    backend.poison = {f"bad-{number}" for number in range(2 * KEYS)}
    mesh, works = serve(kafka, backend)
    async with mesh.serving():
        bad = [await caller.call(works, Work(key=key)) for key in sorted(backend.poison)]
        await until_it_is(mesh, works, "open")
        ends = asyncio.gather(*(handle.reply(PATIENCE) for handle in bad), return_exceptions=True)
        asked = 0
        while not ends.done():
            await caller.request(works, Work(key=f"good-{asked}"), timeout=PATIENCE)
            asked += 1
    assert {type(end) for end in await ends} == {Unavailable}
    assert len(dead_letters.all(works.name)) == len(bad)


async def test_an_outage_of_little_traffic_leaves_no_dead_letters_either(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    backend = Backend()
    mesh, works = serve(kafka, backend, retry=replace(QUICK, attempts=2, max_backoff=0.1))
    async with mesh.serving():
        await caller.request(works, Work(key="warm"), timeout=PATIENCE)
        backend.fails(Unavailable("away"))
        handles = []
        for number in range(
            8
        ):  # all attempts at one are made long before the next one comes; fewer keys than K
            handles.append(await caller.call(works, Work(key=f"k{number % 3}", number=number)))
            await asyncio.sleep(0.4)
        await until_it_is(mesh, works, "open")
        backend.recovers()
        assert len(await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))) == 8
    assert dead_letters.all(works.name) == []


async def test_answers_are_no_failures_and_work_expires_while_it_waits(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    backend = Backend()
    mesh, works = serve(kafka, backend)
    async with mesh.serving():
        backend.fails(NotFound("nothing like it"))
        for number in range(2 * KEYS):
            with pytest.raises(NotFound):
                await caller.request(works, Work(key=f"k{number}"), timeout=PATIENCE)
        assert figures(mesh, "mesh.circuit.openings") == {}
        backend.fails(Unavailable("away"))
        waiting = [await caller.call(works, Work(key=f"k{number}")) for number in range(KEYS)]
        await until_it_is(mesh, works, "open")
        with pytest.raises(DeadlineExceeded) as caught:
            await caller.request(works, Work(key="late"), timeout=PATIENCE, expires_in=1.0)
        assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
        assert caught.value.handle is not None
        backend.recovers()
        await asyncio.gather(*(handle.reply(PATIENCE) for handle in waiting))
    assert dead_letters.all(works.name) == []


async def test_what_waits_in_an_outage_goes_on_elsewhere_when_its_instance_stops(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    backend, name = Backend(), fresh("outage")
    backend.fails(Unavailable("away"))
    mesh, works = serve(kafka, backend, name)
    async with mesh.serving():
        handles = [
            await caller.call(works, Work(key=f"k{number % 40}", number=number)) for number in range(80)
        ]
        await until_it_is(mesh, works, "open")
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < mesh.settings.grace_seconds, (
        "the stop waited for probes"
    )
    assert figures(mesh, "mesh.circuit") == {}
    backend.recovers()
    async with serve(kafka, backend, name)[0].serving():
        assert len(await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))) == 80
    assert dead_letters.all(works.name) == []


@pytest.mark.long
async def test_a_process_killed_in_an_outage_loses_nothing(
    kafka: EmbeddedKafka,
    caller: Mesh,
    dead_letters: DeadLetters,
    processes: Processes,
    tmp_path: Path,
) -> None:
    name, flag, calls = fresh("outage"), tmp_path / "down", tmp_path / "calls"
    shorten_sessions(kafka.bootstrap_servers, name)
    flag.touch()
    arguments = ("tests.support.outage", kafka.bootstrap_servers, name, str(flag), str(calls))
    works = operation(name)
    first = processes.start(*arguments)
    await asyncio.to_thread(wait_for_line, first, "ready")
    handles = [await caller.call(works, Work(key=f"k{number % 50}", number=number)) for number in range(200)]
    async with asyncio.timeout(PATIENCE):
        while "taken for an outage" not in processes.log_of(0).read_text():
            await asyncio.sleep(0.05)
    first.kill()
    second = processes.start(*arguments)
    await asyncio.to_thread(wait_for_line, second, "ready")
    async with asyncio.timeout(PATIENCE):
        while "taken for an outage" not in processes.log_of(1).read_text():
            await asyncio.sleep(0.05)
    flag.unlink()
    replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert [reply.number for reply in replies] == list(range(200))
    assert dead_letters.all(works.name) == []
    lines = [line.split() for line in calls.read_text().splitlines()]
    done = defaultdict(list)
    for key, number, _, end in lines:
        if end == "done":
            done[key].append(int(number))
    assert all(numbers == sorted(numbers) for numbers in done.values()), "order was lost"
