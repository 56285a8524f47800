"""The audit in memory: what holds, and what somebody with keys can forge."""

from dataclasses import fields, replace

import numpy as np
import pytest

from headwater_protocol.chain.block import (
    Block,
    BlockHeader,
    Certificate,
    certificate_digest,
    header_digest,
    transactions_root,
)
from headwater_protocol.chain.checkpoint import (
    CheckpointSignature,
    SignedCheckpoint,
    checkpoint_message,
)
from headwater_protocol.chain.market import CloseTask
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.transaction import AdoptTask, CommitUpdates, PostCheckpoint, Transfer
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    Height,
    RoundNumber,
    Signature,
    TimeMs,
    Units,
)
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.model.fixed_point import FixedPointModel, encode_model
from headwater_shard.audit import rounds as audit_rounds
from headwater_shard.audit.failure import AuditFailure
from headwater_shard.audit.network import NetworkAudit
from headwater_shard.audit.readers import LedgerReader, MemoryBlobs, MemoryLedger
from headwater_shard.audit.replay import ChainReplay
from headwater_shard.audit.report import AuditReport
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.engine.bft.validation import outcomes_root
from headwater_shard.mainchain.market.records import TASKS
from headwater_shard.mainchain.records import MERGES, SHARDS
from headwater_shard.shardchain import retention, reward, score
from headwater_shard.shardchain.records import (
    CHECKPOINTS,
    REWARDS,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    RewardBalance,
)
from headwater_shard.shardchain.records import checkpoint_key as shard_checkpoint_key
from headwater_shard.transition import OK
from tests.shard.audit.builders import Ledger, SmallNetwork, make_network, train_network
from tests.support.network import certify, key

FIRST, SECOND = ChainId("shard-0"), ChainId("shard-1")


@pytest.fixture(scope="module")
def trained() -> SmallNetwork:
    """Not to be changed."""
    return train_network(make_network())


def run_audit(
    network: SmallNetwork,
    ledgers: dict[ChainId, MemoryLedger] | None = None,
    *,
    blobs: dict[Digest, bytes] | None = None,
) -> AuditReport:
    readers: dict[ChainId, LedgerReader] = {**(network.memory() if ledgers is None else ledgers)}
    audit = NetworkAudit(
        genesis=network.cast.genesis,
        ledgers=readers,
        blobs=MemoryBlobs(network.blobs if blobs is None else blobs),
    )
    for _ in audit.run():
        pass
    return audit.report


def fails(
    network: SmallNetwork,
    ledgers: dict[ChainId, MemoryLedger] | None = None,
    *,
    blobs: dict[Digest, bytes] | None = None,
) -> AuditFailure:
    with pytest.raises(AuditFailure) as caught:
        run_audit(network, ledgers, blobs=blobs)
    assert "\n" not in str(caught.value)
    return caught.value


def with_block(
    ledger: MemoryLedger, height: int, block: Block, certificate: Certificate
) -> MemoryLedger:
    blocks = list(ledger.blocks)
    blocks[height - 1] = FinalizedBlock(block=block, certificate=certificate)
    return replace(ledger, blocks=blocks)


def resigned(ledger: Ledger, height: int, header: BlockHeader) -> MemoryLedger:
    """The ledger with another header at `height`, and all keys signing it and what follows."""
    blocks = list(ledger.memory().blocks)
    for index in range(height - 1, len(blocks)):
        block = blocks[index].block
        if index >= height:
            certificate = blocks[index - 1].certificate
            header = replace(
                block.header,
                previous=header_digest(blocks[index - 1].block.header),
                last_certificate=certificate_digest(certificate),
            )
            block = replace(block, last_certificate=certificate)
        blocks[index] = FinalizedBlock(
            block=replace(block, header=header),
            certificate=certify(header, ledger.certifiers[index]),
        )
    return replace(ledger.memory(), blocks=blocks)


def truncated(network: SmallNetwork, chain: ChainId, height: int) -> MemoryLedger:
    """The ledger as it was at `height`, state and all."""
    ledger = network.ledgers[chain].memory()
    replay = ChainReplay(genesis=network.cast.genesis, chain=chain, verifier=DirectVerifier())
    for final in ledger.blocks[:height]:
        replay.follow(final)
    return replace(ledger, blocks=ledger.blocks[:height], state=replay.state)


def other_model() -> bytes:
    return encode_model(FixedPointModel(parameters=np.arange(10, dtype=np.int32)))


def test_a_network_holds_and_everything_in_it_was_looked_at(trained: SmallNetwork) -> None:
    report = run_audit(trained)
    by_chain = {entry.chain: entry for entry in report.chains}
    assert [entry.chain for entry in report.chains] == [FIRST, SECOND, MAIN_CHAIN]
    assert [(by_chain[c].rounds, by_chain[c].updates) for c in (FIRST, SECOND)] == [
        (4, 15),
        (4, 20),
    ]
    assert [entry.merges for entry in report.chains] == [2, 2, 2]
    assert by_chain[MAIN_CHAIN].checkpoints == report.compared == 4
    assert by_chain[FIRST].rewards == 3_000
    assert by_chain[SECOND].rewards == 4_000
    assert report.blobs == len(trained.blobs)
    assert report.model == by_chain[MAIN_CHAIN].model
    # Each is there once: certificates, transactions, enrolments, updates, checkpoints.
    assert report.signatures == sum(
        (
            sum(len(c.signatures) for ledger in trained.ledgers.values() for _, c in ledger.blocks),
            sum(entry.transactions for entry in report.chains),
            2 * 5,
            35,
            4 * 3,
        )
    )


def test_the_small_network_has_the_cases_that_matter(trained: SmallNetwork) -> None:
    late = trained.ledgers[SECOND].app.state.get(ROUNDS, round_key(RoundNumber(3)))
    on_time = trained.ledgers[FIRST].app.state.get(ROUNDS, round_key(RoundNumber(3)))
    assert late is not None
    assert on_time is not None
    assert late.correction is not None
    assert on_time.correction is None
    assert on_time.epoch == 1


@pytest.mark.parametrize("chain", [FIRST, SECOND, MAIN_CHAIN])
def test_each_chain_holds_alone(trained: SmallNetwork, chain: ChainId) -> None:
    report = run_audit(trained, {chain: trained.ledgers[chain].memory()})
    assert [entry.chain for entry in report.chains] == [chain]


def test_an_audit_without_blocks_holds() -> None:
    network = make_network()
    assert run_audit(network, {MAIN_CHAIN: network.main.memory()}).model is None


def test_a_block_signed_by_fewer_than_a_quorum_is_refused(trained: SmallNetwork) -> None:
    ledger = trained.ledgers[FIRST]
    block, _ = ledger.blocks[4]
    header = replace(block.header, transactions_root=transactions_root(()))
    forged = with_block(
        ledger.memory(),
        5,
        replace(block, header=header, transactions=()),
        certify(header, ledger.certifiers[4][:2]),
    )
    failure = fails(trained, {FIRST: forged})
    assert (failure.chain, failure.height) == (FIRST, 5)
    assert "power 200 of 400 signed" in failure.problem


def test_every_signature_of_a_certificate_is_checked(trained: SmallNetwork) -> None:
    ledger = trained.ledgers[FIRST]
    height = len(ledger.blocks)
    block, certificate = ledger.blocks[-1]
    last = certificate.signatures[-1]
    spoiled = replace(
        certificate,
        signatures=(*certificate.signatures[:-1], replace(last, signature=Signature(bytes(64)))),
    )
    failure = fails(trained, {FIRST: with_block(ledger.memory(), height, block, spoiled)})
    assert (failure.chain, failure.height) == (FIRST, height)


def test_the_certificate_that_a_block_carries_may_be_another_than_the_stored_one(
    trained: SmallNetwork,
) -> None:
    ledger = trained.ledgers[FIRST]
    block, _ = ledger.blocks[2]
    other = certify(block.header, ledger.certifiers[2][:3], view=1)
    assert run_audit(trained, {FIRST: with_block(ledger.memory(), 3, block, other)})


def test_the_certificate_that_a_block_carries_is_verified(trained: SmallNetwork) -> None:
    ledger = trained.ledgers[FIRST]
    block, _ = ledger.blocks[3]
    weak = certify(ledger.blocks[2][0].header, ledger.certifiers[2][:2])
    header = replace(block.header, last_certificate=certificate_digest(weak))
    forged = replace(block, header=header, last_certificate=weak)
    failure = fails(
        trained,
        {FIRST: with_block(ledger.memory(), 4, forged, certify(header, ledger.certifiers[3]))},
    )
    assert (failure.chain, failure.height) == (FIRST, 4)
    assert "power 200 of 400" in failure.problem


@pytest.mark.parametrize("field", [entry.name for entry in fields(BlockHeader)])
def test_a_header_that_everybody_signed_is_still_checked(trained: SmallNetwork, field: str) -> None:
    ledger = trained.ledgers[FIRST]
    header = ledger.blocks[5][0].header
    value: object = bytes(32)
    if field == "chain":
        value = SECOND
    elif field == "height":
        value = Height(9)
    elif field == "time_ms":
        value = ledger.blocks[4][0].header.time_ms
    forged = replace(header, **{field: value})  # type: ignore[arg-type]
    failure = fails(trained, {FIRST: resigned(ledger, 6, forged)})
    assert (failure.chain, failure.height) == (FIRST, 6)
    assert {"time_ms": "time"}.get(field, field) in failure.problem


def test_a_model_that_a_quorum_attested_wrongly_is_refused() -> None:
    network = make_network()
    network.train_round(FIRST, model=other_model())
    failure = fails(network)
    assert (failure.chain, failure.height) == (FIRST, len(network.ledgers[FIRST].blocks))
    assert failure.item == "round 1"
    assert "model differs" in failure.problem


def test_a_merge_that_a_quorum_attested_wrongly_is_refused() -> None:
    network = make_network()
    for shard in (FIRST, SECOND):
        network.train_round(shard)
        network.train_round(shard)
        network.settle(shard)
    network.merge(model=other_model())
    failure = fails(network)
    # The merge stands in the block before the one that hands over.
    assert (failure.chain, failure.height) == (MAIN_CHAIN, len(network.main.blocks) - 1)
    assert failure.item == "merge 1"


@pytest.mark.parametrize("reopens", [False, True])
def test_a_last_checkpoint_that_came_during_a_merge_is_followed(*, reopens: bool) -> None:
    network = make_network()
    for shard in (FIRST, SECOND):
        network.train_round(shard)
        network.train_round(shard)
        network.settle(shard)
    first, timeout_ms = network.ledgers[FIRST], network.cast.genesis.parameters.epoch_timeout_ms
    for _ in range(2):
        # It waits for the merge before each of its rounds, and then goes on without.
        first.block(after_ms=network.cast.genesis.parameters.merge_wait_ms)
        network.train_round(FIRST)
    network.settle(FIRST)
    if reopens:
        network.main.block(after_ms=timeout_ms)
        assert network.merge_attempt == 1
        network.merge()
    else:
        network.merge()
        network.main.block(after_ms=timeout_ms)
        (late,) = [entry for _, entry in network.main.app.state.items(MERGES) if not entry.model]
        assert [entry.correction is not None for entry in late.inputs] == [True]
        network.merge()
    report = run_audit(network)
    (main,) = [entry for entry in report.chains if entry.chain == MAIN_CHAIN]
    assert main.merges == 2 - reopens


def test_a_reward_that_everybody_signed_is_refused(trained: SmallNetwork) -> None:
    ledger = trained.ledgers[FIRST]
    height = len(ledger.blocks)
    state = ledger.app.state.updated(
        {REWARDS.namespace: {ledger.cast.sponsor.account: RewardBalance(total=Units(500))}}
    )
    forged = resigned(ledger, height, replace(ledger.blocks[-1][0].header, state_root=state.root))
    failure = fails(trained, {FIRST: replace(forged, state=state)})
    assert (failure.chain, failure.height) == (FIRST, height)
    assert "state_root differs" in failure.problem


def test_rewards_are_computed_anew_and_not_only_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def favour(amount: int, weights: dict[bytes, int]) -> dict[bytes, int]:
        return {min(weights): amount}

    monkeypatch.setattr(reward, "apportion", favour)
    network = make_network()
    network.train_round(FIRST)
    failure = fails(network)
    assert (failure.chain, failure.height) == (FIRST, len(network.ledgers[FIRST].blocks))
    assert failure.item is not None
    assert failure.item.startswith("round 1, update of ")
    assert "reward differs" in failure.problem


def test_medians_are_computed_anew_and_not_only_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score, "compute_weighted_median", lambda scores: max(scores)[0])
    network = make_network()
    ledger = network.ledgers[FIRST]
    with pytest.raises(AssertionError):
        network.train_round(FIRST)
    ledger.block(after_ms=5_000)
    failure = fails(network)
    assert failure.chain == FIRST
    assert failure.item is not None
    assert failure.item.startswith("round 1")


def test_an_update_that_its_device_did_not_sign_is_named() -> None:
    network = make_network()
    ledger = network.ledgers[FIRST]
    commits = network.make_commits(FIRST)
    forged = replace(commits[1], signature=Signature(bytes(64)))
    keys = network.cast.validators[FIRST]
    ledger.block(
        ledger.sign(
            keys[0],
            CommitUpdates(round=ledger.round.number, commits=(commits[0], forged, commits[2])),
        )
    )
    block, _ = ledger.blocks[-1]
    header = replace(block.header, outcomes_root=outcomes_root((OK,)))
    failure = fails(network, {FIRST: resigned(ledger, len(ledger.blocks), header)})
    assert (failure.chain, failure.height) == (FIRST, len(ledger.blocks))
    assert failure.item == "transaction 0"
    assert forged.device.hex()[:16] in failure.problem


def test_a_refused_transaction_is_counted_and_no_failure() -> None:
    network = make_network()
    main = network.main
    main.block(main.sign(key("nobody"), Transfer(recipient=key("bob").account, amount=Units(1))))
    (report,) = run_audit(network, {MAIN_CHAIN: main.memory()}).chains
    assert (report.transactions, report.refused) == (1, 1)


def test_a_missing_blob_is_named(trained: SmallNetwork) -> None:
    for digest in sorted(trained.blobs):
        blobs = {name: blob for name, blob in trained.blobs.items() if name != digest}
        failure = fails(trained, blobs=blobs)
        assert digest.hex() in failure.problem


def test_a_spoiled_blob_is_named(trained: SmallNetwork) -> None:
    digest = max(trained.blobs)
    failure = fails(trained, blobs={**trained.blobs, digest: b"something else"})
    assert failure.item == f"blobs/memory offset {len(trained.blobs) - 1}"


def test_a_ledger_without_its_tip_holds_if_all_of_it_is_older(trained: SmallNetwork) -> None:
    network = make_network()
    network.main.block()
    network.main.block()
    ledgers = {**network.memory(), MAIN_CHAIN: truncated(network, MAIN_CHAIN, 1)}
    assert run_audit(network, ledgers)


def test_a_state_newer_than_the_last_block_is_refused(trained: SmallNetwork) -> None:
    ledger = trained.ledgers[FIRST].memory()
    height = len(ledger.blocks) - 1
    failure = fails(trained, {FIRST: replace(ledger, blocks=ledger.blocks[:-1])})
    assert (failure.chain, failure.height) == (FIRST, height)
    assert failure.item is not None
    assert failure.item.startswith("entry ")


def test_a_main_chain_without_an_adopted_merge_is_refused(trained: SmallNetwork) -> None:
    height = len(trained.main.blocks) - 1
    ledgers = {**trained.memory(), MAIN_CHAIN: truncated(trained, MAIN_CHAIN, height)}
    failure = fails(trained, ledgers)
    assert (failure.chain, failure.item) == (FIRST, "epoch 2")
    assert f"block {height + 1} of the main chain" in failure.problem


def test_a_shard_without_a_settled_checkpoint_is_refused(trained: SmallNetwork) -> None:
    ledgers = {**trained.memory(), FIRST: truncated(trained, FIRST, 7)}
    failure = fails(trained, ledgers)
    assert (failure.chain, failure.height) == (MAIN_CHAIN, 2)
    assert failure.item == "checkpoint 1 of shard-0"


def test_a_checkpoint_signed_over_another_state_is_refused() -> None:
    network = make_network()
    ledger = network.ledgers[FIRST]
    network.train_round(FIRST)
    network.train_round(FIRST)
    ledger.block()
    signed = ledger.app.state.get(CHECKPOINTS, shard_checkpoint_key(1))
    assert signed is not None
    forged = sign_checkpoint(
        network,
        replace(signed, checkpoint=replace(signed.checkpoint, state_root=Digest(bytes(32)))),
    )
    main = network.main
    main.accepted(main.sign(network.cast.sponsor, PostCheckpoint(signed=forged)))
    failure = fails(network)
    assert (failure.chain, failure.height) == (MAIN_CHAIN, 1)
    assert failure.item == "checkpoint 1 of shard-0"
    assert "state root 0000000000000000" in failure.problem


def test_a_merge_proven_by_a_fork_of_the_main_chain_is_refused() -> None:
    network = make_network()
    for shard in (FIRST, SECOND):
        network.train_round(shard)
        network.train_round(shard)
        network.settle(shard)
    network.merge()
    main = network.main
    block, certificate = main.blocks[-1]
    header = replace(block.header, time_ms=TimeMs(block.header.time_ms + 1))
    main.blocks[-1] = (replace(block, header=header), certify(header, main.certifiers[-1]))
    network.adopt(FIRST, 1)
    main.blocks[-1] = (block, certificate)
    failure = fails(network)
    # The epoch is adopted in the block before the one that hands over.
    assert (failure.chain, failure.height) == (FIRST, len(network.ledgers[FIRST].blocks) - 1)
    assert failure.item == "epoch 1"
    assert "another block" in failure.problem


def test_reordered_blocks_are_refused(trained: SmallNetwork) -> None:
    ledger = trained.ledgers[FIRST].memory()
    blocks = list(ledger.blocks)
    blocks[4], blocks[5] = blocks[5], blocks[4]
    failure = fails(trained, {FIRST: replace(ledger, blocks=blocks)})
    assert (failure.chain, failure.height) == (FIRST, 5)


def test_a_ledger_of_another_chain_or_network_is_refused(trained: SmallNetwork) -> None:
    failure = fails(trained, {FIRST: trained.ledgers[SECOND].memory()})
    assert (failure.chain, failure.height) == (FIRST, None)
    assert "chain differs" in failure.problem
    other = make_network(rounds=5)
    failure = fails(trained, {FIRST: other.ledgers[FIRST].memory()})
    assert "network differs" in failure.problem


def sign_checkpoint(network: SmallNetwork, signed: SignedCheckpoint) -> SignedCheckpoint:
    message = checkpoint_message(network.cast.network, signed.checkpoint)
    keys: list[SecretKey] = sorted(
        network.cast.validators[signed.checkpoint.shard], key=lambda entry: entry.validator
    )
    return replace(
        signed,
        signatures=tuple(
            CheckpointSignature(validator=entry.validator, signature=entry.sign(message))
            for entry in keys
        ),
    )


def adopt_task(network: SmallNetwork, shard: ChainId) -> AdoptTask:
    """What the main chain has of the first task now, proven to a shard."""
    task = network.cast.genesis.task.task
    block, certificate = network.main.blocks[-1]
    entry = network.main.app.state.get(TASKS, task_key(task))
    assert entry is not None
    return AdoptTask(
        entry=entry,
        proof=network.main.app.query("tasks", task_key(task)).proof,
        header=block.header,
        certificate=certificate,
    )


@pytest.mark.parametrize("has_open_round", [True, False])
def test_a_task_that_its_sponsor_closed_holds(has_open_round: bool) -> None:
    network = make_network(rounds=9)
    sponsor, task = network.cast.sponsor, network.cast.genesis.task.task
    for shard in (FIRST, SECOND):
        network.train_round(shard)
        if not has_open_round:
            # After its checkpoint the shard waits for the merge.
            network.train_round(shard)
            network.settle(shard)
        is_open = network.ledgers[shard].round.phase is RoundPhase.COLLECT
        assert is_open == has_open_round
    network.main.accepted(network.main.sign(sponsor, CloseTask(task=task)))
    for shard in (FIRST, SECOND):
        ledger = network.ledgers[shard]
        ledger.accepted(ledger.sign(sponsor, adopt_task(network, shard)))
        if has_open_round:
            network.train_round(shard)
        network.settle(shard)
        entry = network.main.app.state.get(SHARDS, shard.encode())
        assert entry is not None
        assert entry.is_final
        record = ledger.app.state.get(SHARD, SHARD_KEY)
        assert record is not None
        assert (record.last_round, record.checkpoints) == (2, 1 if has_open_round else 2)
    run_audit(network)


def test_the_records_of_rounds_that_are_long_over_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (retention, audit_rounds):
        monkeypatch.setattr(module, "MAX_KEPT_ROUNDS", 4)
    network = make_network(rounds=9)
    ledger = network.ledgers[FIRST]
    for _ in range(7):
        record = ledger.app.state.get(SHARD, SHARD_KEY)
        assert record is not None
        if record.due_checkpoint is not None:
            network.settle(FIRST)
        if ledger.round.phase is RoundPhase.CLOSED:
            ledger.block(after_ms=network.cast.genesis.parameters.merge_wait_ms)
        network.train_round(FIRST)
    assert ledger.app.state.get(ROUNDS, round_key(RoundNumber(1))) is None
    run_audit(network)
    monkeypatch.setattr(audit_rounds, "MAX_KEPT_ROUNDS", 5)
    with pytest.raises(AuditFailure, match=r"round 1.*is gone from the ledger"):
        run_audit(network)
