"""Where cache and state are: overrides first, then XDG, then the home directory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from broker_mesh.dev.paths import cache_directory, dev_directory


def test_overrides_win() -> None:
    environ = {
        "MESH_CACHE_DIR": "/a/cache",
        "MESH_DEV_DIR": "/a/dev",
        "XDG_CACHE_HOME": "/x",
        "XDG_STATE_HOME": "/x",
    }
    assert cache_directory(environ) == Path("/a/cache")
    assert dev_directory(environ) == Path("/a/dev")


def test_xdg_comes_next() -> None:
    environ = {"XDG_CACHE_HOME": "/x/cache", "XDG_STATE_HOME": "/x/state", "HOME": "/home/ada"}
    assert cache_directory(environ) == Path("/x/cache/broker-mesh")
    assert dev_directory(environ) == Path("/x/state/broker-mesh/dev")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has directories of its own")
@pytest.mark.parametrize("xdg", [{}, {"XDG_CACHE_HOME": "relative", "XDG_STATE_HOME": ""}])
def test_home_is_the_default(xdg: dict[str, str]) -> None:
    environ = {"HOME": "/home/ada", **xdg}
    assert cache_directory(environ) == Path("/home/ada/.cache/broker-mesh")
    assert dev_directory(environ) == Path("/home/ada/.local/state/broker-mesh/dev")
