import random
from dataclasses import replace

import pytest

from headwater_protocol.chain.transaction import Transfer
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import ConfigError, InvalidBlock, StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, TimeMs
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger, tables_of
from headwater_shard.shardchain.records import REWARDS, RewardBalance
from tests.support.ledgers import execute, next_context, open_round, play_round
from tests.support.network import Chain, key, make_cast

CAST = make_cast(balances=[("rich", 1_000)])
DEVICES = [key("d0"), key("d1")]


def transfer(chain: Chain, amount: int = 1) -> bytes:
    return chain.sign(key("rich"), Transfer(recipient=key("a").account, amount=amount))


def entries_of(chain: Chain) -> list[tuple[str, bytes, bytes]]:
    return [
        (table.namespace, entry, encode_record(record))
        for table in tables_of(chain.chain)
        for entry, record in chain.app.state.items(table)
    ]


def restored(chain: Chain, entries: list[tuple[str, bytes, bytes]]) -> LedgerApplication:
    app = LedgerApplication(make_ledger(CAST.genesis, chain.chain), DirectVerifier())
    app.restore(
        height=chain.app.height,
        time_ms=chain.app.time_ms,
        state_root=chain.app.state_root,
        entries=entries,
    )
    return app


def shard_after_a_round() -> Chain:
    chain = Chain(CAST, "shard-0")
    open_round(chain, DEVICES)
    play_round(chain, DEVICES)
    return chain


def test_changes_written_by_a_store_lead_to_the_same_state():
    chain = Chain(CAST, "shard-0")
    stored = {(name, entry): data for name, entry, data in entries_of(chain)}
    for _ in range(2):
        open_round(chain, () if chain.blocks else DEVICES)
        play_round(chain, DEVICES)
    replica = Chain(CAST, "shard-0")
    for block, _ in chain.blocks:
        context = replace(
            next_context(replica),
            height=block.header.height,
            time_ms=block.header.time_ms,
            proposer=block.header.proposer,
            previous=block.header.previous,
            last_certificate=block.last_certificate,
            transactions=block.transactions,
        )
        execution = replica.app.finalize_block(context)
        assert execution.state_root == block.header.state_root
        replica.app.commit(context)
        for name, changes in execution.changes.items():
            for entry, data in changes.items():
                if data is None:
                    stored.pop((name, entry), None)
                else:
                    stored[name, entry] = data
    assert stored == {(name, entry): data for name, entry, data in entries_of(chain)}


def test_a_restored_application_goes_on_where_the_stored_one_was():
    chain = shard_after_a_round()
    entries = entries_of(chain)
    random.Random(1).shuffle(entries)
    app = restored(chain, entries)
    assert (app.height, app.time_ms) == (chain.app.height, chain.app.time_ms)
    assert app.state_root == chain.app.state_root
    assert app.next_timer() == chain.app.next_timer()
    context = next_context(chain, after_ms=5_000)
    assert app.finalize_block(context) == chain.app.finalize_block(context)


def test_any_entry_changed_removed_or_added_is_found():
    chain = shard_after_a_round()
    entries = entries_of(chain)
    assert len(entries) > 15
    for index, (name, entry, data) in enumerate(entries):
        spoiled = bytearray(data)
        spoiled[-1] ^= 1
        for changed in (
            [(name, entry, bytes(spoiled))],
            [(name, entry + b"\0", data)],
            [],
        ):
            with pytest.raises(StorageError):
                restored(chain, [*entries[:index], *changed, *entries[index + 1 :]])
    gift = encode_record(RewardBalance(total=1))
    with pytest.raises(StorageError, match="not that of block"):
        restored(chain, [*entries, (REWARDS.namespace, key("thief").account, gift)])
    with pytest.raises(StorageError, match="lacks"):
        restored(chain, [*entries, ("loot", b"a", gift)])


def test_an_execution_from_before_a_restore_is_forgotten():
    chain = Chain(CAST, MAIN_CHAIN)
    app = LedgerApplication(make_ledger(CAST.genesis, MAIN_CHAIN), DirectVerifier())
    execute(chain, transfer(chain))
    other = Chain(CAST, MAIN_CHAIN)
    execute(other, transfer(other, 2))
    app.restore(
        height=chain.app.height,
        time_ms=chain.app.time_ms,
        state_root=chain.app.state_root,
        entries=entries_of(chain),
    )
    context = next_context(chain)
    before = app.finalize_block(context)
    app.restore(
        height=other.app.height,
        time_ms=other.app.time_ms,
        state_root=other.app.state_root,
        entries=entries_of(other),
    )
    assert app.finalize_block(context).state_root == other.app.state_root
    assert before.state_root == chain.app.state_root


def test_rival_blocks_are_executed_without_being_committed():
    chain = Chain(CAST, MAIN_CHAIN)
    root = chain.app.state_root
    contexts = [next_context(chain, transfer(chain, amount)) for amount in range(1, 25)]
    roots = {chain.app.finalize_block(context).state_root for context in contexts}
    assert len(roots) == len(contexts) > chain.app.MAX_PENDING
    assert chain.app.state_root == root
    chain.app.commit(contexts[0])
    assert chain.app.state_root in roots
    assert chain.app.state_root == make_replica_root(contexts[0])


def make_replica_root(context) -> bytes:
    return Chain(CAST, MAIN_CHAIN).app.finalize_block(context).state_root


def test_a_block_follows_the_last_one_in_height_and_time():
    chain = Chain(CAST, MAIN_CHAIN)
    chain.block()
    context = next_context(chain)
    for changed in (
        {"height": context.height + 1},
        {"height": context.height - 1},
        {"time_ms": chain.app.time_ms},
        {"time_ms": TimeMs(chain.app.time_ms - 1)},
    ):
        with pytest.raises(InvalidBlock):
            chain.app.finalize_block(replace(context, **changed))
        with pytest.raises(InvalidBlock):
            chain.app.commit(replace(context, **changed))
    chain.app.finalize_block(replace(context, time_ms=TimeMs(chain.app.time_ms + 1)))


def test_a_proposal_that_holds_a_refused_transaction_is_not_voted_for():
    chain = Chain(CAST, MAIN_CHAIN)
    good = next_context(chain, transfer(chain))
    assert chain.app.process_proposal(good) == chain.app.finalize_block(good)
    with pytest.raises(InvalidBlock, match="transaction 0 is refused: insufficient_funds"):
        chain.app.process_proposal(next_context(chain, transfer(chain, 5_000)))


def test_a_proposal_is_filled_to_its_limit_in_the_order_given():
    chain = Chain(CAST, MAIN_CHAIN)
    rows = [transfer(chain, amount) for amount in (400, 5_000, 300, 200, 200)]
    time_ms = TimeMs(chain.now_ms + 10)

    def prepare(max_bytes: int) -> tuple[bytes, ...]:
        return chain.app.prepare_proposal(rows, time_ms=time_ms, max_bytes=max_bytes)

    assert prepare(100_000) == (rows[0], rows[2], rows[3])
    size = len(rows[0]) + len(rows[2])
    assert prepare(size) == (rows[0], rows[2])
    assert prepare(size - 1) == (rows[0],)
    assert prepare(0) == ()


def test_checking_a_transaction_changes_nothing():
    chain = Chain(CAST, MAIN_CHAIN)
    root = chain.app.state_root
    assert chain.app.check_tx(transfer(chain)) is ReasonCode.OK
    assert chain.app.check_tx(transfer(chain, 5_000)) is ReasonCode.INSUFFICIENT_FUNDS
    assert chain.app.state_root == root


def test_a_query_proves_what_is_there_and_what_is_not():
    chain = shard_after_a_round()
    found = chain.app.query("devices", DEVICES[0].device)
    missing = chain.app.query("devices", key("nobody").device)
    assert found.height == missing.height == chain.app.height
    assert found.value is not None
    assert missing.value is None
    with pytest.raises(KeyError):
        chain.app.query("nothing", b"")


def test_an_application_says_which_ledger_it_is():
    for name in ("main", "shard-0"):
        app = Chain(CAST, name).app
        assert (app.chain, app.network, app.height, app.time_ms) == (name, CAST.network, 0, 0)
        assert app.committee == CAST.genesis.committee(name)


def test_a_chain_that_the_genesis_lacks_is_a_configuration_error():
    with pytest.raises(ConfigError, match="choose one of shard-0"):
        make_ledger(CAST.genesis, "shard-7")
