"""`mesh adopt`: look at a topic that was there before the mesh, and propose what to say of it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.options import BootstrapServers, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line, print_note, print_table
from broker_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from broker_mesh.cli.adopting import Files
    from broker_mesh.cli.connection import Connection
    from broker_mesh.cli.survey import Proposal, Survey

EXAMPLES = examples(
    "mesh adopt legacy_orders",
    "mesh adopt legacy_orders --owner orders --write",
    "mesh adopt legacy_orders --last 20000 -o json",
)


class Kind(StrEnum):
    """What a topic carries."""

    EVENT = "event"
    OPERATION = "operation"


def adopt(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic that other programs made.")],
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner",
            metavar="SERVICE",
            help="The service it belongs to. Default: the one that most records name as their sender.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        Kind,
        typer.Option(
            "--kind", help="event: its owner writes, others hear; operation: others write, its owner hears."
        ),
    ] = Kind.EVENT,
    last: Annotated[
        int, typer.Option("--last", min=1, max=100_000, help="How many records to look at, the newest.")
    ] = 1000,
    rare: Annotated[
        float,
        typer.Option(
            "--rare",
            min=0,
            max=10,
            metavar="PERCENT",
            help="What less of the samples have (another type, null, a missing field) is not in the draft, but told.",
        ),
    ] = 1.0,
    write: Annotated[
        bool,
        typer.Option("--write", help="Append the section to mesh.toml, and write the draft into its file."),
    ] = False,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Look at a topic's newest records, tell what they are, and propose its section and a draft schema.

    Nothing is changed in Kafka. With --write both are written, where neither is there yet.
    """
    from broker_mesh.cli.connection import run

    run(_adopt(topic, owner, kind, last, rare / 100, write, bootstrap_servers, output))


async def _adopt(
    topic: str,
    owner: str | None,
    kind: Kind,
    last: int,
    rare: float,
    write: bool,
    bootstrap_servers: str | None,
    output: OutputFormat,
) -> None:
    from broker_mesh import naming
    from broker_mesh.adoption import check_adoptable
    from broker_mesh.cli.adopting import definition_text, files_for, refuse_what_is_there, section_text
    from broker_mesh.cli.connection import connected

    check_adoptable(topic)
    if owner is not None:
        naming.check_service(owner)
    async with connected(bootstrap_servers) as connection:
        survey = await _surveyed(connection, topic, last)
        proposal = survey.proposal(owner, kind.value, rare=rare)
        files = files_for(connection.settings, topic)
        if write:
            refuse_what_is_there(files, topic, proposal, connection.settings)
            _write(files, topic, proposal)
        if output is OutputFormat.JSON:
            print_json(_as_json(survey, proposal, files, write))
            return
        _print_survey(survey)
        print_line("")
        print_line(f"{proposal.reason}.")
        if not write:
            print_line(f"\nfor {files.toml}:\n\n{section_text(topic, proposal.adoption)}")
            if proposal.drafted is not None:
                print_line(f"for {files.schema}:\n\n{definition_text(proposal.drafted.schema)}")
        _print_rare(survey, proposal)
        for step in _next(topic, proposal, write):
            print_note(step)


async def _surveyed(connection: Connection, topic: str, last: int) -> Survey:
    from broker_mesh.cli.connection import read_registry
    from broker_mesh.cli.newest import read_newest
    from broker_mesh.cli.progress import counting
    from broker_mesh.cli.survey import Survey

    await read_registry(connection)
    survey = Survey(topic, connection.registry)
    with counting(f"reading {topic}") as count:
        await read_newest(connection, topic, survey.take, count, most=last)
    if not survey.records:
        raise FailedPrecondition(f"topic {topic!r} holds no record to look at: adopt it once there are some")
    return survey


def _write(files: Files, topic: str, proposal: Proposal) -> None:
    from broker_mesh.cli.adopting import append_section, write_schema

    if proposal.drafted is not None:
        write_schema(files.schema, proposal.drafted.schema)
        print_note(f"wrote {files.schema}")
    append_section(files.toml, topic, proposal.adoption)
    print_note(f'wrote [topics."{topic}"] into {files.toml}')


def _print_survey(survey: Survey) -> None:
    shares = _shares(survey)
    print_line(f"{survey.topic}: {survey.records:,} records{_span(survey)}")
    print_line("")
    print_table(
        ["VALUES", "RECORDS", "SHARE", "FIRST"],
        [
            [row["form"], f"{row['records']:,}", f"{row['share']:.1%}", row["first"]]
            for row in shares["values"]
        ],
        right=["RECORDS", "SHARE"],
    )
    print_line("")
    print_table(
        ["KEYS", "RECORDS", "SHARE"],
        [[row["form"], f"{row['records']:,}", f"{row['share']:.1%}"] for row in shares["keys"]],
        right=["RECORDS", "SHARE"],
    )


def _shares(survey: Survey) -> dict[str, list[dict[str, Any]]]:
    values = [
        {"form": form.value, "records": count, "share": count / survey.records, "first": survey.first[form]}
        for form, count in survey.forms.most_common()
    ]
    keys = [
        {"form": form.value, "records": count, "share": count / survey.records}
        for form, count in survey.keys.most_common()
    ]
    return {"values": values, "keys": keys}


def _span(survey: Survey) -> str:
    from broker_mesh.cli.records import as_clock

    if survey.oldest is None or survey.newest is None:
        return ""
    return f", from {as_clock(survey.oldest)} to {as_clock(survey.newest)}"


def _print_rare(survey: Survey, proposal: Proposal) -> None:
    if proposal.drafted is None:
        return
    if survey.indescribable:
        print_line(
            f"not in the draft: {len(survey.indescribable)} objects that no schema describes, the first at "
            f"{survey.indescribable[0]}"
        )
    for rare in proposal.drafted.rare:
        where = "in" if rare.what == "there" else "not in"
        print_line(
            f"{where} the draft: {rare.field} is {rare.what} in {rare.seen} of {rare.of}, first at {rare.place}"
        )


def _next(topic: str, proposal: Proposal, write: bool) -> list[str]:
    """Tell what to do next."""
    if not write:
        return [f"next: mesh adopt {topic} --write writes both; give it the options that you have given here"]
    if proposal.drafted is not None:
        return [f"next: review the draft, then see what it would refuse: mesh topics report {topic}"]
    if proposal.adoption.validation == "off":
        return ["next: nothing; give the topic a schema, and set validation to audit, once it can have one"]
    return [f"next: see what enforcing it would refuse: mesh topics report {topic}"]


def _as_json(survey: Survey, proposal: Proposal, files: Files, written: bool) -> dict[str, Any]:
    drafted = proposal.drafted
    return {
        "topic": survey.topic,
        "records": survey.records,
        "oldest": _time(survey.oldest),
        "newest": _time(survey.newest),
        **_shares(survey),
        "key_field": survey.key_field(),
        "section": proposal.adoption.model_dump(mode="json", exclude_none=True),
        "reason": proposal.reason,
        "schema": None if drafted is None else drafted.schema.definition,
        "rare": []
        if drafted is None
        else [{**rare._asdict(), "drafted": rare.what == "there"} for rare in drafted.rare],
        "files": {"section": str(files.toml), "schema": str(files.schema)},
        "written": written,
    }


def _time(epoch_ms: int | None) -> str | None:
    from broker_mesh.cli.records import as_time

    return None if epoch_ms is None else as_time(epoch_ms)
