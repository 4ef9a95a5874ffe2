"""`mesh check`: what is fine, what is not, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.exits import ExitCode
from broker_mesh.cli.options import BootstrapServers, duration, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, stdout

if TYPE_CHECKING:
    from broker_mesh.cli.connection import Connection, Found
    from broker_mesh.cli.queues import Committed
    from broker_mesh.control.checks import Finding, SchemaFacts

# Records whose keys are looked at, of all topics together: some thousand are read within a second.
_LOOKED_AT = 5000

EXAMPLES = examples("mesh check", "mesh check --timeout 3 -o json | jq '.[] | select(.level != \"fine\")'")


def check(
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=duration,
            metavar="DURATION",
            help="How long to wait for Kafka. Default: the setting connect_timeout_seconds.",
            show_default=False,
        ),
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Check settings, Kafka, topics, schemas and groups; the exit code is 1 when there is a problem."""
    from broker_mesh.cli.connection import read_settings, run, with_kafka, with_timeout
    from broker_mesh.control.checks import Finding, Level, check_settings
    from broker_mesh.errors import Unavailable

    found = with_timeout(read_settings(bootstrap_servers), timeout)
    try:
        found = with_kafka(found)
        of_kafka = run(_check(found))
    except Unavailable as error:
        of_kafka = [Finding("kafka", Level.PROBLEM, error.message)]
    findings = check_settings(found.settings, found.origins) + of_kafka
    if output is OutputFormat.JSON:
        print_json([_as_json(finding) for finding in findings])
    else:
        _print(findings)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


async def _check(found: Found) -> list[Finding]:
    """Go from section to section; where one can't be asked about, that is a finding, and the next is tried."""
    from broker_mesh.cli.connection import connect
    from broker_mesh.control.checks import Finding, Level
    from broker_mesh.errors import MeshError

    connection = connect(found.settings)
    try:
        brokers = await connection.admin.count_brokers()
    except MeshError as error:
        return [Finding("kafka", Level.PROBLEM, error.message)]
    findings: list[Finding] = []
    for section, look in (
        ("kafka", _look_at_kafka),
        ("topics", _look_at_topics),
        ("topics", _look_at_growths),
        ("topics", _look_at_partitioning),
        ("topics", _look_at_adopted),
        ("schemas", _look_at_schemas),
        ("groups", _look_at_groups),
        ("queues", _look_at_queues),
    ):
        try:
            findings += await look(connection, brokers)
        except MeshError as error:
            findings.append(Finding(section, Level.PROBLEM, error.message))
    return findings


async def _look_at_kafka(connection: Connection, brokers: int) -> list[Finding]:
    from broker_mesh.control.checks import check_kafka

    settings = connection.settings
    config = await connection.admin.broker_config()
    return check_kafka(settings.bootstrap_servers or "", brokers, settings, config)


async def _look_at_topics(connection: Connection, brokers: int) -> list[Finding]:
    from broker_mesh import naming
    from broker_mesh.cli.records import kind_of
    from broker_mesh.control.checks import TopicFacts, check_topics
    from broker_mesh.kafka.topics import replication

    names = await connection.admin.topic_names()
    sources = {naming.source_of_failures(name) for name in names}
    infos = await connection.admin.describe(
        [name for name in names if kind_of(name) != "record" or name in sources]
    )
    configs = await connection.admin.topic_configs(list(infos))
    facts = [
        TopicFacts(info.name, info.partitions, info.replication_factor, config=configs[info.name])
        for info in infos.values()
    ]
    return check_topics(facts, connection.settings, replication(connection.settings, brokers))


async def _look_at_growths(connection: Connection, _brokers: int) -> list[Finding]:
    from broker_mesh.control.growing import check_growths
    from broker_mesh.kafka.crossing import Ways
    from broker_mesh.kafka.ledger import LEDGER_TOPIC

    names = await connection.admin.topic_names()
    if LEDGER_TOPIC not in names:  # reading it would make it
        return []
    return check_growths(
        await Ways(connection.settings, connection.client_id, connection.admin, connection.groups).growths(
            names
        )
    )


async def _look_at_partitioning(connection: Connection, _brokers: int) -> list[Finding]:
    """Look at the newest records of what producers of several kinds may write: a bounded number in all."""
    import asyncio
    import threading

    from broker_mesh.cli.newest import starts_of
    from broker_mesh.cli.sought import beginnings
    from broker_mesh.control.partitioning import KeyedRecord, check_partitioning
    from broker_mesh.kafka.reader import scan
    from broker_mesh.message import received

    names = await connection.admin.topic_names()
    adopted = [name for name in names if name in connection.settings.topics]
    infos = await connection.admin.describe(sorted({*beginnings(names), *adopted}))
    partitions = {info.name: info.partitions for info in infos.values()}
    bounds = await connection.groups.bounds(
        (name, number) for name, count in partitions.items() if count > 1 for number in range(count)
    )
    kept = {key: held for key, held in bounds.items() if held.end > held.first}
    stop = threading.Event()

    def newest() -> list[KeyedRecord]:
        records = scan(
            connection.settings,
            client_id=connection.client_id,
            partitions={key: held.end for key, held in kept.items()},
            since=None,
            stop=stop,
            start=starts_of(kept, _LOOKED_AT),
        )
        return [
            KeyedRecord(
                record.topic, record.partition, record.key, received(record, record.topic).envelope.source
            )
            for record in records
            if record.key
        ]

    try:
        return check_partitioning(await asyncio.to_thread(newest) if kept else [], partitions)
    finally:
        stop.set()


async def _look_at_adopted(connection: Connection, _brokers: int) -> list[Finding]:
    from broker_mesh.cli.adopted import read_adopted
    from broker_mesh.cli.adopting import from_here
    from broker_mesh.cli.connection import read_registry
    from broker_mesh.contracts.files import file_of_topic
    from broker_mesh.control.adopted import AdoptedFacts, check_adopted, missing_schema

    adopted = await read_adopted(connection)
    if not adopted:
        return []
    await read_registry(connection)
    names = set(await connection.admin.topic_names())
    facts = []
    for topic, adoption in sorted(adopted.items()):
        subject = adoption.subject_of(topic)
        file = file_of_topic(connection.settings.schemas, topic)
        problem = (
            missing_schema(subject, is_foreign=connection.registry.is_foreign(subject))
            if connection.registry.latest(subject) is None
            else None
        )
        facts.append(
            AdoptedFacts(topic, adoption, topic in names, problem, str(from_here(file)), file.exists())
        )
    return check_adopted(facts)


async def _look_at_schemas(connection: Connection, _brokers: int) -> list[Finding]:
    from broker_mesh import naming
    from broker_mesh.cli.connection import read_registry
    from broker_mesh.control.checks import check_schemas

    exists = await read_registry(connection)
    targets = [name for name in await connection.admin.topic_names() if naming.is_target(name)]
    subjects = connection.registry.subjects() if exists else None
    return check_schemas(targets, subjects, _files(connection))


def _files(connection: Connection) -> list[SchemaFacts]:
    from broker_mesh.contracts.files import load_schema_files
    from broker_mesh.control.checks import SchemaFacts

    registry = connection.registry
    return [
        SchemaFacts(subject, registry.find(subject, schema) is not None, registry.check(subject, schema))
        for subject, schema in load_schema_files(
            connection.settings.schemas, connection.settings.topics
        ).items()
    ]


async def _look_at_groups(connection: Connection, _brokers: int) -> list[Finding]:
    from broker_mesh.control.checks import GroupFacts, check_groups
    from broker_mesh.kafka.groups import lag

    facts = []
    for found in await _groups_of_services(connection):
        name = found.group.name
        bounds = await connection.groups.bounds(found.offsets)
        timeout = await connection.groups.session_timeout(name)
        facts.append(GroupFacts(name, len(found.group.members), lag(bounds, found.offsets), timeout))
    return check_groups(facts)


async def _look_at_queues(connection: Connection, _brokers: int) -> list[Finding]:
    from broker_mesh.cli.queues import read_queues
    from broker_mesh.control.queues import check_queues
    from broker_mesh.message import now_ms

    return check_queues(await read_queues(connection, await _groups_of_services(connection)), now_ms())


async def _groups_of_services(connection: Connection) -> list[Committed]:
    """Give all groups but those of other programs."""
    from broker_mesh import naming
    from broker_mesh.cli.queues import read_groups

    services = {naming.owner(name) for name in await connection.admin.topic_names()}
    return [found for found in await read_groups(connection) if naming.owner(found.group.name) in services]


def _as_json(finding: Finding) -> dict[str, Any]:
    shown = finding._asdict()
    if finding.figures is None:
        del shown["figures"]
    return shown


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    from broker_mesh.control.checks import Level

    marks: dict[Level, tuple[str, str]] = {
        Level.FINE: ("✓", "green"),
        Level.WARNING: ("!", "yellow"),
        Level.PROBLEM: ("✗", "red"),
    }
    console = stdout()
    section = ""
    for finding in findings:
        if finding.section != section:
            console.print(Text(("\n" if section else "") + finding.section, style="bold"))
            section = finding.section
        mark, style = marks[finding.level]
        console.print(Text(f"  {mark} ", style=style) + Text(finding.what), soft_wrap=True)
        if finding.advice is not None:
            console.print(Text(f"      {finding.advice}"), soft_wrap=True)
    counts: dict[str, Any] = {level: sum(f.level is level for f in findings) for level in Level}
    console.print(
        f"\n{counts[Level.PROBLEM]} problem(s), {counts[Level.WARNING]} warning(s)",
        highlight=False,
        style="bold",
    )
