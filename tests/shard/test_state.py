from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.proof import MAIN_NAMESPACES, SHARD_NAMESPACES, verify_state_proof
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import BadProof, InvalidMessage, StorageError
from headwater_shard.application import make_ledger, tables_of
from headwater_shard.mainchain.records import ACCOUNTS, MAIN_TABLES, Account
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State, load_state
from headwater_shard.transition import NONCES, NonceEntry
from tests.support.network import make_cast

writes = st.lists(st.tuples(st.binary(max_size=2), st.none() | st.integers(0, 1_000)), max_size=30)


def state_of(balances: dict[bytes, int]) -> State:
    return State(MAIN_TABLES).updated(
        {"accounts": {key: Account(balance=value) for key, value in balances.items()}}
    )


def apply(draft: Draft, rows: list[tuple[bytes, int | None]]) -> None:
    for key, value in rows:
        if value is None:
            draft.delete(ACCOUNTS, key)
        else:
            draft.put(ACCOUNTS, key, Account(balance=value))


@settings(max_examples=80, deadline=None)
@given(writes, writes, writes)
def test_a_draft_reads_as_the_state_that_it_leads_to(start, lower, upper):
    state = state_of({key: value for key, value in start if value is not None})
    draft = Draft(state)
    apply(draft, lower)
    above = Draft(draft)
    apply(above, upper)
    expected = {key: record.balance for key, record in draft.items(ACCOUNTS)}
    for key, value in upper:
        if value is None:
            expected.pop(key, None)
        else:
            expected[key] = value
    assert {key: record.balance for key, record in above.items(ACCOUNTS)} == expected
    assert [key for key, _ in above.sorted_items(ACCOUNTS)] == sorted(expected)
    parts = [dict(above.part(ACCOUNTS, index, bits=2)) for index in range(4)]
    assert sum(map(len, parts)) == len(expected)
    assert {key: row.balance for part in parts for key, row in part.items()} == expected
    draft.merge(above)
    after = state.updated(draft.changes)
    assert {key: record.balance for key, record in after.items(ACCOUNTS)} == expected
    assert after.root == state_of(expected).root
    assert after.count(ACCOUNTS) == len(expected)


def test_a_draft_that_is_forgotten_changes_nothing():
    state = state_of({b"a": 1})
    root = state.root
    draft = Draft(state)
    attempt = Draft(draft)
    attempt.put(ACCOUNTS, b"a", Account(balance=2))
    attempt.delete(ACCOUNTS, b"b")
    assert draft.get(ACCOUNTS, b"a") == Account(balance=1)
    assert dict(draft.changes) == {}
    assert state.root == root


def test_a_deleted_record_is_gone_though_it_is_below():
    draft = Draft(state_of({b"a": 1}))
    draft.delete(ACCOUNTS, b"a")
    assert draft.get(ACCOUNTS, b"a") is None
    assert list(draft.items(ACCOUNTS)) == []
    with pytest.raises(KeyError):
        draft.get_existing(ACCOUNTS, b"a")


def test_encoded_changes_are_what_a_store_needs():
    state = state_of({b"a": 1, b"b": 2})
    draft = Draft(state)
    draft.delete(ACCOUNTS, b"a")
    draft.put(ACCOUNTS, b"c", Account(balance=3))
    after, written = state.updated_with_bytes(draft.changes)
    assert written == {"accounts": {b"a": None, b"c": encode_record(Account(balance=3))}}
    assert after.root == state.updated(draft.changes).root


def test_namespaces_do_not_see_each_other():
    state = state_of({b"a": 1})
    assert state.get(NONCES, b"a") is None
    other = State(MAIN_TABLES).updated({"nonces": {b"a": NonceEntry(nonce=1)}})
    assert other.root != state.root
    assert state.namespaces == MAIN_NAMESPACES


def test_every_namespace_proves_presence_and_absence():
    cast = make_cast()
    for chain, namespaces in (("main", MAIN_NAMESPACES), ("shard-0", SHARD_NAMESPACES)):
        state = make_ledger(cast.genesis, chain).genesis_state()
        proven = 0
        for table in tables_of(chain):
            for key, record in [*state.items(table), (b"nothing", None)]:
                value = None if record is None else encode_record(record)
                assert state.get_encoded(table.namespace, key) == value
                proof = state.prove(table.namespace, key)

                def check(entry: bytes | None, *, proof=proof, key=key, state=state) -> None:
                    verify_state_proof(
                        proof,
                        state_root=state.root,
                        namespaces=namespaces,  # noqa: B023
                        namespace=table.namespace,  # noqa: B023
                        key=key,
                        value=entry,
                    )

                check(value)
                with pytest.raises(BadProof):
                    check((value or b"") + b"\0")
                proven += 1
        assert proven > len(namespaces)


def test_an_unknown_namespace_is_our_own_mistake():
    state = state_of({})
    with pytest.raises(KeyError):
        state.prove("nothing", b"a")
    with pytest.raises(KeyError):
        state.get_encoded("nothing", b"a")


def stored(state: State) -> list[tuple[str, bytes, bytes]]:
    return [
        (table.namespace, key, encode_record(record))
        for table in MAIN_TABLES
        for key, record in state.items(table)
    ]


def test_stored_entries_lead_to_the_same_state_in_any_order():
    state = make_ledger(make_cast().genesis, "main").genesis_state()
    entries = stored(state)
    assert load_state(MAIN_TABLES, entries).root == state.root
    assert load_state(MAIN_TABLES, reversed(entries)).root == state.root


def test_entries_of_an_unknown_namespace_or_kind_are_refused():
    with pytest.raises(StorageError, match="namespace 'other'"):
        load_state(MAIN_TABLES, [("other", b"a", b"")])
    nonce = encode_record(NonceEntry(nonce=1))
    with pytest.raises(InvalidMessage):
        load_state(MAIN_TABLES, [("accounts", b"a", nonce)])


def test_an_update_leaves_the_state_before_it_alone():
    state = state_of({b"a": 1})
    again = replace(Account(balance=1), balance=5)
    changed = state.updated({"accounts": {b"a": again}})
    assert state.get(ACCOUNTS, b"a") == Account(balance=1)
    assert changed.get(ACCOUNTS, b"a") == again
    assert state.updated({}).root == state.root
