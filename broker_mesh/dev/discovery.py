"""Finds the Kafka of a running `mesh dev`, for a mesh to which nothing else was said.

Only the standard library and two small files to read: a mesh asks at each start, in environments that may lack the
`dev-kafka` extra.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker_mesh.dev.paths import dev_directory
from broker_mesh.dev.state import CURRENT, ClusterState, load
from broker_mesh.errors import Unavailable


def running_bootstrap_servers(environ: Mapping[str, str]) -> str | None:
    """The bootstrap servers of a running `mesh dev`; None when none runs.

    A missing or unreadable state file means that none runs, and so does one whose processes are gone.

    Args:
        environ: the environment: `MESH_DEV_DIR`, `XDG_STATE_HOME`, `HOME`.
    """
    state = _state(environ)
    return state.bootstrap_servers if state is not None and state.running else None


def require_bootstrap_servers(environ: Mapping[str, str], named_by: str) -> str:
    """The bootstrap servers of a running `mesh dev`, for a mesh to which no Kafka is named.

    Args:
        environ: the environment, as for `running_bootstrap_servers`.
        named_by: how a Kafka could be named instead, for the sentence of the error.

    Raises:
        Unavailable: none runs.
    """
    running = running_bootstrap_servers(environ)
    if running is not None:
        return running
    state = _state(environ)
    if state is not None and any(
        broker.pid is not None for broker in state.brokers
    ):  # `down` takes the ids away
        raise Unavailable(
            "no Kafka is named and the one of 'mesh dev' has crashed: start it again with 'mesh dev up' "
            f"('mesh dev logs' shows why), {named_by}"
        )
    raise Unavailable(f"no Kafka is named and no 'mesh dev' runs: start one with 'mesh dev up', {named_by}")


def _state(environ: Mapping[str, str]) -> ClusterState | None:
    try:
        return load(dev_directory(environ) / CURRENT)
    except RuntimeError:  # pathlib's word for a user without a home directory
        return None
