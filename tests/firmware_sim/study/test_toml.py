"""Tables as TOML text."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_firmware_sim.study.toml import format_toml

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=6
)


@settings(max_examples=40)
@given(st.dictionaries(texts, values, max_size=3))
def test_what_is_written_is_read_back(table):
    assert tomllib.loads(format_toml(table)) == table


def test_a_date_is_refused():
    with pytest.raises(TypeError):
        format_toml(tomllib.loads("a = 2024-01-01"))
