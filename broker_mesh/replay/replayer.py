"""The face of replay: checks what is asked, finds where things go, and has it done in a thread.

On the way of a message: from behind its end to a new beginning.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

from broker_mesh import naming
from broker_mesh.contracts.catalog import key_field_of
from broker_mesh.contracts.codec import Codec
from broker_mesh.contracts.registry import Registry
from broker_mesh.dead_letters.letter import DeadLetter, Source
from broker_mesh.dead_letters.reading import OnProgress, Progress, Reading, find_partitions
from broker_mesh.dead_letters.selection import Selection
from broker_mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.claims import Action, Claim
from broker_mesh.layers.trace import replayed
from broker_mesh.message import Message, new_id, now_ms
from broker_mesh.replay.copies import Copy, EndSpan, Target, Terms, as_it_was, converted, edited
from broker_mesh.replay.job import Job, Order
from broker_mesh.replay.report import Report
from broker_mesh.settings import Settings, nearest
from broker_mesh.telemetry.tracing import tracer_for

Edit: TypeAlias = Callable[[DeadLetter, Any], Any]
"""Gives the new body of a dead letter, as plain JSON, from its old one (None where that can't be decoded); None leaves
it as it is. Called in a thread, one at a time."""

_SERVICE = "mesh-replay"


class Replayer:
    """Puts dead letters back, or drops them: each exactly once, however many do so at the same time and die at it.

    Use it as an asynchronous context manager, so that its spans are sent when it ends.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
        environ: for the OTEL_* variables; the process's own by default.

    Raises:
        SettingsError: an OTEL_* variable is wrong.
    """

    def __init__(
        self, settings: Settings, *, client_id: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        environ = os.environ if environ is None else environ
        self._tracer, self._flush_spans = tracer_for(_SERVICE, "v1", client_id, environ)

    async def __aenter__(self) -> Replayer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._flush_spans)

    async def replay(
        self,
        selection: Selection,
        *,
        to: str | None = None,
        rate: float | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        expires_in: float | None = None,
        edit: Edit | None = None,
        on_progress: OnProgress | None = None,
    ) -> Report:
        """Put dead letters back to where they failed: an operation's to its topic, a subscription's to its own retries.

        They keep their id, key, bytes and reply address, and lose their deadline. What the present schema of an
        operation or event does not take is refused: it would only fail again. What is refused stays open. Other
        programs' topics take everything back as it was; an edited body is written as it was too, as JSON or Avro.

        Args:
            selection: which are meant; those that are settled already are left out.
            to: another operation, as in ``fleet.v2.find-aircraft``, to put them back to: by its schema and key field.
            rate: at most so many records a second.
            limit: put back at most so many.
            dry_run: put nothing back, and tell what would be.
            expires_in: how long the work is worth doing once it is put back, seconds; None for no limit.
            edit: changes bodies, which have to fit the target's schema then.
            on_progress: told how far it is.

        Raises:
            NotFound: no such service, operation or id; or what failed no longer exists, with the nearest name.
            FailedPrecondition: all that were meant by id or place are settled already; says when and by which replay.
            InvalidArgument: a number is none that makes sense, or `to` is no operation's name.
            Aborted: other replays of the same dead letters were faster for two minutes.
            MeshError: Kafka can't be asked; what was put back before stays so, and the next replay goes on.
        """
        _check_numbers(rate=rate, limit=limit, expires_in=expires_in)
        if to is not None:
            naming.parse_operation(to)
        replay_id = new_id()
        traced = _untraced if dry_run else self._traced
        reading = Reading(self._settings, selection, client_id=self._client_id)
        partitions = await find_partitions(self._settings, selection, client_id=self._client_id)
        sources = {partition.source for partition in partitions}
        targets = await self._targets(sources, to, reading.registry)
        edits = _Edits(edit)

        def prepare(letter: DeadLetter) -> Copy:
            target = targets[letter.source]
            if isinstance(target, MeshError):
                raise target
            body = None if edit is None else edits.of(letter)
            # From now on: a replay with a rate, or with edits, takes its time.
            deadline = None if expires_in is None else now_ms() + round(expires_in * 1000)
            terms = Terms(replay_id, deadline, traced)
            if edit is not None:
                return edited(letter, target, terms, body)
            if to is not None:
                return converted(letter, target, terms, reading.value_of(letter))
            return as_it_was(letter, target, terms)

        order = Order(
            Action.REPLAYED,
            replay_id,
            prepare,
            needs_bodies=edit is not None,
            # What somebody has edited is put back before the next is asked for: an interruption must not cost the work.
            batch=None if edit is None else 1,
            rate=rate,
            limit=limit,
            dry_run=dry_run,
        )
        job = Job(self._settings, partitions, reading, order, client_id=self._client_id)
        return await _run(job, selection, Progress(on_progress, partitions))

    async def drop(
        self,
        selection: Selection,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Report:
        """Drop dead letters for good: they are listed and replayed no more. Their records stay in their topic.

        Args:
            selection: which are meant; those that are settled already are left out.
            limit: drop at most so many.
            dry_run: drop nothing, and tell how many would be.
            on_progress: told how far it is.

        Raises:
            NotFound: no such service, operation or id; with the nearest name.
            FailedPrecondition: all that were meant by id or place are settled already; says when and by which replay.
            InvalidArgument: `limit` is below 1.
            Aborted: other replays of the same dead letters were faster for two minutes.
            MeshError: Kafka can't be asked; what was dropped before stays so.
        """
        _check_numbers(limit=limit)
        reading = Reading(self._settings, selection, client_id=self._client_id)
        partitions = await find_partitions(self._settings, selection, client_id=self._client_id)
        order = Order(Action.DROPPED, new_id(), lambda _: None, limit=limit, dry_run=dry_run)
        job = Job(self._settings, partitions, reading, order, client_id=self._client_id)
        return await _run(job, selection, Progress(on_progress, partitions))

    def _traced(self, message: Message) -> tuple[Message, EndSpan]:
        return replayed(self._tracer, message)

    async def _targets(
        self, sources: Collection[Source], to: str | None, registry: Registry
    ) -> dict[Source, Target | MeshError]:
        """Find where the letters of each dead-letter topic go; a missing one is an error for its letters alone.

        Raises:
            NotFound: none of them exists.
            MeshError: Kafka can't be asked.
        """
        admin = Admin(self._settings, self._client_id)
        wanted = {source: (to or source.operation, to or source.target) for source in sources}
        described = await admin.describe(sorted({topic for _, topic in wanted.values()}))
        await asyncio.to_thread(registry.refresh)
        names: list[str] = []
        if len(described) < len({topic for _, topic in wanted.values()}):
            names = [name for name in await admin.topic_names() if naming.is_target(name)]
        targets: dict[Source, Target | MeshError] = {}
        for source, (name, topic) in wanted.items():
            registered = registry.latest(naming.value_subject(name))
            if topic not in described:
                targets[source] = NotFound(_missing(source, name, topic, names))
            elif registered is not None:
                codec = Codec(registered.subject, registered.schema, registered.id, None, registry)
                key_field = key_field_of(registered.schema)
                targets[source] = Target(name, topic, described[topic].partitions, codec, key_field)
            elif naming.is_target(name):
                targets[source] = NotFound(
                    f"{name!r} has no schema in the registry: register it, or start its service"
                )
            else:
                targets[source] = Target(name, topic, described[topic].partitions, None, None)
        missing = [target for target in targets.values() if isinstance(target, MeshError)]
        if missing and len(missing) == len(targets):
            raise missing[0]
        return targets


def _untraced(message: Message) -> tuple[Message, EndSpan]:
    return message, lambda _: None


class _Edits:
    """Asks for each edit once, also where its record has to be put back a second time after a rival's turn."""

    def __init__(self, edit: Edit | None) -> None:
        self._edit = edit
        self._last: tuple[DeadLetter, Any] | None = None

    def of(self, letter: DeadLetter) -> Any:
        assert self._edit is not None  # else nobody asks
        if self._last is None or self._last[0].place != letter.place:
            self._last = letter, self._edit(letter, letter.body)
        if self._last[1] is None:
            raise InvalidArgument("it was left as it is")
        return self._last[1]


async def _run(job: Job, selection: Selection, progress: Progress) -> Report:
    """Run a job in a thread; a cancellation waits for the batch that is being settled.

    Raises:
        NotFound: nothing has the ids or places that were meant.
        FailedPrecondition: all that has is settled already.
    """
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(job.run, stop, progress))
    # Once it is cancelled nobody may ask how it ended.
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        report = await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        raise
    progress.finish()
    if selection.ids and not report.selected:
        if job.settled_before is None:
            raise NotFound(f"no dead letter has the id or place {_listed(selection.ids)}")
        raise FailedPrecondition(_already(*job.settled_before))
    return report


def _already(letter: DeadLetter, claim: Claim) -> str:
    when = datetime.fromtimestamp(claim.at / 1000, UTC)
    sentence = f"dead letter {letter.place} was {claim.action} at {when:%Y-%m-%dT%H:%M:%SZ} by replay {claim.replay_id}"
    return f"{sentence}, to {claim.target}" if claim.target else sentence


def _missing(source: Source, name: str, topic: str, names: Iterable[str]) -> str:
    if topic != name:
        return f"topic {topic!r} does not exist: {source.subscriber!r} no longer subscribes to {name!r}"
    return f"operation {name!r} does not exist{nearest(name, names) or '; name another to put them back to'}"


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(repr(name) for name in shown[:3]) + (
        f" or {len(shown) - 3} others" if len(shown) > 3 else ""
    )


def _check_numbers(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise InvalidArgument(f"{name} is {value}: give a number above 0, or None for no limit")
