"""The collector that other tests rely on: it must see what is wrong."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tests.support.otlp import CollectedSpan, CollectorStub, assert_connected


def span(span_id: str, parent: str = "", trace: str = "t1") -> CollectedSpan:
    return CollectedSpan(f"span {span_id}", "INTERNAL", trace, span_id, parent, {}, "UNSET", "", 0, 0, {}, "")


@pytest.mark.parametrize(
    "spans",
    [
        [span("a")],
        [span("b", "a"), span("a"), span("c", "b")],
        [span("a"), span("b", "a"), span("c", trace="t2")],
    ],
    ids=["a root", "out of order", "two traces"],
)
def test_trees_are_connected(spans: list[CollectedSpan]) -> None:
    assert_connected(spans)


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ([], "no spans"),
        ([span("a"), span("b")], "2 roots"),
        ([span("a"), span("c", "b")], "missing"),
        ([span("b", "a")], "missing"),
        ([span("a"), span("b", "a", trace="t2")], "missing"),
        ([span("a"), span("b", "a"), span("b", "a")], "more than once"),
        ([span("a", "b"), span("b", "a")], "0 roots"),
    ],
    ids=["none", "two roots", "hole", "no root", "parent in another trace", "twice", "circle"],
)
def test_torn_traces_are_not(spans: list[CollectedSpan], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        assert_connected(spans)


def test_waiting_for_spans_that_do_not_come_fails_with_those_that_came() -> None:
    with CollectorStub() as collector, pytest.raises(AssertionError, match=r"has only \[\]"):
        collector.wait_for(lambda spans: bool(spans), timeout=0.01)


@pytest.mark.parametrize(
    ("path", "kind", "encoding", "status"),
    [
        ("/v1/traces", "application/x-protobuf", "", 400),
        ("/v1/traces", "application/x-protobuf", "gzip", 400),
        ("/v1/traces", "application/x-protobuf", "br", 400),
        ("/v1/traces", "application/json", "", 404),
        ("/v1/metrics", "application/x-protobuf", "", 400),
        ("/v1/logs", "application/x-protobuf", "", 404),
    ],
)
def test_what_is_no_otlp_request_is_refused(path: str, kind: str, encoding: str, status: int) -> None:
    with CollectorStub() as collector:
        request = urllib.request.Request(
            collector.endpoint + path,
            data=b"\xff garbage",
            headers={"Content-Type": kind, "Content-Encoding": encoding},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        caught.value.close()
        assert caught.value.code == status
        assert collector.requests == 0
