"""docs/adopt.md shows the programs of `examples/` as they are, and what it takes for each to join."""

from __future__ import annotations

import difflib

import pytest

from tests.support.documents import ROOT, blocks

PAGE = ROOT / "docs" / "adopt.md"
RECIPES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir())


def lines(recipe: str, which: str) -> list[str]:
    return (ROOT / "examples" / recipe / f"{which}.py").read_text().splitlines(keepends=True)


def test_there_are_recipes() -> None:
    assert RECIPES == ["aiokafka_orders", "faststream_orders", "quix_orders"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_shows_the_program_before(recipe: str) -> None:
    assert "".join(lines(recipe, "before")) in [block.text for block in blocks(PAGE, "python")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_shows_the_change(recipe: str) -> None:
    change = difflib.unified_diff(lines(recipe, "before"), lines(recipe, "after"), n=1)
    assert "".join(list(change)[2:]) in [block.text for block in blocks(PAGE, "diff")]
