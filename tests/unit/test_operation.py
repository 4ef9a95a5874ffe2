"""Declarations of operations and events."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh.errors import SettingsError
from broker_mesh.operation import Event, Operation


class FindAircraft(BaseModel):
    tailnum: str


class Aircraft(BaseModel):
    seats: int


def test_an_operation_knows_its_parts() -> None:
    operation = Operation("fleet.v1.find-aircraft", FindAircraft, Aircraft, key="tailnum")
    assert (operation.service, operation.version) == ("fleet", "v1")
    assert (operation.request, operation.reply, operation.key) == (FindAircraft, Aircraft, "tailnum")
    assert repr(operation) == "Operation('fleet.v1.find-aircraft')"


def test_an_operation_without_a_reply_is_one_way() -> None:
    assert Operation("fleet.v1.retire", FindAircraft).reply is None


def test_an_event_knows_its_parts() -> None:
    event = Event("dispatch.v1.events.flight-departed", FindAircraft, key="tailnum")
    assert (event.service, event.version, event.model, event.key) == (
        "dispatch",
        "v1",
        FindAircraft,
        "tailnum",
    )
    assert repr(event) == "Event('dispatch.v1.events.flight-departed')"


@pytest.mark.parametrize("model", [None, dict, "FindAircraft", FindAircraft(tailnum="N1")])
def test_requests_and_events_are_pydantic_models(model: Any) -> None:
    with pytest.raises(SettingsError, match="must be a pydantic model class"):
        Operation("fleet.v1.find-aircraft", model)
    with pytest.raises(SettingsError, match="must be a pydantic model class"):
        Event("fleet.v1.events.found", model)


def test_a_reply_is_a_pydantic_model() -> None:
    with pytest.raises(SettingsError, match="reply must be a pydantic model class"):
        Operation("fleet.v1.find-aircraft", FindAircraft, dict)  # type: ignore[type-var]


def test_a_key_that_is_no_field_is_refused_with_the_fields_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'tail' is not a field of FindAircraft \(its fields: tailnum\)"):
        Operation("fleet.v1.find-aircraft", FindAircraft, key="tail")
    with pytest.raises(SettingsError, match="not a field"):
        Event("fleet.v1.events.found", FindAircraft, key="tail")


def test_an_operation_is_not_declared_under_an_event_s_name_nor_the_reverse() -> None:
    with pytest.raises(SettingsError):
        Operation("dispatch.v1.events.flight-departed", FindAircraft)
    with pytest.raises(SettingsError):
        Event("fleet.v1.find-aircraft", FindAircraft)
