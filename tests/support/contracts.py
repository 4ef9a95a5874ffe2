"""Models and schemas with every type, for the tests of the codec."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from broker_mesh.contracts.codec import (
    Codec,
)
from broker_mesh.contracts.models import schema_of_model
from broker_mesh.contracts.schema import AvroSchema

NOW = datetime(2013, 1, 1, 5, 17, 0, 123456, tzinfo=UTC)
Money = Annotated[Decimal, Field(max_digits=8, decimal_places=2)]


class Known:
    """A cache of schemas that the test fills."""

    def __init__(self, *schemas: AvroSchema) -> None:
        self.schemas = dict(enumerate(schemas, 1))
        self.asked: list[int] = []

    def by_id(self, schema_id: int) -> AvroSchema | None:
        self.asked.append(schema_id)
        return self.schemas.get(schema_id)


class Sky(Enum):
    CLEAR = "clear"
    CLOUDS = "clouds"


class Leg(BaseModel):
    origin: str
    stop: str | None = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    age: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    age: int


class Node(BaseModel):
    value: int
    next: Node | None = None


class Everything(BaseModel):
    text: str
    number: int
    ratio: float
    flag: bool
    raw: bytes
    moment: datetime
    day: date
    clock: time
    id: uuid.UUID
    price: Money
    sky: Sky
    word: Literal["x", "y"]
    legs: list[Leg]
    tags: set[str]
    counts: dict[str, int]
    route: tuple[str, ...]
    maybe: str | None
    pet: Cat | Dog | None
    mixed: int | str | float | bool
    wire: int = Field(alias="onTheWire")
    later: Leg | None = None
    chain: Node | None = None


EVERYTHING = Everything(
    text="Zürich ✈",
    number=-(2**63),
    ratio=0.1,
    flag=True,
    raw=b"\x00\xff",
    moment=NOW,
    day=date(2013, 1, 1),
    clock=time(5, 17, 0, 1),
    id=uuid.UUID(int=5),
    price=Decimal("-123456.78"),
    sky=Sky.CLOUDS,
    word="y",
    legs=[Leg(origin="JFK", stop="BOS"), Leg(origin="")],
    tags={"a"},
    counts={"a": 1},
    route=("JFK", "LAX"),
    maybe=None,
    pet=Dog(age=3),
    mixed=True,
    onTheWire=4,
    later=Leg(origin="EWR"),
    chain=Node(value=1, next=Node(value=2)),
)


def codec_for(model: type[BaseModel], *writers: AvroSchema) -> Codec:
    return Codec(
        "made-value", schema_of_model(model, "n"), 1, model, Known(schema_of_model(model, "n"), *writers)
    )


def by_name(*fields: dict[str, Any], schema_id: int = 1, writers: tuple[AvroSchema, ...] = ()) -> Codec:
    return Codec("made-value", avro(*fields), schema_id, None, Known(*writers))


def avro(*fields: dict[str, Any]) -> AvroSchema:
    return AvroSchema.of({"type": "record", "name": "R", "fields": list(fields)})
