"""Connections of wrapped clients: their ends, without Kafka."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker_mesh import connection
from broker_mesh.bridge import across
from broker_mesh.errors import FailedPrecondition


class _Closing:
    def __init__(self, error: Exception | None = None) -> None:
        self.is_closed = False
        self._error = error

    def close(self) -> None:
        self.is_closed = True
        if self._error is not None:
            raise self._error


def test_one_that_can_t_be_closed_leaves_none_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = _Closing(OSError("no such device")), _Closing()
    monkeypatch.setattr(connection, "_shared", {"a": broken, "b": sound})
    with caplog.at_level(logging.ERROR):
        connection._close_all()
    assert broken.is_closed
    assert sound.is_closed
    assert "no such device" in caplog.text


async def test_what_is_asked_of_a_loop_that_has_ended_is_refused() -> None:
    ended = asyncio.new_event_loop()
    ended.close()

    async def work() -> None:
        pass

    with pytest.raises(FailedPrecondition, match="the mesh is disconnected"):
        await across(ended, work())
