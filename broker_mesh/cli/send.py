"""`mesh send`: one one-way message or event, and where Kafka has kept it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.options import BootstrapServers, ExpiresIn, IdempotencyKey, Identity, examples
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_line

if TYPE_CHECKING:
    from broker_mesh.message import Receipt

EXAMPLES = examples(
    'mesh send fleet.v1.retire \'{"tailnum": "N14228"}\'',
    "mesh send dispatch.v1.events.flight-departed @flight.json --as dispatch",
)


def send(
    target: Annotated[
        str, typer.Argument(metavar="OPERATION|EVENT", help="Its name, as in fleet.v1.retire.")
    ],
    body: Annotated[
        str | None,
        typer.Argument(metavar="JSON|-|@FILE", help="The message: a JSON object.", show_default=False),
    ] = None,
    expires_in: ExpiresIn = None,
    idempotency_key: IdempotencyKey = None,
    identity: Identity = "cli",
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Send a one-way message, or publish an event, and print its topic, partition and offset.

    An event is published as its owner: add --as SERVICE.
    """
    from broker_mesh.cli.connection import run
    from broker_mesh.cli.json_input import read_object

    given = read_object(body)  # not within the event loop, where Ctrl-C could not end a read of stdin
    receipt = run(_send(target, given, expires_in, idempotency_key, identity, bootstrap_servers))
    if output is OutputFormat.JSON:
        print_json(receipt._asdict(), compact=True)
    else:
        print_line(f"{receipt.topic} partition {receipt.partition} offset {receipt.offset}")


async def _send(
    target: str,
    given: dict[str, Any],
    expires_in: float | None,
    idempotency_key: str | None,
    identity: str,
    bootstrap_servers: str | None,
) -> Receipt:
    from broker_mesh import naming
    from broker_mesh.cli.connection import calling
    from broker_mesh.contracts.plain_json import json_to_value
    from broker_mesh.errors import PermissionDenied

    naming.check_service(identity)
    if naming.is_event(target) and naming.owner(target) != identity:
        owner = naming.owner(target)
        raise PermissionDenied(
            f"event {target!r} belongs to {owner!r}, who alone publishes it: add --as {owner}"
        )
    async with calling(identity, bootstrap_servers) as mesh:
        await mesh.ready(target)
        codec = mesh.catalog.codec(target)
        ready = json_to_value(codec.schema, given, codec.subject)
        return await mesh.client.send(target, ready, expires_in=expires_in, idempotency_key=idempotency_key)
