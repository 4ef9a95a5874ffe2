"""Access rules against each other: two that contradict, and one that another never lets take effect.

On the way of a message: beside it; asked wherever rules are read or written. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product

from broker_mesh.errors import InvalidArgument
from broker_mesh.layers.authorize import PRECEDENCE, WILDCARD, Action, Rule, covers


def contradictions(rules: Iterable[Rule]) -> list[tuple[Rule, Rule]]:
    """Give the pairs of rules for the very same calls of which one allows what the other denies."""
    by_calls: dict[object, dict[Action, Rule]] = {}
    found = []
    for rule in rules:
        calls = rule.to, frozenset(rule.operations), frozenset(rule.topics), frozenset(rule.callers)
        same = by_calls.setdefault(calls, {})
        opposite = {Action.ALLOW: Action.DENY, Action.DENY: Action.ALLOW}.get(rule.action)
        if opposite in same:
            found.append((same[opposite], rule))
        same.setdefault(rule.action, rule)
    return found


def refuse_contradictions(rules: Iterable[Rule], among: Collection[str] | None = None) -> None:
    """Return where no two rules contradict each other.

    Args:
        rules: all that are to hold together.
        among: names of those that are new; what others contradict among themselves is not looked at. None for all.

    Raises:
        InvalidArgument: two do; the sentence names both.
    """
    for one, other in contradictions(rules):
        if among is None or one.name in among or other.name in among:
            raise InvalidArgument(
                f"access rules {one.name!r} ({one.action}) and {other.name!r} ({other.action}) contradict each "
                f"other: both are for {', '.join(one.patterns(adopted=True))} of {one.to} from "
                f"{', '.join(one.callers)}; keep one of them"
            )


def without_effect(rules: Collection[Rule]) -> list[str]:
    """Give a sentence for each rule that can never decide, since one of a stronger action covers all it matches."""
    # Asked on the event loop, at each change: among thousands of rules each is held against the few that can cover it.
    places: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        for caller in {_place_of(pattern) for pattern in rule.callers}:
            places.setdefault((_place_of(rule.to), caller), []).append(rule)
    sentences = []
    for rule in rules:
        stronger = PRECEDENCE[: PRECEDENCE.index(rule.action)]
        near = product({_place_of(rule.to), WILDCARD}, {_place_of(rule.callers[0]), WILDCARD})
        others = (other for place in sorted(near) for other in places.get(place, ()))
        covering = next((other for other in others if other.action in stronger and covers(other, rule)), None)
        if covering is not None:
            sentences.append(
                f"access rule {rule.name!r} ({rule.action}) can never take effect: "
                f"{covering.name!r} ({covering.action}) covers all that it matches"
            )
    return sentences


def _place_of(pattern: str) -> str:
    """Give what a pattern is looked up by: itself, or one place for all with a wildcard."""
    return WILDCARD if WILDCARD in pattern else pattern
