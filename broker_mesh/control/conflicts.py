"""Access rules against each other: two that contradict, and one that another never lets take effect.

On the way of a message: beside it; asked wherever rules are read or written. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from broker_mesh.errors import InvalidArgument
from broker_mesh.layers.authorize import PRECEDENCE, Action, Rule, covers


def contradictions(rules: Iterable[Rule]) -> list[tuple[Rule, Rule]]:
    """Give the pairs of rules for the very same calls of which one allows what the other denies."""
    by_calls: dict[object, dict[Action, Rule]] = {}
    found = []
    for rule in rules:
        calls = rule.to, frozenset(rule.operations), frozenset(rule.callers)
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
                f"other: both are for {', '.join(one.operations)} of {one.to} from {', '.join(one.callers)}; "
                "keep one of them"
            )


def without_effect(rules: Collection[Rule]) -> list[str]:
    """Give a sentence for each rule that can never decide, since one of a stronger action covers all it matches."""
    sentences = []
    for rule in rules:
        stronger = PRECEDENCE[: PRECEDENCE.index(rule.action)]
        covering = next((other for other in rules if other.action in stronger and covers(other, rule)), None)
        if covering is not None:
            sentences.append(
                f"access rule {rule.name!r} ({rule.action}) can never take effect: "
                f"{covering.name!r} ({covering.action}) covers all that it matches"
            )
    return sentences
