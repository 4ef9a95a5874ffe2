"""The recipes of docs/adopt.md: real programs on real frameworks, before and after they joined the mesh."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Message

from broker_mesh.control.apply import PolicyStore
from broker_mesh.control.files import read_text
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.headers import TRACEPARENT, Envelope
from broker_mesh.message import Record
from broker_mesh.settings import Settings
from broker_mesh.status import StatusCode
from tests.support.commands import Commands
from tests.support.dead_letters import DeadLetters
from tests.support.recipes import EXAMPLES, Recipe, order_ids, trace_id

pytestmark = pytest.mark.timeout(240)

RECIPES = ("aiokafka", "faststream", "quix")
PRICES = {"apple": 0.4, "bread": 3.2, "cheese": 5.5}
MOST_CHANGED_LINES = {"aiokafka": 10, "faststream": 4, "quix": 4}

OpenRecipe = Callable[[str], Recipe]


class Letter(NamedTuple):
    envelope: Envelope
    record: Record


@pytest.fixture
def recipe(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[OpenRecipe]:
    opened: list[Recipe] = []

    def open_recipe(program: str) -> Recipe:
        opened.append(Recipe(kafka.bootstrap_servers, program, tmp_path))
        return opened[-1]

    yield open_recipe
    for each in opened:
        each.kill()


def orders(numbers: range) -> list[dict[str, Any]]:
    return [{"id": number, "item": list(PRICES)[number % 3], "quantity": number % 5} for number in numbers]


def records(results: list[Message]) -> Counter[tuple[bytes | None, bytes | None]]:
    return Counter((result.key(), result.value()) for result in results)


@pytest.mark.parametrize("name", RECIPES)
async def test_a_program_joins_by_a_few_lines_and_gains_what_a_mesh_gives(
    name: str, kafka: EmbeddedKafka, dead_letters: DeadLetters, recipe: OpenRecipe
) -> None:
    mesh = Commands(kafka.bootstrap_servers)
    # Of a customer whose partition is another one's as well: that one's orders go on meanwhile.
    good, plum = orders(range(20)), {"id": 22, "item": "plum", "quantity": 1}

    before = recipe(f"{name}_orders/before.py")
    before.send(good)
    before.start(PRICES)
    expected = records(await asyncio.to_thread(before.results, lambda found: len(found) >= len(good)))
    before.kill()

    # The same comes out; a message whose handler raises holds nobody up, and is a dead letter in the end.
    after = recipe(f"{name}_orders/after.py")
    stem = f"pricing.v1.from.{after.orders}"
    after.send([*good[:10], plum, *good[10:]])
    after.start(PRICES)
    results = await asyncio.to_thread(after.results, lambda found: len(found) >= len(good))
    assert records(results) == expected
    for result in results:
        headers = dict(result.headers() or [])
        order = json.loads(result.value() or b"")
        _, trace, span, _ = headers[TRACEPARENT].decode().split("-")
        assert trace == trace_id(order["id"])
        assert int(span, 16) != order["id"] + 1  # a span of its own, in the same trace
        assert headers["ce_source"] == b"pricing"
    letter = await next_letter(dead_letters, stem)
    assert letter.record.value == json.dumps(plum).encode()
    assert letter.envelope.attempt == 5
    (cause,) = await mesh.json("dead-letters", "list", "--operation", stem)
    assert (cause["count"], cause["exception"]) == (1, "KeyError")
    async with asyncio.timeout(30):  # what failed keeps nothing from being committed that came after it
        while await asyncio.to_thread(after.lag, f"{name}-orders") > 0:
            await asyncio.sleep(0.1)

    # Killed in the middle of its work, it loses nothing; with its price list mended, it handles what is put back.
    more = orders(range(100, 250))
    after.send(more)
    await asyncio.to_thread(after.results, lambda found: len(order_ids(found)) > len(good) + 20)
    after.kill()
    after.start(PRICES | {"plum": 0.7})
    await mesh("dead-letters", "replay", "--operation", stem)
    wanted = {order["id"] for order in (*good, plum, *more)}
    await asyncio.to_thread(after.results, lambda found: order_ids(found) == wanted)
    assert await mesh.json("dead-letters", "list", "--operation", stem) == []

    # A rule that denies it the topic of totals holds without a restart, and what it could not send is kept.
    with denied(after):
        letter = await first_refused(after, dead_letters, stem)
    assert letter.envelope.status is StatusCode.PERMISSION_DENIED
    refused = json.loads(letter.record.value or b"")["id"]
    results = await asyncio.to_thread(after.results, lambda found: order_ids(found) >= wanted)
    assert refused not in order_ids(results)


async def next_letter(dead_letters: DeadLetters, stem: str) -> Letter:
    message = await dead_letters.next(stem)
    assert message.record is not None
    return Letter(message.envelope, message.record)


@contextmanager
def denied(recipe: Recipe) -> Iterator[None]:
    """Have a rule deny a program the topic that it writes."""
    store = PolicyStore(Settings(bootstrap_servers=recipe.bootstrap_servers), "test-recipes")
    rule = f"no-pricing-{recipe.totals}"
    text = f"""
kind: Topic
name: {recipe.totals}
spec: {{owner: shop, kind: operation}}
---
kind: Access
name: {rule}
spec: {{to: shop, topics: [{recipe.totals}], from: [pricing], action: deny}}
"""
    store.apply(read_text(text, "test"), prune=False)
    yield
    store.delete("Access", rule)
    store.delete("Topic", recipe.totals)


async def first_refused(recipe: Recipe, dead_letters: DeadLetters, stem: str) -> Letter:
    """Send orders until a rule, which reaches the program within a moment, has one of them refused.

    What was in work when the program was killed may come a second time, late enough to be refused as well: a program
    that commits by checkpoint has written a dead letter up to `commit_interval` before it commits.
    """
    new = range(500, 1000)

    async def first() -> Letter:
        while True:
            letter = await next_letter(dead_letters, stem)
            if json.loads(letter.record.value or b"")["id"] in new:
                return letter

    async with asyncio.timeout(30):
        refused = asyncio.create_task(first())
        for order in orders(new):
            recipe.send([order])
            await asyncio.wait([refused], timeout=0.2)
            if refused.done():
                break
    return await refused


@pytest.mark.parametrize("name", RECIPES)
def test_the_change_is_small(name: str) -> None:
    folder = EXAMPLES / f"{name}_orders"
    before, after = ((folder / f"{which}.py").read_text().splitlines() for which in ("before", "after"))
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    changed = sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal")
    assert 0 < changed <= MOST_CHANGED_LINES[name]
