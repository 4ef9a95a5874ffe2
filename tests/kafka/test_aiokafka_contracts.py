"""Values, models and requests at a wrapped aiokafka consumer: what the mesh knows of a topic holds there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from broker_mesh import Event, Operation, Retry
from broker_mesh.adoption import Adoption
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, InvalidArgument, SchemaError
from broker_mesh.settings import Settings
from tests.support.aio import Plain, Wrapped, make_topic, take
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh

SOON = Retry(attempts=3, backoff=0.02, max_backoff=0.05)


@pytest.fixture
async def clients(kafka: EmbeddedKafka) -> AsyncIterator[Wrapped]:
    """Of one service, whose connection lasts for the whole test."""
    made = Wrapped(kafka)
    async with made.producer():
        yield made


def stem(clients: Wrapped, topic: str) -> str:
    return f"{clients.mesh.service}.v1.from.{topic}"


class Price(BaseModel):
    sku: str
    cents: int


PRICE = {
    "type": "record",
    "name": "Price",
    "fields": [{"name": "sku", "type": "string"}, {"name": "cents", "type": "long"}],
}


@pytest.mark.parametrize("validation", ["off", "audit", "enforce"])
async def test_values_are_checked_as_the_topic_says(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, validation: str
) -> None:
    topic = await make_topic(kafka, 6)
    adoption = Adoption(validation=validation, encoding="json", subject=f"{topic}-value")  # type: ignore[arg-type]
    clients = Wrapped(kafka, topics={topic: adoption})
    registry = Registry(Settings(bootstrap_servers=kafka.bootstrap_servers), client_id="test")
    schema = AvroSchema.of(PRICE, f"{topic}-value")
    await asyncio.to_thread(registry.register_all, {f"{topic}-value": schema})
    values = [b'{"sku": "a", "cents": 1}', b'{"sku": "b"}', b"last"]
    async with Plain(kafka).producer() as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
        await producer.send_and_wait(topic, b'{"sku": "z", "cents": 9}', partition=0)
    async with clients.consumer(topic, group_id=fresh("group")) as consumer, clients.producer() as producer:
        seen = []
        while not seen or seen[-1].value != b'{"sku": "z", "cents": 9}':
            seen += await take(consumer, 1)
        if validation == "enforce":
            assert [each.value for each in seen] == [values[0], b'{"sku": "z", "cents": 9}']
            letters = [await dead_letters.next(stem(clients, topic)) for _ in range(2)]
            assert {each.value for each in letters} == set(values[1:])
            with pytest.raises(SchemaError, match="cents"):
                await producer.send(topic, {"sku": "c"})
        else:
            assert [each.value for each in seen][:3] == values
            await producer.send_and_wait(topic, b"anything")
        if validation != "off":
            assert seen[0].data == {"sku": "a", "cents": 1}


async def test_events_come_as_models(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    priced = Event(f"{clients.mesh.service}.v1.events.priced", Price, key="sku")
    async with clients.producer(declared=[priced]) as producer:
        await producer.send_and_wait(priced.name, Price(sku="a", cents=5), b"a")
    async with clients.consumer(priced.name, group_id=fresh("group"), declared=[priced]) as consumer:
        (message,) = await take(consumer, 1)
        assert message.data == Price(sku="a", cents=5)
        assert message.context.caller == clients.mesh.service
        assert message.value[0] == 0  # as it is on the wire, where no deserializer is given


async def test_requests_of_native_callers_are_answered(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    service = clients.mesh.service
    ask = Operation(f"{service}.v1.ask", request=Price, reply=Price, key="sku")
    other = Operation(f"{service}.v1.note", request=Price, key="sku")
    async with (
        clients.consumer(ask.name, group_id=service, declared=[ask, other], retry=SOON) as consumer,
        make_mesh("dispatch", kafka.bootstrap_servers) as dispatch,
    ):
        calls = [
            asyncio.create_task(dispatch.request(ask, Price(sku=sku, cents=1), timeout=30)) for sku in "abc"
        ]
        replied = 0
        while replied < 3:
            (message,) = await take(consumer, 1)
            if message.data.sku == "b":
                async with message.settling():
                    raise InvalidArgument("not b")
            else:
                with pytest.raises(FailedPrecondition, match="waits for its reply"):
                    message.done()
                with pytest.raises(SchemaError):
                    await message.reply({"sku": 5})
                await message.context.send(other, Price(sku="noted", cents=0))
                await message.reply(Price(sku=message.data.sku, cents=2))
            replied += 1
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[0] == Price(sku="a", cents=2)
    assert isinstance(answers[1], InvalidArgument)
    assert answers[2] == Price(sku="c", cents=2)


async def test_an_operation_of_another_service_is_not_for_us(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    consumer = clients.consumer("fleet.v1.find-aircraft", group_id=fresh("group"))
    with pytest.raises(FailedPrecondition, match="only that service handles"):
        await consumer.start()
    await consumer.stop()


async def test_a_consumer_that_is_not_started_says_so(clients: Wrapped) -> None:
    consumer = clients.consumer("topic")
    with pytest.raises(FailedPrecondition, match="not started"):
        await consumer.getone()
    await consumer.stop()
