"""The weather stations of New York's airports: `mesh run demo.weather:weather`."""

from broker_mesh import Context, Mesh
from broker_mesh.errors import NotFound
from demo.contracts import OBSERVE, Observation, Observe
from demo.data import read_weather

weather = Mesh("weather")
readings = read_weather()


@weather.operation(OBSERVE, ordering="none")
async def observe(request: Observe, context: Context) -> Observation:
    """Look an hour's reading up."""
    reading = readings.get((request.origin, request.hour))
    if reading is None:
        raise NotFound(f"{request.origin} has no reading for {request.hour:%Y-%m-%d %H:%M} UTC")
    return reading
