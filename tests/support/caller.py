"""A caller as a process: `python -m tests.support.caller BOOTSTRAP COUNT STEP`; kills itself at a step of the way.

Prints a line for each request once it is persisted: "persisted <handle>".
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.support.fleet import CALLER_STEPS, FIND_AIRCRAFT, FindAircraft, install_crash, make_mesh


async def main() -> None:
    bootstrap_servers, count, step = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if step in CALLER_STEPS:
        install_crash(step, Path(os.environ["CRASH_MARK"]), spare=3)
    async with make_mesh("dispatch", bootstrap_servers) as dispatch:
        handles = []
        for number in range(count):
            handle = await dispatch.call(FIND_AIRCRAFT, FindAircraft(tailnum=f"N{number}"))
            handles.append(handle)
            print(f"persisted {handle}", flush=True)
            if step == "reply arrived, not handed on":
                await handle.reply(60)  # one by one, so that each reply arrives by itself
        if step == "acknowledged, waiting":
            os.kill(os.getpid(), signal.SIGKILL)
        for handle in handles:
            await handle.reply(60)


if __name__ == "__main__":
    asyncio.run(main())
