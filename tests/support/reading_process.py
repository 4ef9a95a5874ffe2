"""A program that consumes with a wrapped consumer, to be killed: `python -m tests.support.reading_process …`.

Arguments: bootstrap servers, service, group, topic, a file for what it did, the ordering, and "commit" or "auto".
Every message whose number ends in 7 fails at its first attempt.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from broker_mesh import Retry
from broker_mesh_adapters.confluent_kafka import Consumer
from tests.support.fleet import append_to, make_mesh


def main() -> None:
    bootstrap_servers, service, group, topic, file, ordering, commits = sys.argv[1:]
    note = append_to(Path(file))
    conf = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": group,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "auto.commit.interval.ms": 100,
        "enable.auto.commit": commits == "auto",
    }
    mesh = make_mesh(service, bootstrap_servers)
    retry = Retry(attempts=5, backoff=0.2, max_backoff=0.5)
    with Consumer(conf, mesh=mesh, ordering=ordering, retry=retry) as consumer:
        consumer.subscribe([topic])
        print("ready", flush=True)
        while True:
            message = consumer.poll(1.0)
            if message is None or message.error() is not None:
                continue
            number = int(message.value())
            with message.settling():
                time.sleep(0.002)  # some are in work whenever it is killed
                if number % 10 == 7 and message.attempt == 1:
                    raise RuntimeError("not at once")
                note(f"{message.key().decode()} {number} {message.attempt}")
            if commits == "commit":
                consumer.commit(message=message)


if __name__ == "__main__":
    main()
