"""One Byzantine validator of four, or two of seven: no fork, no stop, the guilty blamed."""

import pytest

from headwater_protocol.chain.evidence import Equivocation, verify_equivocation
from headwater_protocol.chain.statement import SignedClaim, SignedVote
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import BadProof, BadSignature
from headwater_protocol.identifiers import Network
from headwater_protocol.reasons import ReasonCode
from tests.support.engine_support import (
    NETWORK,
    Babbler,
    Conditions,
    SimulatedNetwork,
    TwoFaced,
    WrongRoot,
    key_of,
)

LOSSY = Conditions(loss=0.05, duplication=0.1, delay_ms=(1, 60))


def feed(network: SimulatedNetwork, honest: list[int], *, count: int = 8) -> None:
    for number in range(count):
        network.submit(b"k%d=1" % number)
        network.run(until_ms=network.now_ms + 1_500)
    network.submit(b"last=1")
    network.run(
        until_ms=network.now_ms + 60_000,
        until=lambda: all(network.nodes[index].ledger.value(b"last") for index in honest),
    )
    assert all(network.nodes[index].ledger.value(b"last") for index in honest)


@pytest.mark.parametrize("seed", range(6))
def test_equivocating_proposals_and_votes_neither_fork_nor_stop_and_are_proven(seed: int) -> None:
    network = SimulatedNetwork([10] * 4, seed=seed, conditions=LOSSY)
    guilty = seed % 4
    network.nodes[guilty].byzantine = TwoFaced(network)
    honest = [index for index in range(4) if index != guilty]
    feed(network, honest)
    network.require_agreement()
    assert network.blamed() == [key_of(guilty).validator]
    kinds = set()
    for index in honest:
        for evidence in network.nodes[index].evidence:
            verify_equivocation(evidence, network=NETWORK, verifier=DirectVerifier())
            kinds.add(type(evidence.first))
    assert SignedVote in kinds
    assert not [index for index, _ in network.halted if index in honest]


def test_two_equivocators_of_seven_are_both_proven() -> None:
    network = SimulatedNetwork([10] * 7, seed=11, conditions=LOSSY)
    for guilty in (1, 4):
        network.nodes[guilty].byzantine = TwoFaced(network)
    feed(network, [0, 2, 3, 5, 6])
    network.require_agreement()
    assert network.blamed() == sorted(key_of(guilty).validator for guilty in (1, 4))


def test_a_leader_of_two_proposals_is_proven_by_its_claims() -> None:
    kinds = set()
    for seed in range(4):
        network = SimulatedNetwork([10] * 4, seed=seed)
        network.nodes[seed].byzantine = TwoFaced(network)
        feed(network, [index for index in range(4) if index != seed])
        kinds |= {type(e.first) for node in network.nodes for e in node.evidence}
    assert SignedClaim in kinds


@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_state_root_gets_no_votes_and_no_block(seed: int) -> None:
    network = SimulatedNetwork([10] * 4, seed=seed)
    liar = WrongRoot(network)
    network.nodes[seed].byzantine = liar
    honest = [index for index in range(4) if index != seed]
    feed(network, honest)
    assert liar.lies > 0
    network.require_agreement()
    proposers = {final.block.header.proposer for final in network.nodes[honest[0]].disk.finals}
    assert key_of(seed).validator not in proposers
    machine = network.nodes[honest[0]].machine
    assert machine is not None
    assert machine.refused[ReasonCode.WRONG_DIGEST] > 0


@pytest.mark.parametrize("seed", range(4))
def test_garbage_is_counted_by_reason_and_changes_nothing(seed: int) -> None:
    network = SimulatedNetwork([10] * 4, seed=seed, conditions=LOSSY)
    network.nodes[seed].byzantine = Babbler(network)
    honest = [index for index in range(4) if index != seed]
    feed(network, honest)
    network.require_agreement()
    assert set(network.blamed()) <= {key_of(seed).validator}
    reasons: set[ReasonCode] = set()
    for index in honest:
        machine = network.nodes[index].machine
        assert machine is not None
        assert not machine.is_halted
        reasons |= set(machine.refused)
    assert reasons >= {
        ReasonCode.BAD_SIGNATURE,
        ReasonCode.WRONG_CHAIN,
        ReasonCode.NOT_PERMITTED,
        ReasonCode.OUT_OF_BOUNDS,
    }


def test_evidence_that_does_not_convict_is_refused() -> None:
    network = SimulatedNetwork([10] * 4, seed=1)
    network.nodes[1].byzantine = TwoFaced(network)
    feed(network, [0, 2, 3])
    evidence = next(e for node in network.nodes for e in node.evidence)
    others = [
        e.first for node in network.nodes for e in node.evidence if e.height != evidence.height
    ]
    verifier = DirectVerifier()
    with pytest.raises(BadProof, match="say the same"):
        verify_equivocation(
            Equivocation(first=evidence.first, second=evidence.first),
            network=NETWORK,
            verifier=verifier,
        )
    with pytest.raises(BadProof, match="different steps"):
        verify_equivocation(
            Equivocation(first=evidence.first, second=others[0]),
            network=NETWORK,
            verifier=verifier,
        )
    with pytest.raises(BadSignature):
        verify_equivocation(evidence, network=Network(bytes(32)), verifier=verifier)
