"""Which dead letters are meant: by where and how they failed, when, and what they hold.

On the way of a message: behind its end. Pure: what headers say is asked first, since only what passes that is worth
decoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from broker_mesh import naming
from broker_mesh.dead_letters.letter import DeadLetter, Source
from broker_mesh.errors import InvalidArgument, NotFound
from broker_mesh.expression import Expression
from broker_mesh.message import id_time
from broker_mesh.settings import nearest
from broker_mesh.status import StatusCode

_DEAD_PLACE = re.compile(rf"([^/]+{re.escape(naming.dead_topic(''))})/(\d{{1,9}})/\d{{1,18}}")


@dataclass(frozen=True)
class Selection:
    """Conditions that a dead letter meets all of; without any, all dead letters.

    Args:
        service: that failed: the owner of the operation, or the subscriber; where there is none of that name, a topic
            of other programs whose name has no dot, for all its subscribers.
        operation: an operation; an event or another topic, for all its subscribers; or a subscription, as in
            ``weather.v1.from.dispatch.v1.events.flight-departed``.
        status: any of these it ended with.
        exception: the type that the last attempt raised, as in ``ValueError``.
        since, until: epoch ms by the last failure; `since` included, `until` not.
        key: the record's key, as bytes.
        ids: any of these: a message's id (`ce_id`), or a place ``topic/partition/offset``, of the dead letter or of
            the record that failed first.
        where: a JMESPath expression that holds for the decoded value; what can't be decoded is not meant then.

    Raises:
        InvalidArgument: `where` is no JMESPath expression; the sentence says where it breaks.
    """

    service: str | None = None
    operation: str | None = None
    status: frozenset[StatusCode] = frozenset()
    exception: str | None = None
    since: int | None = None
    until: int | None = None
    key: bytes | None = None
    ids: frozenset[str] = frozenset()
    where: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_where", None if self.where is None else Expression(self.where))

    @property
    def needs_bodies(self) -> bool:
        """Whether values have to be decoded to tell."""
        return self.where is not None

    def admits(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter meets the conditions that need no decoding."""
        envelope = letter.envelope
        return (
            (not self.status or envelope.status in self.status)
            and (self.exception is None or self.exception == envelope.exception)
            and (self.since is None or letter.last_failure >= self.since)
            and (self.until is None or letter.last_failure < self.until)
            and (self.key is None or self.key == letter.record.key)
            and (not self.ids or not self.ids.isdisjoint(_names(letter)))
        )

    def holds(self, letter: DeadLetter) -> bool:
        """Tell whether the condition on the value holds, once it is decoded."""
        where: Expression | None = self._where  # type: ignore[attr-defined]
        return where is None or (letter.problem is None and where.holds(letter.body))

    @property
    def earliest(self) -> int | None:
        """Give the time before which nothing that is meant can have failed, epoch ms; None where none is known."""
        made = []
        for name in self.ids:
            try:
                made.append(id_time(name))
            except InvalidArgument:  # a place, or an id that does not tell its time
                return self.since
        return max(
            (moment for moment in (self.since, min(made, default=None)) if moment is not None), default=None
        )

    def partitions(self, existing: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Choose the partitions of dead-letter topics that can hold what is meant: few, where all of it has a place."""
        named = [_DEAD_PLACE.fullmatch(name) for name in self.ids]
        places = {(match[1], int(match[2])) for match in named if match is not None}
        if not named or None in named:
            return list(existing)
        return [partition for partition in existing if partition in places]

    def sources(self, existing: Iterable[Source]) -> list[Source]:
        """Choose the dead-letter topics that can hold what is meant.

        Raises:
            NotFound: there is none of that service, operation, event or subscription; with the nearest right name.
        """
        chosen = sources = list(existing)
        if self.service is not None:
            chosen = [source for source in sources if source.service == self.service]
            if not chosen and self.operation is None:  # a topic of other programs may look like a service
                chosen = [source for source in sources if source.operation == self.service]
            if not chosen:
                names = {source.service for source in sources}
                raise NotFound(
                    f"no dead letters are kept for service {self.service!r}{_hint(self.service, names)}"
                )
        if self.operation is not None:
            wanted = self.operation
            known = {name for source in chosen for name in (source.operation, source.stem)}
            chosen = [source for source in chosen if wanted in (source.operation, source.stem, source.topic)]
            if not chosen:
                raise NotFound(f"no dead letters are kept for {wanted!r}{_hint(wanted, known)}")
        return chosen


def _names(letter: DeadLetter) -> set[str]:
    return {letter.envelope.id, str(letter.place), str(letter.envelope.origin)}


def _hint(name: str, names: set[str]) -> str:
    return nearest(name, sorted(names)) or "; 'mesh dead-letters list' shows what there is"
