"""Bad input on a real Kafka: each kind gets a clear error, loses nothing, and stops nobody else."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh import Context, Mesh, MeshError, Operation, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import InvalidArgument, MessageTooLarge, SettingsError, Unauthenticated, Unavailable
from broker_mesh.headers import Envelope, RawHeaders, ReplyTo, write
from broker_mesh.kafka.producer import Producer
from broker_mesh.message import Message, new_id
from broker_mesh.replies import HandleToken
from broker_mesh.settings import Settings
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh

PATIENCE = 40.0


class Echo(BaseModel):
    key: str
    text: str = ""


class Bench:
    """A running echo service, a caller, and a producer that writes whatever it is told to."""

    def __init__(
        self, echo: Operation[Echo, Echo], caller: Mesh, producer: Producer, handled: list[str]
    ) -> None:
        self.echo, self.caller, self.producer, self.handled = echo, caller, producer, handled

    async def write(self, value: bytes | None, headers: RawHeaders | None = None, key: bytes = b"k") -> None:
        await self.producer.send(self.echo.name, key=key, value=value, headers=headers or [])

    async def still_works(self) -> None:
        """The next request, of the same key, is answered: nothing is stuck behind the bad record."""
        reply = await self.caller.request(self.echo, Echo(key="k", text="fine"), timeout=PATIENCE)
        assert reply.text == "fine"


@asynccontextmanager
async def bench(kafka: EmbeddedKafka, **settings: Any) -> AsyncIterator[Bench]:
    name = fresh("echo")
    mesh = make_mesh(name, kafka.bootstrap_servers, **settings)
    echo = Operation(f"{name}.v1.echo", request=Echo, reply=Echo, key="key")
    handled: list[str] = []

    @mesh.operation(echo)
    async def handle(request: Echo, context: Context) -> Echo:
        handled.append(context.id)
        return Echo(key=request.key, text=request.text * 2 if request.key == "double" else request.text)

    producer = Producer(Settings(bootstrap_servers=kafka.bootstrap_servers), "bad-input")
    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        yield Bench(echo, caller, producer, handled)
    await producer.close(10)


async def test_bytes_that_are_no_avro_are_dead_lettered_at_once_as_they_came(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        for value, reason in (
            (b"", "too few"),
            (b"\x00\x00", "too few"),
            (b'{"key": "json"}', "magic byte"),
            (b"\x01\x00\x00\x00\x01\x02a\x00", "magic byte"),
            (b"\x00\x7f\xff\xff\xffabc", "schema id 2147483647"),
            (None, "null"),
        ):
            await on.write(value, [("foreign", b"\xff\x00")], key=b"\xfe\xff")
            letter = await dead_letters.next(on.echo.name)
            _is_kept(letter, value, reason)
            assert letter.key == b"\xfe\xff"
            assert letter.record is not None
            assert ("foreign", b"\xff\x00") in letter.record.headers
        await on.still_works()
        assert len(on.handled) == 1


async def test_truncated_avro_is_answered_and_kept(kafka: EmbeddedKafka, dead_letters: DeadLetters) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        runtime = on.caller._connected()
        whole: bytes = runtime.catalog.codec(on.echo).encode(Echo(key="truncated", text="text"))
        for cut in (5, 6, 8):
            token = HandleToken(new_id(), on.echo.name, await runtime._replies.address())
            request = Envelope(id=token.id, source="dispatch", type=on.echo.name, reply_to=token.reply_to)
            await on.write(whole[:cut], write(request))
            with pytest.raises(InvalidArgument):
                await on.caller.attach(token.encode()).reply(PATIENCE)
            letter = await dead_letters.next(on.echo.name)
            _is_kept(letter, whole[:cut], "")
            assert letter.envelope.id == request.id
        await on.still_works()


async def test_a_malformed_header_of_the_mesh_is_refused_by_name(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        value = on.caller._connected().catalog.codec(on.echo).encode(Echo(key="k"))
        for name, garbled in (
            ("mesh-deadline", b"tomorrow"),
            ("mesh-attempt", b"0"),
            ("mesh-attempt", b"-1"),
            ("mesh-status", b"FINE"),
            ("mesh-reply-to", b"nowhere"),
            ("ce_id", b"\xff\xfe"),
            ("ce_source", b"a b"),
            ("ce_time", b"noon"),
            ("mesh-status-details", b"[" * 9000),
            ("mesh-origin", b"a/b/c"),
            ("ce_type", b"x" * 20_000),
        ):
            await on.write(value, [(name, garbled)])
            _is_kept(await dead_letters.next(on.echo.name), value, name)
        await on.still_works()
        assert len(on.handled) == 2


async def test_a_malformed_traceparent_and_foreign_headers_are_no_errors(kafka: EmbeddedKafka) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        value = on.caller._connected().catalog.codec(on.echo).encode(Echo(key="k"))
        await on.write(value, [("traceparent", b"00-garbage"), ("x", None), ("x", b"\x00"), ("", b"")])
        await on.still_works()
        assert len(on.handled) == 3


async def test_a_reply_address_of_another_service_is_denied(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        value = on.caller._connected().catalog.codec(on.echo).encode(Echo(key="k"))
        stolen = Envelope(
            id=new_id(), source="mallory", type=on.echo.name, reply_to=ReplyTo("dispatch.replies", 0)
        )
        await on.write(value, write(stolen))
        await on.still_works()
        assert stolen.id not in on.handled


async def test_a_reply_whose_topic_is_gone_is_kept_as_a_dead_letter(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        value = on.caller._connected().catalog.codec(on.echo).encode(Echo(key="k"))
        nowhere = Envelope(
            id=new_id(), source="ghost", type=on.echo.name, reply_to=ReplyTo("ghost.replies", 0)
        )
        await on.write(value, write(nowhere))
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    assert letter.envelope.status is StatusCode.FAILED_PRECONDITION
    assert "can't be delivered to ghost.replies/0" in (letter.envelope.status_message or "")


async def test_an_oversized_request_is_refused_before_it_is_sent(kafka: EmbeddedKafka) -> None:
    async with bench(kafka) as on:
        with pytest.raises(MessageTooLarge, match="send a reference"):
            await on.caller.request(on.echo, Echo(key="k", text="x" * 1_100_000), timeout=PATIENCE)
        await on.still_works()


async def test_an_oversized_reply_is_an_error_for_its_caller_and_the_request_is_kept(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        with pytest.raises(MeshError, match="the reply is too large") as caught:
            await on.caller.request(on.echo, Echo(key="double", text="x" * 700_000), timeout=PATIENCE)
        assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    assert letter.value is not None
    assert len(letter.value) > 700_000


async def test_a_request_of_the_largest_size_that_fails_still_fits_its_dead_letter_topic(
    kafka: EmbeddedKafka, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        value = b"\x07" + b"x" * 999_000
        await on.write(value, [("padding", b"p" * 900)])
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    _is_kept(letter, value, "magic byte")


async def test_a_dead_letter_that_can_not_be_written_holds_its_record_and_is_never_skipped(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(kafka) as on:
        await on.still_works()
        await _set_topic(kafka, f"{on.echo.name}.dead", "max.message.bytes", "100")
        with caplog.at_level(logging.ERROR, "broker_mesh.settle"):
            await on.write(b"poison" * 40)
            async with asyncio.timeout(PATIENCE):
                while not any("is held" in record.message for record in caplog.records):
                    await asyncio.sleep(0.05)
        # Another key goes on meanwhile; the poison's own key waits behind it.
        assert (await on.caller.request(on.echo, Echo(key="other"), timeout=PATIENCE)).key == "other"
        await _set_topic(kafka, f"{on.echo.name}.dead", "max.message.bytes", "2000000")
        letter = await dead_letters.next(on.echo.name)
        await on.still_works()
    _is_kept(letter, b"poison" * 40, "magic byte")


async def test_no_broker_is_one_sentence_that_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, nobody answers
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        mesh = make_mesh("dispatch", address, connect_timeout_seconds=1.0)
        said = rf"no Kafka broker answers at {address} .*Connection refused.*mesh dev up"
        with caplog.at_level(logging.WARNING), pytest.raises(Unavailable, match=said):
            async with mesh:
                pytest.fail("connected to nothing")
    assert caplog.records == []  # the sentence says it once


async def test_a_host_that_is_unknown_is_said_to_be() -> None:
    mesh = make_mesh("dispatch", "no-such-host.invalid:9092", connect_timeout_seconds=1.0)
    with pytest.raises(Unavailable, match=r"Failed to resolve 'no-such-host\.invalid:9092'"):
        async with mesh:
            pytest.fail("connected to nothing")


@pytest.mark.parametrize(
    ("kafka_settings", "error", "sentence"),
    [
        ({"security.protocol": "SSL"}, Unauthenticated, "refuses the connection: "),
        (
            {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "me",
                "sasl.password": "hidden-word",
            },
            Unauthenticated,
            "refuses the connection: ",
        ),
        ({"security.protocol": "carrier-pigeon"}, SettingsError, "security.protocol"),
        ({"securty.protocol": "SSL"}, SettingsError, "securty.protocol"),
        ({"ssl.ca.location": "/no/such/file", "security.protocol": "SSL"}, SettingsError, "ssl.ca.location"),
    ],
)
async def test_wrong_security_settings_are_one_sentence(
    kafka: EmbeddedKafka, kafka_settings: dict[str, str], error: Any, sentence: str
) -> None:
    mesh = make_mesh("dispatch", kafka.bootstrap_servers, kafka=kafka_settings, connect_timeout_seconds=2.0)
    with pytest.raises(error) as caught:
        async with mesh:
            pytest.fail("connected in spite of wrong settings")
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message
    assert "hidden-word" not in caught.value.message


def _is_kept(letter: Message, value: bytes | None, reason: str) -> None:
    assert letter.value == value
    assert letter.envelope.status is StatusCode.INVALID_ARGUMENT
    assert reason in (letter.envelope.status_message or "")
    assert letter.envelope.origin is not None
    assert letter.envelope.origin.partition == letter.partition


async def _set_topic(kafka: EmbeddedKafka, topic: str, name: str, value: str) -> None:
    from confluent_kafka.admin import (
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        await asyncio.to_thread(future.result, 10)
