"""Records made to do harm: each is kept or refused by itself, and neither a service nor a caller falls over it."""

from __future__ import annotations

import asyncio

import pytest

from broker_mesh import StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.headers import Envelope, write
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import end_offset, open_consumer
from broker_mesh.message import new_id
from broker_mesh.replies import HandleToken
from broker_mesh.settings import Settings
from tests.kafka.test_bad_input import Echo, bench
from tests.support.dead_letters import DeadLetters
from tests.support.raw_producer import write_raw

PATIENCE = 40.0


async def test_headers_that_can_not_be_read_harm_neither_the_service_nor_its_callers(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        for _ in range(100):  # what CPython has specialised by now behaves otherwise than what is cold
            await on.still_works()
        address = await on.caller._connected()._replies.address()
        servers, garbled = kafka.bootstrap_servers, [(b"\xff\xfe", b"x")]
        await asyncio.to_thread(write_raw, servers, on.echo.name, 0, b"poison", garbled)
        await asyncio.to_thread(write_raw, servers, address.topic, address.partition, b"poison", garbled)
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    assert "not UTF-8" in (letter.envelope.status_message or "")
    assert letter.value == b"poison"


@pytest.mark.parametrize(
    "address",
    [b"dispatch.replies/99999999999", b"no such topic!/0", b"x" * 300 + b"/0", b"/0", b"dispatch.replies/-1"],
)
async def test_an_impossible_reply_address_wedges_nothing(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, address: bytes
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        value = on.caller._connected().catalog.codec(on.echo).encode(Echo(key="k"))
        await on.write(value, [("ce_source", b"dispatch"), ("mesh-reply-to", address)])
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    assert letter.envelope.status is StatusCode.INVALID_ARGUMENT


async def test_nothing_is_written_to_a_reply_address_that_is_not_the_sender_s(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        runtime = on.caller._connected()
        victim = await runtime._replies.address()
        before = await asyncio.to_thread(_end, kafka, victim.topic, victim.partition)
        value = runtime.catalog.codec(on.echo).encode(Echo(key="k"))
        forged = Envelope(
            id=new_id(), source="mallory", type=on.echo.name, reply_to=victim, correlation_id=new_id()
        )
        await on.write(value, write(forged))
        letter = await dead_letters.next(on.echo.name)
        after = await asyncio.to_thread(_end, kafka, victim.topic, victim.partition)
    assert (letter.envelope.status, after) == (StatusCode.PERMISSION_DENIED, before)


async def test_a_forged_reply_before_the_genuine_one_hides_nothing_from_attach(kafka: EmbeddedKafka) -> None:
    async with bench(kafka) as on:
        handle = await on.caller.call(on.echo, Echo(key="k", text="genuine"))
        token = HandleToken.decode(str(handle))
        forged = Envelope(
            id=new_id(), source="mallory", type="x", correlation_id=handle.id, status=StatusCode.NOT_FOUND
        )
        request = Envelope(
            id=new_id(),
            source="dispatch",
            type=on.echo.name,
            reply_to=token.reply_to,
            correlation_id=new_id(),
        )
        # A request whose reply was forged before it was even sent: its log has the forged one first.
        early = HandleToken(request.id, on.echo.name, token.reply_to)
        await on.producer.send(
            token.reply_to.topic,
            key=None,
            value=None,
            headers=write(forged._replace(correlation_id=early.id)),
            partition=token.reply_to.partition,
        )
        value = on.caller._connected().catalog.codec(on.echo).encode(Echo(key="k", text="early"))
        await on.write(value, write(request._replace(correlation_id=None)))
        assert (await on.caller.attach(early.encode(), on.echo).reply(PATIENCE)).text == "early"
        assert (await handle.reply(PATIENCE)).text == "genuine"


def _end(kafka: EmbeddedKafka, topic: str, partition: int) -> int:
    consumer = open_consumer(Settings(bootstrap_servers=kafka.bootstrap_servers), "test", OutageLog("test"))
    try:
        return end_offset(consumer, topic, partition)
    finally:
        consumer.close()
