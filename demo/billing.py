"""Billing as it was first released: `mesh run demo.billing:billing`.

Whoever wrote it had not met every flight: cancelled ones, flights whose time in the air is never recorded, and airports
that no register has. The next release is `billing_mended.py`.
"""

from broker_mesh import Context, Mesh, Retry
from broker_mesh.errors import InvalidArgument, Unavailable
from demo.contracts import BILL_FLIGHT, BillFlight
from demo.data import read_airports
from demo.tariff import CENTS_PER_DEPARTURE, CENTS_PER_MINUTE, Bill

billing = Mesh("billing")
airports = read_airports()


@billing.operation(BILL_FLIGHT, retry=Retry(attempts=3, backoff=0.1))
async def bill_flight(request: BillFlight, context: Context) -> None:
    """Write a bill: a line of JSON."""
    if request.departed_at is None:
        raise InvalidArgument(f"flight {request.flight!r} has not departed: only departures are billed")
    destination = airports[request.destination]
    if request.minutes_in_air is None:
        raise Unavailable(f"the time in the air of flight {request.flight!r} is not known yet")
    cents = CENTS_PER_DEPARTURE + CENTS_PER_MINUTE * request.minutes_in_air
    print(Bill(flight=request.flight, destination=destination, cents=cents).model_dump_json(), flush=True)
