"""What a process leaves beside its commits, taken up by the next one: real processes, really killed, and counted."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from broker_mesh import Context, Mesh, MeshError, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.progress import Progress
from tests.support.deadly import ATTEMPTS, DEADLY, Deed, Result, operations
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line
from tests.support.topics import Topics

PATIENCE = 150.0
PARTITIONS = (0, 1)


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


class Committed:
    """Reads what a group has committed."""

    def __init__(self, bootstrap_servers: str, group: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group})

    def of(self, topic: str) -> list[tuple[int, Progress]]:
        places = self._consumer.committed(
            [TopicPartition(topic, number) for number in PARTITIONS], timeout=10
        )
        return [(place.offset, Progress.read(place.metadata, place.offset)) for place in places]

    async def until(
        self, topic: str, fits: Callable[[list[tuple[int, Progress]]], bool]
    ) -> list[tuple[int, Progress]]:
        async with asyncio.timeout(PATIENCE):
            while True:
                committed = await asyncio.to_thread(self.of, topic)
                if fits(committed):
                    return committed
                await asyncio.sleep(0.1)


class Lives:
    """A service that is started again whenever it ends, as a supervisor does it."""

    def __init__(self, processes: Processes, *arguments: str) -> None:
        self._processes, self._arguments = processes, arguments
        self._over = threading.Event()
        self.ends: list[int] = []
        self.running: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self.running = self._processes.start("tests.support.deadly", *self._arguments)
            self.ends.append(self.running.wait())

    def end(self) -> None:
        self._over.set()
        while self._thread.is_alive():
            if self.running is not None:
                self.running.kill()
            self._thread.join(0.1)


@pytest.fixture
def service(kafka: EmbeddedKafka) -> str:
    name = fresh("deadly")
    shorten_sessions(kafka.bootstrap_servers, name)
    return name


@pytest.fixture
def committed(kafka: EmbeddedKafka, service: str) -> Iterator[Committed]:
    reader = Committed(kafka.bootstrap_servers, service)
    yield reader
    reader._consumer.close()


def begun(effects: Path) -> list[tuple[str, str, int]]:
    return [
        (key, identity, int(attempt))
        for key, identity, attempt in (line.split() for line in effects.read_text().splitlines())
    ]


async def test_after_a_kill_only_what_hangs_runs_again_and_attempts_are_counted_on(
    kafka: EmbeddedKafka,
    caller: Mesh,
    committed: Committed,
    service: str,
    processes: Processes,
    tmp_path: Path,
) -> None:
    effects, release = tmp_path / "effects", tmp_path / "release"
    arguments = (kafka.bootstrap_servers, service, str(effects), str(release))
    first = processes.start("tests.support.deadly", *arguments)
    await asyncio.to_thread(wait_for_line, first, "ready")
    _, insist = operations(service)
    hanging = [await caller.call(insist, Deed(key=f"hanging-{n}", what="hang")) for n in range(4)]
    failing = await caller.call(insist, Deed(key="failing", what="fail"))
    handles = [await caller.call(insist, Deed(key=f"k{n}")) for n in range(300)]
    replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert {reply.process for reply in replies} == {first.pid}

    def all_is_written(found: list[tuple[int, Progress]]) -> bool:
        """Open is what hangs and what fails, of which three attempts are known."""
        done = sum(
            position + sum(end - start for start, end in progress.done) for position, progress in found
        )
        made = [each.made for _, progress in found for each in progress.attempts.values()]
        return done == 300 and made != [] and made[0] >= 3

    found = await committed.until(insist.name, all_is_written)
    assert all(progress.running for _, progress in found)
    (made,) = [each.made for _, progress in found for each in progress.attempts.values()]
    first.kill()
    first.wait()
    before = begun(effects)

    second = processes.start("tests.support.deadly", *arguments)
    async with asyncio.timeout(PATIENCE):
        while not any(key == "failing" for key, _, _ in begun(effects)[len(before) :]):
            await asyncio.sleep(0.1)
    release.touch()
    await asyncio.gather(*(handle.reply(PATIENCE) for handle in [*hanging, failing]))
    again = begun(effects)[len(before) :]
    attempts = [attempt for key, _, attempt in again if key == "failing"]
    assert attempts[0] > made, "attempts begin anew"
    assert attempts == list(range(attempts[0], attempts[0] + len(attempts)))
    assert Counter(key for key, _, _ in again if key != "failing") == Counter(
        f"hanging-{n}" for n in range(4)
    )
    second.terminate()
    assert await asyncio.to_thread(second.wait, PATIENCE) == 0
    assert await committed.until(insist.name, lambda found: not any(each.running for _, each in found))


@pytest.mark.timeout(300)
async def test_records_that_end_their_process_are_found_out_and_kept(
    kafka: EmbeddedKafka,
    caller: Mesh,
    committed: Committed,
    service: str,
    processes: Processes,
    tmp_path: Path,
) -> None:
    effects = tmp_path / "effects"
    lives = Lives(processes, kafka.bootstrap_servers, service, str(effects), str(tmp_path / "never"))
    try:
        do, _ = operations(service)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await caller.request(do, Deed(key="first"), timeout=PATIENCE)
                    break
                except MeshError as error:
                    assert error.status is StatusCode.NOT_FOUND  # noqa: PT017 - the service has not begun yet
                    await asyncio.sleep(0.2)
        neighbours = [await caller.call(do, Deed(key=f"a{n}")) for n in range(20)]
        deadly = [await caller.call(do, Deed(key=what, what=what)) for what in DEADLY]
        neighbours += [await caller.call(do, Deed(key=f"b{n}")) for n in range(20)]
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in neighbours))
        refused = await asyncio.gather(*(handle.reply(PATIENCE) for handle in deadly), return_exceptions=True)
        survivor = lives.running
        assert survivor is not None
        last = await caller.request(do, Deed(key="last"), timeout=PATIENCE)
        assert last.process == survivor.pid, "the process did not live on"
        ends = list(lives.ends)
        assert {reply.key for reply in replies} == {f"{row}{n}" for row in "ab" for n in range(20)}
    finally:
        lives.end()
    for error in refused:
        assert isinstance(error, MeshError)
        assert error.status is StatusCode.INTERNAL
        assert "the process of the service ended while it handled this record" in error.message
        assert error.dead_letter is not None
    runs = Counter(key for key, _, _ in begun(effects))
    assert all(runs[what] >= ATTEMPTS for what in DEADLY)
    # The first two ends name nobody; from then on each end is one attempt of one record.
    assert len(ends) <= 2 * len(PARTITIONS) + ATTEMPTS * len(DEADLY)
    topics = Topics(kafka.bootstrap_servers)
    asked = {message.key: message.value for message in await topics.read(do.name, len(PARTITIONS))}
    kept = await topics.read(f"{do.name}.dead", len(PARTITIONS))
    assert sorted(letter.key or b"" for letter in kept) == sorted(what.encode() for what in DEADLY)
    assert all(letter.value == asked[letter.key] for letter in kept)


async def test_what_another_tool_has_left_beside_an_offset_is_ignored(
    kafka: EmbeddedKafka, caller: Mesh, committed: Committed, service: str
) -> None:
    do, _ = operations(service)
    handled: list[str] = []
    for wave, metadata in enumerate(
        ["spark-offset-v2:{}", "progress1.forged.1.r", "progress9.AAAAAA.1.r.kB"]
    ):
        mesh = make_mesh(service, kafka.bootstrap_servers, partitions=2)

        @mesh.operation(do)
        async def handle(request: Deed, context: Context) -> Result:
            handled.append(request.key)
            return Result(key=request.key, process=0)

        async with mesh.serving():
            await asyncio.gather(
                *(caller.request(do, Deed(key=f"{wave}-{n}"), timeout=PATIENCE) for n in range(6))
            )
        positions = await asyncio.to_thread(committed.of, do.name)
        foreign = [
            TopicPartition(do.name, number, position, metadata=metadata)
            for number, (position, _) in enumerate(positions)
            if position >= 0
        ]
        committed._consumer.commit(offsets=foreign, asynchronous=False)
    assert sorted(handled) == sorted(f"{wave}-{n}" for wave in range(3) for n in range(6))
