"""Billing, mended: `mesh run demo.billing_mended:billing`.

The release after `billing.py`: the same service and operation, and a bill for every flight.
"""

from broker_mesh import Context, Mesh, Retry
from demo.contracts import BILL_FLIGHT, BillFlight
from demo.data import read_airports
from demo.tariff import CENTS_PER_DEPARTURE, CENTS_PER_MINUTE, Bill

billing = Mesh("billing")
airports = read_airports()


@billing.operation(BILL_FLIGHT, retry=Retry(attempts=3, backoff=0.1))
async def bill_flight(request: BillFlight, context: Context) -> None:
    """Write a bill: a line of JSON."""
    cents = 0
    if request.departed_at is not None:  # a cancelled flight costs nothing
        # The time in the air of a diverted flight is never recorded: it pays for its departure alone.
        cents = CENTS_PER_DEPARTURE + CENTS_PER_MINUTE * (request.minutes_in_air or 0)
    # The register ends at the coast: of an airport overseas the code has to do.
    destination = airports.get(request.destination, request.destination)
    print(Bill(flight=request.flight, destination=destination, cents=cents).model_dump_json(), flush=True)
