"""Wrapped clients beside plain ones that do Avro and validation by hand, and commit as often."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.clients import PLAIN_TOPIC, Pace, Task
from benchmarks.figures import Figures
from benchmarks.lineup import PLAIN, WRAPPED
from benchmarks.measuring import Cell, Plan, Stage, interleaved
from benchmarks.processes import Worker
from benchmarks.scene import PARTITIONS
from benchmarks.section import Column, Result, Section

PRODUCER, CONSUMER = "producer", "consumer"

TASK_PATIENCE_SECONDS = 120.0


async def _measure(stage: Stage) -> Result:
    await asyncio.to_thread(_make_plain_topic, stage.bootstrap_servers)
    cells: dict[tuple[str, str], Cell] = {}
    async with AsyncExitStack() as running:
        # The wrapped producer first: it makes the topic that all consumers read, and fills it while it warms up.
        for role in (PRODUCER, CONSUMER):
            for contender in (WRAPPED, PLAIN):
                client = await running.enter_async_context(
                    stage.process(contender, role, stage.scene("wrapped"))
                )
                measure = _Task(client, f"{contender.name}-{role}", stage.plan.messages)
                await measure()
                cells[role, contender.name] = Cell(role, contender.name, measure)
        in_order = [cells[role, each.name] for role in (PRODUCER, CONSUMER) for each in (PLAIN, WRAPPED)]
        return Result(await interleaved(stage, in_order, warm_up=False))


class _Task:
    """A task of a client, done once more at each call; a consumer begins with the first message each time."""

    def __init__(self, client: Worker, name: str, messages: int) -> None:
        self._client, self._name, self._messages = client, name, messages
        self._done = 0

    async def __call__(self) -> Figures:
        self._done += 1
        task = Task(messages=self._messages, group=f"{self._name}-{self._done}")
        pace = Pace.model_validate_json(
            await self._client.ask(task.model_dump_json(), TASK_PATIENCE_SECONDS + self._messages / 100)
        )
        return {
            "messages_per_second": self._messages / pace.seconds,
            "cpu_us": pace.cpu_seconds / self._messages * 1e6,
        }


def _make_plain_topic(bootstrap_servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})  # kept: its futures end with it
    admin.create_topics([NewTopic(PLAIN_TOPIC, PARTITIONS, 1)])[PLAIN_TOPIC].result()


def _steps(plan: Plan) -> int:
    return plan.rounds * 4


SECTION = Section(
    name="wrapped",
    title="Wrapped clients of confluent_kafka",
    loads="client",
    columns=(
        Column("messages_per_second", "messages/s", compared=True),
        Column("cpu_us", "µs", compared=True),
    ),
    about="Messages are sent by one produce() and poll(0) each, and taken by one poll() each; plain clients use "
    "fastavro and pydantic by hand.",
    steps=_steps,
    measure=_measure,
    baseline=PLAIN.name,
)
