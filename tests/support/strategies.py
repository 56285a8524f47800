"""Hypothesis strategies: records made from their own annotations, and spoiled encodings."""

import dataclasses
import types
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import cbor2
from hypothesis import strategies as st

from headwater_protocol.chain.committee import Committee, Delegate, make_committee
from headwater_protocol.chain.epoch import Epoch, ShardCommittee
from headwater_protocol.encoding.record import Count, Length, Pattern, Range

MAX_ITEMS = 3
MAX_BYTES = 64

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.binary(max_size=80)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def records(kind: type) -> st.SearchStrategy[Any]:
    """Records of class `kind`, each field at random within its bounds."""
    if kind is Committee:
        return committees
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: _values(hints[field.name], ()) for field in dataclasses.fields(kind)}
    if kind is Epoch:
        fields["shards"] = fields["shards"].map(_sorted_shards)
    return st.builds(kind, **fields)


def _sorted_shards(shards: tuple[ShardCommittee, ...]) -> tuple[ShardCommittee, ...]:
    by_name = {entry.shard: entry for entry in shards}
    return tuple(by_name[name] for name in sorted(by_name))


committees = st.dictionaries(
    st.binary(min_size=32, max_size=32),
    st.integers(min_value=1, max_value=2**53),
    min_size=1,
    max_size=MAX_ITEMS,
).map(lambda powers: make_committee(powers.items()))  # type: ignore[arg-type]


def _values(hint: Any, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if hasattr(hint, "__supertype__"):
        return _values(hint.__supertype__, metadata)
    if get_origin(hint) is Annotated:
        base, *extra = get_args(hint)
        return _values(base, (*metadata, *extra))
    if get_origin(hint) in {Union, types.UnionType}:
        return st.one_of([_values(argument, ()) for argument in get_args(hint)])
    bounds = metadata[0] if metadata else None
    if get_origin(hint) is tuple:
        assert isinstance(bounds, Count)
        return st.lists(
            _values(get_args(hint)[0], ()),
            min_size=bounds.lowest,
            max_size=min(bounds.highest, max(bounds.lowest, MAX_ITEMS)),
        ).map(tuple)
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is int:
        assert isinstance(bounds, Range)
        return st.integers(bounds.lowest, bounds.highest)
    if hint is bytes:
        assert isinstance(bounds, Length)
        highest = bounds.lowest if bounds.highest is None else bounds.highest
        return st.binary(min_size=bounds.lowest, max_size=min(highest, MAX_BYTES))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    if hint is str:
        assert isinstance(bounds, Pattern)
        return st.from_regex(bounds.expression, fullmatch=True, alphabet="abcxyz019-mqts:/")
    assert isinstance(hint, type)
    assert hint is not Delegate
    return records(hint)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed, removed, put in, repeated or cut off."""
    spoiled_data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(spoiled_data) - 1)))
        match draw(st.integers(0, 4)):
            case 0 if spoiled_data:
                spoiled_data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del spoiled_data[at : at + draw(st.integers(1, 4))]
            case 2:
                spoiled_data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case 3:
                spoiled_data[at:at] = spoiled_data[at : at + draw(st.integers(1, 40))]
            case _:
                del spoiled_data[at:]
    return bytes(spoiled_data)


@st.composite
def restructured(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with one item, at any depth, replaced, removed or doubled: canonical, but wrong."""
    root = cbor2.loads(data)
    here = root
    while True:
        index = draw(st.integers(0, len(here) - 1))
        if isinstance(here[index], list) and here[index] and draw(st.booleans()):
            here = here[index]
            continue
        break
    match draw(st.integers(0, 4)):
        case 0:
            del here[index]
        case 1:
            here.insert(index, here[index])
        case _:
            here[index] = draw(plain_values)
    return cbor2.dumps(root, canonical=True)
