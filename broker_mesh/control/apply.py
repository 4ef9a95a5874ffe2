"""Applying resources: what would change, and changing it on `_mesh.policy`, all of it or nothing.

On the way of a message: beside it; used by `mesh apply`, `diff`, `get` and `delete`. Whoever writes is for that
moment the only writer (`kafka/fenced.py`), so that what was checked against the rules that stand is still so when it
is written. Blocking.
"""

from __future__ import annotations

import getpass
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from broker_mesh.adoption import Adoption, Validation, step_problem
from broker_mesh.control.conflicts import refuse_contradictions, without_effect
from broker_mesh.control.resources import Resource, ResourceMap, Topic, access_rules, check_kind
from broker_mesh.control.store import POLICY_TOPIC, Applied, NotUnderstood, decode, encode
from broker_mesh.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from broker_mesh.kafka.fenced import FencedWriter, NewRecord
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.message import now_ms
from broker_mesh.settings import Settings, nearest

TRANSACTIONAL_ID = POLICY_TOPIC
"""All writers share it: the latest fences those before."""

_WRITE_SECONDS = 20.0
_LONGEST_PAUSE_SECONDS = 0.5
_LOOK_AGAIN_SECONDS = 0.01

T = TypeVar("T")


class Effect(StrEnum):
    """What becomes of a resource."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


class Change(NamedTuple):
    """What becomes of one resource: what stands now and what is to; None for nothing, or nothing that can be read."""

    key: str
    effect: Effect
    before: Resource | None
    after: Resource | None


class Unreadable(NamedTuple):
    """A record that can't be understood: its key as it is, why, and whether processes go on without it."""

    key: bytes
    reason: str
    optional: bool = False


class Stored(NamedTuple):
    """What `_mesh.policy` holds, by key: resources, and what can't be understood."""

    applied: Mapping[str, Applied]
    unreadable: Mapping[str, Unreadable]


class Plan(NamedTuple):
    """What applying comes to.

    Args:
        changes: one for each resource that is applied or deleted.
        warnings: sentences about what would hold afterwards.
    """

    changes: Sequence[Change]
    warnings: Sequence[str]


def plan(
    desired: ResourceMap,
    stored: Stored,
    *,
    prune: bool,
    sections: Mapping[str, Adoption] = MappingProxyType({}),
) -> Plan:
    """Decide what applying some resources comes to.

    Args:
        desired: what is applied, by key.
        stored: what stands.
        prune: whether what stands and is not among them is deleted.
        sections: what mesh.toml says of adopted topics where no `Topic` resource stands.

    Raises:
        InvalidArgument: an access rule among them would contradict another that holds then.
        FailedPrecondition: a topic would go from off to enforce at once.
    """
    changes = []
    for key, after in desired.items():
        applied = stored.applied.get(key)
        before = applied.resource if applied else None
        effect = Effect.CHANGED if applied or key in stored.unreadable else Effect.CREATED
        changes.append(Change(key, Effect.UNCHANGED if before == after else effect, before, after))
    standing = {key: applied.resource for key, applied in stored.applied.items()}
    if prune:
        extra = sorted({*standing, *stored.unreadable} - desired.keys())
        changes += [Change(key, Effect.DELETED, standing.get(key), None) for key in extra]
        standing = {}
    _refuse_leaps(changes, sections)
    rules = access_rules({**standing, **desired}.values())
    refuse_contradictions(rules, among={rule.name for rule in access_rules(desired.values())})
    return Plan(changes, without_effect(rules))


def _refuse_leaps(changes: Sequence[Change], sections: Mapping[str, Adoption]) -> None:
    """Return where every topic goes one step at a time.

    Raises:
        FailedPrecondition: one does not.
    """
    for change in changes:
        topic = change.after or change.before
        if not isinstance(topic, Topic):
            continue
        section = sections.get(topic.name)
        before, after = (
            each.spec.mode if isinstance(each, Topic) else Validation.OFF if section is None else section.mode
            for each in (change.before, change.after)
        )
        problem = step_problem(before, after)
        if problem is not None:
            raise FailedPrecondition(f"topic {topic.name!r}: {problem}")


class PolicyStore:
    """`_mesh.policy`, for those who change it.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id

    def read(self) -> Stored:
        """Read what stands; nothing where nobody has ever applied anything.

        Raises:
            MeshError: Kafka can't be asked.
        """
        table = CompactedTable(self._settings, POLICY_TOPIC, client_id=self._client_id)
        try:
            table.read_to_end()
        except NotFound:
            return Stored({}, {})
        return _understood(table)

    def plan(self, desired: ResourceMap, stored: Stored, *, prune: bool) -> Plan:
        """Decide as `plan` does, where the settings say what holds for topics without a resource."""
        return plan(desired, stored, prune=prune, sections=self._settings.topics)

    def apply(self, desired: ResourceMap, *, prune: bool) -> Plan:
        """Write what differs, and return when it can be read back; what was applied is what is returned.

        Args:
            desired: what is applied, by key.
            prune: whether what stands and is not among them is deleted.

        Raises:
            InvalidArgument: an access rule would contradict another; nothing is written.
            FailedPrecondition: a topic would go from off to enforce at once; nothing is written.
            Unavailable: Kafka did not answer in time, or other writers were always faster.
            MeshError: what else Kafka reports.
        """

        def decided(stored: Stored) -> tuple[Plan, Sequence[Change]]:
            found = self.plan(desired, stored, prune=prune)
            return found, found.changes

        return self._write(decided)

    def delete(self, kind: str, name: str) -> Change:
        """Delete a resource, and return when it is gone.

        Raises:
            InvalidArgument: there is no such kind.
            NotFound: there is no such resource.
            FailedPrecondition: it holds a topic off that mesh.toml has enforced.
            Unavailable, MeshError: as for `apply`.
        """

        def decided(stored: Stored) -> tuple[Change, Sequence[Change]]:
            (key,) = find(stored, kind, name)
            applied = stored.applied.get(key)
            change = Change(key, Effect.DELETED, applied.resource if applied else None, None)
            _refuse_leaps([change], self._settings.topics)
            return change, [change]

        return self._write(decided)

    def _write(self, decide: Callable[[Stored], tuple[T, Sequence[Change]]]) -> T:
        deadline = time.monotonic() + _WRITE_SECONDS
        # The topic has to exist before the transaction, in which nothing may be waited for.
        table = CompactedTable(self._settings, POLICY_TOPIC, client_id=self._client_id, create=True)
        table.read_to_end()
        while True:
            try:
                return self._write_alone(table, decide, deadline)
            except Aborted as error:
                # Rivals fence each other in turns: at random, one of them gets through.
                pause = random.uniform(0, _LONGEST_PAUSE_SECONDS)  # noqa: S311 - nothing secret about it
                if time.monotonic() + pause >= deadline:
                    raise Unavailable(
                        f"topic {POLICY_TOPIC!r} could not be written within {_WRITE_SECONDS:g} s, since others "
                        "were writing all the time; try again"
                    ) from error
                time.sleep(pause)

    def _write_alone(
        self, table: CompactedTable, decide: Callable[[Stored], tuple[T, Sequence[Change]]], deadline: float
    ) -> T:
        with FencedWriter(
            self._settings, TRANSACTIONAL_ID, client_id=self._client_id, deadline=deadline
        ) as writer:
            # Only what is read from here on counts: before, another writer might not have been fenced yet.
            table.read_to_end()
            stored = _understood(table)
            result, changes = decide(stored)
            records = [
                NewRecord(POLICY_TOPIC, _key(change.key, stored), _value(change.after))
                for change in changes
                if change.effect is not Effect.UNCHANGED
            ]
            if records:
                writer.commit(records)
                self._read_back(table, records, deadline)
        return result

    def _read_back(self, table: CompactedTable, records: Sequence[NewRecord], deadline: float) -> None:
        keys = {record.key for record in records}
        while True:
            keys -= {record.key for record in table.read_to_end()}
            if not keys:
                return
            if time.monotonic() >= deadline:
                raise Unavailable(f"Kafka does not yet show what was written to {POLICY_TOPIC!r}; try again")
            time.sleep(_LOOK_AGAIN_SECONDS)  # a transaction shows a moment after it is committed


def find(stored: Stored, kind: str, name: str | None = None) -> list[str]:
    """Give the keys of a kind's resources, or of the one with a name.

    Raises:
        InvalidArgument: there is no such kind.
        NotFound: there is none of that name.
    """
    keys = sorted({*stored.applied, *stored.unreadable})
    names = {key.partition("/")[2]: key for key in keys if key.partition("/")[0] == kind}
    if not names:
        check_kind(kind)  # what a newer mesh has written can be deleted all the same
    if name is None:
        return list(names.values())
    if name not in names:
        raise NotFound(
            f"there is no {kind} {name!r}{nearest(name, names) or '; mesh get shows what there is'}"
        )
    return [names[name]]


def _understood(table: CompactedTable) -> Stored:
    applied: dict[str, Applied] = {}
    unreadable: dict[str, Unreadable] = {}
    for key, value in sorted(table.items.items()):
        name = key.decode("utf-8", "backslashreplace")
        try:
            applied[name] = decode(key, value)
        except InvalidArgument as error:
            unreadable[name] = Unreadable(key, error.message, isinstance(error, NotUnderstood))
    return Stored(applied, unreadable)


def _key(shown: str, stored: Stored) -> bytes:
    unreadable = stored.unreadable.get(shown)
    return shown.encode() if unreadable is None else unreadable.key


def _value(resource: Resource | None) -> bytes | None:
    return None if resource is None else encode(Applied(resource, _whoami(), now_ms()))


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
