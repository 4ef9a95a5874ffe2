"""What happens, in order: fleet is killed while flights are followed, and comes back; billing fails, and is mended."""

from __future__ import annotations

import asyncio
import time

from demo.contracts import FIND_AIRCRAFT
from demo.services import Services
from demo.stage import Stage
from demo.tally import Calls

KILL_AT = 0.4
"""Which part of the flights is done with when fleet is killed."""
DOWN_SECONDS = 3.0
"""How long it stays away."""
STALL_SECONDS = 60.0
"""How long nothing may be counted before what still waits is taken for lost."""

_COUNT_SECONDS = 0.5


class Story:
    """One run of the demo over a Kafka that runs.

    Args:
        stage: where it shows.
        services: starts and stops them.
        group: for what runs beside the story; when that fails, the story ends.
    """

    def __init__(self, stage: Stage, services: Services, group: asyncio.TaskGroup) -> None:
        self._stage = stage
        self._services = services
        self._group = group

    async def tell(self) -> None:
        """See it through and stop the services; what was counted is on the stage then."""
        stage, services = self._stage, self._services
        # Nobody waits for the board: an event is kept for whoever subscribes, even before it is first published.
        board = self._group.create_task(services.start("board", stage.take_departure))
        await asyncio.gather(
            services.start("fleet"), services.start("weather"), services.start("billing", stage.take_bill)
        )
        flights = len(stage.expected.flights)
        stage.say(f"fleet, weather and billing are ready; dispatch asks about {flights:,} flights.")
        dispatch = services.start_dispatch(flights, stage.take_progress)

        await stage.until(
            lambda: dispatch.done() or stage.progress.flights >= KILL_AT * flights, STALL_SECONDS
        )
        await self._lose_fleet()
        await stage.until(dispatch.done, STALL_SECONDS)
        received = stage.departures.flights
        await stage.until(lambda: len(received) >= stage.progress.published, STALL_SECONDS)
        await self._mend_billing()
        board.cancel()
        services.end()

    async def _lose_fleet(self) -> None:
        """Kill fleet, let requests wait for it for a while, start it again, and see them answered."""
        stage = self._stage
        killed_at = asyncio.get_running_loop().time()
        self._services.kill("fleet")
        stage.say(f"fleet is killed (SIGKILL) after {stage.progress.flights:,} flights.")
        await asyncio.sleep(DOWN_SECONDS)
        before = self._fleet_calls()
        failed = before.errors.total() - before.errors["NOT_FOUND"]
        stage.say(
            f"{before.waiting:,} requests wait for fleet, {failed:,} have failed; fleet is started again, "
            "and gets its work when Kafka takes the killed one for dead."
        )
        await self._services.start("fleet")
        if not before.waiting:
            return
        if await stage.until(lambda: self._fleet_calls().done >= before.sent, STALL_SECONDS):
            seconds = asyncio.get_running_loop().time() - killed_at
            stage.say(f"All {before.waiting:,} that waited are answered, {seconds:.1f} s after the kill.")

    def _fleet_calls(self) -> Calls:
        return self._stage.progress.calls.get(FIND_AIRCRAFT.name, Calls())

    async def _mend_billing(self) -> None:
        """Show what billing failed on, start its next release, put the dead letters back, and see them billed."""
        stage, services, bills = self._stage, self._services, self._stage.bills
        await self._count_dead_letters()
        failed = bills.dead_letters.total()
        if not failed:
            stage.say(f"billing has billed all {bills.at_once:,} flights: so few have no gaps.")
            return
        stage.say(
            f"billing has billed {bills.at_once:,} flights and failed on {failed:,}: they are its dead letters."
        )
        await services.mesh("dead-letters", "list", "billing")
        await services.stop("billing")
        stage.say("billing is stopped and mended: demo/billing_mended.py has an answer to each cause.")
        await services.start("billing", stage.take_bill, module="billing_mended")
        await services.mesh("dead-letters", "replay", "billing")
        bills.replayed = failed - (await services.dead_letters("billing")).total()
        if await stage.until(lambda: len(bills.flights) >= stage.progress.to_bill, STALL_SECONDS):
            stage.say(f"All {bills.replayed:,} that were replayed are billed.")

    async def _count_dead_letters(self) -> None:
        """Count dead letters until every request is either billed or one of them."""
        stage, bills = self._stage, self._stage.bills
        fit = stage.progress.to_bill - stage.expected.unbillable.total()
        await stage.until(lambda: len(bills.flights) >= fit, STALL_SECONDS)
        give_up_at = time.monotonic() + STALL_SECONDS
        while True:
            bills.take_dead_letters(await self._services.dead_letters("billing"))
            if bills.settled >= stage.progress.to_bill or time.monotonic() >= give_up_at:
                return
            await asyncio.sleep(_COUNT_SECONDS)
