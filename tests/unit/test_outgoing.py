"""What a wrapped producer sends: its headers, its checks, and what becomes of a message that is not sent."""

from __future__ import annotations

import gc
from concurrent.futures import Future
from typing import Any, cast

import pytest

from broker_mesh.contracts.topic_contracts import TopicContract, Validation
from broker_mesh.errors import FailedPrecondition, InternalError, InvalidArgument, PermissionDenied
from broker_mesh.headers import RawHeaders
from broker_mesh.layer import Layer, Step, stack
from broker_mesh.message import Message, Receipt
from broker_mesh.outgoing import Outbound, Outgoing
from broker_mesh.stepping import Background, elsewhere, hand_over
from tests.support.polling import ByHand

MINE = "shop.v1.order"


class World:
    """An outbound without Kafka; its one layer does what a test says."""

    def __init__(self, decide: Any = None) -> None:
        self.loop = ByHand()
        self.results: list[Receipt | BaseException] = []
        self.outbound = Outbound(
            "shop",
            stack([self._layer(decide)], self._produce),
            cast("Background", self.loop),
            contract_of=self._contract,
            is_ready=lambda _: True,
            make_ready=cast("Any", None),
        )

    @staticmethod
    def _contract(topic: str) -> TopicContract:
        return TopicContract(topic, "plain", None, Validation.OFF, "avro", None, cast("Any", None))

    def _layer(self, decide: Any) -> Layer[Receipt]:
        def around(rest: Step[Receipt]) -> Step[Receipt]:
            async def step(message: Message) -> Receipt:
                try:
                    if decide is not None:
                        await decide(message)
                    receipt = await rest(message)
                except BaseException as error:
                    self.results.append(error)
                    raise
                self.results.append(receipt)
                return receipt

            return step

        return Layer("decide", around)

    @staticmethod
    async def _produce(message: Message) -> Receipt:
        receipt: Receipt = await hand_over(message)
        return receipt

    def prepare(self, topic: str = "orders", given: RawHeaders | None = None, **options: Any) -> Outgoing:
        prepared = self.outbound.prepare(topic, b"value", program_headers=given or [], **options)
        assert isinstance(prepared, Outgoing)
        return prepared


def test_a_message_is_prepared_inline_and_told_of_its_delivery() -> None:
    world = World()
    outgoing = world.prepare(key=b"key", partition=2)
    assert (outgoing.topic, outgoing.key, outgoing.value, outgoing.partition) == (
        "orders",
        b"key",
        b"value",
        2,
    )
    headers = dict(outgoing.headers)
    assert headers["ce_id"] == outgoing.id.encode()
    assert headers["ce_source"] == b"shop"
    assert headers["ce_type"] == b"orders"
    outgoing.acknowledged(2, 17)
    assert world.results == [Receipt("orders", 2, 17)]
    outgoing.failed(ValueError("too late"))
    assert world.results == [Receipt("orders", 2, 17)]


def test_a_message_that_was_not_sent_ends_with_the_reason() -> None:
    world = World()
    lost = ValueError("the broker is away")
    world.prepare().failed(lost)
    assert world.results == [lost]


def test_one_that_is_dropped_ends_as_not_sent() -> None:
    world = World()
    gc.disable()  # counting references is enough
    try:
        world.prepare()
        assert [type(result) for result in world.results] == [GeneratorExit]
    finally:
        gc.enable()


def test_a_refusal_is_raised_and_an_error_of_a_check_is_the_meshs() -> None:
    async def deny(_: Message) -> None:
        raise PermissionDenied("no")

    async def break_down(_: Message) -> None:
        raise KeyError("bug")

    with pytest.raises(PermissionDenied):
        World(deny).prepare()
    with pytest.raises(InternalError, match="KeyError in a check of the mesh: 'bug'"):
        World(break_down).prepare()


@pytest.mark.parametrize("refused", [False, True])
def test_what_has_to_be_read_first_comes_later(refused: bool) -> None:
    async def read(_: Message) -> None:
        await elsewhere(_nothing)
        await elsewhere(_nothing)
        if refused:
            raise PermissionDenied("no")

    world = World(read)
    prepared = world.outbound.prepare("orders", b"value")
    assert isinstance(prepared, Future)
    assert not prepared.done()
    assert not prepared.cancel(), "who gives up waiting just drops it"
    world.loop.finish()
    if refused:
        assert isinstance(prepared.exception(0), PermissionDenied)
    else:
        prepared.result(0).acknowledged(0, 1)
        assert world.results == [Receipt("orders", 0, 1)]


def test_a_mesh_that_is_disconnected_prepares_nothing() -> None:
    world = World()
    world.loop.closed = "the mesh is disconnected"
    with pytest.raises(FailedPrecondition, match="orders: the mesh is disconnected"):
        world.prepare()


# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_programs_own_headers_stay_and_those_of_the_meshs_names_are_replaced() -> None:
    given: RawHeaders = [
        ("own", b"1"),
        ("mesh-group", b"forged"),
        ("mesh-attempt", b"7"),
        ("ce_id", b"mine"),
        ("own", b"2"),
        ("mesh-deadline", b"99"),
        ("mesh-idempotency-key", b"k"),
    ]
    headers = World().prepare(given=given).headers
    assert headers[:2] == [("own", b"1"), ("own", b"2")]
    names = dict(headers)
    assert "mesh-group" not in names
    assert "mesh-attempt" not in names
    assert names["ce_id"] != b"mine"
    assert names["mesh-deadline"] == b"99"
    assert names["mesh-idempotency-key"] == b"k"
    assert given[3] == ("ce_id", b"mine"), "the program's list is its own"


def test_a_programs_cloud_event_stays_as_it_is_but_on_the_meshs_own_topics() -> None:
    given: RawHeaders = [("ce_specversion", b"1.0"), ("ce_id", b"mine"), ("ce_source", b"/here")]
    headers = World().prepare(given=given).headers
    assert [value for name, value in headers if name.startswith("ce_")] == [b"1.0", b"mine", b"/here"]
    assert dict(headers)["mesh-source"] == b"shop", (
        "it may have been passed on: who sends it is told all the same"
    )
    ours = dict(World().prepare(MINE, given=given).headers)
    assert ours["ce_id"] != b"mine"
    assert ours["ce_source"] == b"shop"


def test_a_header_that_the_program_may_give_must_be_well_formed() -> None:
    with pytest.raises(InvalidArgument, match="mesh-deadline"):
        World().prepare(given=[("mesh-deadline", b"soon")])


async def _nothing() -> None:
    pass
