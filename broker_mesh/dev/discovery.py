"""Finds the Kafka of a running `mesh dev`, for a mesh to which nothing else was said.

Only the standard library and two small files to read: a mesh asks at each start, in environments that may lack the
`dev-kafka` extra.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker_mesh.dev.paths import dev_directory
from broker_mesh.dev.state import CURRENT, load


def running_bootstrap_servers(environ: Mapping[str, str]) -> str | None:
    """The bootstrap servers of a running `mesh dev`; None when none runs.

    A missing or unreadable state file means that none runs, and so does one whose processes are gone.

    Args:
        environ: the environment: `MESH_DEV_DIR`, `XDG_STATE_HOME`, `HOME`.
    """
    try:
        state = load(dev_directory(environ) / CURRENT)
    except RuntimeError:  # pathlib's word for a user without a home directory
        return None
    return state.bootstrap_servers if state is not None and state.running else None
