"""The public names, and that importing them is cheap where it must be."""

from __future__ import annotations

import subprocess
import sys

import pytest

import broker_mesh

PINNED = {"Context", "Event", "Handle", "Mesh", "MeshError", "Operation", "Receipt", "Retry", "StatusCode"}


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
