"""The circuit against rules that hold whatever happens: in any order, of any keys and causes, at any times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_mesh.circuit import Cause, Circuit, CircuitState, Failure, Pace, Streak, Ticket, Verdict
from broker_mesh.status import StatusCode

KEYS = 3
CONCURRENCY = 16
PACE = Pace(first_pause=1.0, longest_pause=8.0, undecided=5.0, patience=600.0)
AWAY = Cause(StatusCode.UNAVAILABLE, "ConnectionError")
BROKEN = Cause(StatusCode.INTERNAL, "InternalError")


def failure(
    key: object, since: float, *, cause: Cause = AWAY, ends: bool = False, curable: bool = True
) -> Failure:
    return Failure(cause, key, ends, curable, since)


def circuit(keys: int = KEYS) -> Circuit:
    return Circuit(keys, CONCURRENCY, PACE)


def attempt(
    it: Circuit, now: float, failed: Failure | None = None, *, waiting: bool = True
) -> Verdict | None:
    """Make one attempt that ends at once."""
    assert it.may_begin(now)
    ticket = it.begin(now)
    verdict = None
    if failed is None:
        it.succeeded(ticket, now, waiting=waiting)
    else:
        verdict = it.failed(ticket, failed, now)
    it.leave(ticket)
    return verdict


def opened(now: float = 0.0) -> Circuit:
    it = circuit()
    for key in range(KEYS):
        attempt(it, now, failure(key, now))
    assert it.state is CircuitState.OPEN
    return it


# ── opening ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 200))
def test_one_key_alone_never_opens_it(times: int) -> None:
    it = circuit(2)
    for moment in range(times):
        verdict = attempt(it, moment, failure("poison", 0.0, ends=moment % 3 == 2))
        if verdict is Verdict.UNDECIDED:
            assert it.waited(failure("poison", 0.0, ends=True), moment) is Verdict.STANDS
    assert it.state is CircuitState.CLOSED


@given(st.lists(st.integers(0, KEYS - 2), max_size=100))
def test_bad_records_between_good_ones_never_open_it(keys: list[int]) -> None:
    it = circuit()
    for moment, key in enumerate(keys):
        attempt(it, moment, failure(key, moment))
        if moment % (KEYS - 1) == 0:
            attempt(it, moment)
    assert it.state is CircuitState.CLOSED


def test_distinct_keys_of_one_cause_open_it_and_what_was_spent_is_given_back() -> None:
    it = circuit()
    spent = it.streak
    assert attempt(it, 0.0, failure("a", 0.0)) is Verdict.STANDS
    assert attempt(it, 0.0, failure("b", 0.0, cause=BROKEN)) is Verdict.STANDS
    assert attempt(it, 0.0, failure("c", 0.0)) is Verdict.STANDS, "two of one cause, one of another"
    assert attempt(it, 0.0, failure("d", 0.0)) is Verdict.FREE
    assert it.state is CircuitState.OPEN
    assert it.cause == AWAY
    assert spent.opened


def test_what_was_running_when_it_opened_uses_up_nothing_and_says_nothing_new() -> None:
    it = circuit()
    before = [it.begin(0.0) for _ in range(4)]
    for key in range(KEYS):
        attempt(it, 0.0, failure(key, 0.0))
    assert all(it.is_overtaken(ticket) for ticket in before)
    assert it.failed(before[0], failure("x", 0.0, ends=True, curable=False), 0.1) is Verdict.FREE
    it.succeeded(before[1], 0.1, waiting=True)
    assert it.state is CircuitState.OPEN
    for ticket in before:
        it.leave(ticket)
    assert not it.may_begin(0.9)
    assert it.may_begin(1.0)


def test_records_that_failed_before_others_succeeded_are_no_evidence() -> None:
    it = circuit()
    attempt(it, 1.0)
    for key in range(10):  # the bad ones of a batch, when all others are done
        assert attempt(it, 2.0, failure(key, 0.5, ends=True)) is Verdict.STANDS
    assert it.state is CircuitState.CLOSED


def test_causes_that_are_made_up_do_not_fill_the_memory() -> None:
    it = circuit()
    for number in range(1000):
        attempt(it, 0.0, failure(number, 0.0, cause=Cause(StatusCode.UNKNOWN, f"Made{number}")))
    assert len(it.streak._keys) <= 50


# ── a last attempt ────────────────────────────────────────────────────────────────────────────────────────


def test_a_last_attempt_stands_where_others_succeed_meanwhile() -> None:
    it = circuit()
    attempt(it, 0.0, failure("poison", 0.0))
    attempt(it, 1.0)
    assert attempt(it, 2.0, failure("poison", 0.0, ends=True)) is Verdict.STANDS


def test_a_last_attempt_waits_for_what_comes_next_and_tries_once_more_after_a_success() -> None:
    it = circuit()
    last = failure("a", 0.0, ends=True)
    assert attempt(it, 1.0, last) is Verdict.UNDECIDED
    streak = it.streak
    assert it.decide(last, proven=False, streak=streak) is Verdict.UNDECIDED
    attempt(it, 2.0)
    assert it.decide(last, proven=False, streak=streak) is Verdict.FREE
    assert attempt(it, 3.0, last) is Verdict.STANDS, "now it is proven"


def test_a_last_attempt_is_no_last_one_when_it_opens() -> None:
    it = circuit()
    last = failure("a", 0.0, ends=True)
    attempt(it, 1.0, last)
    streak = it.streak
    for key in ("b", "c"):
        attempt(it, 2.0, failure(key, 2.0))
    assert it.decide(last, proven=False, streak=streak) is Verdict.FREE


def test_two_keys_and_long_silence_are_an_outage_of_little_traffic() -> None:
    it = circuit(5)
    last = failure("a", 0.0, ends=True)
    assert attempt(it, 0.0, last) is Verdict.UNDECIDED
    streak = it.streak
    attempt(it, 3.0, failure("b", 3.0))
    assert it.decide(last, proven=False, streak=streak) is Verdict.UNDECIDED
    assert it.waited(last, 5.0) is Verdict.FREE
    assert it.state is CircuitState.OPEN
    assert streak.opened


def test_what_no_attempt_cures_ends_at_once_but_beside_others_that_fail() -> None:
    it = circuit()
    assert attempt(it, 0.0, failure("a", 0.0, ends=True, curable=False)) is Verdict.STANDS
    beside = failure("b", 0.0, ends=True, curable=False)
    assert attempt(it, 0.0, beside) is Verdict.UNDECIDED
    streak = it.streak
    attempt(it, 1.0)
    assert it.decide(beside, proven=False, streak=streak) is Verdict.STANDS


# ── open ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 40))
def test_probes_go_singly_with_pauses_that_grow_to_a_bound(probes: int) -> None:
    it, now = opened(), 0.0
    pause = PACE.first_pause
    for number in range(probes):
        assert not it.may_begin(now + pause * 0.99)
        now += pause
        assert it.may_begin(now)
        ticket = it.begin(now)
        assert not it.may_begin(now + PACE.slow * 0.99), "one at a time"
        assert it.failed(ticket, failure(number, now, ends=True), now) is Verdict.FREE
        it.leave(ticket)
        pause = min(2 * pause, PACE.longest_pause)
        assert it.next_probe_at == now + pause


def test_a_probe_that_no_attempt_cures_ends_and_after_long_all_of_them_count() -> None:
    it = opened()
    assert attempt(it, 1.0, failure("x", 1.0, ends=True, curable=False)) is Verdict.STANDS
    assert attempt(it, 599.0, failure("y", 1.0, ends=True)) is Verdict.FREE
    assert attempt(it, 700.0, failure("y", 1.0)) is Verdict.STANDS
    assert attempt(it, 800.0, failure("y", 1.0, ends=True)) is Verdict.STANDS
    assert it.state is CircuitState.OPEN


def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    it = opened()
    ticket = it.begin(1.0)
    it.leave(ticket)
    assert it.may_begin(1.0)


def test_a_probe_that_hangs_does_not_keep_all_others_waiting_for_ever() -> None:
    it = opened()
    it.begin(1.0)
    assert not it.may_begin(1.0 + PACE.slow * 0.99)
    second = it.begin(1.0 + PACE.slow)
    assert not it.may_begin(2.0 + PACE.slow), "one more, not all"
    it.succeeded(second, 2.0 + PACE.slow, waiting=True)
    assert it.state is CircuitState.RAMPING


# ── the ramp ──────────────────────────────────────────────────────────────────────────────────────────────


def running_at_once(it: Circuit, now: float) -> list[Ticket]:
    tickets: list[Ticket] = []
    while it.may_begin(now) and len(tickets) <= CONCURRENCY:
        tickets.append(it.begin(now))
    return tickets


def test_after_a_success_twice_as_many_run_at_once_each_time_up_to_all() -> None:
    it = opened()
    attempt(it, 1.0)
    widths = []
    while it.state is CircuitState.RAMPING:
        tickets = running_at_once(it, 2.0)
        widths.append(len(tickets))
        for ticket in tickets:
            it.succeeded(ticket, 2.0, waiting=True)
            it.leave(ticket)
    assert widths == [2, 4, 8]
    assert it.state is CircuitState.CLOSED


def test_where_nothing_waits_the_ramp_is_over_sooner() -> None:
    it = opened()
    attempt(it, 1.0, waiting=False)
    states = []
    for now in (2.0, 3.0):
        attempt(it, now, waiting=False)
        states.append(it.state)
    assert states == [CircuitState.RAMPING, CircuitState.CLOSED]


def test_a_ramp_that_nothing_goes_on_is_over_after_a_while() -> None:
    it = opened()
    attempt(it, 1.0, waiting=False)
    it.calmed(PACE.slow)
    assert it.state is CircuitState.RAMPING
    it.calmed(1.0 + PACE.slow)
    assert it.state.value == "closed"


def test_a_ramp_that_finds_only_failures_is_closed_again_and_its_attempts_count() -> None:
    it = opened()
    attempt(it, 1.0)
    ramp = it.streak
    first, second = running_at_once(it, 2.0)
    assert it.failed(first, failure("a", 2.0), 2.0) is Verdict.STANDS
    assert it.failed(second, failure("b", 2.0), 2.0) is Verdict.STANDS
    assert it.state is CircuitState.OPEN
    assert not ramp.opened, "or bad records between good ones would never end"


@given(st.integers(KEYS, 12), st.integers(1, 5))
def test_bad_records_end_though_they_open_it_again_and_again(bad: int, attempts: int) -> None:
    """A few good records come now and then; all the others are bad, and there are enough of them to open it."""
    it, now = circuit(), 0.0
    made, since = dict.fromkeys(range(bad), 1), dict[int, float]()
    spent: dict[int, tuple[Streak, int]] = {}
    rounds = 0
    while made:
        rounds += 1
        assert rounds < 2000, "they never end"
        for key in list(made):
            now += 0.1 if it.state is CircuitState.CLOSED else 10.0
            if key in spent and spent[key][0].opened:
                made[key] -= spent.pop(key)[1]
            ends = made[key] >= attempts
            streak = it.streak
            failed = failure(key, since.get(key, now), ends=ends)
            verdict = attempt(it, now, failed)
            if verdict is Verdict.UNDECIDED:
                verdict = it.waited(failed, now)
            if verdict is Verdict.STANDS and ends:
                del made[key]
            elif verdict is Verdict.STANDS:
                since.setdefault(key, now)
                made[key] += 1
                spent[key] = (streak, spent[key][1] + 1 if key in spent and spent[key][0] is streak else 1)
        now += 10.0
        attempt(it, now)


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────────────


class CircuitMachine(RuleBasedStateMachine):
    """Attempts begin, fail and succeed in any order; the model keeps what has failed since the last success."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = circuit()
        self.now = 0.0
        self.running: list[tuple[Ticket, float]] = []
        self.failed_in_a_row: set[int] = set()

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.circuit.may_begin(self.now) and len(self.running) < CONCURRENCY)
    @rule()
    def begin(self) -> None:
        self.running.append((self.circuit.begin(self.now), self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), key=st.integers(0, 6), ends=st.booleans(), curable=st.booleans())
    def fail(self, data: st.DataObject, key: int, ends: bool, curable: bool) -> None:
        ticket, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before, overtaken = self.circuit.state, self.circuit.is_overtaken(ticket)
        verdict = self.circuit.failed(
            ticket, failure(key, self.now, ends=ends or not curable, curable=curable), self.now
        )
        self.circuit.leave(ticket)
        self.failed_in_a_row.add(key)
        if overtaken:
            assert verdict is Verdict.FREE
        if before is CircuitState.OPEN and not overtaken and curable:
            assert verdict is Verdict.FREE or self.now - self.circuit.opened_at >= PACE.patience
        if before is CircuitState.CLOSED and self.circuit.state is CircuitState.OPEN:
            assert len(self.failed_in_a_row) >= KEYS, "opened for too few keys"
        if ends and curable and verdict is Verdict.STANDS and before is not CircuitState.OPEN:
            raise AssertionError(
                "a first failure ended its record, and nothing had shown that the handler works"
            )

    @precondition(lambda self: self.running)
    @rule(data=st.data(), waiting=st.booleans())
    def succeed(self, data: st.DataObject, waiting: bool) -> None:
        ticket, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        counts = not self.circuit.is_overtaken(ticket) or self.circuit.state is CircuitState.CLOSED
        before = self.circuit.state
        self.circuit.succeeded(ticket, self.now, waiting=waiting)
        self.circuit.leave(ticket)
        if counts:
            self.failed_in_a_row.clear()
            assert self.circuit.state is not CircuitState.OPEN
        else:
            assert self.circuit.state is before

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave_without_a_word(self, data: st.DataObject) -> None:
        ticket, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before = self.circuit.state
        self.circuit.leave(ticket)
        assert self.circuit.state is before

    @invariant()
    def while_open_one_begins_at_most(self) -> None:
        if self.circuit.state is CircuitState.OPEN:
            running = [begun for ticket, begun in self.running if not self.circuit.is_overtaken(ticket)]
            assert sum(self.now - begun < PACE.slow for begun in running) <= 1

    @invariant()
    def something_may_begin_some_time(self) -> None:
        idle = not any(not self.circuit.is_overtaken(ticket) for ticket, _ in self.running)
        assert self.circuit.may_begin(self.now + (PACE.longest_pause if idle else PACE.slow + 1.0))


TestCircuit = CircuitMachine.TestCase
