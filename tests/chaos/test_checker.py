"""The checker lets pass what a correct engine does under faults, and finds each kind of wrong that is put into it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checker import check
from tests.chaos.faults import SECOND
from tests.chaos.history import (
    Acknowledged,
    Answered,
    Assigned,
    Began,
    Ended,
    Entry,
    Exited,
    Fault,
    History,
    Journal,
    Lost,
    Memory,
    Note,
    Sending,
    read,
)
from tests.chaos.stored import Stored, first_text
from tests.chaos.synthetic import RULES, TOPIC, Miniature, Step

WHATS = ["send", "send", "lose acknowledgement", "never send", "succeed", "succeed", "fail", "poison", "die"]
STEPS = st.lists(
    st.builds(Step, st.sampled_from([*WHATS, "commit", "kill"]), st.integers(0, 11)), max_size=60
)


@given(STEPS)
def test_what_a_correct_engine_does_under_faults_passes(steps: list[Step]) -> None:
    verdict = check(*Miniature().play(steps), RULES)
    assert verdict.violations == []
    assert verdict.passed
    assert verdict.summary().endswith("passed")


# ── what is wrong is found ────────────────────────────────────────────────────────────────────────────────────

# Three of one key, all handled at once: no fault but the one that a test brings in.
CALM = [step for _ in range(3) for step in (Step("send", 0), Step("succeed", 0))]
FIRST, SECOND_ONE, THIRD = (f"caller-1-0-apply#{number}" for number in range(3))
Spoil = Callable[[History, Stored], None]


def _entries(history: History, process: str) -> list[Entry]:
    return next(each.entries for each in history if each.process == process)


def _of(history: History, kind: type[Entry], request: str) -> Iterator[tuple[list[Entry], int]]:
    for each in history:
        for index, entry in enumerate(each.entries):
            if isinstance(entry, kind) and getattr(entry, "id", None) == request:
                yield each.entries, index


def _alter(history: History, kind: type[Entry], request: str, **changes: Any) -> None:
    for entries, index in _of(history, kind, request):
        entry: Any = entries[index]
        entries[index] = entry._replace(**changes)


def _drop(history: History, *kinds: type[Entry], request: str) -> None:
    for each in history:
        each.entries[:] = [
            entry
            for entry in each.entries
            if not (isinstance(entry, kinds) and getattr(entry, "id", None) == request)
        ]


def _drop_request(_history: History, stored: Stored) -> None:
    stored.requests[:] = [record for record in stored.requests if record.id != SECOND_ONE]


def _drop_reply(_history: History, stored: Stored) -> None:
    stored.replies[:] = [reply for reply in stored.replies if reply.message != f"m-{SECOND_ONE}"]


def _drop_handling(history: History, _stored: Stored) -> None:
    _drop(history, Began, Ended, request=SECOND_ONE)


def _fail_for_good(history: History, _stored: Stored) -> None:
    _alter(history, Ended, SECOND_ONE, how="raised")


def _swap(history: History, _stored: Stored) -> None:
    for kind in (Began, Ended):
        _alter(history, kind, FIRST, id="for a moment")
        _alter(history, kind, THIRD, id=FIRST)
        _alter(history, kind, "for a moment", id=THIRD)


def _overlap(history: History, _stored: Stored) -> None:
    _alter(history, Began, THIRD, at=next(_began(history, SECOND_ONE)).at + 1)


def _began(history: History, request: str) -> Iterator[Began]:
    for entries, index in _of(history, Began, request):
        entry = entries[index]
        assert isinstance(entry, Began)
        yield entry


def _handle_again(history: History, _stored: Stored) -> None:
    entries = _entries(history, "service-1")
    at = entries[-1].at + SECOND
    entries += [Began(at, at, SECOND_ONE, 1), Ended(at + 1, at, SECOND_ONE, "ok")]


def _take_over_and_handle_again(history: History, stored: Stored) -> None:
    entries = _entries(history, "service-1")
    entries.append(Assigned(entries[-1].at + 1, TOPIC, 0, 0))
    _handle_again(history, stored)


def _handle_again_within_an_assignment(history: History, stored: Stored) -> None:
    _fault_of_all(history, stored)
    _handle_again(history, stored)


def _answer_again(_history: History, stored: Stored) -> None:
    stored.replies.append(stored.replies[0]._replace(at=stored.replies[-1].at + SECOND))


def _write_again(_history: History, stored: Stored) -> None:
    stored.requests.append(stored.requests[0]._replace(offset=3, at=stored.requests[-1].at + SECOND))


def _answer_twice(history: History, stored: Stored) -> None:
    _fault_of_all(history, stored)
    stored.replies.append(stored.replies[0]._replace(at=stored.replies[-1].at + SECOND))


def _try_ahead(history: History, _stored: Stored) -> None:
    at = next(_began(history, FIRST)).at - 2
    _entries(history, "service-1").extend([Began(at, 99, THIRD, 1), Ended(at + 1, 99, THIRD, "raised")])


def _bury_too_soon(_history: History, stored: Stored) -> None:
    stored.dead.append(stored.requests[1]._replace(topic=f"{TOPIC}.dead"))


def _handle_when_lost(history: History, stored: Stored) -> None:
    entries = _entries(history, "service-1")
    entries += [Lost(entries[-1].at + SECOND, TOPIC, 0)]
    _fault_of_all(history, stored)
    _handle_again(history, stored)
    _handle_again(history, stored)


def _fault_of_all(history: History, _stored: Stored) -> None:
    at = _entries(history, "service-1")[-1].at
    _entries(history, "nemesis").extend(
        [Fault(at, 1, "stop", "service-1", "begin"), Fault(at, 1, "stop", "service-1", "end")]
    )


def _leave_uncommitted(_history: History, stored: Stored) -> None:
    stored.committed[TOPIC, 0] = 1  # type: ignore[index]


def _leave_waiting(history: History, _stored: Stored) -> None:
    _alter(history, Answered, SECOND_ONE, status="PENDING", at=60 * SECOND)


def _forget_an_answer(history: History, _stored: Stored) -> None:
    _drop(history, Answered, request=SECOND_ONE)
    _entries(history, "nemesis").append(Exited(60 * SECOND, "caller-1", 1, 0))


def _answer_wrongly(history: History, _stored: Stored) -> None:
    _alter(history, Answered, SECOND_ONE, status="reply of another")


def _grow_fat(history: History, _stored: Stored) -> None:
    _entries(history, "service-1").append(Memory(SECOND, "service-1", 2**33))


def _send_twice(history: History, _stored: Stored) -> None:
    entries = _entries(history, "caller-1")
    entries.append(next(entry for entry in entries if isinstance(entry, Sending)))


def _stray(history: History, stored: Stored) -> None:
    _alter(history, Acknowledged, SECOND_ONE, partition=1)
    stored.requests[1] = stored.requests[1]._replace(partition=1)


def _misplace(history: History, _stored: Stored) -> None:
    _alter(history, Acknowledged, SECOND_ONE, offset=2)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (_drop_request, "lost"),
        (_drop_reply, "lost"),
        (_drop_handling, "lost"),
        (_fail_for_good, "lost"),
        (_swap, "order"),
        (_try_ahead, "order"),
        (_overlap, "overlap"),
        (_take_over_and_handle_again, "duplicate"),
        (_handle_again_within_an_assignment, "duplicate"),
        (_answer_again, "duplicate"),
        (_answer_twice, "duplicate"),
        (_write_again, "duplicate"),
        (_bury_too_soon, "dead letter"),
        (_handle_when_lost, "fence"),
        (_leave_uncommitted, "stuck"),
        (_leave_waiting, "stuck"),
        (_forget_an_answer, "stuck"),
        (_answer_wrongly, "answer"),
        (_grow_fat, "memory"),
        (_send_twice, "harness"),
        (_stray, "log"),
        (_misplace, "log"),
    ],
)
def test_each_kind_of_wrong_is_found_and_told(spoil: Spoil, kind: str) -> None:
    history, stored = Miniature().play(CALM)
    assert check(history, stored, RULES).passed
    spoil(history, stored)
    verdict = check(history, stored, RULES)
    assert kind in {violation.kind for violation in verdict.violations}
    report = verdict.report(history, stored)
    assert "FAILED" in report
    assert "the time line" in report
    wrong = next(violation for violation in verdict.violations if violation.kind == kind)
    assert wrong.sentence in report
    if wrong.id:
        assert f"began {FIRST}" in report, "the story has the neighbours of the same key"


@given(STEPS, st.data())
def test_a_request_that_vanishes_anywhere_is_lost(steps: list[Step], data: st.DataObject) -> None:
    history, stored = Miniature().play([Step("send", 0), *steps])
    gone = data.draw(st.sampled_from(stored.requests)).id
    _drop(history, Began, Ended, request=gone)
    stored.dead[:] = [record for record in stored.dead if record.id != gone]
    assert check(history, stored, RULES).count("lost")


# ── what faults excuse, and what they don't ───────────────────────────────────────────────────────────────────


def _with_fault(begin: float, end: float, kind: str = "stop", target: str = "service-1") -> Spoil:
    def spoil(history: History, _stored: Stored) -> None:
        entries = _entries(history, "nemesis")
        entries.append(Fault(round(begin * SECOND), 7, kind, target, "begin"))
        entries.append(Fault(round(end * SECOND), 7, kind, target, "end"))

    return spoil


@pytest.mark.parametrize(
    ("begin", "end", "target", "explained"),
    [
        (2.0, 2.5, "service-1", True),
        (2.0, 2.5, "service-2", False),  # its return moves partitions, and undoes nothing of others
        (2.0, 2.5, "broker-1", True),
        (2.0, 2.5, "caller-1", False),
        (60.0, 61.0, "service-1", False),  # after it
        (-200.0, -190.0, "service-1", False),  # long over
    ],
)
def test_a_repeat_is_explained_by_a_fault_of_the_right_kind_in_the_right_window(
    begin: float, end: float, target: str, explained: bool
) -> None:
    history, stored = Miniature().play(CALM)
    _with_fault(begin, end, target=target)(history, stored)
    _take_over_and_handle_again(history, stored)
    verdict = check(history, stored, RULES)
    assert verdict.duplicates["handlings"] == 1
    assert verdict.count("duplicate") == (0 if explained else 1)


@pytest.mark.parametrize(("lost", "explained"), [(1.0, True), (3.0, False)])
def test_what_was_in_work_when_its_partition_went_is_repeated_whatever_moved_that(
    lost: float, explained: bool
) -> None:
    history, stored = Miniature().play(CALM)
    _with_fault(0.0, 0.5, target="service-2")(history, stored)
    ended = next(entries[index].at for entries, index in _of(history, Ended, SECOND_ONE))
    _take_over_and_handle_again(history, stored)
    given_up = ended + round(
        (lost - 1.5) * SECOND
    )  # half a second before it has ended, or one and a half behind it
    _entries(history, "service-1").insert(
        0, Lost(max(given_up, next(_began(history, SECOND_ONE)).at), TOPIC, 0)
    )
    assert check(history, stored, RULES).count("duplicate") == (0 if explained else 1)


def test_who_took_over_in_time_may_come_to_the_repeat_late() -> None:
    history, stored = Miniature().play(CALM)
    _with_fault(2.0, 2.5)(history, stored)
    entries = _entries(history, "service-1")
    entries += [Assigned(4 * SECOND, TOPIC, 0, 0), Began(200 * SECOND, 1, THIRD, 1)]
    entries += [Ended(201 * SECOND, 1, THIRD, "ok")]
    assert check(history, stored, RULES).count("duplicate") == 0


def test_work_that_was_committed_long_before_a_fault_is_not_excused_by_it() -> None:
    history, stored = Miniature().play(CALM)
    _with_fault(200.0, 201.0)(history, stored)
    _entries(history, "service-1").extend(
        [Began(202 * SECOND, 1, SECOND_ONE, 1), Ended(203 * SECOND, 1, SECOND_ONE, "ok")]
    )
    assert check(history, stored, RULES).count("duplicate") == 1


def test_the_late_end_of_a_handler_whose_partition_went_is_no_overlap() -> None:
    history, stored = Miniature().play(CALM)
    began = next(_began(history, SECOND_ONE))
    _overlap(history, stored)
    assert check(history, stored, RULES).count("overlap")
    _entries(history, "service-1").insert(0, Lost(began.at, TOPIC, 0))
    assert check(history, stored, RULES).count("overlap") == 0


def test_an_unmanaged_growth_parts_a_key_and_order_is_asked_within_each_partition() -> None:
    history, stored = Miniature().play(CALM)
    _stray(history, stored)
    _with_fault(0.0, 0.1, kind="grow", target=TOPIC)(history, stored)
    assert check(history, stored, RULES).count("log", "order", "overlap") == 0
    _swap(history, stored)  # the first and the third are in one partition still
    assert check(history, stored, RULES).count("order") == 1


def test_a_managed_growth_parts_a_key_and_order_is_asked_across_partitions() -> None:
    history, stored = Miniature().play(CALM[:4])
    _stray(history, stored)
    _with_fault(0.0, 0.1, kind="rebalance", target=TOPIC)(history, stored)
    assert check(history, stored, RULES).count("log", "order", "overlap") == 0
    for kind in (Began, Ended):
        _alter(history, kind, FIRST, id="for a moment")
        _alter(history, kind, SECOND_ONE, id=FIRST)
        _alter(history, kind, "for a moment", id=SECOND_ONE)
    assert check(history, stored, RULES).count("order") == 1


def test_the_longest_recovery_is_from_a_fault_to_the_next_progress_of_what_it_hit() -> None:
    steps = [Step("send", 0), Step("kill", 0), Step("send", 1), Step("succeed", 1), Step("succeed", 0)]
    verdict = check(*Miniature().play(steps), RULES)
    seconds, fault = verdict.longest_recovery
    assert fault is not None
    assert fault.kind == "kill"
    assert 3.0 < seconds < 5.0
    slow = check(*Miniature().play(steps), RULES._replace(longest_recovery_seconds=2.0))
    assert slow.count("stuck") == 1


def test_requests_are_judged_in_time_that_grows_with_their_number_alone() -> None:
    steps = [step for n in range(10_000) for step in (Step("send", n), Step("succeed", n))]
    verdict = check(*Miniature().play(steps), RULES)
    assert verdict.requests == 10_000
    assert verdict.passed


# ── the history ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_history_outlives_its_writer_and_a_torn_last_line(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path;"
        "from tests.chaos.history import Journal, Note;"
        "journal = Journal(Path(sys.argv[1]), 'service-1');"
        "journal.write(Note(1, 'before'));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert died.returncode == -9
    (incarnation,) = read(tmp_path)
    assert incarnation.process == "service-1"
    assert incarnation.entries == [Note(1, "before")]
    with next(tmp_path.iterdir()).open("ab") as file:
        file.write(json.dumps(["Note", 2, "torn"]).encode()[:-3])
    assert read(tmp_path, "service-1")[0].entries == [Note(1, "before")]
    assert read(tmp_path, "service-2") == []


def test_every_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "caller-1")
    entries: list[Entry] = [
        Sending(1, "k#0", "k", 0, TOPIC, "ok"),
        Assigned(2, TOPIC, 0, -1001),
        Fault(3, 1, "cut", "broker-1", "begin"),
    ]
    for entry in entries:
        journal.write(entry)
    journal.close()
    assert read(tmp_path)[0].entries == entries


def test_the_id_of_a_request_is_read_without_its_schema() -> None:
    request = "caller-1-17-apply#" + "9" * 80  # its length takes two bytes
    varint = bytes([(len(request) * 2 & 0x7F) | 0x80, len(request) * 2 >> 7])
    assert first_text(b"\0\0\0\0\1" + varint + request.encode() + b"\x02k") == request
