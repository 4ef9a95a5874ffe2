"""Free ports for brokers: never fixed ones, and the same ones again as long as nobody else has taken them."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from broker_mesh.errors import ResourceExhausted

# Below the ranges from which Linux (32768 up) and macOS (49152 up) serve outgoing connections, so that no
# connection of another program sits on a port between two starts.
_RANGE = range(20_000, 32_000)
_TRIES = 400


def is_free(port: int) -> bool:
    """Whether a broker could listen on this port of the loopback address right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java does: closed connections of an earlier broker in TIME_WAIT must not make its port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
        return True


def pick(count: int, avoid: Collection[int] = ()) -> list[int]:
    """Pick free ports.

    Somebody else may take one before the broker listens on it: whoever starts the broker has to expect that.

    Args:
        count: how many, each different.
        avoid: ports not to pick.

    Raises:
        ResourceExhausted: nearly every port is taken.
    """
    picked: list[int] = []
    for port in random.sample(_RANGE, _TRIES):
        if len(picked) == count:
            break
        if port not in avoid and is_free(port):
            picked.append(port)
    if len(picked) < count:
        raise ResourceExhausted(
            f"No free ports were found on 127.0.0.1 between {_RANGE.start} and {_RANGE.stop}: "
            "stop some of the programs that listen there."
        )
    return picked
