"""What becomes of a message for which no attempt is left."""

from __future__ import annotations

import pytest

from broker_mesh.errors import MeshError
from broker_mesh.outcome import DeadLetter, Done, Drop, final
from broker_mesh.status import STATUS_RULES, DeadLettered, StatusCode

FAILURES = [code for code, rule in STATUS_RULES.items() if rule.dead_lettered is DeadLettered.ALWAYS]
ANSWERS = [code for code, rule in STATUS_RULES.items() if rule.dead_lettered is DeadLettered.IF_UNANSWERED]


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("expects_reply", [True, False])
@pytest.mark.parametrize("started", [True, False])
def test_a_failure_is_always_kept(code: StatusCode, expects_reply: bool, started: bool) -> None:
    error = MeshError.of(code, "x")
    assert final(error, expects_reply=expects_reply, started=started) == DeadLetter(error)


@pytest.mark.parametrize("code", ANSWERS)
def test_an_answer_that_a_caller_hears_is_the_work_s_result_if_the_handler_gave_it(code: StatusCode) -> None:
    error = MeshError.of(code, "x")
    outcome = final(error, expects_reply=True, started=True)
    assert isinstance(outcome, Done)
    assert outcome == Done(reply=None, error=error)


@pytest.mark.parametrize("code", ANSWERS)
def test_an_answer_that_a_caller_hears_is_a_refusal_if_no_handler_ran(code: StatusCode) -> None:
    error = MeshError.of(code, "x")
    outcome = final(error, expects_reply=True, started=False)
    assert isinstance(outcome, Drop)
    assert outcome.error is error


@pytest.mark.parametrize("code", ANSWERS)
@pytest.mark.parametrize("started", [True, False])
def test_an_answer_that_nobody_hears_is_kept(code: StatusCode, started: bool) -> None:
    error = MeshError.of(code, "x")
    assert isinstance(final(error, expects_reply=False, started=started), DeadLetter)
