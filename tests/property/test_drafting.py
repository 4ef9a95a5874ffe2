"""Whatever JSON objects there are, the schema that is drafted of them takes each, and gives it back as it is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker_mesh.contracts.drafting import Drafting
from broker_mesh.contracts.store import RegisteredSchema
from broker_mesh.contracts.values import JsonValues

FEW_NAMES = st.sampled_from(["id", "at", "amount", "lines", "note", "by_day"])
ANY_NAMES = st.text(max_size=4)
NUMBERS = (
    st.integers() | st.integers(-(2**63) - 5, 2**63 + 5) | st.floats(allow_nan=False, allow_infinity=False)
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)


def within(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(values, max_size=3)
        | st.dictionaries(FEW_NAMES, values, max_size=4)
        | st.dictionaries(ANY_NAMES, values, max_size=4)
    )


VALUES = st.recursive(SCALARS, within, max_leaves=12)
SAMPLES = st.lists(st.dictionaries(FEW_NAMES, VALUES, max_size=4), min_size=1, max_size=8)


@settings(max_examples=200)
@given(SAMPLES)
def test_every_sample_fits_the_draft(samples: list[dict[str, Any]]) -> None:
    drafting = Drafting()
    taken = [sample for offset, sample in enumerate(samples) if drafting.add(sample, f"legacy/0/{offset}")]
    assert len(taken) == drafting.samples == len(samples)
    drafted = drafting.draft("legacy", "orders", rare=0)
    assert drafted.rare == []
    values = JsonValues("legacy", "legacy-value", RegisteredSchema("legacy-value", 1, 1, drafted.schema))
    for sample in taken:
        assert values.decode(json.dumps(sample).encode()) == sample
