"""What applying comes to: effects, contradictions with what stands, and rules that never take effect."""

from __future__ import annotations

import pytest

from broker_mesh.control import conflicts
from broker_mesh.control.apply import Effect, Stored, Unreadable, find, plan
from broker_mesh.control.conflicts import without_effect
from broker_mesh.control.files import read_text
from broker_mesh.control.resources import Resource
from broker_mesh.control.store import Applied
from broker_mesh.errors import InvalidArgument, NotFound
from broker_mesh.layers.authorize import Action, Rule


def access(name: str, action: str = "allow", callers: str = "[dispatch]") -> dict[str, Resource]:
    spec = f"{{to: fleet, operations: ['*'], from: {callers}, action: {action}}}"
    return read_text(f"kind: Access\nname: {name}\nspec: {spec}", "x")


def stored(*resources: dict[str, Resource], unreadable: str = "") -> Stored:
    applied = {key: Applied(held, "me", 1) for part in resources for key, held in part.items()}
    bad = {unreadable: Unreadable(unreadable.encode(), "why")} if unreadable else {}
    return Stored(applied, bad)


def effects(desired: dict[str, Resource], standing: Stored, *, prune: bool = False) -> dict[str, Effect]:
    return {change.key: change.effect for change in plan(desired, standing, prune=prune).changes}


def test_each_resource_is_created_changed_or_left() -> None:
    desired = {**access("new", callers="[a]"), **access("other", "audit"), **access("same", callers="[b]")}
    standing = stored(access("other", "allow"), access("same", callers="[b]"), access("extra", callers="[c]"))
    expected = {
        "Access/new": Effect.CREATED,
        "Access/other": Effect.CHANGED,
        "Access/same": Effect.UNCHANGED,
    }
    assert effects(desired, standing) == expected
    assert effects(desired, standing, prune=True) == {**expected, "Access/extra": Effect.DELETED}


def test_what_can_not_be_read_is_replaced_or_pruned_but_never_counted_as_equal() -> None:
    desired = access("a")
    assert effects(desired, stored(unreadable="Access/a")) == {"Access/a": Effect.CHANGED}
    assert effects(desired, stored(unreadable="Limit/x"), prune=True)["Limit/x"] is Effect.DELETED


def test_a_rule_that_contradicts_one_that_stands_is_refused() -> None:
    with pytest.raises(
        InvalidArgument, match=r"'closed' \(deny\) and 'open' \(allow\) contradict each other"
    ) as caught:
        plan(access("open", "allow"), stored(access("closed", "deny")), prune=False)
    assert "both are for * of fleet from dispatch" in caught.value.message


def test_a_contradiction_that_goes_or_is_not_ours_is_no_reason() -> None:
    contradicting = stored(access("closed", "deny"), access("open", "allow"))
    assert effects(access("open", "allow"), contradicting, prune=True)["Access/closed"] is Effect.DELETED
    assert effects(access("third", "audit", "[x]"), contradicting) == {"Access/third": Effect.CREATED}
    assert effects(access("closed", "allow"), stored(access("closed", "deny"))) == {
        "Access/closed": Effect.CHANGED
    }


def test_a_rule_that_can_never_take_effect_is_warned_of() -> None:
    found = plan(access("narrow"), stored(access("wide", "deny", "['*']")), prune=False)
    assert found.warnings == [
        "access rule 'narrow' (allow) can never take effect: 'wide' (deny) covers all that it matches"
    ]


@pytest.mark.parametrize(
    ("weaker", "stronger", "warned"),
    [
        (Action.ALLOW, Action.DENY, True),
        (Action.AUDIT, Action.DENY, True),
        (Action.AUDIT, Action.ALLOW, True),
        (Action.DENY, Action.ALLOW, False),
        (Action.ALLOW, Action.ALLOW, False),
    ],
)
def test_only_a_stronger_action_takes_a_rule_s_effect(weaker: Action, stronger: Action, warned: bool) -> None:
    narrow = Rule("narrow", "fleet", ("v1.*",), ("dispatch",), weaker)
    wide = Rule("wide", "*", ("*",), ("*",), stronger)
    assert bool(without_effect([narrow, wide])) is warned


def test_of_many_rules_each_is_held_against_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def covers(general: Rule, special: Rule) -> bool:
        asked.append((general, special))
        return False

    monkeypatch.setattr(conflicts, "covers", covers)
    rules = [
        Rule(f"{action}-{number}", f"to-{number % 20}", ("*",), (f"from-{number}",), action)
        for number in range(1000)
        for action in (Action.ALLOW, Action.DENY)
    ]
    rules.append(Rule("wide", "*", ("v1.*",), ("*",), Action.DENY))
    assert without_effect(rules) == []
    assert len(asked) <= 2 * len(rules)


def test_what_is_looked_for_is_found_or_the_nearest_is_offered() -> None:
    standing = stored(access("only-dispatch"), unreadable="Limit/x")
    assert find(standing, "Access") == ["Access/only-dispatch"]
    assert find(standing, "Mesh") == []
    assert find(standing, "Limit", "x") == ["Limit/x"]
    with pytest.raises(NotFound, match="there is no Access 'only-dispach': did you mean 'only-dispatch'"):
        find(standing, "Access", "only-dispach")
    with pytest.raises(InvalidArgument, match=r"kind 'access' is unknown .*: did you mean 'Access'"):
        find(standing, "access", "only-dispatch")
