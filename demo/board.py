"""The departures board, which hears of every departure: `mesh run demo.board:board`."""

from broker_mesh import Context, Mesh
from demo.contracts import FLIGHT_DEPARTED, FlightDeparted

board = Mesh("board")


@board.subscribe(FLIGHT_DEPARTED)
async def show(departure: FlightDeparted, context: Context) -> None:
    """Put a departure on the board: a line of JSON."""
    print(departure.model_dump_json(), flush=True)
