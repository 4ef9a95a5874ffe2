"""Bugs planted into a service process, to see that the checker finds them: nothing here is of the product.

Each is the mistake that a known project has made at this place. A patch names what it replaces, and fails loudly where
that has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from broker_mesh.assignment import Assignment
from broker_mesh.endpoint import Endpoint
from broker_mesh.kafka.consumer import GroupConsumer
from broker_mesh.service import Service


def commit_before_settle() -> None:
    """A record counts as done when it is taken."""
    take, done = Assignment.take, Assignment.done

    def take_as_done(assignment: Assignment, record: Any) -> bool:
        needs_work = take(assignment, record)
        if needs_work:
            done(assignment, record.offset)
        return needs_work

    def done_already(assignment: Assignment, offset: int) -> None:
        with suppress(ValueError):  # it is
            done(assignment, offset)

    _replace(Assignment, "take", take_as_done)
    _replace(Assignment, "done", done_already)


def no_fence() -> None:
    """What is lost goes on as if it were not: it is handled, answered and committed under its old epoch."""
    _replace(Service, "lost", lambda _service, _partitions: None)
    _replace(GroupConsumer, "_forget", lambda _consumer, _partitions: None)


def no_lane_order() -> None:
    """Every record has a lane of its own."""
    _replace(Endpoint, "lane_of", lambda _endpoint, _record: None)


def plant(bug: str) -> None:
    """Plant a bug into this process, by its name in `BUGS`; the empty name is none."""
    if bug:
        BUGS[bug]()


def _replace(owner: type, name: str, replacement: Callable[..., Any]) -> None:
    if name not in vars(owner):
        raise AttributeError(f"{owner.__name__}.{name} has gone: plant the bug elsewhere")
    setattr(owner, name, replacement)


BUGS: dict[str, Callable[[], None]] = {
    "commit before settle": commit_before_settle,
    "no fence": no_fence,
    "no lane order": no_lane_order,
}
