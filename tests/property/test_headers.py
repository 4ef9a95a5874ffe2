"""Laws of the headers, over envelopes and bytes of any kind."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from broker_mesh import headers
from broker_mesh.errors import InvalidArgument
from broker_mesh.headers import Envelope, Place, ReplyTo
from broker_mesh.status import StatusCode

identifiers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=300)
numbers = st.integers(0, 10**18 - 1)
times = st.integers(0, 253_402_300_799_999)  # to the end of the year 9999, RFC 3339's last
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
topics = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
addresses = st.builds(
    ReplyTo, st.from_regex(r"[a-zA-Z0-9._-]{1,249}", fullmatch=True), st.integers(0, 2**31 - 1)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

envelopes = st.builds(
    Envelope,
    id=st.just("") | identifiers,
    source=st.just("") | identifiers,
    type=st.just("") | texts,
    time=st.just(-1) | times,
    traceparent=st.none() | texts,
    tracestate=st.none() | texts,
    baggage=st.none() | texts,
    deadline=st.none() | numbers,
    attempt=st.integers(1, 10**9),
    reply_to=st.none() | addresses,
    correlation_id=st.none() | identifiers,
    idempotency_key=st.none() | identifiers,
    status=st.none() | st.sampled_from(StatusCode),
    status_message=st.none() | texts,
    status_details=st.dictionaries(st.text(max_size=10), json_values, max_size=4),
    origin=st.none() | st.builds(Place, topics, numbers, numbers),
    replay_id=st.none() | identifiers,
    signature=st.none() | st.binary(max_size=80),
    exception=st.none() | texts,
    first_failure=st.none() | numbers,
    last_failure=st.none() | numbers,
    retry_at=st.none() | numbers,
    dead_letter=st.none() | st.builds(Place, topics, numbers, numbers),
    request_digest=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
)

raw_headers = st.lists(
    st.tuples(
        st.sampled_from(sorted(headers.mesh_names())) | st.text(max_size=20),
        st.none()
        | st.binary(max_size=60)
        | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.sampled_from(
            [b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"[" * 9000, b"1" * 5000]
        ),
    ),
    max_size=12,
)


@given(envelopes)
@example(Envelope())
@example(Envelope(time=0, origin=Place("a/b", 0, 0), reply_to=ReplyTo("a.b", 0)))
def test_what_is_written_is_read_back(envelope: Envelope) -> None:
    assert headers.read(headers.write(envelope)) == (envelope, None)


@given(envelopes)
def test_no_header_is_written_that_would_not_be_read(envelope: Envelope) -> None:
    written = headers.write(envelope)
    assert len({name for name, _ in written}) == len(written)
    assert all(value is not None and len(value) <= headers.MAX_READ_BYTES for _, value in written)


@given(raw_headers)
def test_reading_never_raises_whatever_arrives(raw: headers.RawHeaders) -> None:
    envelope, problem = headers.read(raw)
    assert isinstance(envelope, Envelope)
    assert problem is None or isinstance(problem, InvalidArgument)
    assert envelope.attempt >= 1


@given(raw_headers)
def test_what_was_read_can_be_written_again_and_reads_the_same(raw: headers.RawHeaders) -> None:
    envelope, _ = headers.read(raw)
    again, problem = headers.read(headers.write(envelope))
    assert problem is None
    # Bounded texts are cut; a time before 1970 is not passed on; an empty trace header says nothing.
    assert (again.id, again.reply_to, again.deadline, again.attempt, again.status, again.origin) == (
        envelope.id,
        envelope.reply_to,
        envelope.deadline,
        envelope.attempt,
        envelope.status,
        envelope.origin,
    )


@given(st.text(), st.integers(0, 60))
def test_a_bounded_text_never_exceeds_its_limit_and_stays_utf8(text: str, limit: int) -> None:
    data = headers.bounded(text, limit)
    assert len(data) <= limit
    data.decode()
    whole = text.encode("utf-8", "backslashreplace")
    assert (data == whole) == (len(whole) <= limit)


two_digits = st.integers(0, 99).map(lambda number: f"{number:02}")


@given(st.integers(0, 9999), st.lists(two_digits, min_size=5, max_size=5), st.integers(0, 999))
@example(2026, ["02", "29", "10", "00", "00"], 0)
@example(2026, ["11", "24", "24", "00", "00"], 500)
@example(2026, ["11", "24", "23", "59", "60"], 0)
@example(9999, ["12", "31", "23", "59", "59"], 999)
def test_a_time_is_read_alike_whether_it_is_written_as_the_mesh_writes_it_or_not(
    year: int, rest: list[str], thousandths: int
) -> None:
    month, day, hour, minute, second = rest
    time = f"{year:04}-{month}-{day}T{hour}:{minute}:{second}.{thousandths:03}"
    as_written, otherwise = (
        headers.read([("ce_time", (time + end).encode())])[0].time for end in ("Z", "0+00:00")
    )
    assert as_written == otherwise
