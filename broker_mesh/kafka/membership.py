"""Is this process still the member it was? Not taken for granted once it has stood still, or was cut off.

On the way of a message: before work on it begins, and before anything is written on its behalf. A process that is
stopped (SIGSTOP, a virtual machine that is moved, a laptop that is closed) hears of nothing meanwhile: its session
ends, others take its partitions over, and when it goes on it would settle what they have settled, up to the moment at
which it hears of its loss. So the consumer's thread, which is awake some times a second, notices a gap in its own time
and repeats its last commits: Kafka takes a commit of a member alone (KIP-848 by member epoch, before that by
generation). Until it has, or the loss has arrived, all settlement waits. The same where commits stay unanswered for
a while: the group's coordinator may have given up a member that still reaches all other brokers.

What was handed to the producer before the process was stopped is sent when it goes on: only a transaction could take
it back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import Consumer

from broker_mesh.kafka.commits import Commits

logger = logging.getLogger(__name__)

STILL_SECONDS = 1.0
"""How long the consumer's thread may be silent: far above its own rhythm, far below any session timeout."""

UNHEARD_SECONDS = 2.0
"""How long a commit may stay without an answer: a coordinator that fails over takes about as long."""

# Where there is one, a clock that goes on while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class Membership:
    """What a consumer's thread knows of its membership, and the event loop waits for; made on the loop.

    Each doubt has a number. The thread raises doubts and has them answered; the loop notes the last one that is
    answered, in the order in which it hears of losses.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beat = _now()  # written by the thread alone, as what follows
        self._doubts = 0
        self._asked = 0
        self._asked_at = 0.0
        self._unheard_since: float | None = None
        self._answered = 0
        self._silent = False
        self._cleared = 0  # written by the loop alone
        self._certain = asyncio.Event()

    # ── on the loop ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def in_doubt(self) -> bool:
        """Whether this process stood still, or was not answered, and Kafka has not confirmed its membership since."""
        # In this order: the thread raises a doubt before it shows that it is awake again.
        stands_still = not self._silent and _now() - self._beat > STILL_SECONDS
        return stands_still or self._doubts != self._cleared

    async def certain(self) -> None:
        """Wait until what is assigned is certain to be."""
        while self.in_doubt:
            self._certain.clear()
            # Looked at anew now and then: the thread may have shown itself just in time to raise no doubt of its own,
            # and then nobody would say that there is none.
            with suppress(TimeoutError):
                async with asyncio.timeout(STILL_SECONDS):
                    await self._certain.wait()

    def _clear(self, doubt: int) -> None:
        self._cleared = doubt
        self._certain.set()

    # ── on the consumer's thread ──────────────────────────────────────────────────────────────────────────

    def beat(self) -> None:
        """Show that the thread is awake; called at least some times a second."""
        now = _now()
        if now - self._beat > STILL_SECONDS:
            self._doubts += 1
            logger.info(
                "the consumer heard nothing for %.1f s: nothing is settled before Kafka has confirmed its membership",
                now - self._beat,
            )
        self._beat = now

    def look(self, commits: Commits, consumer: Consumer, *, owns: bool) -> None:
        """Show that the thread is awake, and have a new doubt answered.

        Args:
            commits: of the consumer.
            consumer: of the group.
            owns: whether any partition is assigned.
        """
        self.beat()
        if not owns:
            self._asked, self._unheard_since = self._doubts, None
            self._confirm()
            return
        self._doubt_silence(commits)
        if self._answered == self._doubts:
            return
        asked_long_ago = self._beat - self._asked_at > STILL_SECONDS
        if self._asked != self._doubts or (asked_long_ago and not commits.open):
            is_new, self._asked, self._asked_at = self._asked != self._doubts, self._doubts, self._beat
            commits.repeat(consumer)
            if not (commits.open or is_new):
                # Nothing was ever committed, so there is nothing to ask with. But the heartbeat that was overdue has
                # been sent meanwhile, and its answer would have brought the loss. Nor is there anything to be heard of:
                # what was refused was of partitions that have gone.
                self._unheard_since, commits.unheard = None, False
                self._confirm()

    def taken(self, open_commits: int) -> None:
        """Note that Kafka has taken a commit, and how many others are not answered yet."""
        self._unheard_since = self._beat if open_commits else None
        if not open_commits and self._asked == self._doubts:
            self._confirm()

    def end(self) -> None:
        """Show no more that the thread is awake: it has ended its work."""
        self._silent = True
        self._tell(self._certain.set)

    def _doubt_silence(self, commits: Commits) -> None:
        if self._unheard_since is None:
            if commits.open or commits.unheard:
                self._unheard_since = self._beat
        elif self._beat - self._unheard_since > UNHEARD_SECONDS and self._answered == self._doubts:
            self._doubts += 1
            logger.info(
                "Kafka has not answered a commit for %g s: nothing is settled before it has", UNHEARD_SECONDS
            )

    def _confirm(self) -> None:
        if self._answered != self._doubts:
            self._answered = doubt = self._doubts
            self._tell(lambda: self._clear(doubt))

    def _tell(self, hear: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(hear)
        except RuntimeError:
            logger.debug("the event loop is closed; nobody waits")
