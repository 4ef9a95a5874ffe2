"""The tree of errors."""

from __future__ import annotations

import pickle

import pytest

from broker_mesh import errors
from broker_mesh.errors import (
    MeshError,
    MessageTooLarge,
    NotFound,
    ResourceExhausted,
    SchemaError,
    UnknownError,
)
from broker_mesh.status import StatusCode

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MeshError) and kind is not MeshError
]


@pytest.mark.parametrize("code", set(StatusCode) - {StatusCode.OK})
def test_every_status_but_ok_has_its_own_error_class(code: StatusCode) -> None:
    error = MeshError.of(code, "why")
    assert type(error) is not MeshError
    assert type(error).status is code
    assert error.status is code


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_stands_in_the_tree_that_the_docstring_draws(kind: type[MeshError]) -> None:
    assert f"── {kind.__name__} " in str(errors.__doc__)


def test_an_error_made_of_a_status_carries_what_travelled() -> None:
    error = MeshError.of(
        StatusCode.NOT_FOUND, "no such tail", details={"tailnum": "N1"}, attempts=3, handle="h"
    )
    assert isinstance(error, NotFound)
    assert (error.message, error.details, error.attempts, error.handle) == (
        "no such tail",
        {"tailnum": "N1"},
        3,
        "h",
    )


def test_the_text_of_an_error_begins_with_its_status() -> None:
    assert str(NotFound("no such tail")) == "NOT_FOUND: no such tail"


def test_a_status_given_wins_over_the_class() -> None:
    error = MeshError("x", status=StatusCode.ABORTED)
    assert error.status is StatusCode.ABORTED
    assert error.retriable
    assert MeshError("y").status is StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("error", "retriable"),
    [
        (UnknownError("x"), True),
        (ResourceExhausted("x"), True),
        (MessageTooLarge("x"), False),
        (NotFound("x"), False),
        (SchemaError("x"), False),
    ],
)
def test_retriable_follows_the_table_but_for_a_message_that_never_fits(
    error: MeshError, retriable: bool
) -> None:
    assert error.retriable is retriable


def test_details_are_the_error_s_own_copy() -> None:
    details = {"a": 1}
    error = NotFound("x", details=details)
    details["a"] = 2
    assert error.details == {"a": 1}


def test_an_error_survives_pickling_for_process_pools() -> None:
    error = pickle.loads(pickle.dumps(NotFound("x", details={"a": 1}, attempts=2)))
    assert (type(error), error.message, error.details, error.attempts) == (NotFound, "x", {"a": 1}, 2)
