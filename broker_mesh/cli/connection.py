"""What a command connects with: the settings, where they came from, and Kafka."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import typer

from broker_mesh.cli.output import print_note
from broker_mesh.contracts.registry import SCHEMAS_TOPIC, Registry
from broker_mesh.dev.discovery import require_bootstrap_servers
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.groups import Groups
from broker_mesh.runtime import Runtime
from broker_mesh.settings import Settings, load_with_origins
from broker_mesh.telemetry.metrics import Metrics

T = TypeVar("T")

DEV = "mesh dev"


@dataclass(frozen=True)
class Found:
    """The settings of a command.

    Args:
        settings: all of them.
        origins: where each that is not a default was found, by its name.
    """

    settings: Settings
    origins: dict[str, str]


@dataclass(frozen=True)
class Connection:
    """Kafka as the commands see it that look after topics, groups and schemas."""

    settings: Settings
    client_id: str
    admin: Admin
    groups: Groups
    registry: Registry


def find_settings(bootstrap_servers: str | None) -> Found:
    """Put the settings together, and find Kafka.

    Args:
        bootstrap_servers: from the command line.

    Raises:
        SettingsError: a setting is wrong.
        Unavailable: no Kafka is named and no `mesh dev` runs.
    """
    return with_kafka(read_settings(bootstrap_servers))


def read_settings(bootstrap_servers: str | None) -> Found:
    """Put the settings together; they may name no Kafka.

    Args:
        bootstrap_servers: from the command line.

    Raises:
        SettingsError: a setting is wrong.
    """
    settings, origins = load_with_origins(
        {"bootstrap_servers": bootstrap_servers},
        environ=os.environ,
        directory=Path.cwd(),
        given_by="the command line",
    )
    return Found(settings, origins)


def with_kafka(found: Found) -> Found:
    """Give the settings with a running `mesh dev` for Kafka, where they name none.

    Raises:
        Unavailable: none runs.
    """
    if found.settings.bootstrap_servers is not None:
        return found
    running = require_bootstrap_servers(
        os.environ,
        "give --bootstrap-servers, set MESH_BOOTSTRAP_SERVERS, or write bootstrap_servers in mesh.toml",
    )
    settings = found.settings.model_copy(update={"bootstrap_servers": running})
    return Found(settings, {**found.origins, "bootstrap_servers": DEV})


@asynccontextmanager
async def connected(bootstrap_servers: str | None, timeout: float | None = None) -> AsyncIterator[Connection]:
    """Connect to look after topics, groups and schemas.

    Args:
        bootstrap_servers: from the command line.
        timeout: how long to wait for Kafka, seconds; the settings' by default.

    Raises:
        SettingsError: a setting is wrong.
        Unavailable: no Kafka is named, or it can't be reached.
    """
    found = _announced(find_settings(bootstrap_servers))
    settings = with_timeout(found, timeout).settings
    connection = connect(settings)
    await connection.admin.count_brokers()
    with _warnings_shown():
        yield connection


def connect(settings: Settings) -> Connection:
    """Make the clients; nothing is asked yet."""
    client_id = f"mesh-cli-{os.getpid()}"
    return Connection(
        settings,
        client_id,
        Admin(settings, client_id),
        Groups(settings, client_id),
        Registry(settings, client_id=client_id),
    )


async def read_registry(connection: Connection) -> bool:
    """Read the registry; tells whether there is one. Reading it where there is none would make it.

    Raises:
        MeshError: it can't be read.
    """
    if SCHEMAS_TOPIC not in await connection.admin.topic_names():
        return False
    await asyncio.to_thread(connection.registry.refresh)
    return True


@asynccontextmanager
async def calling(service: str, bootstrap_servers: str | None) -> AsyncIterator[Runtime]:
    """Connect as a service, to call others by name.

    Raises:
        SettingsError: a setting or the service's name is wrong.
        Unavailable: no Kafka is named, or it can't be reached.
    """
    settings = _announced(find_settings(bootstrap_servers)).settings
    # By name, all schemas are the registry's, and the rules those of `mesh apply`: folders that happen to be here
    # say nothing about them.
    settings = settings.model_copy(update={"schemas": Path(os.devnull), "policy": Path(os.devnull)})
    runtime = await Runtime.open(service, "v1", settings, os.environ, Metrics(service))
    try:
        with _warnings_shown():
            yield runtime
    finally:
        await runtime.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; SIGTERM interrupts it as Ctrl-C does.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
        typer.Exit: with 143 on SIGTERM.
    """
    terminated = False

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await coroutine

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError as error:
        if not terminated:
            raise
        raise typer.Exit(128 + signal.SIGTERM) from error


def with_timeout(found: Found, timeout: float | None) -> Found:
    """Give the settings with another time to wait for Kafka, seconds; None changes nothing."""
    if timeout is None:
        return found
    changed = found.settings.model_copy(update={"connect_timeout_seconds": timeout})
    return replace(found, settings=changed)


def _announced(found: Found) -> Found:
    if found.origins.get("bootstrap_servers") == DEV:
        print_note(f"using the Kafka of 'mesh dev' at {found.settings.bootstrap_servers}")
    return found


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show what the library warns of, such as an outage, while a command waits."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("broker_mesh")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
