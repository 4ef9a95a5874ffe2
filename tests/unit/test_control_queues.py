"""What `mesh check` says of what waits: put together partition by partition, and judged."""

from __future__ import annotations

import pytest

from broker_mesh.control.checks import Level
from broker_mesh.control.queues import PartitionFacts, Queue, check_queues, duration, queues_of
from broker_mesh.progress import Attempts, Progress

FIND, RETIRE = "fleet.v1.find-aircraft", "fleet.v1.retire"
DEPARTED = "dispatch.v1.events.flight-departed"
NOW = 10_000_000_000


def one(*partitions: PartitionFacts, members: int = 1) -> Queue:
    (queue,) = queues_of("fleet", members, partitions)
    return queue


def said(queue: Queue) -> tuple[Level, str, str | None]:
    (finding,) = check_queues([queue], NOW)
    assert finding.section == "queues"
    return finding.level, finding.what, finding.advice


def test_partitions_and_retries_of_one_operation_are_one_queue() -> None:
    found = queues_of(
        "fleet",
        2,
        [
            PartitionFacts(RETIRE, 0, None, Progress()),
            PartitionFacts(FIND, 5, NOW - 3000, Progress(running=True, in_flight=2, deaths=1)),
            PartitionFacts(FIND, 7, NOW - 9000, Progress(in_flight=3, circuit="ramping", parked=4)),
            PartitionFacts(
                f"{FIND}.retry", 1, NOW - 20_000, Progress(attempts={5: Attempts(1)}, circuit="open")
            ),
            PartitionFacts(f"fleet.v1.from.{DEPARTED}.retry", 1, None, Progress()),
            PartitionFacts(DEPARTED, 1, NOW - 1, Progress()),
        ],
    )
    assert [queue.name for queue in found] == [DEPARTED, FIND, RETIRE]
    assert found[1] == Queue(
        group="fleet",
        name=FIND,
        members=2,
        waiting=13,
        retries=1,
        oldest=NOW - 20_000,
        in_flight=5,
        failing=1,
        parked=4,
        circuit="open",
        crashes=1,
    )
    assert (found[0].waiting, found[0].retries, found[0].circuit) == (2, 1, "closed")


def test_what_waits_is_fine_as_long_as_it_moves() -> None:
    assert said(one(PartitionFacts(FIND, 0, None, Progress()))) == (
        Level.FINE,
        f"{FIND}: 0 records waiting",
        None,
    )
    level, what, advice = said(one(PartitionFacts(FIND, 1200, NOW - 4000, Progress(in_flight=200))))
    assert (level, advice) == (Level.FINE, None)
    assert what == f"{FIND}: 1,200 records waiting, the oldest for 4 s, 200 in flight"
    (elsewhere,) = queues_of("weather", 1, [PartitionFacts(DEPARTED, 1, NOW - 4000, Progress())])
    assert said(elsewhere)[1] == f"{DEPARTED} for weather: 1 record waiting, the oldest for 4 s"


@pytest.mark.parametrize(
    ("progress", "in_what", "in_advice"),
    [
        (Progress(circuit="open"), "its circuit is open", "nothing is lost meanwhile"),
        (Progress(circuit="ramping"), "its circuit is ramping", "goes on by itself"),
        (Progress(parked=2), "2 keys parked", "in order behind them"),
        (Progress(deaths=2), "2 crashes at the same record", "why the process dies"),
    ],
)
def test_what_holds_records_up_is_a_warning_with_advice(
    progress: Progress, in_what: str, in_advice: str
) -> None:
    level, what, advice = said(one(PartitionFacts(FIND, 3, NOW - 5000, progress)))
    assert level is Level.WARNING
    assert in_what in what
    assert in_advice in (advice or "")


def test_a_long_wait_is_a_warning_where_somebody_works_and_else_the_group_s() -> None:
    long_ago = PartitionFacts(FIND, 3, NOW - 400_000, Progress())
    level, what, advice = said(one(long_ago))
    assert (level, what) == (Level.WARNING, f"{FIND}: 3 records waiting, the oldest for 7 min")
    assert "more instances" in (advice or "")
    assert said(one(long_ago, members=0))[0] is Level.FINE  # `check_groups` says that nobody works


def test_programs_get_figures() -> None:
    (finding,) = check_queues([one(PartitionFacts(FIND, 3, NOW - 1500, Progress(parked=1)))], NOW)
    assert finding.figures == {
        "group": "fleet",
        "name": FIND,
        "members": 1,
        "waiting": 3,
        "retries": 0,
        "oldest_seconds": 1.5,
        "in_flight": 0,
        "failing": 0,
        "parked": 1,
        "circuit": "closed",
        "crashes": 0,
    }
    # Clocks differ: what seems to come from the future has not waited.
    assert one(PartitionFacts(FIND, 1, NOW + 5000, Progress())).figures(NOW)["oldest_seconds"] == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
