"""The aircraft register: `mesh run demo.fleet:fleet`."""

from broker_mesh import Context, Mesh
from broker_mesh.errors import NotFound
from demo.contracts import FIND_AIRCRAFT, Aircraft, FindAircraft
from demo.data import read_aircraft

fleet = Mesh("fleet")
register = read_aircraft()


@fleet.operation(FIND_AIRCRAFT)
async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
    """Look a tail number up."""
    aircraft = register.get(request.tailnum)
    if aircraft is None:
        raise NotFound(f"no aircraft has the tail number {request.tailnum!r}")
    return aircraft
