"""Who does not serve what it committed is slashed; who is slow, or was cut off, is not."""

from dataclasses import replace

import pytest

from headwater_gateway.machine.withholding import (
    MAX_PAYLOADS_OF_A_BATCH,
    PATIENCE_MS,
    SHARE_AGAIN_MS,
)
from headwater_protocol.chain.block import VoteSignature
from headwater_protocol.chain.evidence import WithheldPayload, withheld_message
from headwater_protocol.chain.justice import Offence, SubmitEvidence
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import MAIN_CHAIN, Signature, ValidatorId
from headwater_shard.mainchain.justice.records import EVIDENCE
from headwater_shard.mainchain.records import CANDIDATES
from tests.support.gateway_support import SHARD_0, gateway_task
from tests.support.gateways import Gateways
from tests.support.network import key

STEP_MS = 5_000


def task():
    return gateway_task(score_ms=10_000, collect_ms=30_000, rounds=1_000)


def guilty_of(gateways: Gateways) -> set[tuple[ValidatorId, Offence]]:
    """Who was punished for what on the main chain."""
    state = gateways.main.app.state
    return {(e.charge.validator, e.charge.offence) for _, e in state.items(EVIDENCE)}


def name_of(gateways: Gateways, node: int) -> ValidatorId:
    return gateways.nodes[node].keys[0].validator


def close_round_without_payloads(gateways: Gateways) -> None:
    """Gateway 0 commits what nobody else gets, and the round closes on its base."""
    before = gateways.shard.round.number
    gateways.publish_all(node=0)
    for _ in range(20):
        gateways.settle(1, step_ms=2_000)
        if gateways.shard.round.number > before:
            return
    raise AssertionError("the round does not close")


def live(gateways: Gateways, duration_ms: int) -> None:
    """Let time pass with blocks on both chains, as a network that is used has them."""
    until_ms = gateways.now_ms + duration_ms
    while gateways.now_ms < until_ms:
        gateways.pass_ms(min(STEP_MS, until_ms - gateways.now_ms))
        gateways.mine(SHARD_0)
        gateways.mine(MAIN_CHAIN)


def test_a_gateway_that_withholds_is_slashed_once_the_others_agree() -> None:
    gateways = Gateways(task=task())
    gateways.nodes[0].withholds = True
    close_round_without_payloads(gateways)
    thief = name_of(gateways, 0)
    before = gateways.main.app.state.get(CANDIDATES, thief)
    assert before is not None
    live(gateways, PATIENCE_MS - 2 * STEP_MS)
    assert gateways.statements == []
    live(gateways, 4 * STEP_MS)
    assert {index for index, _ in gateways.statements} == {1, 2, 3}
    assert guilty_of(gateways) == {(thief, Offence.WITHHELD_PAYLOAD)}
    after = gateways.main.app.state.get(CANDIDATES, thief)
    assert after is not None
    assert after.bonded < before.bonded
    assert after.jailed_until > 0
    for node in (1, 2, 3):
        candidate = gateways.main.app.state.get(CANDIDATES, name_of(gateways, node))
        assert candidate is not None
        assert (candidate.bonded, candidate.jailed_until) == (before.bonded, 0)


def test_all_of_it_is_told_again_to_a_peer_that_was_away() -> None:
    gateways = Gateways(task=task())
    gateways.nodes[0].withholds = True
    close_round_without_payloads(gateways)
    # Each of the three hears of nobody while the statements are made.
    pairs = {frozenset((1, 2)), frozenset((1, 3)), frozenset((2, 3))}
    gateways.cut = pairs | {frozenset((0, other)) for other in (1, 2, 3)}
    live(gateways, PATIENCE_MS + 2 * STEP_MS)
    assert len(gateways.statements) >= 3
    assert guilty_of(gateways) == set()
    gateways.cut -= pairs
    live(gateways, SHARE_AGAIN_MS + 2 * STEP_MS)
    assert guilty_of(gateways) == {(name_of(gateways, 0), Offence.WITHHELD_PAYLOAD)}


def test_a_gateway_that_is_slow_is_not_accused() -> None:
    gateways = Gateways(task=task(), replicates=False)
    gateways.nodes[0].slow_ms = PATIENCE_MS - 20_000
    close_round_without_payloads(gateways)
    live(gateways, 3 * PATIENCE_MS)
    assert gateways.statements == []
    assert guilty_of(gateways) == set()


def test_a_gateway_that_is_cut_off_for_less_than_the_limit_is_not_accused() -> None:
    gateways = Gateways(task=task(), replicates=False)
    gateways.cut = {frozenset((0, other)) for other in (1, 2, 3)}
    close_round_without_payloads(gateways)
    live(gateways, PATIENCE_MS - 4 * STEP_MS)
    gateways.cut.clear()
    live(gateways, 2 * PATIENCE_MS)
    assert gateways.statements == []
    assert guilty_of(gateways) == set()


def test_a_gateway_that_is_away_with_its_votes_is_not_accused_however_long() -> None:
    gateways = Gateways(task=task(), replicates=False)
    gateways.cut = {frozenset((0, other)) for other in (1, 2, 3)}
    gateways.silent = {name_of(gateways, 0)}
    close_round_without_payloads(gateways)
    live(gateways, 3 * PATIENCE_MS)
    assert gateways.statements == []
    gateways.cut.clear()
    gateways.silent.clear()
    live(gateways, PATIENCE_MS)
    assert gateways.statements == []
    assert guilty_of(gateways) == set()


def test_a_gateway_that_only_one_cannot_reach_is_not_accused() -> None:
    gateways = Gateways(task=task(), replicates=False)
    gateways.cut = {frozenset((0, 1)), frozenset((1, 2)), frozenset((1, 3))}
    gateways.publish_all(node=0)
    gateways.settle(10, step_ms=2_000)
    live(gateways, 2 * PATIENCE_MS)
    assert gateways.statements == [], "the committee could get it, so its verdict was another one"
    assert guilty_of(gateways) == set()


def test_two_of_four_that_lie_convict_nobody() -> None:
    gateways = Gateways(task=task(), replicates=False)
    gateways.cut = {frozenset((0, other)) for other in (1, 2, 3)}
    close_round_without_payloads(gateways)
    gateways.cut.clear()
    live(gateways, 2 * STEP_MS)
    gateways.nodes[0].withholds = True
    statement = replace(_statement(gateways))
    message = withheld_message(gateways.cast.network, statement)
    for liar in (1, 2):
        (secret,) = gateways.nodes[liar].keys
        said = WithheldPayload(
            statement=statement,
            signatures=(VoteSignature(validator=secret.validator, signature=secret.sign(message)),),
        )
        gateways.nodes[3].machine.on_statement(said, gateways.now_ms)
    gateways.perform()
    live(gateways, PATIENCE_MS)
    assert guilty_of(gateways) == set()
    assert gateways.bodies(SubmitEvidence) == []


@pytest.mark.parametrize(
    "spoiled", ["a stranger", "a forged signature", "another payload", "another gateway", "a round"]
)
def test_what_is_not_on_the_ledger_or_not_signed_counts_for_nothing(spoiled: str) -> None:
    gateways = Gateways(task=task())
    gateways.nodes[0].withholds = True
    close_round_without_payloads(gateways)
    statement = _statement(gateways)
    signers = [gateways.nodes[index].keys[0] for index in (1, 2, 3)]
    match spoiled:
        case "a stranger":
            signers = [key(f"stranger {index}") for index in range(3)]
        case "another payload":
            statement = replace(statement, payload=blob_digest(b"another"))
        case "another gateway":
            statement = replace(statement, gateway=name_of(gateways, 3))
        case "a round":
            statement = replace(statement, round=gateways.shard.round.number)
    message = withheld_message(gateways.cast.network, statement)
    signatures = [
        VoteSignature(
            validator=signer.validator,
            signature=Signature(bytes(64))
            if spoiled == "a forged signature"
            else signer.sign(message),
        )
        for signer in signers
    ]
    said = WithheldPayload(statement=statement, signatures=tuple(signatures))
    for node in gateways.nodes:
        node.machine.on_statement(said, gateways.now_ms)
    gateways.perform()
    assert gateways.bodies(SubmitEvidence) == []
    # The same, whole, is evidence.
    right = _statement(gateways)
    message = withheld_message(gateways.cast.network, right)
    honest = [gateways.nodes[index].keys[0] for index in (1, 2, 3)]
    whole = WithheldPayload(
        statement=right,
        signatures=tuple(
            VoteSignature(validator=signer.validator, signature=signer.sign(message))
            for signer in honest
        ),
    )
    gateways.nodes[1].machine.on_statement(whole, gateways.now_ms)
    gateways.perform()
    assert len(gateways.bodies(SubmitEvidence)) == 1


def test_a_few_payloads_of_a_batch_are_inquired_into() -> None:
    gateways = Gateways(task=task(), num_devices=MAX_PAYLOADS_OF_A_BATCH + 3)
    gateways.nodes[0].withholds = True
    close_round_without_payloads(gateways)
    live(gateways, PATIENCE_MS + 2 * STEP_MS)
    payloads = {said.statement.payload for _, said in gateways.statements}
    assert len(payloads) == MAX_PAYLOADS_OF_A_BATCH
    assert len(gateways.main.app.state.sorted_items(EVIDENCE)) == 1, "a batch is one offence"


def _statement(gateways: Gateways):
    """What there is to say about the first payload of the round that closed."""
    from headwater_gateway.machine.withholding import _list_unavailable
    from headwater_protocol.identifiers import RoundNumber
    from headwater_protocol.messages.announcement import round_key
    from headwater_shard.shardchain.records import ROUNDS

    state = gateways.shard.app.state
    round_ = state.get(ROUNDS, round_key(RoundNumber(1)))
    assert round_ is not None
    return next(_list_unavailable(state, SHARD_0, round_))[0]
