"""The policy of a process: files and live rules together, records that can't be understood, and outages."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from broker_mesh.control import live
from broker_mesh.control.files import read_text
from broker_mesh.control.live import LivePolicy
from broker_mesh.control.policy import Policy
from broker_mesh.control.store import Applied, decode, encode
from broker_mesh.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError, Unavailable
from broker_mesh.kafka.table import TableRecord
from broker_mesh.layers.authorize import Action, Verdict
from broker_mesh.settings import Settings

FIND = "fleet.v1.find-aircraft"
KEY = b"Access/rule"


def access(action: str, name: str = "rule") -> Any:
    spec = f"{{to: fleet, operations: ['*'], from: [dispatch], action: {action}}}"
    return read_text(f"kind: Access\nname: {name}\nspec: {spec}", "x")


def value(action: str, name: str = "rule") -> bytes:
    (resource,) = access(action, name).values()
    return encode(Applied(resource, "me@here", 1_700_000_000_000))


def default(action: str) -> bytes:
    (resource,) = read_text(
        f"kind: Mesh\nname: default\nspec: {{access: {{default: {action}}}}}", "x"
    ).values()
    return encode(Applied(resource, "", 0))


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_says_what_it_was_made_of() -> None:
    applied = decode(KEY, value("deny"))
    assert applied == Applied(access("deny")["Access/rule"], "me@here", 1_700_000_000_000)
    assert json.loads(value("deny")) == {
        "format": 1,
        "kind": "Access",
        "name": "rule",
        "spec": {"to": "fleet", "operations": ["*"], "from": ["dispatch"], "action": "deny"},
        "applied": {"by": "me@here", "at": 1_700_000_000_000},
    }


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(value("deny")), **fields}).encode()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"\xff", "the value is no JSON"),
        (b"", "the value is no JSON"),
        (b"[" * 100_000, "the value is no JSON"),
        (b"[]", "its format is None, and this version of the mesh knows 1"),
        (changed(format=2), "its format is 2, and this version of the mesh knows 1"),
        (changed(kind="Limit"), "kind 'Limit' is unknown"),
        (changed(until="tomorrow"), "unknown field 'until'"),
        (changed(spec={"to": "fleet"}), "is missing"),
        (changed(name="other"), "the value is of 'Access/other'"),
    ],
)
def test_a_record_that_can_not_be_understood_is_refused(record: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=r"topic _mesh\.policy, key 'Access/rule'") as caught:
        decode(KEY, record)
    assert reason in caught.value.message


@pytest.mark.parametrize("applied", [None, [], {"by": 1, "at": "then"}, {"at": True}])
def test_who_and_when_make_no_rule_unenforceable(applied: Any) -> None:
    assert decode(KEY, changed(applied=applied))[1:] == ("", 0)


# ── files and live rules ──────────────────────────────────────────────────────────────────────────────────


def test_under_one_name_the_live_rule_wins_over_the_file_s() -> None:
    policy = Policy({**access("allow"), **access("deny", "of-file")})
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "of-file")
    policy.take(b"Access/of-file", value("audit", "of-file"))
    assert policy.compile()
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.ALLOW, "rule")
    policy.take(b"Access/of-file", None)
    assert policy.compile()
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "of-file")


def test_the_default_of_the_mesh_holds_where_no_rule_matches() -> None:
    policy = Policy({})
    assert policy.rules.verdict("board", FIND) == Verdict(Action.AUDIT)
    policy.take(b"Mesh/default", default("deny"))
    assert policy.compile()
    assert policy.rules.verdict("board", FIND) == Verdict(Action.DENY)
    policy.take(b"Mesh/default", default("deny"))
    assert not policy.compile()


# ── following ─────────────────────────────────────────────────────────────────────────────────────────────


class Topic:
    """`_mesh.policy` for a `LivePolicy`: a table and a reader of it, in memory."""

    def __init__(self) -> None:
        self.records: list[TableRecord] = []
        self.read = 0
        self.is_known = False
        self.trouble: list[MeshError] = []
        self.followed = asyncio.Event()
        self.deliver: Callable[[Sequence[TableRecord]], None]
        self.fail: Callable[[MeshError], None]

    def write(self, key: bytes, content: bytes | None) -> TableRecord:
        self.records.append(TableRecord(key, content, len(self.records)))
        return self.records[-1]

    # what CompactedTable has
    def table(self, *_: Any, create: bool, **__: Any) -> Topic:
        assert create is not self.is_known, "only a start makes the topic"
        self.is_known = True
        self.read = 0
        return self

    @property
    def position(self) -> int:
        return self.read

    @property
    def items(self) -> dict[bytes, bytes]:
        latest = {record.key: record.value for record in self.records[: self.read]}
        return {key: content for key, content in latest.items() if content is not None}

    def read_to_end(self) -> list[TableRecord]:
        if self.trouble:
            raise self.trouble.pop(0)
        new, self.read = self.records[self.read :], len(self.records)
        return new

    # what TailReader has
    def reader(self, *_: Any, received: Any, failed: Any, **__: Any) -> Topic:
        self.deliver, self.fail = received, failed
        return self

    async def follow(self, topic: str, partition: int, start: int) -> int:
        assert (topic, partition) == ("_mesh.policy", 0)
        self.followed.set()
        return start

    async def close(self) -> None:
        self.followed.clear()


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr(live, "CompactedTable", made.table)
    monkeypatch.setattr(live, "TailReader", made.reader)
    monkeypatch.setattr(live, "_FIRST_PAUSE_SECONDS", 0)
    return made


def following(files: Any = ()) -> LivePolicy:
    return LivePolicy(Settings(bootstrap_servers="x:1"), client_id="test", files=dict(files))


async def test_what_stands_holds_from_the_start_and_changes_as_it_comes(topic: Topic) -> None:
    topic.write(KEY, b"foreign, and replaced since")
    topic.write(KEY, value("deny"))
    policy = following()
    await policy.open()
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "rule")
    topic.deliver([topic.write(KEY, None)])
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.AUDIT)
    await policy.close()


async def test_a_start_stops_at_a_record_that_can_not_be_understood(topic: Topic) -> None:
    topic.write(KEY, changed(format=2))
    with pytest.raises(FailedPrecondition) as caught:
        await following().open()
    assert caught.value.message == (
        "topic _mesh.policy, key 'Access/rule': its format is 2, and this version of the mesh knows 1; what can't be "
        "enforced is not left out: update this program, or remove the record with 'mesh delete'"
    )


async def test_while_running_the_last_good_version_of_a_rule_stays(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    topic.write(KEY, value("deny"))
    policy = following()
    await policy.open()
    topic.deliver([topic.write(KEY, b"?"), topic.write(b"Access/other", value("audit", "other"))])
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "rule")
    assert len(policy.rules.rules) == 2
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert error == (
        "topic _mesh.policy, key 'Access/rule': the value is no JSON; what was known under this name goes on to hold"
    )
    await policy.close()


async def test_a_reader_that_ends_is_followed_by_another_and_nothing_is_missed(topic: Topic) -> None:
    topic.write(KEY, value("deny"))
    policy = following()
    await policy.open()
    topic.deliver([topic.write(b"Access/b", value("audit", "b"))])
    topic.followed.clear()
    topic.trouble = [Unavailable("away"), DataLoss("cut")]
    topic.write(KEY, value("allow"))  # while nobody reads
    topic.fail(Unavailable("the connection is lost"))
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "rule")
    await asyncio.wait_for(topic.followed.wait(), 20)
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.ALLOW, "rule")
    assert len(policy.rules.rules) == 2
    await policy.close()


async def test_of_a_topic_that_was_made_anew_all_counts_and_nothing_of_the_old_one(topic: Topic) -> None:
    topic.write(KEY, value("deny"))
    topic.write(b"Access/stays", value("audit", "stays"))
    policy = following()
    await policy.open()
    topic.followed.clear()
    topic.records.clear()
    topic.write(b"Access/new", value("allow", "new"))
    topic.write(b"Access/stays", b"?")
    topic.write(b"Access/newer", value("audit", "newer"))
    topic.fail(DataLoss("offset out of range"))
    await asyncio.wait_for(topic.followed.wait(), 20)
    assert sorted(rule.name for rule in policy.rules.rules) == ["new", "newer", "stays"]
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.ALLOW, "new")
    await policy.close()


async def test_rules_that_nobody_deleted_hold_where_the_topic_is_cut(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    topic.write(KEY, value("deny"))
    topic.write(b"Access/other", value("audit", "other"))
    policy = following()
    await policy.open()
    topic.followed.clear()
    cut, topic.records[:] = topic.records[:], []
    topic.fail(DataLoss("offset out of range"))
    async with asyncio.timeout(20):
        while "was read to 2 before: it was deleted or cut" not in caplog.text:
            await asyncio.sleep(0)
        assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "rule")
        topic.records[:] = cut
        await topic.followed.wait()
    assert policy.rules.verdict("dispatch", FIND) == Verdict(Action.DENY, "rule")
    await policy.close()


async def test_after_its_close_a_reader_s_end_means_nothing(topic: Topic) -> None:
    policy = following()
    await policy.open()
    await policy.close()
    topic.fail(Unavailable("the connection is lost"))
    await asyncio.sleep(0)
    assert not topic.followed.is_set()


async def test_a_rule_that_never_takes_effect_is_warned_of(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    policy = following(access("allow"))
    await policy.open()
    topic.deliver([topic.write(b"Access/wide", value("deny", "wide"))])
    assert "access rule 'rule' (allow) can never take effect: 'wide' (deny) covers all" in caplog.text
    await policy.close()
