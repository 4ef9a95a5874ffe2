"""Settings: where each value comes from, and what stops the start-up.

On the way of a message: before it. Order of precedence: arguments of `Mesh`, `MESH_*` variables, `mesh.toml`,
then a running `mesh dev`. The environment and the folder are passed in, so tests use a dict and a tmp_path.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker_mesh.adoption import Adoption, check_adoptable
from broker_mesh.errors import SettingsError

FILE_NAME = "mesh.toml"
ENV_PREFIX = "MESH_"
KAFKA_ENV_PREFIX = "MESH_KAFKA_"

# Read by other parts of the mesh: where `mesh dev` keeps its data and its downloads, and which file to read.
_OTHER_VARIABLES = frozenset({"MESH_CONFIG", "MESH_DEV_DIR", "MESH_CACHE_DIR", "MESH_MAVEN_URL"})

# librdkafka properties whose names have underscores where all others have dots.
_WITH_UNDERSCORE = frozenset({"log_level"})

# They are tables of mesh.toml; a variable can't hold one.
_TABLES = frozenset({"kafka", "topics"})

_ADDRESS = re.compile(r"(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.%]+\]):([0-9]{1,5})")

# librdkafka properties that the mesh's delivery promises rest on: they are not for the user to change.
RESERVED_KAFKA_PROPERTIES: Mapping[str, str] = {
    "bootstrap.servers": "set bootstrap_servers instead",
    "metadata.broker.list": "set bootstrap_servers instead",
    "request.required.acks": "a request counts as sent when all in-sync replicas have it",
    "acks": "a request counts as sent when all in-sync replicas have it",
    "enable.idempotence": "retries of the producer must not repeat or reorder",
    "max.in.flight": "an acknowledged record must be a stored one",
    "max.in.flight.requests.per.connection": "an acknowledged record must be a stored one",
    "enable.auto.commit": "offsets move only after settlement",
    "enable.auto.offset.store": "offsets move only after settlement",
    "auto.offset.reset": "a group never skips or repeats its backlog silently",
    "isolation.level": "consumers never see aborted transactions",
    "partitioner": "all clients of the mesh must map a key to the same partition",
    "group.id": "the group is named after the service",
    "group.remote.assignor": "an operation and its retries must stay with one member",
    "partition.assignment.strategy": "an operation and its retries must stay with one member",
    "transactional.id": "transactions are the mesh's own",
    "message.timeout.ms": "a request waits for Kafka; use timeout or expires_in",
    "delivery.timeout.ms": "a request waits for Kafka; use timeout or expires_in",
}


class Settings(BaseModel):
    """All settings of one process. Field names are the keys of mesh.toml; variables are `MESH_` + upper case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: str | None = Field(
        default=None, description="Kafka's addresses: host:port, separated by commas"
    )
    schemas: Path = Field(
        default=Path("schemas"), description="folder of Avro schemas, one folder per service"
    )
    policy: Path = Field(
        default=Path("policy"), description="folder of rules in YAML that hold for this process"
    )
    partitions: int = Field(default=6, ge=1, le=10_000, description="of topics that the mesh creates")
    replication_factor: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="of topics that the mesh creates; default 3, or all brokers if fewer",
    )
    request_retention_days: float = Field(
        default=30.0, gt=0, le=3650, description="how long requests and replies are kept"
    )
    max_in_flight: int = Field(
        default=1000, ge=1, le=1_000_000, description="records taken but not settled, per topic and process"
    )
    concurrency: int = Field(
        default=100, ge=1, le=100_000, description="handlers that run at once, per process"
    )
    grace_seconds: float = Field(
        default=20.0, ge=0, le=3600, description="how long a stopping service lets its handlers finish"
    )
    access_log: bool = Field(
        default=True, description="whether a line is logged for each message that is settled"
    )
    connect_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="how long a start waits for Kafka"
    )
    idempotency_hours: float = Field(
        default=24.0,
        gt=0,
        le=8760,
        description="how long the result of a request with an idempotency key is kept",
    )
    idempotency_keys: int = Field(
        default=50_000, ge=1, le=10_000_000, description="results kept by idempotency key, per partition"
    )
    dedupe_minutes: float = Field(
        default=10.0,
        ge=0,
        le=1440,
        description="how long ids are remembered, so that repeats are dropped; 0 for never",
    )
    dedupe_ids: int = Field(default=10_000, ge=1, le=1_000_000, description="ids remembered, per partition")
    outage_keys: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="distinct keys that must fail of one cause, and none succeed, to make an outage; 0 for never",
    )
    topics: dict[str, Adoption] = Field(
        default_factory=dict,
        description="topics that were there before the mesh, each with what is said of it",
    )
    kafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="librdkafka properties passed through: TLS, SASL, tuning"
    )


def load(
    arguments: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    directory: Path,
) -> Settings:
    """Put the settings together.

    Args:
        arguments: what the program gave to `Mesh`; None values count as not given.
        environ: environment variables; `MESH_CONFIG` names another file than `mesh.toml`.
        directory: where `mesh.toml` is looked for, and what relative paths of variables and arguments start from.

    Raises:
        SettingsError: a value or a name is wrong; the sentence says which, where it stands and what to write.
    """
    return load_with_origins(arguments, environ=environ, directory=directory)[0]


def load_with_origins(
    arguments: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    directory: Path,
    given_by: str = "Mesh(…)",
) -> tuple[Settings, dict[str, str]]:
    """Put the settings together as `load`, and tell where each that is not a default was found.

    Kafka's properties have an origin each, by `kafka.` and their name. Empty `bootstrap_servers` count as not given.
    The origin of the arguments is what they were `given_by`.
    """
    from_file, file = _read_file(environ, directory)
    from_environment = _read_environment(environ)
    given = {name: value for name, value in arguments.items() if value is not None}
    kafka: dict[str, Any] = {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, source in ((str(file), from_file), ("the environment", from_environment), (given_by, given)):
        properties = source.get("kafka", {})
        if not isinstance(properties, Mapping):  # and is not shown: it may hold a password
            raise SettingsError(f"{origin}: kafka must be a table of librdkafka properties")
        for name, value in properties.items():
            kafka[name], origins[f"kafka.{name}"] = value, origin
        for name, value in source.items():
            if name == "kafka" or (name == "bootstrap_servers" and value == ""):
                continue
            values[name], origins[name] = value, origin
    if kafka:
        values["kafka"] = kafka
    for name in values:
        if name not in Settings.model_fields:
            raise SettingsError(
                f"{origins[name]}: unknown setting {name!r}{nearest(name, Settings.model_fields)}"
            )
    for name, value in kafka.items():
        if isinstance(value, Mapping):
            quoted = _dotted(name, value)
            raise SettingsError(
                f"{origins[f'kafka.{name}']}: kafka.{name} is a table: write the whole name in quotes, "
                f'as in "{quoted}" = …'
            )
        if name in RESERVED_KAFKA_PROPERTIES:
            raise SettingsError(f"kafka property {name!r} can't be set: {RESERVED_KAFKA_PROPERTIES[name]}")
    if "group.instance.id" in kafka and kafka.get("group.protocol") != "classic":
        raise SettingsError(
            f'{origins["kafka.group.instance.id"]}: kafka.group.instance.id needs "group.protocol" = "classic": '
            "under KIP-848 an instance that was killed is refused under its id until its session has ended"
        )
    if "topics" in values:
        values["topics"] = _topics(values["topics"], origins["topics"])
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_sentence(error, origins)) from error
    if settings.bootstrap_servers is not None:
        _check_servers(settings.bootstrap_servers, origins["bootstrap_servers"])
    folders = {
        name: (file.parent if origins.get(name) == str(file) else directory) / getattr(settings, name)
        for name in ("schemas", "policy")
    }
    return settings.model_copy(update=folders), origins


def nearest(name: str, names: Iterable[str]) -> str:
    """Give the hint that ends a sentence about an unknown name: the nearest right one, or nothing."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f": did you mean {match[0]!r}?" if match else ""


def _read_file(environ: Mapping[str, str], directory: Path) -> tuple[dict[str, Any], Path]:
    named = environ.get("MESH_CONFIG") or None
    file = directory / (named or FILE_NAME)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if named is None:
            return {}, file
        raise SettingsError(f"MESH_CONFIG names {named!r}, which does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} can't be read: {error}") from error
    try:
        return tomllib.loads(text), file
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    kafka: dict[str, str] = {}
    known = {ENV_PREFIX + name.upper(): name for name in Settings.model_fields if name not in _TABLES}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if variable.startswith(KAFKA_ENV_PREFIX):
            name = variable.removeprefix(KAFKA_ENV_PREFIX).lower()
            kafka[name if name in _WITH_UNDERSCORE else name.replace("_", ".")] = value
        elif variable in known:
            values[known[variable]] = value
        else:
            names = (*known, *_OTHER_VARIABLES)
            raise SettingsError(f"the environment: unknown variable {variable}{nearest(variable, names)}")
    if kafka:
        values["kafka"] = kafka
    return values


def _sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors()[0]
    if first["loc"][:1] == ("kafka",):  # without the value, which may be a password
        place = f"kafka.{first['loc'][1]}"
        return f"{origins[place]}: {place}: write a string, a number, true or false"
    place = ".".join(str(part) for part in first["loc"])
    name = str(first["loc"][0]) if first["loc"] else ""
    return f"{origins.get(name, 'settings')}: {place}: {first['msg']}, got {first.get('input')!r}"


def _topics(tables: Any, origin: str) -> dict[str, Adoption]:
    """Read what is said of adopted topics.

    Raises:
        SettingsError: a section says something that can't be, or is about a topic that can't be adopted.
    """
    if not isinstance(tables, Mapping):
        raise SettingsError(
            f'{origin}: topics must hold a table for each topic, as in [topics."legacy_orders"]'
        )
    adopted = {}
    for topic, table in tables.items():
        place = f'{origin}: [topics."{topic}"]'
        if isinstance(table, Adoption):
            table = table.model_dump()
        if not isinstance(table, Mapping):
            raise SettingsError(f"{place} must be a table with the keys {', '.join(Adoption.model_fields)}")
        for name, value in table.items():
            if isinstance(value, Mapping) and name not in Adoption.model_fields:
                raise SettingsError(
                    f"{place} holds the table {name!r}: write a topic's whole name in quotes, "
                    f'as in [topics."{_whole_topic(f"{topic}.{name}", value)}"]'
                )
            if name not in Adoption.model_fields:
                hint = nearest(name, Adoption.model_fields)
                known = "" if hint else f" (there are {', '.join(Adoption.model_fields)})"
                raise SettingsError(f"{place}: unknown key {name!r}{hint}{known}")
        try:
            check_adoptable(topic)
        except SettingsError as error:
            raise SettingsError(f"{origin}: {error.message}") from error
        try:
            adopted[topic] = Adoption.model_validate(dict(table))
        except ValidationError as error:
            first = error.errors()[0]
            problem = first["msg"].removeprefix("Value error, ").replace("Input should be", "write")
            given = "" if first["type"] == "value_error" else f", got {first['input']!r}"
            raise SettingsError(f"{place}: {first['loc'][0]}: {problem}{given}") from error
    return adopted


def _whole_topic(name: str, table: Mapping[str, Any]) -> str:
    """Join the names of nested tables as TOML made them of a topic's name without quotes."""
    inner = next(((key, value) for key, value in table.items() if isinstance(value, Mapping)), None)
    return name if inner is None else _whole_topic(f"{name}.{inner[0]}", inner[1])


def _dotted(name: str, table: Mapping[str, Any]) -> str:
    """Join the names of nested tables as TOML made them of a name without quotes."""
    for key, value in table.items():
        return _dotted(f"{name}.{key}", value) if isinstance(value, Mapping) else f"{name}.{key}"
    return f"{name}.…"


def _check_servers(servers: str, origin: str) -> None:
    for address in servers.split(","):
        match = _ADDRESS.fullmatch(address.strip())
        if match is None or not 0 < int(match[1]) < 2**16:
            raise SettingsError(
                f"{origin}: bootstrap_servers: {address.strip()!r} is no address: write host:port, "
                "separated by commas, as in 'localhost:9092'"
            )
