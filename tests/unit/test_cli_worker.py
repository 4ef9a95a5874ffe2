"""A worker's link to its supervisor: it never waits for it, and what arrives is whole."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from broker_mesh.cli.worker import Link
from broker_mesh.health import Health
from broker_mesh.telemetry import instruments, transport
from broker_mesh.telemetry.aggregation import Family

MANY = 50_000


class Serving:
    """What is told: health, and more figures than the link takes at once."""

    def __init__(self) -> None:
        self.topics = ["fleet.v1.find-aircraft"]
        self.told = 0

    def health(self) -> Health:
        self.told += 1
        return Health(live=True, ready=True, facts={"number": self.told})

    def metrics(self) -> list[Family]:
        return [Family(instruments.LAG, {("fleet.v1.find-aircraft", str(n)): n for n in range(MANY)})]


async def test_large_reports_arrive_whole_and_a_supervisor_that_reads_nothing_holds_up_nobody() -> None:
    ours, theirs = socket.socketpair()
    link = Link(theirs.detach(), 20.0, report_metrics=True)  # not watched: nobody is to end with it
    serving: Any = Serving()
    for _ in range(3):
        link.tell(serving)
    assert serving.told == 1  # the first report is still on its way
    reader, writer = await asyncio.open_connection(sock=ours, limit=16 << 20)
    reporting = asyncio.create_task(link.report(serving))
    try:
        lines = [json.loads(await asyncio.wait_for(reader.readline(), 20)) for _ in range(2)]
    finally:
        reporting.cancel()
        writer.close()
        link._socket.close()
    assert lines[0]["facts"] == {"number": 1}
    assert transport.load(lines[1]["metrics"]) == serving.metrics()
