"""Where a message stands with each of those who handle it, by its story and by what their groups have committed.

On the way of a message: beside it, afterwards. `mesh trace` ends with it. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.story import HANDED, Step, Story, What


class Ending(StrEnum):
    """Where a message stands with one of those who handle it."""

    ANSWERED = "answered"
    DEAD_LETTER = "dead-letter"
    DROPPED = "dropped"
    HANDLED = "handled"
    WAITING = "waiting"
    RETRY_DUE = "retry-due"


class Group(NamedTuple):
    """A service's consumer group, as far as it concerns a story.

    Args:
        committed: where it has committed, by topic and partition; empty where it never has.
        members: how many instances are in it now.
    """

    committed: Mapping[tuple[str, int], int]
    members: int


class Reader(NamedTuple):
    """Who handles what is no operation's: a group, with where its failures go.

    Args:
        stem: the subscription.
        group: the consumer group: the service's, or one of a wrapped consumer's own choice.
    """

    stem: str
    group: str


class Standing(NamedTuple):
    """Where a message stands with one of those who handle it.

    Args:
        stem: the operation, or the subscription.
        group: of who handles it.
        ending: how it stands.
        last: the step that says so.
        ahead: records before it that are not done either, where it waits; None where that can't be told.
        members: instances of the service that run now.
    """

    stem: str
    group: str
    ending: Ending
    last: Step
    ahead: int | None = None
    members: int = 0


def standings(
    story: Story, readers: Sequence[Reader], groups: Mapping[str, Group], now: int
) -> list[Standing]:
    """Tell where a message stands with each of those who handle it.

    Args:
        story: of the message.
        readers: those who subscribe to it, where it is no operation's.
        groups: by name.
        now: epoch ms.
    """
    if naming.is_target(story.operation) and not naming.is_event(story.operation):
        return [_standing([step for step in story.steps if step.place is not None], None, groups, now)]
    return [
        _standing(
            [
                step
                for step in story.steps
                if step.place and (step.what is What.SENT or reader == _reader_of(step))
            ],
            reader,
            groups,
            now,
        )
        for reader in readers
    ]


def readers(
    story: Story, subscriptions: Sequence[str], reading: Mapping[str, Collection[str]]
) -> list[Reader]:
    """Tell who handles a message that is no operation's.

    A wrapped consumer's group has any name: it is known by reading the subscription's retry topic, by what failed in
    it, and, where neither shows, by reading the source while it is no other subscription's.

    Args:
        story: of the message.
        subscriptions: the stems of those who subscribe to it.
        reading: the topics that each group is assigned or has committed offsets of, by its name.
    """
    known = {stem: _known(story, stem, reading) for stem in subscriptions}
    taken = {reader.group for found in known.values() for reader in found}
    others = [group for group, topics in reading.items() if story.operation in topics and group not in taken]
    return [
        reader
        for stem, found in known.items()
        for reader in found or [Reader(stem, group) for group in others] or [Reader(stem, _own_group(stem))]
    ]


def _known(story: Story, stem: str, reading: Mapping[str, Collection[str]]) -> list[Reader]:
    retries = naming.retry_topic(stem)
    found = [
        Reader(stem, group)
        for group, topics in reading.items()
        if retries in topics or (group == _own_group(stem) and story.operation in topics)
    ]
    failed = [_reader_of(step) for step in story.steps if step.stem == stem and step.place is not None]
    return list(dict.fromkeys([*found, *failed]))


def _reader_of(step: Step) -> Reader:
    return Reader(step.stem, step.envelope.group or _own_group(step.stem))


def _own_group(stem: str) -> str:
    return naming.group(naming.owner(stem))


# In this order: a dead letter is answered too, and one that was dropped is no longer kept for replay.
_ENDINGS = (
    (What.DROPPED, Ending.DROPPED),
    (What.DEAD_LETTER, Ending.DEAD_LETTER),
    (What.ANSWERED, Ending.ANSWERED),
)


def _standing(
    steps: Sequence[Step], reader: Reader | None, groups: Mapping[str, Group], now: int
) -> Standing:
    last = next((number for number in reversed(range(len(steps))) if steps[number].what in HANDED), 0)
    handed, since = steps[last], steps[last + 1 :] or steps[last:]
    stem, name = reader or Reader(handed.stem, _own_group(handed.stem))
    for what, ending in _ENDINGS:
        for step in since:
            if step.what is what:
                return Standing(stem, name, ending, step)
    group = groups.get(name, Group({}, 0))
    assert handed.place is not None  # only steps with a place are given
    committed = group.committed.get((handed.place.topic, handed.place.partition))
    if committed is not None and committed > handed.place.offset:
        return Standing(stem, name, Ending.HANDLED, handed, members=group.members)
    due = handed.envelope.retry_at
    ending = Ending.RETRY_DUE if due is not None and due > now else Ending.WAITING
    ahead = None if committed is None else handed.place.offset - committed
    return Standing(stem, name, ending, handed, ahead, group.members)
