"""Laws of access rules, over rules and calls of any kind."""

from __future__ import annotations

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.control.conflicts import without_effect
from broker_mesh.layers.authorize import Action, Rule, Verdict, covers, decide, matches

services = st.sampled_from(["fleet", "dispatch", "weather", "f", ""])
targets = st.sampled_from(
    ["fleet.v1.find", "fleet.v2.find", "fleet.v1.events.gone", "dispatch.v1.plan", "f.v1.f"]
)
service_patterns = st.sampled_from(["fleet", "dispatch", "weather", "f", "*", "f*", "*t", "*e*", "*f*f*"])
operation_patterns = st.sampled_from(
    ["v1.find", "v2.find", "v1.events.gone", "*", "v1.*", "*.find", "v*", "*.events.*"]
)
actions = st.sampled_from(Action)


@st.composite
def rules(draw: st.DrawFn, action: st.SearchStrategy[Action] = actions) -> Rule:
    return Rule(
        draw(st.text("abc", min_size=1, max_size=3)),
        draw(service_patterns),
        tuple(draw(st.lists(operation_patterns, min_size=1, max_size=3))),
        tuple(draw(st.lists(service_patterns, min_size=1, max_size=3))),
        draw(action),
    )


rulesets = st.lists(rules(), max_size=8)
texts = st.text("ab*", max_size=6)
names = st.text("ab.", max_size=10)


@given(rulesets, st.randoms(), actions, services, targets)
def test_the_order_of_rules_is_irrelevant(
    given_rules: list[Rule], random: object, default: Action, caller: str, target: str
) -> None:
    shuffled = list(given_rules)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled, default, caller, target) == decide(given_rules, default, caller, target)


@given(rulesets, rules(st.just(Action.DENY)), actions, services, targets)
def test_another_deny_never_allows_more(
    given_rules: list[Rule], deny: Rule, default: Action, caller: str, target: str
) -> None:
    if decide([*given_rules, deny], default, caller, target).allowed:
        assert decide(given_rules, default, caller, target).allowed


@given(rulesets, rules(st.sampled_from([Action.ALLOW, Action.AUDIT])), actions, services, targets)
def test_another_allow_or_audit_never_denies_more(
    given_rules: list[Rule], more: Rule, default: Action, caller: str, target: str
) -> None:
    if decide(given_rules, default, caller, target).allowed:
        assert decide([*given_rules, more], default, caller, target).allowed


@given(rulesets, actions, services, targets)
def test_specificity_never_changes_what_is_decided(
    given_rules: list[Rule], default: Action, caller: str, target: str
) -> None:
    owner, _, rest = target.partition(".")
    said = {
        rule.action
        for rule in given_rules
        if matches(rule.to, owner)
        and any(matches(pattern, rest) for pattern in rule.operations)
        and any(matches(pattern, caller) for pattern in rule.callers)
    }
    expected = next((a for a in (Action.DENY, Action.ALLOW, Action.AUDIT) if a in said), default)
    assert decide(given_rules, default, caller, target).action is expected


@given(rulesets, actions, services, targets)
def test_the_rule_that_is_reported_is_one_that_decided(
    given_rules: list[Rule], default: Action, caller: str, target: str
) -> None:
    verdict = decide(given_rules, default, caller, target)
    reported = [rule for rule in given_rules if rule.name == verdict.rule and rule.action is verdict.action]
    # Each rule alone decides the same where it matches at all, and nothing where it does not.
    other = Action.ALLOW if verdict.action is not Action.ALLOW else Action.DENY
    alone = [decide([rule], other, caller, target) for rule in reported]
    assert verdict.rule is None or verdict in alone
    assert verdict.rule is not None or verdict == Verdict(default)


@given(texts, names)
def test_patterns_mean_what_they_mean_in_a_shell(pattern: str, name: str) -> None:
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@given(rulesets)
def test_each_rule_that_another_covers_is_found(given_rules: list[Rule]) -> None:
    named = [rule._replace(name=f"r{number}") for number, rule in enumerate(given_rules)]
    stronger = {
        Action.DENY: set(),
        Action.ALLOW: {Action.DENY},
        Action.AUDIT: {Action.DENY, Action.ALLOW},
    }
    covered = [
        rule.name
        for rule in named
        if any(other.action in stronger[rule.action] and covers(other, rule) for other in named)
    ]
    assert [sentence.split("'")[1] for sentence in without_effect(named)] == covered


@given(rules(), rules(), services, targets)
def test_what_a_rule_covers_it_matches(general: Rule, special: Rule, caller: str, target: str) -> None:
    default = Action.AUDIT if special.action is not Action.AUDIT else Action.ALLOW
    if covers(general, special) and decide([special], default, caller, target).rule is not None:
        default = Action.AUDIT if general.action is not Action.AUDIT else Action.ALLOW
        assert decide([general], default, caller, target).rule is not None
