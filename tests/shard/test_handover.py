"""Handover: the old committee ends an epoch, the new one goes on from its state and its model."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.checkpoint import SignedCheckpoint
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.stake import Bond
from headwater_protocol.chain.transaction import AdoptEpoch, CommitUpdates, PostCheckpoint
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, EpochNumber, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import CHECKPOINTS, checkpoint_key
from tests.support.ledgers import (
    adopt,
    adopt_body,
    attest,
    collect,
    commit_body,
    delegates,
    emit_checkpoint,
    epoch_of,
    execute,
    hand_over,
    main_of,
    model_of,
    open_round,
    refusal,
    score,
    shard_of,
    sign_body,
    sign_checkpoint,
    update_at,
)
from tests.support.network import Chain, certify, key
from tests.support.stakes import Network, stake_cast

FIRST, SECOND = ChainId("shard-0"), ChainId("shard-1")


def keys_of(chain: Chain, epoch: int, shard: ChainId = FIRST) -> list[SecretKey]:
    """Who serves a shard in an epoch of the main chain."""
    committee = epoch_of(chain, epoch).committee_of(shard)
    assert committee is not None
    return [chain.cast.keys[entry.validator] for entry in committee.delegates]


def leaver(network: Network, epoch: int) -> SecretKey:
    """A delegate of an epoch that does not serve the shard in the next one."""
    new = {entry.validator for entry in keys_of(network.main, epoch + 1)}
    return next(entry for entry in keys_of(network.main, epoch) if entry.validator not in new)


def test_a_shard_goes_on_with_the_committee_and_the_model_of_the_epoch() -> None:
    network = Network()
    chain = network.shards[FIRST]
    network.end_epoch()
    epoch = epoch_of(network.main)
    network.adopt(FIRST)
    record = shard_of(chain)
    assert (record.epoch, record.adopted) == (1, 1)
    assert chain.app.committee == epoch.committee_of(FIRST)
    assert chain.blocks[-1][0].header.committee != committee_digest(chain.app.committee)
    assert chain.blocks[-1][0].header.next_committee == committee_digest(chain.app.committee)
    open_round(chain)
    assert epoch.merge is not None
    assert chain.round.base == epoch.merge.model
    assert (chain.round.epoch, shard_of(chain).merged) == (1, 1)


def test_the_old_committee_closes_the_open_round_and_signs_its_checkpoint() -> None:
    network = Network()
    chain, main = network.shards[FIRST], network.main
    network.end_epoch()
    chain.block(after_ms=1_000)
    open_round(chain)
    number = chain.round.number
    old = delegates(chain)
    network.adopt(FIRST)
    record = shard_of(chain)
    assert (record.epoch, record.adopted, record.correction is None) == (0, 1, False)
    assert delegates(chain) == old
    collect(chain, network.devices[FIRST])
    score(chain, [100, 100])
    attest(chain, model_of(chain), by=old)
    assert shard_of(chain).due_checkpoint is not None
    assert shard_of(chain).epoch == 0
    signed = emit_checkpoint(chain)
    # The block after the one that emits it puts the new committee in office.
    assert (shard_of(chain).epoch, delegates(chain)) == (0, old)
    assert chain.app.next_timer() == 0
    hand_over(chain)
    assert shard_of(chain).epoch == 1
    assert delegates(chain) != old
    assert (signed.checkpoint.epoch, signed.checkpoint.merged) == (0, 1)
    assert signed.checkpoint.round == number
    execute(chain, *(chain.sign(entry, sign_body(chain, entry, signed)) for entry in old))
    complete = emit_checkpoint(chain)
    assert {entry.validator for entry in complete.signatures} == {entry.validator for entry in old}
    execute(main, main.sign(main.cast.sponsor, PostCheckpoint(signed=complete)))


def test_a_newcomer_cannot_sign_what_the_old_committee_owes() -> None:
    network = Network()
    chain = network.shards[FIRST]
    network.end_epoch()
    chain.block(after_ms=1_000)
    open_round(chain)
    old = delegates(chain)
    network.adopt(FIRST)
    collect(chain, network.devices[FIRST])
    score(chain, [100, 100])
    attest(chain, model_of(chain), by=old)
    signed = emit_checkpoint(chain)
    hand_over(chain)
    newcomer = next(entry for entry in delegates(chain) if entry not in old)
    body = sign_body(chain, newcomer, signed)
    assert refusal(chain, chain.sign(newcomer, body)) is ReasonCode.NOT_PERMITTED


def test_a_delegate_that_left_has_no_say_any_more() -> None:
    network = Network()
    chain = network.shards[FIRST]
    network.pass_epoch()
    open_round(chain)
    left = leaver(network, 0)
    body = commit_body(chain, network.devices[FIRST])
    assert isinstance(body, CommitUpdates)
    assert refusal(chain, chain.sign(left, body)) is ReasonCode.NOT_PERMITTED


def test_checkpoints_are_held_against_the_committee_of_their_epoch() -> None:
    network = Network()
    main = network.main
    network.pass_epoch()
    network.train(FIRST)
    signed = sign_checkpoint(network.shards[FIRST])
    assert signed.checkpoint.epoch == 1
    stale = replace(signed.checkpoint, epoch=EpochNumber(0))
    forged = [
        sign_body(network.shards[FIRST], entry, SignedCheckpoint(checkpoint=stale, signatures=()))
        for entry in keys_of(main, 1)
    ]
    body = PostCheckpoint(
        signed=SignedCheckpoint(
            checkpoint=stale, signatures=tuple(entry.signature for entry in forged)
        )
    )
    assert refusal(main, main.sign(main.cast.sponsor, body)) is ReasonCode.OUT_OF_BOUNDS
    execute(main, main.sign(main.cast.sponsor, PostCheckpoint(signed=signed)))


@pytest.mark.parametrize("field", ["epoch", "merged"])
def test_a_checkpoint_of_an_epoch_to_come_is_refused(field: str) -> None:
    network = Network()
    main = network.main
    network.train(FIRST)
    signed = sign_checkpoint(network.shards[FIRST])
    ahead = replace(signed.checkpoint, **{field: EpochNumber(1)})
    body = PostCheckpoint(signed=replace(signed, checkpoint=ahead))
    assert refusal(main, main.sign(main.cast.sponsor, body)) is ReasonCode.WRONG_EPOCH


def test_a_shard_that_lags_adopts_several_epochs_one_after_the_other() -> None:
    network = Network(stake_cast(rounds=12))
    chain, main = network.shards[SECOND], network.main
    for _ in range(3):
        network.end_epoch([FIRST])
        network.adopt(FIRST)
    assert (main_of(main).epoch, shard_of(chain).epoch) == (3, 0)
    chain.now_ms = max(chain.now_ms, main.now_ms)
    assert refusal(chain, chain.sign(chain.cast.sponsor, adopt_body(main, 2))) is (
        ReasonCode.WRONG_EPOCH
    )
    for number in (1, 2, 3):
        open_round(chain)
        adopt(chain, main, number, by=chain.cast.sponsor)
        if number < 3:
            assert refusal(chain, chain.sign(chain.cast.sponsor, adopt_body(main, number + 1))) is (
                ReasonCode.WRONG_PHASE
            )
        network.train(SECOND)
        chain.block()
        hand_over(chain)
        assert (shard_of(chain).epoch, shard_of(chain).merged) == (number, number)
        assert chain.app.committee == epoch_of(main, number).committee_of(SECOND)
        open_round(chain)
        assert chain.round.epoch == number
    settle_all(network, SECOND)


def settle_all(network: Network, shard: ChainId) -> None:
    """Settle every checkpoint of a shard, each signed by those who closed its round."""
    chain, main = network.shards[shard], network.main
    for number in range(1, shard_of(chain).checkpoints + 1):
        signed = chain.app.state.get(CHECKPOINTS, checkpoint_key(number))
        assert signed is not None
        signers = keys_of(main, signed.checkpoint.epoch, shard)
        execute(chain, *(chain.sign(entry, sign_body(chain, entry, signed)) for entry in signers))
        signed = chain.app.state.get(CHECKPOINTS, checkpoint_key(number))
        assert signed is not None
        execute(main, main.sign(main.cast.sponsor, PostCheckpoint(signed=signed)))


def test_an_epoch_is_adopted_once_and_never_a_past_one() -> None:
    network = Network()
    chain, main = network.shards[FIRST], network.main
    network.pass_epoch()
    body = adopt_body(main, 1)
    assert refusal(chain, chain.sign(key("alice"), body)) is ReasonCode.DUPLICATE
    network.pass_epoch()
    assert refusal(chain, chain.sign(key("alice"), body)) is ReasonCode.DUPLICATE


def test_an_epoch_needs_the_certificate_of_the_committee_before_it() -> None:
    network = Network()
    chain, main = network.shards[FIRST], network.main
    bond = Bond(amount=Units(500), commission_thousandths=0)
    execute(main, main.sign(key("alice"), bond))
    network.end_epoch()
    chain.now_ms = max(chain.now_ms, main.now_ms)
    update = adopt_body(main).update
    two = certify(update.header, network.cast.all_validators[:5])
    weak = AdoptEpoch(update=replace(update, certificate=two))
    assert refusal(chain, chain.sign(key("alice"), weak)) is ReasonCode.LOW_POWER
    main.block()
    later = AdoptEpoch(update=update_at(main, main.app.height))
    assert refusal(chain, chain.sign(key("alice"), later)) is ReasonCode.WRONG_EPOCH
    forged = replace(update, epoch=replace(update.epoch, shards=update.epoch.shards[::-1][:1]))
    assert refusal(chain, chain.sign(key("alice"), AdoptEpoch(update=forged))) is (
        ReasonCode.BAD_PROOF
    )
    elsewhere = replace(update, header=chain.blocks[-1][0].header)
    assert refusal(chain, chain.sign(key("alice"), AdoptEpoch(update=elsewhere))) is (
        ReasonCode.WRONG_CHAIN
    )


def test_a_shard_refuses_what_retired_keys_sign_after_the_trust_period() -> None:
    network = Network()
    chain, main = network.shards[FIRST], network.main
    network.end_epoch()
    chain.now_ms = max(chain.now_ms, main.now_ms)
    period = main.cast.genesis.parameters.trust_period_ms
    body = adopt_body(main)
    assert refusal(chain, chain.sign(key("alice"), body), after_ms=period) is (
        ReasonCode.TRUST_EXPIRED
    )
    execute(chain, chain.sign(key("alice"), body))


def test_a_later_block_of_the_epoch_keeps_trust_young() -> None:
    network = Network()
    chain, main = network.shards[FIRST], network.main
    network.pass_epoch()
    period = main.cast.genesis.parameters.trust_period_ms
    main.block(after_ms=period // 8)
    early = AdoptEpoch(update=update_at(main, main.app.height))
    assert refusal(chain, chain.sign(key("alice"), early)) is ReasonCode.DUPLICATE
    main.block(after_ms=period // 2)
    chain.now_ms = max(chain.now_ms, main.now_ms)
    body = AdoptEpoch(update=update_at(main, main.app.height))
    execute(chain, chain.sign(key("alice"), body))
    assert shard_of(chain).adopted_ms == main.now_ms
    assert shard_of(chain).epoch == 1
