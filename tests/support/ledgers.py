"""What tests do with ledgers again and again: refusals, whole rounds, settlement and merges."""

from collections.abc import Iterable, Sequence

from headwater_protocol.chain.block import NO_DIGEST, header_digest
from headwater_protocol.chain.checkpoint import (
    CheckpointSignature,
    SignedCheckpoint,
    checkpoint_digest,
    checkpoint_message,
)
from headwater_protocol.chain.epoch import Epoch, epoch_key
from headwater_protocol.chain.transaction import (
    AdoptEpoch,
    AttestMerge,
    AttestModel,
    CommitUpdates,
    PostCheckpoint,
    PostScores,
    SignCheckpoint,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, Digest, EpochNumber, Height, TimeMs
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext, Execution
from headwater_shard.mainchain.records import EPOCHS, MAIN, MAIN_KEY, MainChain
from headwater_shard.mainchain.staking.election import get_elected
from headwater_shard.mainchain.staking.handover import make_epoch_update
from headwater_shard.shardchain.adoption import get_elected_committee
from headwater_shard.shardchain.records import (
    CHECKPOINTS,
    SHARD,
    SHARD_KEY,
    Shard,
    checkpoint_key,
)
from tests.support.network import Chain


def next_context(chain: Chain, *transactions: bytes, after_ms: int = 10) -> BlockContext:
    """The next block of a chain, not executed."""
    last = chain.blocks[-1] if chain.blocks else None
    return BlockContext(
        height=Height(chain.app.height + 1),
        time_ms=TimeMs(chain.now_ms + after_ms),
        proposer=chain.app.committee.delegates[0].validator,
        previous=header_digest(last[0].header) if last else NO_DIGEST,
        last_certificate=last[1] if last else None,
        transactions=transactions,
    )


def refusal(chain: Chain, transaction: bytes, *, after_ms: int = 10) -> ReasonCode:
    """Why a transaction is refused; it must leave no trace, and nothing is committed."""
    execution = chain.app.finalize_block(next_context(chain, transaction, after_ms=after_ms))
    empty = chain.app.finalize_block(next_context(chain, after_ms=after_ms))
    (outcome,) = execution.outcomes
    assert outcome.reason is not ReasonCode.OK
    assert execution.state_root == empty.state_root
    assert execution.changes == empty.changes
    return outcome.reason


def reasons(execution: Execution) -> list[ReasonCode]:
    """What became of a block's transactions."""
    return [outcome.reason for outcome in execution.outcomes]


def execute(chain: Chain, *transactions: bytes, after_ms: int = 10) -> Execution:
    """A block whose transactions all succeed."""
    execution = chain.block(*transactions, after_ms=after_ms)
    assert reasons(execution) == [ReasonCode.OK] * len(transactions), reasons(execution)
    return execution


def shard_of(chain: Chain) -> Shard:
    """The shard's record."""
    shard = chain.app.state.get(SHARD, SHARD_KEY)
    assert shard is not None
    return shard


def main_of(chain: Chain) -> MainChain:
    """The main chain's record."""
    main = chain.app.state.get(MAIN, MAIN_KEY)
    assert main is not None
    return main


def delegates(chain: Chain) -> tuple[SecretKey, ...]:
    """The keys of a chain's committee, in its order."""
    by_key = chain.cast.keys
    return tuple(by_key[delegate.validator] for delegate in chain.app.committee.delegates)


def open_round(chain: Chain, devices: Iterable[SecretKey] = ()) -> None:
    """Enrol devices and pass blocks until a round collects."""
    devices = tuple(devices)
    if devices:
        chain.enrol(*devices)
    for _ in range(10):
        if chain.round.phase == "collect":
            return
        chain.block(after_ms=1_000)
    raise AssertionError("no round opens")


def commit_body(
    chain: Chain, devices: Iterable[SecretKey], *, num_examples: int = 10
) -> CommitUpdates:
    """A batch of updates, in order."""
    commits = [chain.commit(device, num_examples=num_examples) for device in devices]
    return CommitUpdates(
        round=chain.round.number, commits=tuple(sorted(commits, key=lambda commit: commit.device))
    )


def collect(chain: Chain, devices: Iterable[SecretKey], *, num_examples: int = 10) -> None:
    """Put updates on the ledger in one batch."""
    body = commit_body(chain, devices, num_examples=num_examples)
    execute(chain, chain.sign(delegates(chain)[0], body))


def score(chain: Chain, scores: Sequence[int], *, by: Iterable[SecretKey] | None = None) -> None:
    """Post the same scores for batch 0 by all delegates, or `by` some."""
    body = PostScores(
        task=chain.round.task,
        round=chain.round.number,
        batch=0,
        scores=tuple(scores),
        reference=blob_digest(b"reference"),
    )
    scorers = delegates(chain) if by is None else tuple(by)
    execute(chain, *(chain.sign(entry, body) for entry in scorers))


def attest(chain: Chain, model: Digest, *, by: Iterable[SecretKey] | None = None) -> None:
    """Attest a model by all delegates, or `by` some."""
    body = AttestModel(round=chain.round.number, model=model)
    attesters = delegates(chain) if by is None else tuple(by)
    execute(chain, *(chain.sign(entry, body) for entry in attesters))


def model_of(chain: Chain) -> Digest:
    """A model of the open round's own."""
    return blob_digest(b"%s %d" % (chain.chain.encode(), chain.round.number))


def play_round(
    chain: Chain, devices: Sequence[SecretKey], *, scores: Sequence[int] | None = None
) -> Digest:
    """A round in which all `devices` take part; its model."""
    open_round(chain)
    collect(chain, devices)
    score(chain, scores or [100] * len(devices))
    model = model_of(chain)
    attest(chain, model)
    return model


def emit_checkpoint(chain: Chain) -> SignedCheckpoint:
    """The last checkpoint, with nobody's signature; an empty block emits it where it is due."""
    if shard_of(chain).due_checkpoint is not None:
        chain.block()
    number = shard_of(chain).checkpoints
    signed = chain.app.state.get(CHECKPOINTS, checkpoint_key(number))
    assert signed is not None
    return signed


def sign_body(chain: Chain, signer: SecretKey, signed: SignedCheckpoint) -> SignCheckpoint:
    """A delegate's signature over a checkpoint of its shard."""
    message = checkpoint_message(chain.cast.network, signed.checkpoint)
    return SignCheckpoint(
        number=signed.checkpoint.number,
        checkpoint=checkpoint_digest(signed.checkpoint),
        signature=CheckpointSignature(validator=signer.validator, signature=signer.sign(message)),
    )


def sign_checkpoint(chain: Chain) -> SignedCheckpoint:
    """The last checkpoint, signed by all delegates on the shard's ledger."""
    signed = emit_checkpoint(chain)
    execute(
        chain,
        *(chain.sign(entry, sign_body(chain, entry, signed)) for entry in delegates(chain)),
    )
    result = chain.app.state.get(CHECKPOINTS, checkpoint_key(signed.checkpoint.number))
    assert result is not None
    return result


def settle(main: Chain, chain: Chain) -> SignedCheckpoint:
    """Sign the last checkpoint of a shard and post it on the main chain."""
    signed = sign_checkpoint(chain)
    execute(main, main.sign(main.cast.sponsor, PostCheckpoint(signed=signed)))
    return signed


def attest_merge(main: Chain, model: Digest) -> None:
    """Complete the open merge."""
    record = main_of(main)
    body = AttestMerge(
        epoch=EpochNumber(record.epoch + 1), model=model, attempt=record.merge_attempt
    )
    execute(main, *(main.sign(entry, body) for entry in delegates(main)))
    hand_over(main)


def hand_over(chain: Chain) -> None:
    """The block that puts other delegates in office, where some wait for it."""
    state = chain.app.state
    if chain.chain == MAIN_CHAIN:
        is_waiting = get_elected(state) is not None
    else:
        is_waiting = get_elected_committee(state) is not None
    if is_waiting:
        chain.block()


def adopt(chain: Chain, main: Chain, epoch: int | None = None, *, by: SecretKey) -> None:
    """Lead a shard to an epoch; it is in office afterwards where no round is open."""
    execute(chain, chain.sign(by, adopt_body(main, epoch)))
    hand_over(chain)


def epoch_of(main: Chain, epoch: int | None = None) -> Epoch:
    """An epoch's record, the current one's by default."""
    number = EpochNumber(main_of(main).epoch if epoch is None else epoch)
    record = main.app.state.get(EPOCHS, epoch_key(number))
    assert record is not None
    return record


def update_at(main: Chain, height: int) -> EpochUpdate:
    """The proof of the epoch that a block of the main chain has."""
    block, certificate = main.blocks[height - 1]
    update = make_epoch_update(main.states[height - 1], block.header, certificate)
    assert update is not None
    return update


def epoch_update(main: Chain, epoch: int | None = None) -> EpochUpdate:
    """An epoch, the current one by default, as the block proves it that hands over to it."""
    return update_at(main, epoch_of(main, epoch).start_height)


def adopt_body(main: Chain, epoch: int | None = None) -> AdoptEpoch:
    """What leads a shard to an epoch of the main chain."""
    return AdoptEpoch(update=epoch_update(main, epoch))
