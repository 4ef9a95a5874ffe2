"""A service that fails for a minute, and is killed meanwhile: nothing is lost, and keys keep their order.

All of it is counted from the topics, and from a file that the service appends to; nothing from memory. How long it
fails is FAILING_SECONDS of the environment.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from pathlib import Path

import pytest

from broker_mesh import MeshError, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.headers import Place
from broker_mesh.message import Message
from tests.support.failing import Work, Works, is_given_up, operations
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line
from tests.support.topics import Topics

FAILING_SECONDS = float(os.environ.get("FAILING_SECONDS", "60"))
PATIENCE = 120.0
KEYS = 50
IN_ORDER = 2000
IN_ANY_ORDER = 200


@pytest.mark.timeout(FAILING_SECONDS + 3 * PATIENCE)
async def test_a_service_that_fails_and_is_killed_loses_nothing_and_keeps_the_order_of_keys(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path
) -> None:
    servers, service, caller = kafka.bootstrap_servers, fresh("failing"), fresh("caller")
    shorten_sessions(servers, service)
    flag, done = tmp_path / "fails", tmp_path / "done"
    flag.touch()
    done.touch()
    arguments = (servers, service, str(flag), str(done), str(FAILING_SECONDS / 25))
    in_order, in_any_order = operations(service)
    asked: set[str] = set()

    async with make_mesh(caller, servers) as mesh:

        async def ask(works: Works, key: str, count: int) -> list[object]:
            handles = []
            for number in range(count):
                handles.append(await mesh.call(works, Work(key=key, number=number)))
                await asyncio.sleep(FAILING_SECONDS / 2 / count)  # they come while it fails, not at once
            asked.update(handle.id for handle in handles)
            return await asyncio.gather(
                *(handle.reply(FAILING_SECONDS + PATIENCE) for handle in handles), return_exceptions=True
            )

        first = processes.start("tests.support.failing", *arguments)
        await asyncio.to_thread(wait_for_line, first, "ready")
        recovery = asyncio.get_running_loop().call_later(FAILING_SECONDS, flag.unlink)
        waiting = [
            *(asyncio.create_task(ask(in_order, f"k{n}", IN_ORDER // KEYS)) for n in range(KEYS)),
            *(asyncio.create_task(ask(in_any_order, f"k{n}", IN_ANY_ORDER // KEYS)) for n in range(KEYS)),
        ]
        await asyncio.sleep(FAILING_SECONDS / 2)
        first.kill()
        processes.start("tests.support.failing", *arguments)
        ends = [end for each in waiting for end in await each]
        assert not recovery.cancelled()
    assert len(asked) == len(ends) == IN_ORDER + IN_ANY_ORDER
    assert not [end for end in ends if isinstance(end, Exception) and not isinstance(end, MeshError)]

    topics = Topics(servers)
    replies = defaultdict(list)
    for reply in await topics.read(f"{caller}.replies"):
        replies[reply.envelope.correlation_id].append(reply.envelope)
    for works, count in ((in_order, IN_ORDER), (in_any_order, IN_ANY_ORDER)):
        requests = {each.envelope.id: each for each in await topics.read(works.name)}
        letters = {each.envelope.id: each for each in await topics.read(f"{works.name}.dead")}
        answered = {
            each for each in requests if any(reply.status is StatusCode.OK for reply in replies[each])
        }
        assert len(requests) == count
        assert requests.keys() <= asked
        assert answered | letters.keys() == requests.keys(), "some were lost"
        assert letters, "none was given up: the test shows half of what it is to show"
        assert len(answered) > len(requests) / 2
        told = 0
        for each, letter in letters.items():
            _is_kept_with_its_cause(letter, requests[each])
            was_told = any(reply.status is StatusCode.RESOURCE_EXHAUSTED for reply in replies[each])
            # Kept first, answered second: who is cut off in between has it done again, and that may succeed.
            assert was_told or each in answered
            told += was_told
        assert told > len(letters) / 2

    finished: dict[str, list[int]] = defaultdict(list)
    for line in done.read_text().splitlines():
        operation, key, number = line.split()
        # At least once: what was finished before may come again; none may overtake another on its first time.
        if operation == in_order.name and int(number) not in finished[key]:
            finished[key].append(int(number))
    assert len(finished) == KEYS
    for key, numbers in finished.items():
        assert numbers == sorted(numbers), f"{key}: order was lost"
        assert is_given_up(key) or numbers == list(range(IN_ORDER // KEYS))


def _is_kept_with_its_cause(letter: Message, request: Message) -> None:
    facts = letter.envelope
    assert (letter.key, letter.value, letter.partition) == (request.key, request.value, request.partition)
    assert letter.key is not None
    assert is_given_up(letter.key.decode())
    assert (facts.status, facts.exception) == (StatusCode.RESOURCE_EXHAUSTED, "ResourceExhausted")
    assert facts.status_message == "the disk is full"
    assert facts.attempt > 1
    assert facts.first_failure is not None
    assert facts.last_failure is not None
    assert facts.first_failure < facts.last_failure
    assert request.record is not None
    assert facts.origin == Place(request.record.topic, request.record.partition, request.record.offset)
