"""Access: whether a service may call an operation, or hear an event.

On the way of a message: outbound, before a body is checked or encoded, so that a caller hears of a refusal and
nothing is sent; inbound again, before the body is decoded, since a caller may not check or may not have heard of a
new rule yet. Of all rules that match, a deny decides, else an allow, else an audit, else the default. Which of
several rules of the deciding action is the more specific only chooses the one that is reported.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.errors import PermissionDenied
from broker_mesh.layer import Layer, R, check
from broker_mesh.message import Message

logger = logging.getLogger(__name__)

WILDCARD = "*"

_CACHED_VERDICTS = 10_000
_AUDIT_SECONDS = 60.0
_AUDITED_CALLS = 1000


class Action(StrEnum):
    """What a rule says of the calls that it matches."""

    DENY = "deny"
    ALLOW = "allow"
    AUDIT = "audit"


PRECEDENCE = (Action.DENY, Action.ALLOW, Action.AUDIT)
"""Which action decides where rules of several match: the first of them."""


class Rule(NamedTuple):
    """One access rule. In each pattern `*` stands for any characters, dots and none at all included.

    Args:
        name: is reported with what the rule decides.
        to: pattern of the service that owns the operation or event.
        operations: patterns of what follows the owner's name: "v1.find-aircraft", "v1.events.*".
        callers: patterns of the calling service or, for an event, of the subscriber.
        action: what the rule says.
    """

    name: str
    to: str
    operations: tuple[str, ...]
    callers: tuple[str, ...]
    action: Action


class Verdict(NamedTuple):
    """What was decided, and the name of the rule that decided it; None is the default."""

    action: Action
    rule: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.action is not Action.DENY


class Rules:
    """All rules of a process at one moment. Never changed: other rules are another object, with verdicts of its own.

    Args:
        rules: in any order.
        default: what holds where none of them matches.
    """

    def __init__(self, rules: Iterable[Rule] = (), default: Action = Action.AUDIT) -> None:
        self.rules = tuple(rules)
        self.default = default
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def verdict(self, caller: str, target: str) -> Verdict:
        """Decide as `decide` does; what was decided once is remembered."""
        pair = caller, target
        found = self._verdicts.get(pair)
        if found is None:
            if len(self._verdicts) >= _CACHED_VERDICTS:  # whoever writes to a topic can name any caller
                self._verdicts.clear()
            found = self._verdicts[pair] = decide(self.rules, self.default, caller, target)
        return found


def decide(rules: Iterable[Rule], default: Action, caller: str, target: str) -> Verdict:
    """Decide whether a caller may call an operation, or a subscriber hear an event.

    Args:
        rules: in any order.
        default: what holds where none of them matches.
        caller: the calling service or the subscriber; empty for a sender that does not say who it is, which only
            the pattern "*" matches.
        target: the operation or event.
    """
    owner, _, rest = target.partition(".")
    matching = [
        (_specificity(rule, rest, caller), rule.name, rule.action)
        for rule in rules
        if matches(rule.to, owner) and _any(rule.operations, rest) and _any(rule.callers, caller)
    ]
    for action in PRECEDENCE:
        deciding = [(specificity, name) for specificity, name, said in matching if said is action]
        if deciding:
            return Verdict(action, min(deciding)[1])
    return Verdict(default)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name fits a pattern. Linear in the name, which may be a stranger's."""
    head, *rest = pattern.split(WILDCARD)
    if not rest:
        return name == head
    *middle, tail = rest
    if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
        return False
    start, end = len(head), len(name) - len(tail)
    for part in middle:
        found = name.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True


def covers(general: Rule, special: Rule) -> bool:
    """Tell whether one rule matches all that another matches, each pattern of the latter within one of the former."""
    # A pattern contains another exactly where it matches it as a text: only a `*` can take in a `*`.
    return (
        matches(general.to, special.to)
        and all(_any(general.operations, pattern) for pattern in special.operations)
        and all(_any(general.callers, pattern) for pattern in special.callers)
    )


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def _specificity(rule: Rule, rest: str, caller: str) -> tuple[tuple[bool, int], ...]:
    """Rank a rule that matches, by its closest patterns: the smaller, the more specific."""
    return (
        _rank(rule.to),
        min(_rank(pattern) for pattern in rule.operations if matches(pattern, rest)),
        min(_rank(pattern) for pattern in rule.callers if matches(pattern, caller)),
    )


def _rank(pattern: str) -> tuple[bool, int]:
    wildcards = pattern.count(WILDCARD)
    return wildcards > 0, wildcards - len(pattern)


class AuditLog:
    """Says which calls happen that are audited: each caller, target and rule once a minute.

    Memory is bounded, and so is what is said: 1,000 different lines a minute, whoever calls.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[tuple[str, str, str | None], float] = {}  # oldest first

    def note(self, caller: str, target: str, rule: str | None) -> None:
        """Log an audited call, unless that was done within the last minute."""
        if self._is_due((caller, target, rule)):
            logger.info(
                "access: %s is allowed to %s %s: %s",
                _shown(caller),
                _verb(target),
                target,
                f"audit rule {rule!r} matches"
                if rule is not None
                else "no rule matches, the default is audit",
                extra={"caller": caller, "target": target, "rule": rule},
            )

    def _is_due(self, key: tuple[str, str, str | None]) -> bool:
        now = self._clock()
        said = self._said.get(key)
        if said is not None and now - said < _AUDIT_SECONDS:
            return False
        self._said.pop(key, None)
        if len(self._said) >= _AUDITED_CALLS:
            oldest = next(iter(self._said))
            if now - self._said[oldest] < _AUDIT_SECONDS:
                return False
            del self._said[oldest]
        self._said[key] = now
        return True


def refuse(caller: str, target: str, rules: Rules, audit: AuditLog) -> None:
    """Return where a caller may call an operation, or a subscriber hear an event.

    Raises:
        PermissionDenied: it may not; the sentence and the details name the rule.
    """
    verdict = rules.verdict(caller, target)
    if verdict.action is Action.ALLOW:
        return
    if verdict.action is Action.AUDIT:
        audit.note(caller, target, verdict.rule)
        return
    what = f"{_shown(caller)} may not {_verb(target)} {target}"
    raise PermissionDenied(
        f"{what}: access rule {verdict.rule!r} denies it"
        if verdict.rule is not None
        else f"{what}: no access rule allows it, and the default is deny",
        details={"rule": verdict.rule, "caller": caller, "target": target},
    )


def outbound(rules: Callable[[], Rules], audit: AuditLog) -> Layer[R]:
    """Make the outbound layer: calls and one-way messages are checked for their sender.

    An event is for its subscribers: whether one may hear it is decided where that one receives it.

    Args:
        rules: gives those that hold now.
        audit: where audited calls are noted.
    """

    def decided(message: Message) -> Message:
        if not naming.is_event(message.operation):
            refuse(message.envelope.source, message.operation, rules(), audit)
        return message

    return check("authorize", decided)


def inbound(service: str, rules: Callable[[], Rules], audit: AuditLog) -> Layer[R]:
    """Make the inbound layer: requests and one-way messages are checked for their sender, events for this service.

    Args:
        service: this one.
        rules: gives those that hold now.
        audit: where audited calls are noted.
    """

    def decided(message: Message) -> Message:
        target = message.operation
        caller = service if naming.is_event(target) else message.envelope.source
        try:
            refuse(caller, target, rules(), audit)
        except PermissionDenied as error:
            logger.warning(
                "%s %s is refused: %s", target, message.envelope.id, error.message, extra=error.details
            )
            raise
        return message

    return check("authorize", decided)


def _shown(caller: str) -> str:
    return repr(caller) if caller else "a sender without a name"


def _verb(target: str) -> str:
    return "hear" if naming.is_event(target) else "call"
