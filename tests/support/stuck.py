"""A service whose plain handler never returns: `python -m tests.support.stuck BOOTSTRAP`."""

from __future__ import annotations

import asyncio
import sys
import threading

from pydantic import BaseModel

from broker_mesh import Context, Operation
from tests.support.fleet import make_mesh


class Ask(BaseModel):
    key: str


class Answer(BaseModel):
    text: str


ASK = Operation("stuck.v1.ask", request=Ask, reply=Answer, key="key")


async def main() -> None:
    stuck = make_mesh("stuck", sys.argv[1], grace_seconds=0.5)

    @stuck.operation(ASK)
    def handle(request: Ask, context: Context) -> Answer:
        print("begun", flush=True)
        threading.Event().wait()
        return Answer(text="never")

    await stuck.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main())
