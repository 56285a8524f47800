"""The whole state of one ledger at one height: a Merkle map a namespace, never changed in place."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

from headwater_protocol.chain.proof import StateProof, compute_state_root
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import Digest
from headwater_protocol.merkle.trie import MerkleMap
from headwater_shard.state.table import Table

R = TypeVar("R")


class State:
    """Immutable; `updated` gives the next one and shares what did not change.

    Every namespace holds records of one class, so an entry's bytes are always its record's.
    """

    __slots__ = ("_maps", "_tables", "root")

    def __init__(
        self, tables: tuple[Table[object], ...], maps: Mapping[str, MerkleMap[object]] | None = None
    ) -> None:
        self._tables = {table.namespace: table for table in tables}
        self._maps = {name: (maps or {}).get(name, MerkleMap()) for name in sorted(self._tables)}
        self.root: Digest = compute_state_root(self.namespace_roots)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(self._maps)

    @property
    def namespace_roots(self) -> tuple[Digest, ...]:
        """Their roots, in the order of their names."""
        return tuple(entries.root for entries in self._maps.values())

    def get(self, table: Table[R], key: bytes) -> R | None:
        """The record at `key`, or None."""
        # The table says what its namespace holds; a `cast` would be felt at so many reads.
        return self._maps[table.namespace].get(key)  # type: ignore[return-value]

    def count(self, table: Table[R]) -> int:
        """How many records the namespace holds."""
        return len(self._maps[table.namespace])

    def items(self, table: Table[R]) -> Iterator[tuple[bytes, R]]:
        """Entries in an order that depends on the contents alone."""
        return cast(Iterator[tuple[bytes, R]], iter(self._maps[table.namespace]))

    def part(self, table: Table[R], index: int, *, bits: int) -> Iterator[tuple[bytes, R]]:
        """Entries of one of `2**bits` parts of the namespace."""
        return cast(Iterator[tuple[bytes, R]], self._maps[table.namespace].part(index, bits=bits))

    def sorted_items(self, table: Table[R]) -> list[tuple[bytes, R]]:
        """Entries in order of their keys."""
        return sorted(self.items(table), key=lambda entry: entry[0])

    def updated(self, changes: Mapping[str, Mapping[bytes, object | None]]) -> "State":
        """The state after `changes`; None deletes."""
        return self.updated_with_bytes(changes)[0]

    def updated_with_bytes(
        self, changes: Mapping[str, Mapping[bytes, object | None]]
    ) -> "tuple[State, dict[str, dict[bytes, bytes | None]]]":
        """The state after `changes`, and their bytes for a store, by namespace and key, sorted."""
        maps = dict(self._maps)
        written: dict[str, dict[bytes, bytes | None]] = {}
        for name in sorted(changes):
            changed, encoded = sorted(changes[name].items()), dict[bytes, bytes | None]()
            entries: dict[bytes, tuple[bytes, object] | None] = {}
            for key, record in changed:
                if record is None:
                    entries[key] = encoded[key] = None
                else:
                    data = encoded[key] = encode_record(record)
                    entries[key] = (data, record)
            maps[name], written[name] = maps[name].updated(entries), encoded
        return State(tuple(self._tables.values()), maps), written

    def prove(self, namespace: str, key: bytes) -> StateProof:
        """The proof that `key` has its record, or none.

        Raises:
            KeyError: If there is no such namespace.
        """
        return StateProof(
            namespace=namespace,
            map_proof=self._maps[namespace].prove(key),
            namespace_roots=self.namespace_roots,
        )

    def get_encoded(self, namespace: str, key: bytes) -> bytes | None:
        """The bytes of the record at `key`, or None.

        Raises:
            KeyError: If there is no such namespace.
        """
        record = self._maps[namespace].get(key)
        return None if record is None else encode_record(record)

    def encoded_entries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """All entries as a store keeps them: namespace, key, record's bytes."""
        for name, entries in self._maps.items():
            for key, record in entries:
                yield name, key, encode_record(record)


def load_state(
    tables: tuple[Table[object], ...], entries: Iterable[tuple[str, bytes, bytes]]
) -> State:
    """The state made of stored entries: namespace, key, record's bytes.

    Raises:
        StorageError: If a namespace is unknown.
        InvalidMessage: If a record does not decode.
    """
    by_name = {table.namespace: table for table in tables}
    changes: dict[str, dict[bytes, object | None]] = {}
    for namespace, key, data in entries:
        if namespace not in by_name:
            raise StorageError(f"the store has a namespace {namespace!r} that this ledger lacks")
        record = decode_record(by_name[namespace].record, data)
        changes.setdefault(namespace, {})[key] = record
    return State(tables).updated(changes)
