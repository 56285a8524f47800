"""When an epoch ends, what goes into its merge, and what a lagging shard's checkpoints count."""

from dataclasses import dataclass, field

import pytest

from headwater_protocol.chain.checkpoint import (
    MAX_EPOCH_EXAMPLES,
    Checkpoint,
    CheckpointSignature,
    Merge,
    SignedCheckpoint,
    checkpoint_digest,
    checkpoint_message,
)
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.chain.transaction import AttestMerge, PostCheckpoint
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAX_UNSIGNED
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import tables_of
from headwater_shard.mainchain.records import ATTESTATIONS, MERGES, SHARDS, ShardEntry, shard_key
from headwater_shard.state.state import load_state
from tests.support.ledgers import (
    attest_merge,
    delegates,
    execute,
    hand_over,
    main_of,
    next_context,
    reasons,
    refusal,
)
from tests.support.network import Chain, key, make_cast

TIMEOUT_MS = 60_000


@dataclass
class Shards:
    """Checkpoints of made-up shards, each signed by the shard's own delegates."""

    main: Chain
    last: dict[str, Checkpoint] = field(default_factory=dict)

    def checkpoint(
        self, shard: str, *, epoch: int = 0, num_examples: int = 10, is_final: bool = False
    ) -> bytes:
        last = self.last.get(shard)
        number = 1 if last is None else last.number + 1
        checkpoint = Checkpoint(
            shard=shard,
            number=number,
            epoch=epoch,
            merged=epoch,
            round=number,
            height=number * 5,
            state_root=bytes(32),
            model=blob_digest(f"{shard} {number}".encode()),
            num_examples=num_examples,
            is_final=is_final,
            previous=bytes(32) if last is None else checkpoint_digest(last),
        )
        self.last[shard] = checkpoint
        message = checkpoint_message(self.main.cast.network, checkpoint)
        rows = [
            CheckpointSignature(validator=entry.validator, signature=entry.sign(message))
            for entry in self.main.cast.validators[shard]
        ]
        signed = SignedCheckpoint(
            checkpoint=checkpoint, signatures=tuple(sorted(rows, key=lambda row: row.validator))
        )
        return self.main.sign(key("relay"), PostCheckpoint(signed=signed))

    def settle(self, shard: str, **changes: object) -> None:
        execute(self.main, self.checkpoint(shard, **changes))


@pytest.fixture
def shards() -> Shards:
    cast = make_cast(shards=("a", "b", "c"), validators_per_shard=1)
    return Shards(Chain(cast, "main"))


def merge_of(main: Chain, epoch: int) -> Merge | None:
    return main.app.state.get(MERGES, epoch_key(epoch))


def entry_of(main: Chain, shard: str) -> ShardEntry:
    entry = main.app.state.get(SHARDS, shard_key(shard))
    assert entry is not None
    return entry


def test_a_merge_opens_with_the_checkpoint_of_the_last_shard(shards):
    main = shards.main
    shards.settle("b", num_examples=7)
    shards.settle("a", num_examples=3)
    assert merge_of(main, 1) is None
    shards.settle("c", num_examples=0)
    merge = merge_of(main, 1)
    assert merge is not None
    assert merge.model is None
    assert [(entry.shard, entry.num_examples) for entry in merge.inputs] == [
        ("a", 3),
        ("b", 7),
        ("c", 0),
    ]
    for entry in merge.inputs:
        assert entry.model == shards.last[entry.shard].model
        assert entry.checkpoint == checkpoint_digest(shards.last[entry.shard])


def test_more_checkpoints_of_an_epoch_add_up_and_the_last_model_counts(shards):
    shards.settle("a", num_examples=3)
    shards.settle("a", num_examples=4)
    shards.settle("b")
    shards.settle("c")
    merge = merge_of(shards.main, 1)
    assert merge is not None
    assert merge.inputs[0].num_examples == 7
    assert merge.inputs[0].model == shards.last["a"].model


def test_an_epoch_stops_waiting_at_its_timeout_and_not_a_millisecond_before(shards):
    main = shards.main
    assert main.app.next_timer() is None
    main.block(after_ms=10 * TIMEOUT_MS)
    assert not main_of(main).is_merging
    shards.settle("b")
    started = main.now_ms
    assert main.app.next_timer() == started + TIMEOUT_MS
    main.block(after_ms=TIMEOUT_MS - 1)
    assert not main_of(main).is_merging
    main.block(after_ms=1)
    merge = merge_of(main, 1)
    assert merge is not None
    assert [entry.shard for entry in merge.inputs] == ["b"]
    assert main.app.next_timer() == main.now_ms + TIMEOUT_MS


def test_a_second_checkpoint_does_not_start_the_wait_anew(shards):
    shards.settle("b")
    started = shards.main.now_ms
    shards.main.block(after_ms=1_000)
    shards.settle("b")
    assert shards.main.app.next_timer() == started + TIMEOUT_MS


def test_a_finished_shard_is_not_waited_for(shards):
    main = shards.main
    shards.settle("a", is_final=True)
    shards.settle("b")
    shards.settle("c")
    attest_merge(main, blob_digest(b"m"))
    shards.settle("b", epoch=1)
    shards.settle("c", epoch=1)
    merge = merge_of(main, 2)
    assert merge is not None
    assert [entry.shard for entry in merge.inputs] == ["b", "c"]


def test_when_all_shards_are_finished_the_last_merge_opens_and_no_other(shards):
    main = shards.main
    for shard in "abc":
        shards.settle(shard, is_final=True)
    attest_merge(main, blob_digest(b"last"))
    assert main_of(main).epoch == 1
    main.block(after_ms=10 * TIMEOUT_MS)
    assert not main_of(main).is_merging
    assert main.app.next_timer() is None


def test_a_quorum_for_one_model_completes_the_merge_and_starts_an_epoch(shards):
    main = shards.main
    for shard in "abc":
        shards.settle(shard)
    first, second, third = delegates(main)
    body = AttestMerge(epoch=1, model=blob_digest(b"m"))
    execute(main, main.sign(first, body), main.sign(second, body))
    assert main_of(main).is_merging
    execute(main, main.sign(third, body))
    merge, chain = merge_of(main, 1), main_of(main)
    assert merge is not None
    assert merge.model == blob_digest(b"m")
    assert (chain.epoch, chain.is_merging, chain.epoch_started_ms) == (0, False, 0)
    assert main.app.next_timer() == 0
    main.block()
    assert main_of(main).epoch == 1
    assert main.app.state.count(ATTESTATIONS) == 0
    for shard in "abc":
        entry = entry_of(main, shard)
        assert (entry.epoch_checkpoints, entry.epoch_examples) == (0, 0)


def test_split_attestations_complete_nothing(shards):
    main = shards.main
    for shard in "abc":
        shards.settle(shard)
    for index, signer in enumerate(delegates(main)):
        body = AttestMerge(epoch=1, model=blob_digest(b"%d" % index))
        execute(main, main.sign(signer, body))
    main.block(after_ms=10 * TIMEOUT_MS)
    assert main_of(main).is_merging
    assert main_of(main).epoch == 0


def test_a_checkpoint_during_a_merge_settles_and_counts_for_no_epoch(shards):
    main = shards.main
    for shard in "abc":
        shards.settle(shard, num_examples=5)
    shards.settle("a", num_examples=9)
    merge = merge_of(main, 1)
    assert merge is not None
    assert merge.inputs[0].num_examples == 5
    entry = entry_of(main, "a")
    assert (entry.number, entry.epoch_checkpoints, entry.epoch_examples) == (2, 1, 5)
    attest_merge(main, blob_digest(b"m"))
    assert entry_of(main, "a").epoch_checkpoints == 0
    assert main.app.next_timer() is None


def test_a_lagging_shards_old_checkpoints_settle_without_counting(shards):
    main = shards.main
    shards.settle("a")
    shards.settle("b")
    main.block(after_ms=TIMEOUT_MS)
    attest_merge(main, blob_digest(b"m"))
    shards.settle("c", epoch=0)
    assert entry_of(main, "c").number == 1
    assert entry_of(main, "c").epoch_checkpoints == 0
    assert main_of(main).epoch_started_ms == 0
    shards.settle("a", epoch=1)
    shards.settle("b", epoch=1)
    assert not main_of(main).is_merging
    shards.settle("c", epoch=1)
    merge = merge_of(main, 2)
    assert merge is not None
    assert len(merge.inputs) == 3


def test_an_epoch_without_a_current_checkpoint_never_times_out(shards):
    main = shards.main
    shards.settle("a")
    main.block(after_ms=TIMEOUT_MS)
    attest_merge(main, blob_digest(b"m"))
    shards.settle("b", epoch=0)
    main.block(after_ms=10 * TIMEOUT_MS)
    assert not main_of(main).is_merging


def test_a_shards_weight_is_capped_whatever_it_claims(shards):
    main = shards.main
    for _ in range(3):
        shards.settle("a", num_examples=MAX_UNSIGNED)
    assert entry_of(main, "a").epoch_examples == MAX_EPOCH_EXAMPLES
    shards.settle("b", num_examples=MAX_EPOCH_EXAMPLES)
    shards.settle("c", num_examples=MAX_EPOCH_EXAMPLES - 1)
    merge = merge_of(main, 1)
    assert merge is not None
    assert [entry.num_examples for entry in merge.inputs] == [
        MAX_EPOCH_EXAMPLES,
        MAX_EPOCH_EXAMPLES,
        MAX_EPOCH_EXAMPLES - 1,
    ]
    entries = [
        (table.namespace, entry, encode_record(record))
        for table in tables_of("main")
        for entry, record in main.app.state.items(table)
    ]
    assert load_state(tables_of("main"), entries).root == main.app.state_root


def test_two_checkpoints_of_a_shard_settle_in_one_block_in_order_only(shards):
    main = shards.main
    first, second = shards.checkpoint("a"), shards.checkpoint("a")
    assert reasons(main.app.finalize_block(next_context(main, first, second))) == ["ok", "ok"]
    swapped = Chain(main.cast, "main")
    again = Shards(swapped)
    first, second = again.checkpoint("a"), again.checkpoint("a")
    relayed = swapped.block(second)
    assert reasons(relayed) == [ReasonCode.BROKEN_LINK]
    execute(swapped, first)


def attest(main: Chain, signers, model: bytes, *, attempt: int = 0) -> None:
    body = AttestMerge(epoch=main_of(main).epoch + 1, model=blob_digest(model), attempt=attempt)
    execute(main, *(main.sign(signer, body) for signer in signers))


def open_merge(shards: Shards, **changes: object) -> None:
    for shard in "abc":
        shards.settle(shard, **changes)
    assert main_of(shards.main).is_merging


def test_a_merge_without_a_majority_reopens_at_the_timeout_and_not_a_millisecond_before(shards):
    main = shards.main
    open_merge(shards)
    opened = main.now_ms
    assert main.app.next_timer() == opened + TIMEOUT_MS
    first, second, _ = delegates(main)
    attest(main, [first], b"one")
    attest(main, [second], b"two")
    main.block(after_ms=opened + TIMEOUT_MS - 1 - main.now_ms)
    assert main_of(main).merge_attempt == 0
    assert main.app.state.count(ATTESTATIONS) == 2
    main.block(after_ms=1)
    chain = main_of(main)
    assert (chain.merge_attempt, chain.is_merging, chain.epoch) == (1, True, 0)
    assert main.app.state.count(ATTESTATIONS) == 0
    assert main.app.next_timer() == main.now_ms + TIMEOUT_MS


def test_a_reopened_merge_takes_what_settled_meanwhile(shards):
    main = shards.main
    open_merge(shards, num_examples=5)
    before = shards.last["b"].model
    shards.settle("b", num_examples=7)
    main.block(after_ms=TIMEOUT_MS)
    merge = merge_of(main, 1)
    assert merge is not None
    assert [entry.num_examples for entry in merge.inputs] == [5, 12, 5]
    assert merge.inputs[1].model == shards.last["b"].model != before
    assert merge.inputs[1].checkpoint == checkpoint_digest(shards.last["b"])
    assert all(entry.correction is None for entry in merge.inputs)
    attest_merge(main, blob_digest(b"m"))
    entry = entry_of(main, "b")
    assert (entry.epoch_checkpoints, entry.late_checkpoints, entry.late_examples) == (0, 0, 0)
    assert main.app.next_timer() is None


def test_an_attestation_of_an_earlier_attempt_is_refused_and_a_new_one_counts(shards):
    main = shards.main
    open_merge(shards)
    signers = delegates(main)
    attest(main, signers[:2], b"m")
    main.block(after_ms=TIMEOUT_MS)
    old = main.sign(signers[2], AttestMerge(epoch=1, model=blob_digest(b"m")))
    assert refusal(main, old) is ReasonCode.WRONG_EPOCH
    early = main.sign(signers[2], AttestMerge(epoch=1, model=blob_digest(b"m"), attempt=2))
    assert refusal(main, early) is ReasonCode.WRONG_EPOCH
    attest(main, signers[:2], b"m", attempt=1)
    assert main_of(main).is_merging
    attest(main, signers[2:], b"m", attempt=1)
    hand_over(main)
    chain = main_of(main)
    assert (chain.epoch, chain.is_merging, chain.merge_attempt) == (1, False, 0)
    open_merge(shards, epoch=1)
    attest(main, signers, b"n")
    hand_over(main)
    assert main_of(main).epoch == 2


def test_a_merge_is_attempted_as_often_as_it_takes(shards):
    main = shards.main
    open_merge(shards)
    for attempt in range(1, 6):
        main.block(after_ms=TIMEOUT_MS)
        assert main_of(main).merge_attempt == attempt
    attest_merge(main, blob_digest(b"m"))
    assert main_of(main).epoch == 1


def test_a_final_checkpoint_that_settles_during_a_merge_is_merged_after_it(shards):
    main = shards.main
    open_merge(shards, num_examples=5)
    merged_of_a = shards.last["a"].model
    for shard in "bc":
        shards.settle(shard, is_final=True, num_examples=0)
    shards.settle("a", is_final=True, num_examples=9)
    attest_merge(main, blob_digest(b"m"))
    # All shards are finished, so nothing else is waited for.
    main.block()
    merge, chain = merge_of(main, 2), main_of(main)
    assert chain.is_merging
    assert merge is not None
    assert [(entry.shard, entry.num_examples) for entry in merge.inputs] == [
        ("a", 9),
        ("b", 0),
        ("c", 0),
    ]
    first = merge.inputs[0]
    assert first.model == shards.last["a"].model
    assert first.correction == MergeCorrection(
        epoch=1, merged=blob_digest(b"m"), reference=merged_of_a
    )
    attest_merge(main, blob_digest(b"n"))
    main.block(after_ms=10 * TIMEOUT_MS)
    chain = main_of(main)
    assert (chain.epoch, chain.is_merging, chain.epoch_started_ms) == (2, False, 0)


def test_a_late_final_checkpoint_waits_for_the_others_next_ones(shards):
    main = shards.main
    open_merge(shards)
    shards.settle("a", is_final=True)
    attest(main, delegates(main), b"m")
    # The wait begins with the merge's completion, but the handover is due before.
    completed = main.now_ms
    assert main.app.next_timer() == 0
    hand_over(main)
    assert main.app.next_timer() == completed + TIMEOUT_MS
    shards.settle("b", epoch=1)
    assert not main_of(main).is_merging
    shards.settle("c", epoch=1)
    merge = merge_of(main, 2)
    assert merge is not None
    assert [entry.correction is None for entry in merge.inputs] == [False, True, True]


def test_a_final_checkpoint_that_comes_after_the_merge_is_merged_too(shards):
    main = shards.main
    open_merge(shards)
    reference = shards.last["a"].model
    attest_merge(main, blob_digest(b"m"))
    shards.settle("a", epoch=0, is_final=True, num_examples=4)
    assert entry_of(main, "a").epoch_examples == 4
    main.block(after_ms=TIMEOUT_MS)
    merge = merge_of(main, 2)
    assert merge is not None
    (entry,) = merge.inputs
    assert entry.correction == MergeCorrection(
        epoch=1, merged=blob_digest(b"m"), reference=reference
    )


def test_a_final_checkpoint_beside_the_last_attestation_is_late_and_waits_from_then_on(shards):
    main = shards.main
    open_merge(shards)
    body = AttestMerge(epoch=1, model=blob_digest(b"m"))
    votes = [main.sign(signer, body) for signer in delegates(main)]
    execute(main, *votes, shards.checkpoint("a", is_final=True, num_examples=4))
    completed = main.now_ms
    assert (entry_of(main, "a").epoch_examples, main_of(main).epoch) == (4, 0)
    hand_over(main)
    assert main_of(main).epoch_started_ms == completed
    assert main.app.next_timer() == completed + TIMEOUT_MS


def test_a_final_checkpoint_in_the_block_that_hands_over_counts_for_the_new_epoch(shards):
    main = shards.main
    open_merge(shards)
    reference = shards.last["a"].model
    attest(main, delegates(main), b"m")
    assert main_of(main).epoch == 0
    shards.settle("a", epoch=0, is_final=True, num_examples=4)
    chain, entry = main_of(main), entry_of(main, "a")
    assert (chain.epoch, chain.epoch_started_ms) == (1, main.now_ms)
    assert (entry.epoch_checkpoints, entry.late_checkpoints) == (1, 0)
    shards.settle("b", epoch=1)
    shards.settle("c", epoch=1)
    merge = merge_of(main, 2)
    assert merge is not None
    assert merge.inputs[0].correction == MergeCorrection(
        epoch=1, merged=blob_digest(b"m"), reference=reference
    )


def test_the_block_that_hands_over_opens_the_next_merge_where_nobody_is_waited_for(shards):
    main = shards.main
    open_merge(shards)
    for shard in "abc":
        shards.settle(shard, is_final=True)
    attest(main, delegates(main), b"m")
    assert (main_of(main).epoch, merge_of(main, 2)) == (0, None)
    hand_over(main)
    chain = main_of(main)
    assert (chain.epoch, chain.is_merging, chain.merge_opened_ms) == (1, True, main.now_ms)
    assert main.app.next_timer() == main.now_ms + TIMEOUT_MS


def test_nothing_follows_where_all_that_was_late_went_into_another_attempt(shards):
    main = shards.main
    open_merge(shards)
    for shard in "abc":
        shards.settle(shard, is_final=True)
    main.block(after_ms=TIMEOUT_MS)
    attest(main, delegates(main), b"m", attempt=1)
    main.block(after_ms=10 * TIMEOUT_MS)
    chain = main_of(main)
    assert (chain.epoch, chain.is_merging, chain.epoch_started_ms) == (1, False, 0)
    assert main.app.next_timer() is None


def test_a_block_that_hands_over_late_reopens_nothing(shards):
    main = shards.main
    open_merge(shards)
    shards.settle("a", is_final=True, num_examples=4)
    attest(main, delegates(main), b"m")
    main.block(after_ms=10 * TIMEOUT_MS)
    first, second, chain = merge_of(main, 1), merge_of(main, 2), main_of(main)
    assert first is not None
    assert first.model == blob_digest(b"m")
    assert second is not None
    assert [(entry.shard, entry.num_examples) for entry in second.inputs] == [("a", 4)]
    assert (chain.epoch, chain.is_merging, chain.merge_attempt) == (1, True, 0)
    assert main.app.next_timer() == main.now_ms + TIMEOUT_MS
    stale = main.sign(delegates(main)[0], AttestMerge(epoch=1, model=blob_digest(b"m")))
    assert refusal(main, stale) is ReasonCode.WRONG_EPOCH
    attest_merge(main, blob_digest(b"n"))
    assert main_of(main).epoch == 2


def test_what_a_late_shard_started_from_is_the_reference_if_it_never_was_in_a_merge(shards):
    main = shards.main
    shards.settle("a")
    shards.settle("b")
    main.block(after_ms=TIMEOUT_MS)
    shards.settle("c", is_final=True)
    attest_merge(main, blob_digest(b"m"))
    main.block(after_ms=TIMEOUT_MS)
    merge = merge_of(main, 2)
    assert merge is not None
    (entry,) = merge.inputs
    assert entry.shard == "c"
    assert entry.correction == MergeCorrection(
        epoch=1, merged=blob_digest(b"m"), reference=main.cast.genesis.task.initial_model
    )


def test_a_final_checkpoint_in_a_failed_attempt_goes_into_the_next(shards):
    main = shards.main
    open_merge(shards, num_examples=5)
    shards.settle("a", is_final=True, num_examples=9)
    main.block(after_ms=TIMEOUT_MS)
    merge = merge_of(main, 1)
    assert merge is not None
    assert (merge.inputs[0].num_examples, merge.inputs[0].correction) == (14, None)
    attest_merge(main, blob_digest(b"m"))
    assert main_of(main).epoch_started_ms == 0
