import pytest

from headwater_protocol.chain.block import MAX_BLOCK_TRANSACTIONS, MAX_TRANSACTION_BYTES
from headwater_protocol.identifiers import Height
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine import mempool as mempool_module
from headwater_shard.engine.mempool import Mempool


def accept(transaction: bytes) -> ReasonCode:
    return ReasonCode.OK


def test_transactions_come_out_in_the_order_in_which_they_came_in() -> None:
    mempool = Mempool()
    for name in (b"c", b"a", b"b"):
        assert mempool.add(name, accept) is ReasonCode.OK
    assert mempool.candidates(max_bytes=100) == (b"c", b"a", b"b")
    assert (len(mempool), mempool.size_bytes) == (3, 3)


def test_the_limit_of_transactions_is_taken_and_one_more_is_busy() -> None:
    mempool = Mempool(max_count=3)
    assert [mempool.add(b"%d" % n, accept) for n in range(4)] == [ReasonCode.OK] * 3 + [
        ReasonCode.BUSY
    ]


def test_the_limit_of_bytes_is_taken_and_one_more_is_busy() -> None:
    mempool = Mempool(max_bytes=10)
    assert mempool.add(b"x" * 10, accept) is ReasonCode.OK
    assert mempool.add(b"y", accept) is ReasonCode.BUSY


def test_a_transaction_of_the_largest_size_is_taken_and_one_byte_more_is_too_large() -> None:
    mempool = Mempool()
    assert mempool.add(bytes(MAX_TRANSACTION_BYTES), accept) is ReasonCode.OK
    assert mempool.add(bytes(MAX_TRANSACTION_BYTES + 1), accept) is ReasonCode.TOO_LARGE
    assert mempool.add(b"", accept) is ReasonCode.BAD_ENCODING


def test_what_waits_or_was_finalized_is_a_duplicate() -> None:
    mempool = Mempool()
    mempool.add(b"a", accept)
    assert mempool.add(b"a", accept) is ReasonCode.DUPLICATE
    mempool.finalize(Height(1), (b"a", b"b"), accept)
    assert mempool.add(b"a", accept) is ReasonCode.DUPLICATE
    assert mempool.add(b"b", accept) is ReasonCode.DUPLICATE


def test_finalized_digests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool_module, "MAX_FINALIZED_DIGESTS", 2)
    mempool = Mempool()
    mempool.finalize(Height(1), (b"a", b"b", b"c"), accept)
    assert mempool.add(b"b", accept) is ReasonCode.DUPLICATE
    assert mempool.add(b"a", accept) is ReasonCode.OK


def test_the_ledger_decides_at_entry() -> None:
    mempool = Mempool()
    assert mempool.add(b"a", lambda _: ReasonCode.WRONG_NONCE) is ReasonCode.WRONG_NONCE
    assert len(mempool) == 0


def test_what_no_longer_passes_is_dropped_after_a_block() -> None:
    mempool = Mempool()
    for name in (b"a", b"b", b"c"):
        mempool.add(name, accept)
    dropped = mempool.finalize(
        Height(1),
        (b"a",),
        lambda data: ReasonCode.WRONG_NONCE if data == b"b" else ReasonCode.OK,
    )
    assert [reason for _, reason in dropped] == [ReasonCode.WRONG_NONCE]
    assert mempool.candidates(max_bytes=10) == (b"c",)
    assert mempool.size_bytes == 1


def test_a_height_that_another_replica_reported_is_not_rechecked() -> None:
    mempool = Mempool()
    mempool.add(b"a", accept)
    mempool.finalize(Height(1), (), accept)
    assert mempool.finalize(Height(1), (), lambda _: ReasonCode.BUSY) == ()
    assert len(mempool) == 1


def test_candidates_keep_to_bytes_and_to_the_count_of_a_block() -> None:
    mempool = Mempool(max_count=MAX_BLOCK_TRANSACTIONS + 1)
    for number in range(MAX_BLOCK_TRANSACTIONS + 1):
        mempool.add(b"%05d" % number, accept)
    assert len(mempool.candidates(max_bytes=10**9)) == MAX_BLOCK_TRANSACTIONS
    assert len(mempool.candidates(max_bytes=15)) == 3
    assert len(mempool.candidates(max_bytes=14)) == 2


def test_parked_transactions_are_no_work_until_something_changes() -> None:
    mempool = Mempool()
    assert not mempool.has_work
    mempool.add(b"a", accept)
    assert mempool.has_work
    mempool.park()
    assert not mempool.has_work
    assert mempool.candidates(max_bytes=10) == (b"a",)
    mempool.add(b"b", accept)
    assert mempool.has_work
    mempool.park()
    mempool.finalize(Height(1), (), accept)
    assert mempool.has_work
