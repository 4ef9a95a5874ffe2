"""Delivery reports on their way from the thread that polls to the event loop.

On the way of a message: after Kafka has it, or has refused it. One hop wakes the loop for all that came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message

from broker_mesh_adapters.confluent_kafka.sending import Callback

logger = logging.getLogger(__name__)

_Report: TypeAlias = tuple[asyncio.Future[Message], Callback | None, KafkaError | None, Message]


class Reports:
    """Resolves the futures of produced messages.

    Args:
        loop: the program's, on which they are awaited.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[_Report] = deque()
        self._lock = threading.Lock()
        self._hop_scheduled = False
        self._uncounted = 0
        self._came = asyncio.Event()

    def arrived(
        self,
        future: asyncio.Future[Message],
        callback: Callback | None,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        """Take a report, on the thread that polls."""
        self._waiting.append((future, callback, error, message))
        with self._lock:
            if self._hop_scheduled:
                return
            self._hop_scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            # The program has ended its loop, and nobody awaits the futures any more.
            logger.debug("a delivery report came after the event loop was closed")

    async def counted(self, timeout: float) -> int:
        """Tell how many reports came since the last call, waiting for the first where there is none.

        Args:
            timeout: seconds; 0 for not at all, negative for without limit.
        """
        if not self._uncounted and timeout:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), None if timeout < 0 else timeout)
            except TimeoutError:
                return 0
        count, self._uncounted = self._uncounted, 0
        return count

    def _resolve(self) -> None:
        # Cleared first: a report appended after the loop below has looked schedules another hop.
        with self._lock:
            self._hop_scheduled = False
        while self._waiting:
            future, callback, error, message = self._waiting.popleft()
            self._uncounted += 1
            if not future.done():  # else the program has cancelled it
                if error is None:
                    future.set_result(message)
                else:
                    future.set_exception(KafkaException(error))
            if callback is not None:
                self._loop.call_soon(callback, error, message)
        self._came.set()
