"""A wrapped consumer that serves an operation, as `python -m tests.support.wrapped_desk SERVERS OPERATION EFFECTS`.

DIE says that it kills itself with SIGKILL at its first request: "before" it replies, or "after" the reply has reached
Kafka and before its offset can be committed. It notes its process id in the file EFFECTS for each request.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from broker_mesh import Operation, naming
from broker_mesh_adapters.confluent_kafka import Consumer
from tests.support.fleet import Aircraft, FindAircraft, append_to, make_mesh


def main() -> None:
    bootstrap_servers, name, effects = sys.argv[1:]
    operation = Operation(name, request=FindAircraft, reply=Aircraft, key="tailnum")
    service = naming.owner(name)
    note = append_to(Path(effects))
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    consumer = Consumer(
        {"group.id": service, "auto.offset.reset": "earliest", "session.timeout.ms": 6000},
        mesh=make_mesh(service, bootstrap_servers),
        declared=[operation],
    )
    consumer.subscribe([name], on_assign=lambda *_: print("ready", flush=True))
    while not ends:
        message = consumer.poll(0.05)
        if message is None:
            continue
        note(str(os.getpid()))
        with message.settling():
            _answer(message)
        if os.environ.get("DIE") == "after":
            message.delivery.settled.result(30)
            os.kill(os.getpid(), signal.SIGKILL)
    consumer.close()


def _answer(message: Any) -> None:
    if os.environ.get("DIE") == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    message.reply(Aircraft(tailnum=message.data.tailnum, seats=1, handled_by=os.getpid()))


if __name__ == "__main__":
    main()
