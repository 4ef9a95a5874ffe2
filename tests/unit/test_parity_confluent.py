"""Every public name of confluent_kafka's clients is supported by the wrapped ones, or refused with a sentence.

The names are those of the installed version, found by `dir()`: one that a later version adds fails here until somebody
has decided what it means for a message of the mesh.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import confluent_kafka as plain
import pytest
from confluent_kafka import aio as plain_aio

from broker_mesh.errors import MeshError
from broker_mesh_adapters import confluent_kafka as wrapped
from broker_mesh_adapters.confluent_kafka import refused as refusals

_PROTOCOLS = {
    "__len__",
    "__bool__",
    "__enter__",
    "__exit__",
    "__aenter__",
    "__aexit__",
    "__iter__",
    "__aiter__",
}


class Parity(NamedTuple):
    """What is decided of one class.

    Args:
        real: confluent_kafka's.
        name: the wrapped class's in `broker_mesh_adapters.confluent_kafka`.
        supported: names that work as in the real class.
        refused: names that raise a MeshError which says what to use.
    """

    real: type
    name: str
    supported: set[str]
    refused: set[str] = set()  # noqa: RUF012 - never changed

    @property
    def ours(self) -> Any:
        return getattr(wrapped, self.name)


PRODUCER = {
    *("__len__", "__bool__", "__enter__", "__exit__"),
    *("produce", "produce_batch", "poll", "flush", "purge", "close"),
    *("init_transactions", "begin_transaction", "commit_transaction", "abort_transaction"),
    *("send_offsets_to_transaction", "list_topics", "cluster_id", "set_sasl_credentials"),
}
AIO_PRODUCER = (PRODUCER - {"__enter__", "__exit__", "__bool__", "produce_batch"}) | {
    "__aenter__",
    "__aexit__",
}

CONSUMER = {
    *("__enter__", "__exit__"),
    *("subscribe", "unsubscribe", "assign", "incremental_assign", "unassign", "incremental_unassign"),
    *("assignment", "poll", "consume", "commit", "store_offsets", "committed", "position", "seek"),
    *("pause", "resume", "get_watermark_offsets", "offsets_for_times", "list_topics", "cluster_id"),
    *("consumer_group_metadata", "memberid", "set_sasl_credentials", "close"),
}
AIO_CONSUMER = (CONSUMER - {"__enter__", "__exit__", "memberid"}) | {"__aenter__", "__aexit__"}

CLASSES = [
    Parity(plain.Producer, "Producer", PRODUCER),
    Parity(plain.SerializingProducer, "SerializingProducer", PRODUCER),
    Parity(plain_aio.AIOProducer, "AIOProducer", AIO_PRODUCER),
    Parity(plain.Consumer, "Consumer", CONSUMER),
    Parity(plain.DeserializingConsumer, "DeserializingConsumer", CONSUMER),
    Parity(plain_aio.AIOConsumer, "AIOConsumer", AIO_CONSUMER),
]

each_class = pytest.mark.parametrize("parity", CLASSES, ids=lambda parity: parity.name)


def public(cls: type) -> set[str]:
    inherited = set(dir(object))
    protocols = {name for name in _PROTOCOLS & set(dir(cls)) if name not in inherited}
    return {name for name in dir(cls) if not name.startswith("_")} | protocols


@each_class
def test_every_public_name_is_decided(parity: Parity) -> None:
    undecided = public(parity.real) - parity.supported - parity.refused
    assert not undecided, f"{parity.name}: decide what {sorted(undecided)} mean for the mesh"
    gone = (parity.supported | parity.refused) - public(parity.real)
    assert not gone, f"{parity.name}: confluent_kafka has no {sorted(gone)} any more"


@each_class
def test_what_is_supported_takes_what_the_real_one_takes(parity: Parity) -> None:
    for name in sorted(parity.supported):
        real, ours = getattr(parity.real, name), getattr(parity.ours, name)
        if ours is real or name.startswith("_") or not callable(real):
            continue
        theirs, mine = parameters(parity.real, name), inspect.signature(ours).parameters
        takes_any = {each.kind for each in mine.values()} >= {
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        }
        named = [each for each in mine if mine[each].kind is not inspect.Parameter.KEYWORD_ONLY][1:]
        assert takes_any or named[: len(theirs)] == theirs, (
            f"{parity.name}.{name} takes {named}, not {theirs}"
        )
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(real), name


def parameters(cls: type, name: str) -> list[str]:
    """A method's parameters, without self; those of compiled classes stand in the stub beside them."""
    method = getattr(cls, name)
    if inspect.isfunction(method):
        kinds = inspect.signature(method).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [each.name for each in kinds if each.kind not in variable][1:]
    owner = next(base.__name__ for base in cls.__mro__ if name in vars(base))
    stub = ast.parse(Path(plain.__file__).with_name("cimpl.pyi").read_text(encoding="utf-8"))
    (found,) = (node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == owner)
    definitions = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert definitions, f"{owner}.{name} has no stub: say here what it takes"
    arguments = definitions[-1].args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args)][1:]


# ── the module ────────────────────────────────────────────────────────────────────────────────────────────


def is_client(value: Any) -> bool:
    return isinstance(value, type) and (hasattr(value, "produce") or hasattr(value, "poll"))


PUBLIC = {*plain.__all__, *(name for name in dir(plain) if not name.startswith("_"))} - {
    "os"
}  # which it imports


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_of_the_module_is_there(name: str) -> None:
    real, ours = getattr(plain, name, None), getattr(wrapped, name)
    if isinstance(ours, types.ModuleType):
        for inner in getattr(ours, "__all__", ()):
            assert not is_client(getattr(ours, inner)) or getattr(ours, inner) is not getattr(real, inner)
    elif is_client(real) or name in wrapped.__all__:
        assert ours is not real, f"{name} goes round the mesh"
        assert ours.__name__ == name
    else:
        assert ours is real


@pytest.mark.parametrize("module", [plain, plain_aio])
def test_every_class_that_produces_or_polls_is_wrapped_or_refused(module: Any) -> None:
    decided = {parity.real.__name__ for parity in CLASSES}
    for name, value in vars(module).items():
        if is_client(value):
            assert name in decided or hasattr(refusals, name), f"{name}: wrap it, or refuse it"


REFUSED = [
    "ShareConsumer",
    "DeserializingShareConsumer",
    "AsyncSerializingProducer",
    "AsyncDeserializingConsumer",
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_wrapped_says_what_to_use(name: str) -> None:
    with pytest.raises(MeshError, match=rf"{name} is not wrapped: (use|await) .* without the mesh"):
        getattr(refusals, name)({})


def test_a_name_that_nobody_has_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"neither .* nor confluent_kafka has 'no_such_name'"):
        _ = wrapped.no_such_name


PASSED_ON = ["admin", "error", "serialization", "schema_registry", "schema_registry.avro"]


@pytest.mark.parametrize("module", PASSED_ON)
def test_modules_without_clients_are_passed_on(module: str) -> None:
    with warnings.catch_warnings(record=True):  # of what the registry's client imports
        real = importlib.import_module(f"confluent_kafka.{module}")
    ours = importlib.import_module(f"broker_mesh_adapters.confluent_kafka.{module}")
    for name in getattr(real, "__all__", [name for name in dir(real) if not name.startswith("_")]):
        assert getattr(ours, name) is getattr(real, name)
