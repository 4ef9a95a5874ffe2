"""The run: contenders side by side, in interleaved rounds, so that the machine's noise falls on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from benchmarks.load import ANSWER_PATIENCE_SECONDS, Load, Measurement
from benchmarks.processes import Worker, worker

CONTENDERS = ("raw", "mesh")
IN_FLIGHT = (1, 64, 1000)
WARM_UP_SECONDS = 0.5


class Plan(NamedTuple):
    """How much is measured.

    Args:
        rounds: how often each contender is measured under each load.
        seconds: how long each time.
    """

    rounds: int
    seconds: float


class _Pair(NamedTuple):
    caller: Worker
    callee: Worker


async def measure(
    plan: Plan, bootstrap_servers: str, broker_pid: int, tell: Callable[[str], None]
) -> dict[tuple[str, int], list[Measurement]]:
    """Start the contenders, measure them, and stop them.

    Args:
        plan: how much.
        bootstrap_servers: of the Kafka that all use.
        broker_pid: its process.
        tell: gets a line now and then.

    Returns:
        The measurements by contender and requests in flight, in the order of the rounds.

    Raises:
        BenchmarkFailed: a contender gave up.
    """
    measured: dict[tuple[str, int], list[Measurement]] = {
        (name, in_flight): [] for in_flight in IN_FLIGHT for name in CONTENDERS
    }
    async with AsyncExitStack() as running:
        pairs = {name: await _start(name, bootstrap_servers, running) for name in CONTENDERS}
        for number in range(plan.rounds + 1):
            # The first round is for the broker, whose code is compiled as it runs.
            counts = number > 0
            title = f"round {number} of {plan.rounds}" if counts else "warming up"
            for in_flight in IN_FLIGHT:
                for name in in_turn(CONTENDERS, number):
                    seen = await _measure(pairs[name], in_flight, plan.seconds, broker_pid)
                    if counts:
                        measured[name, in_flight].append(seen)
                    tell(
                        f"{title}: {name}, {in_flight:,} in flight: "
                        f"{seen.requests_per_second:,.0f} requests a second"
                    )
    return measured


def in_turn(contenders: Sequence[str], number: int) -> list[str]:
    """Give the order of a round: the other way round each time, so that none always comes after another."""
    return list(contenders) if number % 2 == 0 else list(reversed(contenders))


async def _start(contender: str, bootstrap_servers: str, running: AsyncExitStack) -> _Pair:
    # The callee first: it makes the topics.
    callee = await running.enter_async_context(worker(contender, "callee", bootstrap_servers))
    caller = await running.enter_async_context(worker(contender, "caller", bootstrap_servers))
    return _Pair(caller, callee)


async def _measure(pair: _Pair, in_flight: int, seconds: float, broker_pid: int) -> Measurement:
    load = Load(
        in_flight=in_flight,
        warm_up_seconds=WARM_UP_SECONDS,
        seconds=seconds,
        processes={"caller": pair.caller.pid, "callee": pair.callee.pid, "broker": broker_pid},
    )
    # The caller itself gives up earlier, and knows more.
    patience = WARM_UP_SECONDS + seconds + 2 * ANSWER_PATIENCE_SECONDS
    return Measurement.model_validate_json(await pair.caller.ask(load.model_dump_json(), patience))
