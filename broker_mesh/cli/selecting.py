"""From the options that all of `mesh dead-letters` share to what they select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from broker_mesh.dead_letters import Selection


def select(
    failed: str | None,
    service: str | None,
    operation: str | None,
    statuses: Sequence[str] | None,
    exception: str | None,
    since: int | None,
    until: int | None,
    key: str | None,
    ids: Sequence[str] | None,
    where: str | None,
) -> Selection:
    """Make the selection.

    Args:
        failed: the argument without a name: a service, or anything with a dot.
        service, operation, exception, key, ids, where: the options of these names.
        statuses: names of status codes.
        since, until: epoch ms.

    Raises:
        typer.BadParameter: options contradict each other.
        InvalidArgument: `where` is no JMESPath expression.
    """
    from broker_mesh.dead_letters import Selection
    from broker_mesh.status import StatusCode

    if failed is not None and "." in failed:
        if operation not in (None, failed):
            raise typer.BadParameter(f"{failed} is named already", param_hint="--operation")
        operation = failed
    elif failed is not None:
        if service not in (None, failed):
            raise typer.BadParameter(f"{failed} is named already", param_hint="--service")
        service = failed
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("it is not after --since: nothing could be selected", param_hint="--until")
    return Selection(
        service=service,
        operation=operation,
        status=frozenset(StatusCode[name] for name in statuses or ()),
        exception=exception,
        since=since,
        until=until,
        key=None if key is None else key.encode(),
        ids=frozenset(ids or ()),
        where=where,
    )
