"""A draft: what a block has changed so far, on top of a state that stays as it is."""

from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

from headwater_protocol.merkle.trie import part_of
from headwater_shard.state.state import State
from headwater_shard.state.table import Table

R = TypeVar("R")


class Draft:
    """Reads through to a state or to another draft; writes stay here until they are merged.

    A transaction runs in a draft of its own on top of the block's, so that refusing it means
    forgetting it.
    """

    __slots__ = ("_below", "_changes")

    def __init__(self, below: "State | Draft") -> None:
        self._below = below
        self._changes: dict[str, dict[bytes, object | None]] = {}

    def get(self, table: Table[R], key: bytes) -> R | None:
        """The record at `key`, or None."""
        changed = self._changes.get(table.namespace)
        if changed is not None and key in changed:
            return changed[key]  # type: ignore[return-value]  # as in `State.get`
        return self._below.get(table, key)

    def get_existing(self, table: Table[R], key: bytes) -> R:
        """The record at `key`, which the ledger's own rules put there.

        Raises:
            KeyError: If it is missing, which is a mistake of ours.
        """
        record = self.get(table, key)
        if record is None:
            raise KeyError((table.namespace, key.hex()))
        return record

    def put(self, table: Table[R], key: bytes, record: R) -> None:
        """Set the record at `key`."""
        self._changes.setdefault(table.namespace, {})[key] = record

    def delete(self, table: Table[R], key: bytes) -> None:
        """Remove the record at `key`, if there is one."""
        self._changes.setdefault(table.namespace, {})[key] = None

    def items(self, table: Table[R]) -> Iterator[tuple[bytes, R]]:
        """Entries, those changed here last; a rule that depends on order takes `sorted_items`."""
        changed = self._changes.get(table.namespace, {})
        for key, record in self._below.items(table):
            if key not in changed:
                yield key, record
        for key in sorted(changed):
            record_here = changed[key]
            if record_here is not None:
                yield key, cast(R, record_here)

    def part(self, table: Table[R], index: int, *, bits: int) -> Iterator[tuple[bytes, R]]:
        """Entries of one of `2**bits` parts of the namespace, those changed here last."""
        changed = self._changes.get(table.namespace, {})
        for key, record in self._below.part(table, index, bits=bits):
            if key not in changed:
                yield key, record
        for key in sorted(changed):
            record_here = changed[key]
            if record_here is not None and part_of(key, bits=bits) == index:
                yield key, cast(R, record_here)

    def sorted_items(self, table: Table[R]) -> list[tuple[bytes, R]]:
        """Entries in order of their keys."""
        return sorted(self.items(table), key=lambda entry: entry[0])

    def merge(self, above: "Draft") -> None:
        """Take over the changes of a draft that was made on top of this one."""
        for name, changed in above._changes.items():
            self._changes.setdefault(name, {}).update(changed)

    @property
    def changes(self) -> Mapping[str, Mapping[bytes, object | None]]:
        """By namespace and key, the new record, or None where it is deleted."""
        return self._changes
