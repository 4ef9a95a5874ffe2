"""`mesh call`: one request, and its reply when it comes, now or from a later process."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker_mesh.cli.exits import ExitCode, is_answer
from broker_mesh.cli.options import (
    BootstrapServers,
    ExpiresIn,
    IdempotencyKey,
    Identity,
    duration,
    examples,
)
from broker_mesh.cli.output import Output, OutputFormat, print_json, print_note, spinning
from broker_mesh.errors import InvalidArgument, MeshError, Unavailable

if TYPE_CHECKING:
    from broker_mesh.client import Handle
    from broker_mesh.runtime import Runtime

EXAMPLES = examples(
    'mesh call fleet.v1.find-aircraft \'{"tailnum": "N14228"}\'',
    "mesh call fleet.v1.find-aircraft @request.json --timeout 10 -o json",
    'echo \'{"tailnum": "N14228"}\' | mesh call fleet.v1.find-aircraft -',
    "mesh call --attach mesh1.WyIwMTk…",
    "mesh call --attach mesh1.WyIwMTk… --wait-for-replay --timeout 1h",
)


def call(
    operation: Annotated[
        str | None,
        typer.Argument(
            metavar="OPERATION", help="Its name, as in fleet.v1.find-aircraft.", show_default=False
        ),
    ] = None,
    request: Annotated[
        str | None,
        typer.Argument(metavar="JSON|-|@FILE", help="The request: a JSON object.", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=duration,
            metavar="DURATION",
            help="How long to wait for the reply, as in 10 or 5m. Default: as long as it takes.",
            show_default=False,
        ),
    ] = None,
    expires_in: ExpiresIn = None,
    idempotency_key: IdempotencyKey = None,
    attach: Annotated[
        str | None,
        typer.Option("--attach", metavar="HANDLE", help="Wait for the reply to an earlier request instead."),
    ] = None,
    wait_for_replay: Annotated[
        bool,
        typer.Option(
            "--wait-for-replay",
            help="Where it fails and is kept as a dead letter, wait on for the answer to its replay.",
        ),
    ] = False,
    identity: Identity = "cli",
    bootstrap_servers: BootstrapServers = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Call an operation and print its reply as JSON.

    The request's handle is printed to stderr once Kafka has the request: whatever happens then, the reply can be
    waited for with --attach. A stopped service makes a call wait, not fail.
    """
    from broker_mesh.cli.connection import run
    from broker_mesh.cli.json_input import read_object

    if attach is not None:
        if request is not None or expires_in is not None or idempotency_key is not None:
            raise typer.BadParameter(
                "it waits for an earlier request: give no new one", param_hint="--attach"
            )
        reply = _attach(attach, operation, timeout, wait_for_replay, bootstrap_servers)
    elif operation is None:
        raise typer.BadParameter("name the operation, or give --attach HANDLE", param_hint="OPERATION")
    else:
        body = read_object(request)  # not within the event loop, where Ctrl-C could not end a read of stdin
        reply = _call(
            operation,
            body,
            timeout,
            expires_in,
            idempotency_key,
            wait_for_replay,
            identity,
            bootstrap_servers,
        )
    try:
        answer = run(reply)
    except MeshError as error:
        if not is_answer(error):
            raise
        _print_error_answer(error, output)
        raise typer.Exit(ExitCode.FAILED) from error
    print_json(answer, compact=output is OutputFormat.JSON)


async def _call(
    operation: str,
    body: dict[str, Any],
    timeout: float | None,
    expires_in: float | None,
    idempotency_key: str | None,
    wait_for_replay: bool,
    identity: str,
    bootstrap_servers: str | None,
) -> Any:
    import asyncio

    from broker_mesh.cli.connection import calling
    from broker_mesh.naming import check_service, is_event, owner

    if is_event(operation):
        raise InvalidArgument(
            f"{operation} is an event, which nobody answers: publish it with "
            f"'mesh send {operation} … --as {owner(operation)}'"
        )
    async with calling(check_service(identity), bootstrap_servers) as mesh:
        ready = await _ready_body(mesh, operation, body)
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            async with asyncio.timeout(timeout):
                handle = await mesh.client.call(
                    operation, ready, expires_in=expires_in, idempotency_key=idempotency_key
                )
        except TimeoutError as error:
            raise Unavailable(
                f"Kafka did not acknowledge the request to {operation} within {timeout:g} s: "
                "it may be handled or not; call again with an --idempotency-key where that matters"
            ) from error
        left = None if timeout is None else max(0.001, timeout - (clock() - begun))
        again = _attach_command(str(handle), bootstrap_servers)
        print_note(f"handle: {handle}")
        print_note(f"The request is kept. If this is interrupted, wait for the reply with: {again}")
        with _interruptible(again):
            return await _reply(
                handle, timeout, bootstrap_servers, left=left, wait_for_replay=wait_for_replay
            )


async def _attach(
    text: str,
    operation: str | None,
    timeout: float | None,
    wait_for_replay: bool,
    bootstrap_servers: str | None,
) -> Any:
    from broker_mesh.cli.connection import calling
    from broker_mesh.naming import owner
    from broker_mesh.replies import HandleToken

    token = HandleToken.decode(text)
    if operation is not None and operation != token.operation:
        raise InvalidArgument(f"the handle is of {token.operation}, not of {operation}")
    with _interruptible(_attach_command(text, bootstrap_servers)):
        async with calling(owner(token.reply_to.topic), bootstrap_servers) as mesh:
            handle = mesh.client.attach(text, None)
            return await _reply(
                handle, timeout, bootstrap_servers, left=timeout, wait_for_replay=wait_for_replay
            )


async def _ready_body(mesh: Runtime, operation: str, body: dict[str, Any]) -> Any:
    from broker_mesh.contracts.plain_json import json_to_value

    await mesh.ready(operation)
    if mesh.reply_decoder(operation) is None:
        raise InvalidArgument(f"{operation} is one-way and has no reply: use mesh send")
    codec = mesh.catalog.codec(operation)
    return json_to_value(codec.schema, body, codec.subject)


async def _reply(
    handle: Handle[Any],
    timeout: float | None,
    bootstrap_servers: str | None,
    *,
    left: float | None,
    wait_for_replay: bool,
) -> Any:
    """Wait for the reply for what is `left` of the time-out, seconds; None waits as long as it takes."""
    from broker_mesh.contracts.plain_json import value_to_json
    from broker_mesh.errors import DeadlineExceeded

    try:
        with spinning(f"waiting for {handle.operation}"):
            return value_to_json(await handle.reply(left, wait_for_replay=wait_for_replay))
    except DeadlineExceeded as error:
        if is_answer(error):
            raise
        again = _attach_command(str(handle), bootstrap_servers)
        raise DeadlineExceeded(
            f"no reply from {handle.operation} within {timeout:g} s; the request is still pending: {again}",
            handle=str(handle),
        ) from error


@contextmanager
def _interruptible(again: str) -> Iterator[None]:
    """Say how to go on where an interruption ends the block."""
    import asyncio

    try:
        yield
    except asyncio.CancelledError:
        print_note(f"Interrupted; the request is still pending. Wait for its reply with: {again}")
        raise


def _attach_command(handle: str, bootstrap_servers: str | None) -> str:
    servers = f" --bootstrap-servers {shlex.quote(bootstrap_servers)}" if bootstrap_servers else ""
    return f"mesh call --attach {handle}{servers}"


def _print_error_answer(error: MeshError, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        answer = {
            "status": error.status.name,
            "message": error.message,
            "details": error.details,
            "attempts": error.attempts,
            "dead_letter": error.dead_letter,
        }
        print_json(answer, compact=True)
    else:
        print_note(str(error))
        if error.dead_letter is not None:
            print_note(f"The request is kept for replay: mesh dead-letters show {error.dead_letter}")
