"""The network between brokers and the clients under test: a TCP proxy before each broker, and its bad weather.

Clients know a broker by its proxy's port alone. What goes through is passed on as it is, unless the weather says
otherwise: late, not at all for a while, or not by this connection any more. A held-back connection loses nothing; as
after a network partition that heals, what was under way arrives late.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

HOST = "127.0.0.1"
_START_SECONDS = 10.0
_Result = TypeVar("_Result")

# The ports that a process uses on its side of its connections; asked when weather comes up and at each new connection.
Peers = Callable[[], Collection[int]]


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network does to connections.

    Args:
        to_broker: seconds that each byte needs towards the broker.
        to_client: seconds that each byte needs towards the client.
        black_hole: nothing arrives on either side, and nobody is told.
        refused: new connections are reset at once.
    """

    to_broker: float = 0.0
    to_client: float = 0.0
    black_hole: bool = False
    refused: bool = False


FAIR = Weather()


class Proxy:
    """The way to one broker. Its methods belong to the loop that `Network` runs.

    Args:
        target: gives the port that the broker listens on now.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self.port = 0
        self._target = target
        self._links: set[_Link] = set()
        self._weather = FAIR
        self._local: list[tuple[Peers, Weather]] = []
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        """Begin to listen, on a socket that is bound."""
        self.port = listener.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(self._accept, sock=listener)

    def close(self) -> None:
        """Stop, and cut what is connected."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def set(self, weather: Weather, peers: Peers | None = None) -> None:
        """Have weather, over everything or over one process's connections; `FAIR` ends it."""
        if peers is None:
            self._weather = weather
        else:
            self._local = [(other, its) for other, its in self._local if other is not peers]
            if weather is not FAIR:
                self._local.append((peers, weather))
        local = [(set(other()), its) for other, its in self._local]
        for link in self._links:
            link.set(next((its for ports, its in local if link.peer in ports), self._weather))

    def cut(self, peers: Peers | None = None) -> int:
        """Reset connections: all, or those of one process; gives how many."""
        ports = None if peers is None else set(peers())
        hit = [link for link in self._links if ports is None or link.peer in ports]
        for link in hit:
            link.cut()
        return len(hit)

    def _accept(self) -> asyncio.Protocol:
        return _Link(self._target(), self._weather_of, self._links).near

    def _weather_of(self, peer: int) -> Weather:
        return next((its for peers, its in self._local if peer in peers()), self._weather)


class _Link:
    """One connection, as two: `near` to the client and `far` to the broker."""

    def __init__(self, target: int, weather_of: Callable[[int], Weather], links: set[_Link]) -> None:
        self.peer = 0
        self.weather = FAIR
        self.near, self.far = _End(self), _End(self)
        self.near.other, self.far.other = self.far, self.near
        self._target = target
        self._weather_of = weather_of
        self._links = links
        self._connecting: asyncio.Task[None] | None = None

    def opened(self, end: _End) -> None:
        if end is self.far:
            self.near.forward()  # what the client has sent meanwhile
            return
        assert end.transport is not None
        self.peer = end.transport.get_extra_info("peername")[1]
        self.weather = self._weather_of(self.peer)
        if self.weather.refused:
            end.transport.abort()
            return
        self._links.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, HOST, self._target)
        except OSError:  # the broker is down: so is the way to it
            self.cut()

    def set(self, weather: Weather) -> None:
        self.weather = weather
        self.near.forward()
        self.far.forward()

    def cut(self) -> None:
        self._links.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        for end in (self.near, self.far):
            end.abort()

    def delay_from(self, end: _End) -> float:
        return self.weather.to_broker if end is self.near else self.weather.to_client


class _End(asyncio.Protocol):
    """One side's socket; what it reads goes out at the other."""

    other: _End

    def __init__(self, link: _Link) -> None:
        self.transport: asyncio.Transport | None = None
        self._link = link
        self._read: deque[tuple[float, bytes]] = deque()  # when it may go on, and what
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._stalled = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self._over:
            transport.abort()
            return
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        link = self._link
        delay = link.delay_from(self)
        if not (self._read or delay or link.weather.black_hole) and self.other.transport is not None:
            self.other.transport.write(data)
            return
        self._read.append((asyncio.get_running_loop().time() + delay, data))
        self.forward()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._link.cut()

    def pause_writing(self) -> None:
        self.other.stall(True)

    def resume_writing(self) -> None:
        self.other.stall(False)

    def stall(self, stalled: bool) -> None:
        self._stalled = stalled
        self._read_on()

    def forward(self) -> None:
        """Write what is due, and see that the rest follows in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        out = self.other.transport
        loop = asyncio.get_running_loop()
        if out is not None and not self._link.weather.black_hole:
            while self._read and self._read[0][0] <= loop.time():
                out.write(self._read.popleft()[1])
            if self._read:
                self._timer = loop.call_at(self._read[0][0], self.forward)
        self._read_on()

    def _read_on(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        # A black hole reads nothing: TCP's own windows fill, as they would.
        if self._stalled or self._link.weather.black_hole:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def abort(self) -> None:
        self._over = True
        self._read.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self.transport.abort()


class Network:
    """Proxies on a loop in a thread of its own; its methods may be called from any thread.

    Args:
        targets: for each broker's number, what gives the port that it listens on now.
    """

    def __init__(self, targets: dict[int, Callable[[], int]]) -> None:
        self._proxies = {broker: Proxy(target) for broker, target in targets.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-network", daemon=True)

    def open(self, listeners: dict[int, socket.socket]) -> None:
        """Begin to listen, on bound sockets."""
        self._thread.start()
        for broker, proxy in self._proxies.items():
            self._await(proxy.open(listeners[broker]))

    def close(self) -> None:
        """Cut everything, and end the thread."""
        if not self._thread.is_alive():
            self._loop.close()
            return
        for proxy in self._proxies.values():
            self._call(proxy.close)
        self._await(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def port(self, broker: int) -> int:
        """Where clients reach a broker."""
        return self._proxies[broker].port

    def set(self, weather: Weather, *, broker: int | None = None, peers: Peers | None = None) -> None:
        """Have weather, before one broker or all, for all clients or one process; `FAIR` ends it."""
        for proxy in self._chosen(broker):
            self._call(partial(proxy.set, weather, peers))

    def cut(self, *, broker: int | None = None, peers: Peers | None = None) -> int:
        """Reset connections, of one broker or all, of all clients or one process; gives how many."""
        return sum(self._call(partial(proxy.cut, peers)) for proxy in self._chosen(broker))

    def _chosen(self, broker: int | None) -> list[Proxy]:
        return [proxy for number, proxy in self._proxies.items() if broker in (None, number)]

    def _call(self, function: Callable[[], _Result]) -> _Result:
        async def run() -> _Result:
            return function()

        return self._await(run())

    def _await(self, awaitable: Awaitable[_Result]) -> _Result:
        async def run() -> _Result:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_START_SECONDS)

    @staticmethod
    async def _settle() -> None:
        """Let what was cut close its sockets."""
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(0)


def bound(port: int) -> socket.socket:
    """A socket that holds a port until somebody listens on it."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, port))
    return held
