"""Access: whether a service may call an operation, or hear an event.

On the way of a message: outbound, before a body is checked or encoded, so that a caller hears of a refusal and
nothing is sent; inbound again, before the body is decoded, since a caller may not check or may not have heard of a
new rule yet. Of all rules that match, a deny decides, else an allow, else an audit, else the default. Which of
several rules of the deciding action is the more specific only chooses the one that is reported.

Topics that were there before the mesh are under the same rules once they have an owner, with two mitigations: while
their values are not enforced, neither is a default of deny, since nobody has had a reason to write rules for them, nor
is it that an event is its owner's alone to send.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias

from broker_mesh import naming
from broker_mesh.adoption import Validation
from broker_mesh.errors import PermissionDenied
from broker_mesh.layer import Layer, R, check
from broker_mesh.message import Message
from broker_mesh.seldom import Seldom

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
        operations: patterns of what follows the owner's name: "v1.find-aircraft", "v1.events.*", and of the whole names
            of adopted topics: "*" is all that a service owns.
        callers: patterns of the calling service or, for an event, of the subscriber.
        action: what the rule says.
        topics: patterns of the whole names of adopted topics; no operation or event is meant by them.
    """

    name: str
    to: str
    operations: tuple[str, ...]
    callers: tuple[str, ...]
    action: Action
    topics: tuple[str, ...] = ()

    def patterns(self, *, adopted: bool) -> tuple[str, ...]:
        """Give the patterns that hold for adopted topics, or those for operations and events."""
        return (*self.operations, *self.topics) if adopted else self.operations


class Verdict(NamedTuple):
    """What was decided, and the name of the rule that decided it; None is the default."""

    action: Action
    rule: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.action is not Action.DENY


class Described(Protocol):
    """What is known of a topic; a `TopicContract` of `contracts/`."""

    @property
    def topic(self) -> str:
        """Its name."""
        ...

    @property
    def kind(self) -> str:
        """operation, event or plain."""
        ...

    @property
    def owner(self) -> str | None:
        """The service it belongs to; None where nobody has said."""
        ...

    @property
    def validation(self) -> Validation:
        """How strictly its values are checked."""
        ...


class _ByName(NamedTuple):
    topic: str
    kind: str
    owner: str | None
    validation: Validation = Validation.ENFORCE


@lru_cache(_CACHED_VERDICTS)
def by_name(topic: str) -> Described:
    """Tell of an operation or event of the mesh what its name says."""
    return _ByName(topic, "event" if naming.is_event(topic) else "operation", naming.owner(topic))


def _by_operation(message: Message) -> Described:
    return by_name(message.operation)


DescribedOf: TypeAlias = Callable[[Message], Described]


class Rules:
    """All rules of a process at one moment. Never changed: other rules are another object, with verdicts of its own.

    Args:
        rules: in any order.
        default: what holds where none of them matches.
    """

    def __init__(self, rules: Iterable[Rule] = (), default: Action = Action.AUDIT) -> None:
        self.rules = tuple(rules)
        self.default = default
        self._verdicts: dict[tuple[str, str, str | None], Verdict] = {}

    def verdict(self, caller: str, target: str, owner: str | None = None) -> Verdict:
        """Decide as `decide` does; what was decided once is remembered."""
        pair = caller, target, owner
        found = self._verdicts.get(pair)
        if found is None:
            if len(self._verdicts) >= _CACHED_VERDICTS:  # whoever writes to a topic can name any caller
                self._verdicts.clear()
            found = self._verdicts[pair] = decide(self.rules, self.default, caller, target, owner)
        return found


def decide(
    rules: Iterable[Rule], default: Action, caller: str, target: str, owner: str | None = None
) -> Verdict:
    """Decide whether a caller may call an operation, or a subscriber hear an event.

    Args:
        rules: in any order.
        default: what holds where none of them matches.
        caller: the calling service or the subscriber; empty for a sender that does not say who it is, which only
            the pattern "*" matches.
        target: the operation or event, or an adopted topic.
        owner: of an adopted topic, whose name does not tell it.
    """
    rest, adopted = target, owner is not None
    if owner is None:
        owner, _, rest = target.partition(".")
    matching = [
        (_specificity(rule, patterns, rest, caller), rule.name, rule.action)
        for rule in rules
        if matches(rule.to, owner)
        and _any(patterns := rule.patterns(adopted=adopted), rest)
        and _any(rule.callers, caller)
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
        and all(_any(general.patterns(adopted=True), pattern) for pattern in special.topics)
        and all(_any(general.callers, pattern) for pattern in special.callers)
    )


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def _specificity(rule: Rule, patterns: Iterable[str], rest: str, caller: str) -> tuple[tuple[bool, int], ...]:
    """Rank a rule that matches, by its closest patterns: the smaller, the more specific."""
    return (
        _rank(rule.to),
        min(_rank(pattern) for pattern in patterns if matches(pattern, rest)),
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
        self._seldom = Seldom(_AUDIT_SECONDS, _AUDITED_CALLS, clock)

    def note(self, caller: str, target: Described, rule: str | None, why: str) -> None:
        """Log an audited call, unless that was done within the last minute."""
        if self._seldom.is_due((caller, target.topic, rule)):
            logger.info(
                "access: %s is allowed to %s %s: %s",
                _shown(caller),
                _verb(target),
                target.topic,
                why,
                extra={"caller": caller, "target": target.topic, "rule": rule},
            )


def refuse(caller: str, target: Described, rules: Rules, audit: AuditLog) -> None:
    """Return where a caller may call an operation, or a subscriber hear an event.

    Raises:
        PermissionDenied: it may not; the sentence and the details name the rule.
    """
    if target.owner is None:
        audit.note(caller, target, None, "nobody owns the topic, so that no rule is about it")
        return
    verdict = rules.verdict(caller, target.topic, None if _is_of_the_mesh(target.topic) else target.owner)
    if verdict.action is Action.ALLOW:
        return
    if verdict.action is Action.AUDIT:
        matches = f"audit rule {verdict.rule!r} matches"
        audit.note(
            caller, target, verdict.rule, matches if verdict.rule else "no rule matches, the default is audit"
        )
        return
    if verdict.rule is None and target.validation is not Validation.ENFORCE:
        audit.note(caller, target, None, "no rule matches, and the default, deny, holds once it is enforced")
        return
    what = f"{_shown(caller)} may not {_verb(target)} {target.topic}"
    raise PermissionDenied(
        f"{what}: access rule {verdict.rule!r} denies it"
        if verdict.rule is not None
        else f"{what}: no access rule allows it, and the default is deny",
        details={"rule": verdict.rule, "caller": caller, "target": target.topic},
    )


def refuse_foreign_event(sender: str, target: Described, audit: AuditLog) -> None:
    """Return where an event is its owner's, or one that was adopted and whose values are not enforced yet.

    Raises:
        PermissionDenied: it is another service's.
    """
    if target.kind != "event" or target.owner in (None, sender):
        return
    if target.validation is Validation.ENFORCE:
        raise PermissionDenied(
            f"event {target.topic!r} belongs to {target.owner!r}: only its owner publishes it; a topic that several "
            "services write to is adopted with kind 'operation'",
            details={"rule": None, "caller": sender, "target": target.topic},
        )
    audit.note(sender, target, None, f"it belongs to {target.owner!r}, which alone may once it is enforced")


def outbound(
    rules: Callable[[], Rules], audit: AuditLog, described_of: DescribedOf = _by_operation
) -> Layer[R]:
    """Make the outbound layer: calls and one-way messages are checked for their sender.

    An event is for its subscribers: whether one may hear it is decided where that one receives it. Here only its
    owner may send it.

    Args:
        rules: gives those that hold now.
        audit: where audited calls are noted.
        described_of: tells what a message's topic is; by default its name says it.
    """

    def decided(message: Message) -> Message:
        target, sender = described_of(message), message.envelope.source
        if target.kind == "event":
            refuse_foreign_event(sender, target, audit)
        else:
            refuse(sender, target, rules(), audit)
        return message

    return check("authorize", decided)


def inbound(
    service: str, rules: Callable[[], Rules], audit: AuditLog, described_of: DescribedOf = _by_operation
) -> Layer[R]:
    """Make the inbound layer: requests and one-way messages are checked for their sender, events for this service.

    Args:
        service: this one.
        rules: gives those that hold now.
        audit: where audited calls are noted.
        described_of: tells what a message's topic is; by default its name says it.
    """

    def decided(message: Message) -> Message:
        target = described_of(message)
        # Of a topic that nobody owns, what can be told is who reads it.
        caller = message.envelope.source if target.kind == "operation" else service
        try:
            refuse(caller, target, rules(), audit)
        except PermissionDenied as error:
            logger.warning(
                "%s %s is refused: %s", target.topic, message.envelope.id, error.message, extra=error.details
            )
            raise
        return message

    return check("authorize", decided)


def _shown(caller: str) -> str:
    return repr(caller) if caller else "a sender without a name"


def _verb(target: Described) -> str:
    if target.kind == "event":
        return "hear"
    return "call" if _is_of_the_mesh(target.topic) else "use"


_is_of_the_mesh = lru_cache(_CACHED_VERDICTS)(naming.is_target)
