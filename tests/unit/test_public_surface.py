"""The public names, and that importing them is cheap where it must be."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import broker_mesh
from broker_mesh import adapter

PINNED = {"Context", "Event", "Handle", "Mesh", "MeshError", "Operation", "Receipt", "Retry", "StatusCode"}

PINNED_FOR_ADAPTERS = {
    "Connection",
    "Declaration",
    "Delivery",
    "Intake",
    "Message",
    "Outbound",
    "Outgoing",
    "RawHeaders",
    "Reception",
    "Record",
    "State",
    "SyncHandle",
    "TopicContract",
    "Validation",
    "across",
    "connect",
    "to_record",
    "translate",
}
ROOT = Path(__file__).parents[2]


def test_the_names_for_adapters_are_these_and_each_says_what_it_is() -> None:
    assert set(adapter.__all__) == PINNED_FOR_ADAPTERS
    for name in PINNED_FOR_ADAPTERS - {"Declaration", "RawHeaders"}:  # these are aliases
        public = getattr(adapter, name)
        assert public.__doc__, name
        for member, value in vars(public).items() if inspect.isclass(public) else ():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_the_guide_shows_the_tiny_adapter_as_it_is_tested() -> None:
    shown = (ROOT / "docs" / "guide" / "writing-adapters.md").read_text()
    source = (ROOT / "tests" / "support" / "tiny_adapter.py").read_text()
    assert f"```python\n{source}```\n" in shown
    named = {line for line in source.splitlines() if "broker_mesh" in line and "import" in line}
    assert {line.split()[1] for line in named} == {"broker_mesh", "broker_mesh.adapter"}


def test_the_public_names_are_these_and_all_can_be_had() -> None:
    assert set(broker_mesh.__all__) == PINNED
    for name in broker_mesh.__all__:
        assert getattr(broker_mesh, name).__name__ == name
    assert set(dir(broker_mesh)) >= PINNED


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Mush'"):
        _ = broker_mesh.Mush


def test_a_module_of_declarations_does_not_load_kafka_or_opentelemetry() -> None:
    program = (
        "import sys; from broker_mesh import Event, MeshError, Operation, StatusCode; "
        "print([name for name in ('confluent_kafka', 'opentelemetry', 'fastavro', 'typer') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "[]"
