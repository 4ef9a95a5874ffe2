"""What `mesh run` answers over HTTP: health checks and metrics, on two ports or on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from broker_mesh.cli.output import print_note
from broker_mesh.health import Answer, Health, Route, StatusServer, health_routes

if TYPE_CHECKING:
    from broker_mesh.telemetry.prometheus import Source

HEALTH_PATH = "/readyz"
METRICS_PATH = "/metrics"


class Address(NamedTuple):
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


class Urls(NamedTuple):
    """Where it is answered; None for what is not."""

    health: str | None = None
    metrics: str | None = None


@asynccontextmanager
async def answering(
    health: Address | None,
    metrics: Address | None,
    look: Callable[[], Health],
    figures: Callable[[], Sequence[Source]],
) -> AsyncIterator[Urls]:
    """Answer within a block; where both addresses are the same, one server answers both.

    Args:
        health: where health checks are answered; None for nowhere.
        metrics: where metrics are.
        look: tells how the process is.
        figures: gives the metrics of one process or of several.

    Raises:
        SettingsError: it can't listen there.
    """
    routes = health_routes(look)
    measured = {} if metrics is None else {METRICS_PATH: _scraped(figures)}
    shared = health == metrics and health is not None and health.port != 0
    async with AsyncExitStack() as servers:

        def serve(what: str, option: str, address: Address, answered: dict[str, Route]) -> str:
            server = StatusServer(what, option, *address, answered)
            servers.push_async_callback(asyncio.to_thread, server.close)
            return server.url

        health_url = metrics_url = None
        if health is not None:
            health_url = serve("health checks", "health", health, routes | measured if shared else routes)
            print_note(f"health: {health_url}{HEALTH_PATH}")
        if metrics is not None:
            metrics_url = health_url if shared else serve("metrics", "metrics", metrics, measured)
            print_note(f"metrics: {metrics_url}{METRICS_PATH}")
        yield Urls(health_url, metrics_url)


def _scraped(figures: Callable[[], Sequence[Source]]) -> Route:
    from broker_mesh.telemetry.prometheus import Exposition

    exposition = Exposition(figures)

    def scrape(accept: str) -> Answer:
        return Answer(200, *exposition.answer(accept))

    return scrape
