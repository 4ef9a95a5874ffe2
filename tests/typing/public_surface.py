"""What a type checker makes of the public surface; `make check` runs mypy over it, nothing here is executed."""

from __future__ import annotations

from typing import Any, assert_type

from pydantic import BaseModel

from broker_mesh import Context, Event, Handle, Mesh, Operation, Receipt, Retry, StatusCode


class FindAircraft(BaseModel):
    tailnum: str


class Aircraft(BaseModel):
    seats: int


FIND = Operation("fleet.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
RETIRE = Operation("fleet.v1.retire", request=FindAircraft)
assert_type(RETIRE, Operation[FindAircraft, None])
RETIRED = Event("fleet.v1.events.retired", FindAircraft)

fleet = Mesh("fleet")
patient = Retry(
    elapsed=600, per={StatusCode.RESOURCE_EXHAUSTED: Retry(attempts=20), OSError: Retry(attempts=1)}
)


@fleet.operation(FIND, delivery="at-least-once", ordering="key", retry=Retry(attempts=5))
async def find(request: FindAircraft, context: Context) -> Aircraft:
    nested = await context.request(FIND, request)
    assert_type(nested, Aircraft)
    return nested


@fleet.operation(FIND)
def find_plain(request: FindAircraft, context: Context) -> Aircraft:
    return context.sync().request(FIND, request)


@fleet.operation(FIND)  # type: ignore[arg-type]  # the reply of another type is refused
async def find_wrongly(request: FindAircraft, context: Context) -> FindAircraft:
    return request


@fleet.operation(RETIRE)
async def retire(request: FindAircraft, context: Context) -> None:
    await context.publish(RETIRED, request)


@fleet.subscribe(RETIRED)
async def on_retired(event: FindAircraft, context: Context) -> None: ...


async def call() -> None:
    async with Mesh("dispatch") as dispatch:
        assert_type(await dispatch.request(FIND, FindAircraft(tailnum="N1"), timeout=10), Aircraft)
        handle = await dispatch.call(FIND, FindAircraft(tailnum="N1"), idempotency_key="k")
        assert_type(handle, Handle[Aircraft])
        assert_type(await handle.reply(timeout=10), Aircraft)
        assert_type(await dispatch.attach(str(handle), FIND).reply(), Aircraft)
        assert_type(await dispatch.attach(str(handle)).reply(), Any)
        assert_type(await dispatch.request("fleet.v1.find-aircraft", {"tailnum": "N1"}), dict[str, Any])
        assert_type(await dispatch.send(RETIRE, FindAircraft(tailnum="N1")), Receipt)
        assert_type(await dispatch.publish(RETIRED, FindAircraft(tailnum="N1")), Receipt)
        await dispatch.request(FIND, Aircraft(seats=1))  # type: ignore[misc]
    with Mesh("dispatch").sync() as client:
        assert_type(client.request(FIND, FindAircraft(tailnum="N1"), timeout=1.0), Aircraft)
        assert_type(client.call(FIND, FindAircraft(tailnum="N1")).reply(timeout=1.0), Aircraft)
