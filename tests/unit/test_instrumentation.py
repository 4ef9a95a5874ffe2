"""`instrument`: what is put in place in a framework's module, what is refused, and that it can be undone."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import confluent_kafka
import pytest

from broker_mesh import Mesh
from broker_mesh.errors import FailedPrecondition, SettingsError
from broker_mesh_adapters.confluent_kafka import Consumer, Producer, instrument

MESH = Mesh("orders", bootstrap_servers="localhost:9")


class NotedConsumer(Consumer):
    """Connects to nothing, and notes what it was constructed with."""

    def __init__(self, *args: Any, mesh: Mesh, flavour: str = "plain", **kwargs: Any) -> None:
        self.noted = args, mesh, flavour, kwargs


@pytest.fixture
def framework() -> ModuleType:
    module = ModuleType("framework.clients")
    vars(module).update(Consumer=confluent_kafka.Consumer, KafkaProducer=confluent_kafka.Producer, retries=3)
    return module


def test_clients_are_found_by_whatever_name_they_were_imported(framework: ModuleType) -> None:
    with instrument(framework, mesh=MESH) as done:
        assert set(done.classes) == {"Consumer", "KafkaProducer"}
        assert issubclass(framework.Consumer, Consumer)
        assert issubclass(framework.KafkaProducer, Producer)
        assert framework.retries == 3

    assert framework.Consumer is confluent_kafka.Consumer
    assert framework.KafkaProducer is confluent_kafka.Producer


def test_the_framework_s_arguments_go_through_and_options_reach_those_that_take_them(
    framework: ModuleType,
) -> None:
    with instrument(framework, mesh=MESH, classes=[NotedConsumer], flavour="sour"):
        made = framework.Consumer({"group.id": "g"}, logger="log")
        assert made.noted == (({"group.id": "g"},), MESH, "sour", {"logger": "log"})


def test_what_is_put_in_place_can_be_subclassed(framework: ModuleType) -> None:
    with instrument(framework, mesh=MESH, classes=[NotedConsumer]):

        class Special(framework.Consumer):  # type: ignore[misc, name-defined]
            def greeting(self) -> str:
                return f"of {self.noted[1].service}"

        assert Special({}).greeting() == "of orders"


def test_the_same_again_changes_nothing(framework: ModuleType) -> None:
    with instrument(framework, mesh=MESH) as first:
        there = framework.Consumer
        assert instrument(framework, mesh=MESH) is first
        assert framework.Consumer is there


def test_another_mesh_or_other_options_are_refused_until_it_is_undone(framework: ModuleType) -> None:
    other = Mesh("billing", bootstrap_servers="localhost:9")
    with instrument(framework, mesh=MESH):
        with pytest.raises(FailedPrecondition, match=r"framework\.clients is instrumented already.*undo\(\)"):
            instrument(framework, mesh=other)
        with pytest.raises(FailedPrecondition):
            instrument(framework, mesh=MESH, ordering="none")
    with instrument(framework, mesh=other):
        pass


def test_undoing_leaves_alone_what_something_else_has_put_there(framework: ModuleType) -> None:
    done = instrument(framework, mesh=MESH)
    framework.Consumer = sentinel = object()
    done.undo()
    done.undo()

    assert framework.Consumer is sentinel
    assert framework.KafkaProducer is confluent_kafka.Producer


def test_undoing_twice_leaves_alone_what_was_put_there_since(framework: ModuleType) -> None:
    first = instrument(framework, mesh=MESH)
    first.undo()
    second = instrument(framework, mesh=MESH, ordering="none")
    first.undo()
    assert instrument(framework, mesh=MESH, ordering="none") is second
    second.undo()
    assert framework.Consumer is confluent_kafka.Consumer


def test_a_module_without_clients_is_refused() -> None:
    with pytest.raises(SettingsError, match="json has imported neither Producer nor Consumer"):
        instrument(json, mesh=MESH)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(SettingsError, match="give the module itself"):
        instrument("faststream.confluent.helpers.client", mesh=MESH)  # type: ignore[arg-type]


def test_an_option_that_no_client_takes_is_refused(framework: ModuleType) -> None:
    with pytest.raises(SettingsError, match="no wrapped client takes the option 'odrering'"):
        instrument(framework, mesh=MESH, odrering="none")
    assert framework.Consumer is confluent_kafka.Consumer
