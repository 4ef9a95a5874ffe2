"""An instance of the service under test: `python -m tests.chaos.service CONFIG`, see `workload.py`.

Its handlers write down that they begin and end around whatever the mesh does; what it owns is written down where the
consumer tells the service of it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker_mesh import Context, Mesh
from broker_mesh.errors import MeshError
from broker_mesh.service import Service
from broker_mesh.status import STATUS_RULES
from tests.chaos import planted
from tests.chaos.behaviour import Behaviour
from tests.chaos.history import Assigned, Began, Ended, Ending, Journal, Lost, now
from tests.chaos.operations import RETRY, Result, Work, operations
from tests.chaos.workload import ServiceConfig, crash_folder, service_config


class Recorder:
    """Writes down what handlers do.

    Args:
        journal: of this process.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._handlings = itertools.count()

    @contextmanager
    def handling(self, work: Work, context: Context) -> Iterator[None]:
        """Write down that a handler begins, and how it ends."""
        handling = next(self._handlings)
        self._journal.write(Began(now(), handling, work.id, context.attempt))
        how: Ending = "ok"
        try:
            yield
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        except BaseException as error:
            how = "answered" if _is_answer(error) else "raised"
            raise
        finally:
            self._journal.write(Ended(now(), handling, work.id, how))

    def watch_assignments(self) -> None:
        """Have every service of this process write down what it takes over and gives up."""
        assigned, lost, journal = Service.assigned, Service.lost, self._journal

        def note_assigned(service: Service, positions: Any) -> None:
            for (topic, partition), position in positions.items():
                journal.write(Assigned(now(), topic, partition, position.offset))
            assigned(service, positions)

        def note_lost(service: Service, partitions: Sequence[tuple[str, int]]) -> None:
            lost(service, partitions)
            for topic, partition in partitions:
                journal.write(Lost(now(), topic, partition))

        setattr(Service, "assigned", note_assigned)  # noqa: B010 - mypy minds an assignment
        setattr(Service, "lost", note_lost)  # noqa: B010


def _is_answer(error: BaseException) -> bool:
    return isinstance(error, MeshError) and not STATUS_RULES[error.status].retriable


def make_service(config: ServiceConfig, journal: Journal) -> Mesh:
    """Make the mesh with its handlers."""
    mesh = Mesh(
        config.service,
        bootstrap_servers=config.bootstrap_servers,
        schemas="no-such-folder",
        kafka=config.kafka,
        environ={},
        **{"access_log": False, **config.settings},
    )
    names, record = operations(config.service), Recorder(journal)
    behaviour = Behaviour(crash_folder(config.directory), journal)
    record.watch_assignments()

    @mesh.operation(names.apply, retry=RETRY)
    async def apply(work: Work, context: Context) -> Result:
        with record.handling(work, context):
            await behaviour.run(work)
        return Result(id=work.id, handled_by=config.process)

    @mesh.operation(names.note, retry=RETRY)
    def note(work: Work, context: Context) -> None:
        with record.handling(work, context):
            behaviour.run_blocking(work)

    @mesh.operation(names.tally, retry=RETRY, ordering="none")
    async def tally(work: Work, context: Context) -> Result:
        with record.handling(work, context):
            await behaviour.run(work)
        return Result(id=work.id, handled_by=config.process)

    return mesh


async def main() -> None:
    config = service_config(sys.argv[1])
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    planted.plant(config.planted)
    mesh = make_service(config, Journal(Path(config.directory), config.process))
    await mesh.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
