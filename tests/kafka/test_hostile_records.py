"""Records made to do harm: each is kept or refused by itself, and neither a service nor a caller falls over it."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Producer as PlainProducer

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

PATIENCE = 40.0


def _write_raw(kafka: EmbeddedKafka, topic: str, partition: int, headers: list[tuple[str, bytes]]) -> None:
    producer = PlainProducer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, value=b"\x00", partition=partition, headers=headers)
    assert producer.flush(20) == 0


def _garble_header_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """confluent_kafka can't write a header name that is not UTF-8, but others can: have reading one fail as it does."""
    import broker_mesh.kafka.records as records

    class Unreadable:
        def __init__(self, message: object) -> None:
            self._message = message

        def __getattr__(self, name: str) -> object:
            return getattr(self._message, name)

        def headers(self) -> object:
            read = self._message.headers()  # type: ignore[attr-defined]
            if read and read[0][0] == "garble":
                raise SystemError("returned a result with an exception set")
            return read

    original = records.to_record
    for module in ("broker_mesh.kafka.consumer", "broker_mesh.kafka.reader"):
        monkeypatch.setattr(f"{module}.to_record", lambda message: original(Unreadable(message)))  # type: ignore[arg-type]


async def test_headers_that_can_not_be_read_harm_neither_the_service_nor_its_callers(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    _garble_header_name(monkeypatch)
    async with bench(kafka) as on:
        await on.still_works()
        address = await on.caller._connected()._replies.address()
        await asyncio.to_thread(_write_raw, kafka, on.echo.name, 0, [("garble", b"")])
        await asyncio.to_thread(_write_raw, kafka, address.topic, address.partition, [("garble", b"")])
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    assert "not UTF-8" in (letter.envelope.status_message or "")


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
