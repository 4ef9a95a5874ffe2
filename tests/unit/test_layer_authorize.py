"""Access: what matches, which rule decides, what each side does about it, and how little it says of audits."""

from __future__ import annotations

import logging
from typing import NamedTuple

import pytest

from broker_mesh.adoption import Validation
from broker_mesh.control import resources
from broker_mesh.errors import PermissionDenied
from broker_mesh.headers import Envelope
from broker_mesh.layer import Layer, stack
from broker_mesh.layers import authorize
from broker_mesh.layers.authorize import Action, AuditLog, Rule, Rules, Verdict, by_name, covers, matches
from broker_mesh.message import Message

FIND = "fleet.v1.find-aircraft"
DEPARTED = "dispatch.v1.events.flight-departed"

ALLOW, DENY, AUDIT = Action.ALLOW, Action.DENY, Action.AUDIT


def rule(
    action: Action, to: str = "*", operations: str = "*", callers: str = "*", name: str | None = None
) -> Rule:
    return Rule(
        name or f"{action}-{to}-{operations}-{callers}",
        to,
        tuple(operations.split()),
        tuple(callers.split()),
        action,
    )


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("fleet", "fleet", True),
        ("fleet", "fleets", False),
        ("fleet", "", False),
        ("*", "fleet", True),
        ("*", "", True),
        ("**", "", True),
        ("f*", "fleet", True),
        ("f*", "", False),
        ("*t", "fleet", True),
        ("f*t", "fleet", True),
        ("f*e*t", "fleet", True),
        ("fl*leet", "fleet", False),  # nothing counts twice
        ("*ee*ee*", "fleet", False),
        ("v1.*", "v1.find-aircraft", True),
        ("v1.*", "v1.events.flight-departed", True),
        ("v1.*", "v10.find-aircraft", False),
        ("*.events.*", "v2.events.x", True),
        ("f.eet", "fleet", False),  # a dot is a dot
    ],
)
def test_a_star_stands_for_any_characters(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def test_matching_a_stranger_s_name_is_cheap() -> None:
    # Backtracking would take for ever here.
    assert not matches("*a" * 50 + "b", "a" * 300)


def test_a_rule_covers_another_where_every_pattern_of_it_does() -> None:
    assert covers(rule(DENY, "fleet", "v1.* v2.x", "*"), rule(ALLOW, "fleet", "v2.x v1.find-*", "a b*"))
    assert not covers(rule(DENY, "fleet", "v1.*", "*"), rule(ALLOW, "fleet", "v1.x v2.x", "a"))
    assert not covers(rule(DENY, "fleet", "*", "a"), rule(ALLOW, "fleet", "*", "*"))
    assert not covers(rule(DENY, "f*t", "*", "*"), rule(ALLOW, "f*", "*", "*"))


@pytest.mark.parametrize(
    ("rules", "decided"),
    [
        ([], AUDIT),
        ([rule(ALLOW)], ALLOW),
        ([rule(AUDIT)], AUDIT),
        ([rule(ALLOW, "fleet", "v1.find-aircraft", "dispatch"), rule(DENY)], DENY),
        ([rule(AUDIT, "fleet", "v1.find-aircraft", "dispatch"), rule(ALLOW)], ALLOW),
        ([rule(DENY, "weather"), rule(DENY, callers="board"), rule(DENY, operations="v2.*")], AUDIT),
    ],
)
def test_a_deny_decides_else_an_allow_else_an_audit(rules: list[Rule], decided: Action) -> None:
    assert Rules(rules).verdict("dispatch", FIND).action is decided
    assert Rules(reversed(rules)).verdict("dispatch", FIND).action is decided


@pytest.mark.parametrize("default", Action)
def test_where_no_rule_matches_the_default_holds(default: Action) -> None:
    assert Rules([rule(ALLOW, "weather")], default).verdict("dispatch", FIND) == Verdict(default)


def test_the_most_specific_of_the_deciding_rules_is_reported() -> None:
    names = ["* * *", "f* * *", "fleet * *", "fleet v1.* *", "fleet v1.find-aircraft *", "fleet v1.* disp*"]
    closest = []
    rules: list[Rule] = []
    for name in names:
        rules.append(rule(DENY, *name.split(), name=name))
        closest.append(Rules(rules).verdict("dispatch", FIND).rule)
    assert closest == [*names[:-1], "fleet v1.find-aircraft *"]


def test_among_equally_specific_rules_the_first_name_is_reported() -> None:
    rules = [rule(DENY, name="b"), rule(DENY, name="a")]
    assert Rules(rules).verdict("dispatch", FIND).rule == "a"


def test_a_sender_without_a_name_is_matched_by_the_star_alone() -> None:
    assert Rules([rule(DENY, callers="*")]).verdict("", FIND).action is DENY
    assert Rules([rule(DENY, callers="d* *h dispatch")]).verdict("", FIND).action is AUDIT


def test_the_verdicts_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorize, "_CACHED_VERDICTS", 3)
    rules = Rules([rule(DENY, callers="c7")])
    for _ in range(2):
        denied = [n for n in range(10) if not rules.verdict(f"c{n}", FIND).allowed]
        assert denied == [7]
        assert len(rules._verdicts) <= 3


# ── the layers ────────────────────────────────────────────────────────────────────────────────────────────


def message(operation: str = FIND, source: str = "dispatch") -> Message:
    return Message(operation, operation, Envelope(id="id-1", source=source))


async def passes(layer: Layer[str], sent: Message) -> bool:
    async def rest(_: Message) -> str:
        return "done"

    try:
        return await stack([layer], rest)(sent) == "done"
    except PermissionDenied:
        return False


async def test_a_refusal_names_the_rule() -> None:
    rules = Rules([rule(DENY, "fleet", name="closed")])
    with pytest.raises(PermissionDenied) as caught:
        authorize.refuse("dispatch", by_name(FIND), rules, AuditLog())
    assert caught.value.message == f"'dispatch' may not call {FIND}: access rule 'closed' denies it"
    assert caught.value.details == {"rule": "closed", "caller": "dispatch", "target": FIND}


async def test_a_refusal_by_the_default_says_so() -> None:
    with pytest.raises(PermissionDenied) as caught:
        authorize.refuse("", by_name(DEPARTED), Rules((), DENY), AuditLog())
    assert caught.value.message == (
        f"a sender without a name may not hear {DEPARTED}: no access rule allows it, and the default is deny"
    )
    assert caught.value.details["rule"] is None


async def test_a_caller_is_checked_before_it_sends_but_not_for_an_event() -> None:
    layer: Layer[str] = authorize.outbound(lambda: Rules([rule(DENY, callers="dispatch")]), AuditLog())
    assert not await passes(layer, message())
    assert await passes(layer, message(source="board"))
    assert await passes(layer, message(DEPARTED))
    assert not await passes(layer, message(DEPARTED, source="board"))  # only its owner publishes an event


async def test_on_receipt_the_sender_is_checked_or_for_an_event_the_subscriber() -> None:
    rules = Rules([rule(DENY, callers="board")])
    layer: Layer[str] = authorize.inbound("fleet", lambda: rules, AuditLog())
    assert await passes(layer, message(source="dispatch"))
    assert not await passes(layer, message(source="board"))
    assert await passes(layer, message(DEPARTED, source="board"))
    subscriber: Layer[str] = authorize.inbound("board", lambda: rules, AuditLog())
    assert not await passes(subscriber, message(DEPARTED, source="dispatch"))


async def test_each_refusal_on_receipt_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    layer: Layer[str] = authorize.inbound("fleet", lambda: Rules([rule(DENY, name="closed")]), AuditLog())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not await passes(layer, message())
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert f"{FIND} id-1 is refused: 'dispatch' may not call" in caplog.messages[0]
    assert vars(caplog.records[0])["rule"] == "closed"


async def test_the_rules_of_the_moment_hold() -> None:
    now = Rules()
    layer: Layer[str] = authorize.outbound(lambda: now, AuditLog())
    assert await passes(layer, message())
    now = Rules([rule(DENY)])
    assert not await passes(layer, message())


# ── topics that were there before the mesh ────────────────────────────────────────────────────────────────


class Adopted(NamedTuple):
    topic: str = "legacy_orders"
    kind: str = "event"
    owner: str | None = "orders"
    validation: Validation = Validation.AUDIT


OPERATION = Adopted(kind="operation")
ENFORCED = OPERATION._replace(validation=Validation.ENFORCE)


def sending(target: Adopted, *rules: Rule, default: Action = AUDIT) -> Layer[str]:
    return authorize.outbound(lambda: Rules(rules, default), AuditLog(), lambda _: target)


def receiving(target: Adopted, *rules: Rule, default: Action = AUDIT) -> Layer[str]:
    return authorize.inbound("board", lambda: Rules(rules, default), AuditLog(), lambda _: target)


def to_it(source: str) -> Message:
    return message("legacy_orders", source)


async def test_a_rule_names_an_adopted_topic_by_its_owner_and_its_whole_name() -> None:
    denied = rule(DENY, "orders", "legacy_orders", "dispatch")
    assert not await passes(sending(OPERATION, denied), to_it("dispatch"))
    assert await passes(sending(OPERATION, denied), to_it("board"))
    assert await passes(sending(OPERATION._replace(owner="shop"), denied), to_it("dispatch"))
    assert not await passes(sending(OPERATION, rule(DENY, "orders", "*")), to_it("dispatch"))


async def test_a_rule_for_topics_says_nothing_of_operations() -> None:
    spec = {"to": "fleet", "topics": ["*"], "from": ["*"], "action": "allow"}
    found = resources.parse({"kind": "Access", "name": "topics", "spec": spec}, lambda _: "here")
    assert isinstance(found, resources.Access)
    allowed = found.rule()
    closed = Rules((allowed,), DENY)
    assert closed.verdict("dispatch", "legacy_fleet", "fleet").allowed
    assert not closed.verdict("dispatch", FIND).allowed
    everything = rule(ALLOW, "fleet", "*", "*")
    assert covers(everything, allowed)
    assert not covers(allowed, everything)


async def test_an_adopted_event_is_checked_for_who_hears_it_and_an_operation_for_who_wrote() -> None:
    denied = rule(DENY, callers="board")
    assert not await passes(receiving(Adopted(), denied), to_it("orders"))
    assert not await passes(receiving(OPERATION, denied), to_it("board"))
    assert await passes(receiving(OPERATION, denied), to_it("orders"))


async def test_an_adopted_event_of_another_is_noted_in_audit_and_refused_in_enforce(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert await passes(sending(Adopted()), to_it("board"))
    assert "it belongs to 'orders', which alone may once it is enforced" in caplog.text
    enforced = Adopted(validation=Validation.ENFORCE)
    assert not await passes(sending(enforced), to_it("board"))
    assert await passes(sending(enforced), to_it("orders"))


async def test_the_default_deny_holds_for_an_adopted_topic_once_it_is_enforced() -> None:
    assert await passes(receiving(OPERATION, default=DENY), to_it(""))
    assert not await passes(receiving(ENFORCED, default=DENY), to_it(""))
    assert await passes(receiving(ENFORCED, rule(ALLOW, "orders"), default=DENY), to_it(""))


async def test_a_topic_that_nobody_owns_is_only_audited(caplog: pytest.LogCaptureFixture) -> None:
    unowned = Adopted(kind="plain", owner=None, validation=Validation.ENFORCE)
    with caplog.at_level(logging.INFO):
        assert await passes(sending(unowned, rule(DENY), default=DENY), to_it("dispatch"))
        assert await passes(receiving(unowned, rule(DENY), default=DENY), to_it("dispatch"))
    assert caplog.messages == [
        f"access: {who} is allowed to use legacy_orders: nobody owns the topic, so that no rule is about it"
        for who in ("'dispatch'", "'board'")
    ]


# ── audits ────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_audited_call_is_said_once_a_minute(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    audit = AuditLog(clock)
    with caplog.at_level(logging.INFO):
        for clock.now in (0, 1, 59, 60, 61):
            audit.note("dispatch", by_name(FIND), "watch", "audit rule 'watch' matches")
        audit.note("dispatch", by_name(FIND), None, "no rule matches, the default is audit")
    assert caplog.messages == [
        f"access: 'dispatch' is allowed to call {FIND}: audit rule 'watch' matches",
        f"access: 'dispatch' is allowed to call {FIND}: audit rule 'watch' matches",
        f"access: 'dispatch' is allowed to call {FIND}: no rule matches, the default is audit",
    ]


def test_a_flood_of_callers_floods_neither_log_nor_memory(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    audit = AuditLog(clock)
    with caplog.at_level(logging.INFO):
        for number in range(3000):
            audit.note(f"stranger-{number}", by_name(FIND), None, "nobody minds")
        assert len(caplog.messages) == 1000
        clock.now = 60
        audit.note("stranger-2999", by_name(FIND), None, "nobody minds")
    assert len(caplog.messages) == 1001
