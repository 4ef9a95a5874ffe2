"""Where the embedded Kafka keeps things: the per-user cache of jars, and the state and data of `mesh dev`.

Only the standard library, cheap to import: `discovery` asks here each time a mesh starts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

KAFKA_VERSION = "4.3.1"


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where jars and the class cache are kept, shared by all of a user's projects; safe to delete at any time.

    Args:
        environ: the environment; `MESH_CACHE_DIR` overrides, then `XDG_CACHE_HOME` (XDG Base Directory).
    """
    if override := environ.get("MESH_CACHE_DIR"):
        return Path(override).absolute()
    return _base(environ, "XDG_CACHE_HOME", ".cache", "Library/Caches") / "broker-mesh"


def dev_directory(environ: Mapping[str, str]) -> Path:
    """Where `mesh dev` keeps its state and the brokers' data.

    Args:
        environ: the environment; `MESH_DEV_DIR` overrides, then `XDG_STATE_HOME` (XDG Base Directory).
    """
    if override := environ.get("MESH_DEV_DIR"):
        return Path(override).absolute()
    state = _base(environ, "XDG_STATE_HOME", ".local/state", "Library/Application Support")
    return state / "broker-mesh" / "dev"


def _base(environ: Mapping[str, str], variable: str, default: str, on_macos: str) -> Path:
    if (given := environ.get(variable)) and Path(
        given
    ).is_absolute():  # XDG: relative paths are to be ignored
        return Path(given)
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    return home / (on_macos if sys.platform == "darwin" else default)
