"""Names, and what a topic's name tells."""

from __future__ import annotations

import pytest

from broker_mesh import naming
from broker_mesh.errors import SettingsError
from broker_mesh.naming import TopicName


def test_an_operation_s_name_tells_its_parts() -> None:
    assert naming.parse_operation("fleet.v1.find-aircraft") == TopicName(
        "fleet", "v1", "find-aircraft", False
    )


def test_an_event_s_name_tells_its_parts() -> None:
    expected = TopicName("dispatch", "v12", "flight-departed", True)
    assert naming.parse_event("dispatch.v12.events.flight-departed") == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fleet",
        "fleet.find-aircraft",
        "fleet.v1.find.aircraft",
        "fleet.v0.find-aircraft",
        "fleet.v01.find-aircraft",
        "fleet.1.find-aircraft",
        "Fleet.v1.find-aircraft",
        "fleet.v1.find_aircraft",
        "fleet.v1.find--aircraft",
        "fleet.v1.-find",
        "fleet.v1.find-",
        "fleet.v1.1find",
        "fleet.v1.find aircraft",
        "fleet.v1.find-aircraft\n",
        "flêet.v1.find-aircraft",
        "fleet.v1.",
        ".v1.find-aircraft",
        "_mesh.v1.registry",
        "fleet.v1.events.departed",
        "fleet.v1." + "a" * 240,
        *(f"fleet.v1.{word}" for word in sorted(naming.RESERVED_WORDS)),
        *(f"{word}.v1.find-aircraft" for word in sorted(naming.RESERVED_WORDS)),
    ],
)
def test_a_name_of_another_form_is_no_operation(name: str) -> None:
    with pytest.raises(SettingsError):
        naming.parse_operation(name)


@pytest.mark.parametrize(
    "name",
    [
        "dispatch.v1.flight-departed",
        "dispatch.v1.event.flight-departed",
        "dispatch.v1.events.events",
        "dispatch.v1.events.Flight",
        "dispatch.events.v1.flight-departed",
        "dispatch.v1.events.a.b",
    ],
)
def test_a_name_of_another_form_is_no_event(name: str) -> None:
    with pytest.raises(SettingsError):
        naming.parse_event(name)


def test_the_longest_name_leaves_room_for_the_topics_beside_it() -> None:
    stem = "fleet.v1."
    longest = stem + "a" * (naming.MAX_NAME_LENGTH - len(stem))
    assert naming.parse_operation(longest).name
    assert len(naming.idempotency_topic(longest)) == 249
    with pytest.raises(SettingsError, match="at most 237"):
        naming.parse_operation(longest + "a")


def test_a_subscription_whose_topics_would_be_too_long_is_refused() -> None:
    event = "dispatch.v1.events." + "a" * 210
    naming.parse_event(event)
    with pytest.raises(SettingsError, match="at most 237"):
        naming.subscription("weather-of-tomorrow", "v1", event)


@pytest.mark.parametrize("name", ["fleet", "a", "weather-2", "x1-y2-z3"])
def test_lower_case_words_joined_by_hyphens_name_a_service(name: str) -> None:
    assert naming.check_service(name) == name


@pytest.mark.parametrize("name", ["", "Fleet", "fleet.", "fleet_1", "1fleet", "replies", "dead"])
def test_other_names_of_services_are_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        naming.check_service(name)


@pytest.mark.parametrize(
    ("derived", "expected"),
    [
        (naming.retry_topic("fleet.v1.find-aircraft"), "fleet.v1.find-aircraft.retry"),
        (naming.dead_topic("fleet.v1.find-aircraft"), "fleet.v1.find-aircraft.dead"),
        (naming.subscription("weather", "v2", "a.v1.events.b"), "weather.v2.from.a.v1.events.b"),
        (naming.reply_topic("dispatch"), "dispatch.replies"),
        (naming.group("fleet"), "fleet"),
        (naming.value_subject("fleet.v1.find-aircraft"), "fleet.v1.find-aircraft-value"),
        (naming.reply_subject("fleet.v1.find-aircraft"), "fleet.v1.find-aircraft.reply-value"),
    ],
)
def test_derived_names_are_those_of_the_wire_format(derived: str, expected: str) -> None:
    assert derived == expected


def test_every_topic_of_a_service_begins_with_its_owner_s_name() -> None:
    event = "dispatch.v1.events.flight-departed"
    assert naming.owner("fleet.v1.find-aircraft") == "fleet"
    assert naming.owner(naming.reply_topic("dispatch")) == "dispatch"
    assert naming.owner(naming.dead_topic(naming.subscription("weather", "v1", event))) == "weather"


def test_a_group_has_the_form_of_its_service() -> None:
    assert naming.is_group(naming.group("fleet"))
    assert not naming.is_group("Fleet")
    assert not naming.is_group("fleet.v1.find-aircraft")


@pytest.mark.parametrize(
    ("topic", "source"),
    [
        ("fleet.v1.find-aircraft.retry", "fleet.v1.find-aircraft"),
        ("orders.v1.from.legacy_orders.dead", "legacy_orders"),
        ("orders.v1.from.Legacy.orders-2.retry", "Legacy.orders-2"),
        ("orders.v1.from.a.from.b.dead", "a.from.b"),
        ("orders.v1.from.billing.v1.from.legacy.dead.dead", "billing.v1.from.legacy.dead"),
        ("weather.v1.from.dispatch.v1.events.flight-departed.dead", "dispatch.v1.events.flight-departed"),
        ("legacy_orders.dead", None),
        ("orders.v1.from.legacy_orders", None),
        ("orders.v1.from.fleet.v1.find-aircraft.dead", None),  # an operation has no subscribers
        ("dispatch.v1.events.flight-departed.dead", None),
        ("Orders.v1.from.legacy.dead", None),
    ],
)
def test_failures_tell_whose_they_are(topic: str, source: str | None) -> None:
    assert naming.source_of_failures(topic) == source
