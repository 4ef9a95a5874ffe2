"""A replay as a process of its own, which can be told to kill itself with SIGKILL at one of its transactions.

`python -m tests.support.replaying SERVERS OPERATION`; DIE says where: "inside" a transaction, its records written and
flushed, or "after" its commit, before anybody is told; DIE_AT is the number of the transaction, from 1 on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

from broker_mesh.kafka.fenced import FencedWriter, NewRecord
from broker_mesh.replay import Replayer, job
from tests.support.letters import all_of, settings_for


def install_death(where: str, at: int) -> None:
    original = FencedWriter.commit
    count = itertools.count(1)

    def commit(self: FencedWriter, records: Iterable[NewRecord], **options: Any) -> None:
        mine = next(count) == at
        if mine and where == "inside":
            try:
                self._producer.begin_transaction()
                for record in records:
                    self._producer.produce(
                        record.topic,
                        key=record.key,
                        value=record.value,
                        headers=list(record.headers),
                        partition=record.partition,
                    )
                self._producer.flush(20)
            finally:  # a rival may have taken over meanwhile
                os.kill(os.getpid(), signal.SIGKILL)
        original(self, records, **options)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

    FencedWriter.commit = commit  # type: ignore[method-assign]


async def main() -> None:
    servers, operation = sys.argv[1:3]
    if "DIE" in os.environ:
        install_death(os.environ["DIE"], int(os.environ["DIE_AT"]))
    if "BATCH" in os.environ:
        job._BATCH = int(os.environ["BATCH"])
    async with Replayer(settings_for(servers), client_id="replaying", environ={}) as replayer:
        report = await replayer.replay(all_of(operation))
    counts = {"replayed": report.replayed, "taken_by_others": report.taken_by_others}
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
