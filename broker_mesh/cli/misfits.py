"""`mesh topics report`: the records of adopted topics that would be refused if validation were enforced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.options import BootstrapServers, Since, examples
from broker_mesh.cli.output import (
    Output,
    OutputFormat,
    json_text,
    print_line,
    print_note,
    print_table,
    printable,
)
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker_mesh.adoption import Adoption
    from broker_mesh.cli.connection import Connection
    from broker_mesh.contracts.fitting import Fitting, Refusal
    from broker_mesh.message import Record

EXAMPLES = examples(
    "mesh topics report",
    "mesh topics report legacy_orders --all",
    "mesh topics report legacy_orders --since 2h -o json | jq '.refused[] | .offset'",
)

# Different reasons that are counted apart, per topic; a map's keys are part of a field's name.
_MOST_REASONS = 1000
_OTHER = ("", "other reasons")


class _Judge(NamedTuple):
    """What values of a topic are judged by.

    Args:
        fitting: tells of each.
        source: what schema that is, for people.
        adoption: of the topic.
    """

    fitting: Fitting
    source: str
    adoption: Adoption


class _Tally:
    """Counts what was read of a topic, and gives each record on that would be refused; memory is bounded."""

    def __init__(self, topic: str, judge: _Judge, tell: Callable[[Record, Refusal], None]) -> None:
        self.topic = topic
        self.judge = judge
        self.records = self.tombstones = self.refused = 0
        self.reasons: Counter[tuple[str, str]] = Counter()
        self._tell = tell

    def take(self, record: Record) -> None:
        self.records += 1
        self.tombstones += record.value is None
        refusal = self.judge.fitting.refusal(record.value)
        if refusal is None:
            return
        self.refused += 1
        reason = (refusal.field, refusal.reason)
        self.reasons[reason if reason in self.reasons or len(self.reasons) < _MOST_REASONS else _OTHER] += 1
        self._tell(record, refusal)


def report(
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="Default: all that are adopted.", show_default=False),
    ] = None,
    last: Annotated[
        int,
        typer.Option("--last", min=1, help="How many records of each topic to read, the newest."),
    ] = 10_000,
    everything: Annotated[bool, typer.Option("--all", help="Read all that is kept.")] = False,
    since: Since = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Name the records of adopted topics that `enforce` would refuse; the exit code is 1 if there are any.

    They are judged by the schema of the topic's file where that is not registered yet, else by the newest that is
    registered. Nothing is changed.
    """
    from broker_mesh.cli.connection import run

    if everything and since is not None:
        raise typer.BadParameter("give either --all or --since", param_hint="--since")
    most = None if everything or since is not None else last
    if run(_report(topics or [], most, since, bootstrap_servers, output)):
        raise typer.Exit(ExitCode.FAILED)


async def _report(
    names: Sequence[str],
    most: int | None,
    since: int | None,
    bootstrap_servers: str | None,
    output: OutputFormat,
) -> bool:
    """Print the report; tells whether any record would be refused."""
    from broker_mesh.cli.adopted import read_adopted
    from broker_mesh.cli.connection import connected, read_registry
    from broker_mesh.cli.newest import read_newest, require_topics
    from broker_mesh.cli.progress import counting

    _refuse_own(names)
    printing = _JsonReport() if output is OutputFormat.JSON else _TextReport()
    async with connected(bootstrap_servers) as connection:
        await read_registry(connection)
        adopted = await read_adopted(connection)
        await require_topics(connection, names)
        judges = (
            {topic: _judge(connection, topic, adopted) for topic in names}
            if names
            else await _judges_of_all(connection, adopted)
        )
        tallies = [_Tally(topic, judge, printing.refused) for topic, judge in judges.items()]
        for tally in tallies:
            with counting(f"reading {tally.topic}") as count:
                await read_newest(connection, tally.topic, tally.take, count, most=most, since=since)
    printing.end(tallies)
    return any(tally.refused for tally in tallies)


def _refuse_own(names: Sequence[str]) -> None:
    """Return where no topic is the mesh's own.

    Raises:
        InvalidArgument: one is.
    """
    from broker_mesh import naming

    for topic in filter(naming.is_target, names):
        raise InvalidArgument(
            f"{topic!r} is the mesh's own and always enforced: 'mesh dead-letters list {topic}' shows what was refused"
        )


async def _judges_of_all(connection: Connection, adopted: dict[str, Adoption]) -> dict[str, _Judge]:
    """Find what the values of all adopted topics are judged by; those that can't be judged are left out, and told.

    Raises:
        NotFound: none is adopted.
        MeshError: Kafka can't be asked.
    """
    if not adopted:
        raise NotFound("no topic is adopted: 'mesh adopt TOPIC' proposes how to")
    there = await connection.admin.topic_names()
    judges = {}
    for topic in sorted(adopted):
        if topic not in there:
            print_note(f"left out: there is no topic {topic!r}")
            continue
        try:
            judges[topic] = _judge(connection, topic, adopted)
        except FailedPrecondition as error:
            print_note(f"left out: {error.message}")
    return judges


def _judge(connection: Connection, topic: str, adopted: dict[str, Adoption]) -> _Judge:
    """Find what a topic's values are judged by.

    Raises:
        FailedPrecondition: there is no schema.
    """
    from broker_mesh.adoption import Adoption
    from broker_mesh.cli.adopting import from_here
    from broker_mesh.contracts.files import file_of_topic, load_schema_files
    from broker_mesh.contracts.fitting import Fitting
    from broker_mesh.control.adopted import how_to_have_a_schema, missing_schema

    adoption = adopted.get(topic, Adoption())
    subject = adoption.subject_of(topic)
    registered = connection.registry.latest(subject)
    file = load_schema_files(connection.settings.schemas, adopted).get(subject)
    if file is not None and connection.registry.find(subject, file) is None:
        fitting = Fitting(topic, adoption, file, connection.registry)
        return _Judge(fitting, f"{from_here(Path(file.where))}, which is not registered yet", adoption)
    if registered is not None:
        fitting = Fitting(topic, adoption, registered.schema, connection.registry)
        return _Judge(fitting, f"{subject}, version {registered.version}", adoption)
    problem = missing_schema(subject, is_foreign=connection.registry.is_foreign(subject))
    path = str(from_here(file_of_topic(connection.settings.schemas, topic)))
    todo = (
        how_to_have_a_schema(topic, path, drafted=False)
        if topic in adopted
        else f"'mesh adopt {topic} --write' adopts it, and drafts a schema where it can"
    )
    raise FailedPrecondition(f"topic {topic!r} can't be judged: {problem}; {todo}")


class _TextReport:
    """Prints a line for each record, and the sums at the end."""

    def refused(self, record: Record, refusal: Refusal) -> None:
        from broker_mesh.cli.records import as_text

        place = f"{record.topic}/{record.partition}/{record.offset}"
        print_line(printable(f"{place} key={as_text(record.key) or '-'} {refusal.message}"))

    def end(self, tallies: Sequence[_Tally]) -> None:
        for tally in tallies:
            if tally.reasons:
                print_line("")
                rows = [
                    [tally.topic, printable(field) or "-", printable(reason), f"{count:,}"]
                    for (field, reason), count in tally.reasons.most_common()
                ]
                print_table(["TOPIC", "FIELD", "REASON", "RECORDS"], rows, right=["RECORDS"])
        for tally in tallies:
            print_note(
                f"{tally.topic}: {tally.refused:,} of {tally.records:,} records would be refused by "
                f"{tally.judge.source} ({tally.tombstones:,} tombstones pass); validation is "
                f"{tally.judge.adoption.validation}"
            )


class _JsonReport:
    """Prints one JSON document as it goes: what is refused may be more than fits into memory."""

    def __init__(self) -> None:
        self._before = ""  # what stands before the next record

    def refused(self, record: Record, refusal: Refusal) -> None:
        from broker_mesh.cli.records import as_text, as_time

        row = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "time": as_time(record.timestamp),
            "key": as_text(record.key),
            "field": refusal.field or None,
            "reason": refusal.reason,
            "message": refusal.message,
        }
        self._begin()
        print_line(f"{self._before}{json_text(row)}")
        self._before = "   ,"

    def end(self, tallies: Sequence[_Tally]) -> None:
        self._begin()
        print_line('  ],\n  "topics": ' + json_text([_summary(tally) for tally in tallies]) + "\n}")

    def _begin(self) -> None:
        if not self._before:
            print_line('{\n  "refused": [')
            self._before = "    "


def _summary(tally: _Tally) -> dict[str, Any]:
    return {
        "topic": tally.topic,
        "validation": tally.judge.adoption.validation,
        "schema": tally.judge.source,
        "records": tally.records,
        "tombstones": tally.tombstones,
        "refused": tally.refused,
        "reasons": [
            {"field": field or None, "reason": reason, "records": count}
            for (field, reason), count in tally.reasons.most_common()
        ],
    }
