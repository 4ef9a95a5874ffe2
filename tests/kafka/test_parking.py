"""Keys that fail are parked on a real Kafka: the others go on, and order holds, whoever dies on the way."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_mesh import Context, Mesh, MeshError, Retry, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Unavailable
from broker_mesh.headers import Envelope, Place, write
from broker_mesh.kafka.producer import Producer
from broker_mesh.message import Message, new_id
from broker_mesh.service import Service
from broker_mesh.settings import Settings
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.parking import SOON_MS, Result, Work, handled, make_service, operation
from tests.support.processes import Processes, wait_for_line
from tests.support.topics import Topics, delete_records

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def parks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_mesh.sidings.FAR_MS", SOON_MS)


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


@pytest.fixture
def topics(kafka: EmbeddedKafka) -> Topics:
    return Topics(kafka.bootstrap_servers)


class Scene:
    """A service of one partition in this process, whose keys fail while a file exists."""

    def __init__(self, kafka: EmbeddedKafka, directory: Path) -> None:
        self.kafka = kafka
        self.name = fresh("parking")
        self.work = operation(self.name)
        self.retry_topic = f"{self.work.name}.retry"
        self.flag, self.done = directory / "fails", directory / "done"
        self.flag.touch()

    def service(self, **settings: Any) -> Mesh:
        settings = {"partitions": 1, "outage_keys": 0} | settings
        return make_service(self.name, self.kafka.bootstrap_servers, self.flag, self.done, **settings)

    def process(self, ordering: str) -> tuple[str, ...]:
        paths = str(self.flag), str(self.done)
        return "tests.support.parking", self.kafka.bootstrap_servers, self.name, *paths, ordering


@pytest.fixture
def scene(kafka: EmbeddedKafka, tmp_path: Path) -> Scene:
    return Scene(kafka, tmp_path)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def parked(service: Service) -> int:
    return sum(service.sidings.parked(key) for key in service.taken() if key[0] in service.topics)


async def test_a_key_is_parked_with_what_follows_and_comes_back_in_order(
    scene: Scene, caller: Mesh, topics: Topics
) -> None:
    async with scene.service().serving() as serving:
        handles = [await caller.call(scene.work, Work(key="f1", number=n)) for n in range(20)]
        others = [await caller.call(scene.work, Work(key="k1", number=n)) for n in range(20)]
        await asyncio.gather(*(each.reply(PATIENCE) for each in others))
        await until(lambda: parked(serving) == 1)
        scene.flag.unlink()
        replies = await asyncio.gather(*(each.reply(PATIENCE) for each in handles))
        await until(lambda: parked(serving) == 0)
        # Free again: what comes now is handled where it stands.
        await caller.request(scene.work, Work(key="f1", number=20), timeout=PATIENCE)
    assert handled(scene.done) == {"f1": list(range(21)), "k1": list(range(20))}
    requests = {each.envelope.id: each for each in await topics.read(scene.work.name, 1)}
    first, *behind = await topics.read(scene.retry_topic, 1)
    assert first.envelope.attempt == 2
    assert first.envelope.retry_at is not None
    assert first.envelope.status is StatusCode.UNAVAILABLE
    assert len(behind) <= 19
    for copy in (first, *behind):
        original = requests[copy.envelope.id]
        assert copy.envelope.origin == place_of(original)
        assert (copy.key, copy.value, copy.partition) == (original.key, original.value, original.partition)
    for copy in behind:
        assert (copy.envelope.attempt, copy.envelope.retry_at, copy.envelope.status) == (1, None, None)
        assert copy.record is not None
        original_record = requests[copy.envelope.id].record
        assert original_record is not None
        added = dict(copy.record.headers).keys() - dict(original_record.headers).keys()
        assert added == {"mesh-origin"}
    assert replies[0].attempt > 1
    assert {reply.attempt for reply in replies[1:]} == {1}, "who only waited has lost no attempt"


def place_of(message: Message) -> Place:
    assert message.record is not None
    return Place(message.record.topic, message.record.partition, message.record.offset)


@pytest.mark.long
async def test_a_window_that_fills_with_one_key_parks_it_and_others_go_on(
    scene: Scene, caller: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_mesh.sidings.FAR_MS", 3_600_000)  # by its delay nothing is parked
    # Its next attempt is far beyond the end of the test: in its place it would hold all.
    async with scene.service(max_in_flight=8, concurrency=2, pause=30.0).serving() as serving:
        for number in range(60):
            await caller.send(scene.work, Work(key="f1", number=number))
        others = [await caller.call(scene.work, Work(key=f"k{n % 3}", number=n)) for n in range(30)]
        await asyncio.gather(*(each.reply(PATIENCE) for each in others))
        assert parked(serving) == 1
        assert serving.in_flight < 8
    scene.flag.unlink()
    # The next instance learns from the topic what the first one knew.
    async with scene.service(max_in_flight=8, concurrency=2).serving() as serving:
        await caller.send(scene.work, Work(key="f1", number=60))
        await until(lambda: len(handled(scene.done)["f1"]) == 61)
        await until(lambda: parked(serving) == 0)
    assert handled(scene.done)["f1"] == list(range(61))


async def test_behind_one_that_is_given_up_the_others_of_its_key_go_on_in_order(
    kafka: EmbeddedKafka, caller: Mesh, topics: Topics
) -> None:
    name = fresh("parking")
    work = operation(name)
    order: list[tuple[int, int]] = []
    mesh = make_mesh(name, kafka.bootstrap_servers, partitions=1, outage_keys=0)

    @mesh.operation(work, retry=Retry(attempts=3, backoff=0.01))
    async def handle(request: Work, context: Context) -> Result:
        order.append((request.number, context.attempt))
        if request.number in {0, 3}:
            raise Unavailable("never", retry_after=0.6)
        return Result(number=request.number, attempt=context.attempt)

    async with mesh.serving() as serving:
        handles = [await caller.call(work, Work(key="k", number=n)) for n in range(6)]
        ends = await asyncio.gather(*(each.reply(PATIENCE) for each in handles), return_exceptions=True)
        await until(lambda: parked(serving) == 0)
    given_up = [end.attempts for end in ends if isinstance(end, MeshError)]
    assert given_up == [3, 3]
    assert [number for number, attempt in order if attempt == 1] == list(range(6))
    assert Counter(number for number, _ in order) == {0: 3, 1: 1, 2: 1, 3: 3, 4: 1, 5: 1}
    assert [each.envelope.attempt for each in await topics.read(f"{work.name}.dead", 1)] == [3, 3]


async def test_what_has_expired_while_its_key_was_parked_is_answered_in_its_turn_or_at_once(
    scene: Scene, caller: Mesh
) -> None:
    async with scene.service(pause=2.0).serving() as serving:
        await caller.send(scene.work, Work(key="f1", number=0))
        expires = await caller.call(scene.work, Work(key="f1", number=1), expires_in=1.0)
        last = await caller.call(scene.work, Work(key="f1", number=2))
        await until(lambda: parked(serving) == 1)
        scene.flag.unlink()
        with pytest.raises(MeshError) as caught:
            await expires.reply(PATIENCE)
        assert (await last.reply(PATIENCE)).number == 2
    assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
    assert handled(scene.done)["f1"] == [0, 2]


async def test_a_replay_of_a_parked_key_stands_in_line_whichever_topic_it_comes_by(
    scene: Scene, caller: Mesh, topics: Topics
) -> None:
    async with scene.service(pause=1.5).serving() as serving:
        await caller.send(scene.work, Work(key="f1", number=0))
        await until(lambda: parked(serving) == 1)
        origin = Place(scene.work.name, 0, 0)
        by_main = Envelope(id=new_id(), source="dispatch", replay_id="r1", origin=origin)
        await put(scene, caller, scene.work.name, by_main, Work(key="f1", number=1))
        await caller.send(scene.work, Work(key="f1", number=2))
        await until(lambda: serving.waiting >= 3)
        by_retry = by_main._replace(id=new_id(), replay_id="r2")
        await put(scene, caller, scene.retry_topic, by_retry, Work(key="f1", number=3))
        await until(lambda: serving.waiting >= 4)
        scene.flag.unlink()
        await until(lambda: parked(serving) == 0)
    assert handled(scene.done)["f1"] == [0, 1, 2, 3]
    copies = await topics.read(scene.retry_topic, 1)
    assert [each.envelope.replay_id for each in copies] == [None, "r1", None, "r2"]
    assert copies[1].envelope.origin == origin, "a replay keeps the origin of its dead letter"


async def test_what_an_owner_writes_after_it_has_lost_its_partitions_is_lost_to_nobody(
    scene: Scene, caller: Mesh
) -> None:
    scene.flag.unlink()
    async with scene.service(pause=1.5).serving() as serving:
        for number in range(3):
            await caller.request(scene.work, Work(key="f1", number=number), timeout=PATIENCE)
        scene.flag.touch()
        late = Envelope(id=new_id(), source="dispatch", origin=Place(scene.work.name, 0, 3))
        await put(scene, caller, scene.retry_topic, late, Work(key="f1", number=3))
        await until(lambda: parked(serving) == 1)
        after = await caller.call(scene.work, Work(key="f1", number=4))
        await until(lambda: serving.waiting >= 2)
        scene.flag.unlink()
        await after.reply(PATIENCE)
        await until(lambda: parked(serving) == 0)
    assert handled(scene.done)["f1"] == list(range(5))


async def put(scene: Scene, caller: Mesh, topic: str, envelope: Envelope, body: Work) -> None:
    await caller._connected().ready(scene.work)
    value = caller._connected().catalog.codec(scene.work).encode(body)
    producer = Producer(Settings(bootstrap_servers=scene.kafka.bootstrap_servers), "plain")
    await producer.send(topic, key=body.key.encode(), value=value, headers=write(envelope), partition=0)
    await producer.close(10)


@pytest.mark.parametrize(
    ("step", "ordering"),
    [
        ("retry not written", "key"),
        ("retry written, not known", "key"),
        ("settled, not done", "key"),
        ("retry written, not known", "none"),
    ],
)
async def test_a_crash_while_a_key_is_parked_forks_nothing_and_keeps_its_order(
    scene: Scene,
    caller: Mesh,
    topics: Topics,
    processes: Processes,
    tmp_path: Path,
    step: str,
    ordering: str,
) -> None:
    shorten_sessions(scene.kafka.bootstrap_servers, scene.name)
    environment = {"CRASH_AT": step, "CRASH_MARK": str(tmp_path / "crashed"), "CRASH_AFTER": "40"}
    arguments = scene.process(ordering)
    dying = processes.start(*arguments, **environment)
    await asyncio.to_thread(wait_for_line, dying, "ready")
    handles = [await caller.call(scene.work, Work(key=f"f{n % 4}", number=n)) for n in range(400)]
    assert await asyncio.to_thread(dying.wait, PATIENCE) == -9, "the process did not reach the step"
    processes.start(*arguments, **environment)
    ids = {each.id for each in handles}
    async with asyncio.timeout(PATIENCE):
        while {each.envelope.id for each in await topics.read(scene.retry_topic, 2)} < ids:
            await asyncio.sleep(0.2)
    scene.flag.unlink()
    await asyncio.gather(*(each.reply(PATIENCE) for each in handles))
    found = handled(scene.done)
    assert sum(map(len, found.values())) == 400
    copies = Counter(each.envelope.id for each in await topics.read(scene.retry_topic, 2))
    if ordering == "key":
        assert all(numbers == sorted(numbers) for numbers in found.values())
        assert set(copies.values()) == {1}, "a record that stood in the retry topic was written once more"
    assert Counter(scene.done.read_text().splitlines()).most_common(1)[0][1] == 1, "nothing ran twice"


@pytest.mark.long
async def test_keys_stay_parked_while_their_partitions_move_from_one_to_another(
    scene: Scene, caller: Mesh, topics: Topics, processes: Processes
) -> None:
    shorten_sessions(scene.kafka.bootstrap_servers, scene.name)
    arguments = scene.process("key")
    first = processes.start(*arguments)
    await asyncio.to_thread(wait_for_line, first, "ready")
    handles: list[Any] = []
    numbers: Counter[str] = Counter()

    async def send(count: int) -> None:
        for _ in range(count):
            key = f"{'f' if len(handles) % 3 else 'k'}{len(handles) % 8}"
            handles.append(await caller.call(scene.work, Work(key=key, number=numbers[key])))
            numbers[key] += 1

    await send(100)
    second = processes.start(*arguments)
    await send(100)
    await asyncio.to_thread(wait_for_line, second, "ready")
    await send(100)
    first.kill()
    await send(100)
    third = processes.start(*arguments)
    await asyncio.to_thread(wait_for_line, third, "ready")
    await send(100)
    second.terminate()
    await send(50)
    scene.flag.unlink()
    await asyncio.gather(*(each.reply(PATIENCE) for each in handles))
    assert handled(scene.done) == {key: list(range(count)) for key, count in numbers.items()}


async def test_without_a_retry_partition_of_its_number_a_key_waits_in_its_place(
    scene: Scene, caller: Mesh, topics: Topics
) -> None:
    await topics.create(scene.retry_topic, 1)
    async with scene.service(partitions=2).serving() as serving:
        handles = [await caller.call(scene.work, Work(key=f"f{n % 4}", number=n)) for n in range(40)]
        others = [await caller.call(scene.work, Work(key=f"k{n}", number=n)) for n in range(8)]
        await asyncio.gather(*(each.reply(PATIENCE) for each in others))
        assert parked(serving) == 0
        scene.flag.unlink()
        await asyncio.gather(*(each.reply(PATIENCE) for each in handles))
    found = handled(scene.done)
    assert all(numbers == sorted(numbers) for numbers in found.values())
    assert await topics.read(scene.retry_topic, 1) == []


async def test_what_retention_has_taken_of_the_retry_topic_parks_nothing(
    scene: Scene, caller: Mesh, topics: Topics
) -> None:
    async with scene.service(pause=3600.0).serving() as serving:
        await caller.send(scene.work, Work(key="f1", number=0))
        await caller.send(scene.work, Work(key="f2", number=0))
        await until(lambda: parked(serving) == 2)
    retries = await topics.read(scene.retry_topic, 1)  # a key is parked from before its record is written
    # Nothing is committed there, so that the group begins where its first record stands now.
    servers = scene.kafka.bootstrap_servers
    await asyncio.to_thread(delete_records, servers, scene.retry_topic, 0, len(retries) - 1)
    scene.flag.unlink()
    async with scene.service().serving() as serving:
        free, held = ("f2", "f1") if retries[-1].key == b"f1" else ("f1", "f2")
        await caller.request(scene.work, Work(key=free, number=1), timeout=PATIENCE)
        await caller.send(scene.work, Work(key=held, number=1))
        await until(lambda: serving.waiting == 2)
        assert parked(serving) == 1


@pytest.mark.alone
@pytest.mark.long
async def test_keys_that_fail_for_a_while_slow_no_other_key_down_and_all_keep_their_order(
    kafka: EmbeddedKafka, caller: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_mesh.sidings.FAR_MS", 3_600_000)  # what parks is that the window fills
    name = fresh("parking")
    work = operation(name)
    mesh = make_mesh(name, kafka.bootstrap_servers, max_in_flight=100)
    handled: dict[str, list[int]] = defaultdict(list)
    fails = False

    @mesh.operation(work, retry=Retry(attempts=10**6, backoff=0.5, max_backoff=2.0))
    async def handle(request: Work, context: Context) -> Result:
        if fails and request.key.startswith("f"):
            raise Unavailable("away for a while")
        await asyncio.sleep(0.002)
        handled[request.key].append(request.number)
        return Result(number=request.number, attempt=context.attempt)

    keys = [f"{'f' if number < 5 else 'k'}{number}" for number in range(100)]
    numbers: Counter[str] = Counter()
    places = asyncio.Semaphore(50)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    late: list[Any] = []

    async def ask(key: str, number: int) -> None:
        began = time.perf_counter()
        handle_ = await caller.call(work, Work(key=key, number=number))
        if key.startswith("f"):
            late.append(handle_)
            places.release()
            return
        await handle_.reply(PATIENCE)
        places.release()
        seconds[fails].append(time.perf_counter() - began)

    most_parked = 0
    async with mesh.serving() as serving:
        for _ in range(5):
            for fails in (False, True):
                asked = []
                for number in range(2000 if fails else 1000):
                    key = keys[number % 100]
                    await places.acquire()
                    asked.append(asyncio.create_task(ask(key, numbers[key])))
                    numbers[key] += 1
                await asyncio.gather(*asked)
                most_parked = max(most_parked, parked(serving))
                fails = False
                await asyncio.gather(*(each.reply(PATIENCE) for each in late))
                late.clear()
    assert most_parked > 0
    assert handled == {key: list(range(150)) for key in keys}
    healthy, failing = (statistics.median(seconds[each]) for each in (False, True))
    assert failing <= 1.5 * healthy, f"{failing * 1000:.1f} ms beside {healthy * 1000:.1f} ms"
