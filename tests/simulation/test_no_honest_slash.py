"""Honest validators crash, restart and lose each other, and none of them is ever punished.

The real main chain runs on a lossy network in virtual time, from a seed. What any validator sees
signed twice is submitted as evidence, and every block counts who is missing from certificates.
"""

import random
from dataclasses import dataclass, replace

import pytest

from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    Parameters,
    genesis_network,
)
from headwater_protocol.chain.justice import Offence, SubmitEvidence
from headwater_protocol.chain.transaction import Body, Transaction, Transfer, sign_transaction
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Nonce,
    Units,
    ValidatorId,
    VotingPower,
)
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.consensus import Consensus
from headwater_shard.engine.mempool import Mempool
from headwater_shard.mainchain.justice.records import EVIDENCE, Infraction
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.state.state import State
from tests.support.engine_support import DRIFT_MS, Conditions, SimulatedNetwork, key_of
from tests.support.network import GENESIS_MS, key, make_task

WINDOW, ALLOWED = 40, 24
"""As the defaults: six tenths of a window."""
STAKE = 1_000
NUM_VALIDATORS = 4


def make_genesis() -> Genesis:
    """Four validators of one shard, and someone who pays."""
    task = make_task()
    payer = key("payer").account
    return Genesis(
        name="simulated",
        time_ms=GENESIS_MS,
        parameters=Parameters(
            checkpoint_interval=2,
            checkpoints_per_epoch=1,
            merge_wait_ms=500,
            epoch_timeout_ms=60_000,
            retention_rounds=3,
            clock_drift_ms=DRIFT_MS,
            downtime_window_blocks=WINDOW,
            max_missed_blocks=ALLOWED,
        ),
        accounts=(GenesisAccount(account=payer, balance=Units(1_000_000)),),
        validators=tuple(
            sorted(
                (
                    GenesisValidator(
                        validator=key_of(index).validator,
                        stake=VotingPower(STAKE),
                        shard=ChainId("shard-0"),
                    )
                    for index in range(NUM_VALIDATORS)
                ),
                key=lambda entry: entry.validator,
            )
        ),
        shards=(ChainId("shard-0"),),
        registrars=(payer,),
        sponsor=payer,
        task=task,
    )


@dataclass(frozen=True)
class Outage:
    """One validator, away for a while."""

    index: int
    begins_ms: int
    ends_ms: int


class MainNetwork(SimulatedNetwork):
    """Validators of the real main chain, each with a disk of its own."""

    def __init__(self, *, seed: int, conditions: Conditions) -> None:
        self.genesis = make_genesis()
        self.nonce = 0
        super().__init__([STAKE] * NUM_VALIDATORS, seed=seed, conditions=conditions)
        self.now_ms = GENESIS_MS + 1

    def start(self, index: int) -> None:
        node = self.nodes[index]
        application = LedgerApplication(make_ledger(self.genesis, MAIN_CHAIN), DirectVerifier())
        node.ledger = node.disk.replay(application)  # type: ignore[arg-type, assignment]
        node.mempool = Mempool()
        node.machine = Consensus(
            key=key_of(index),
            application=application,
            mempool=node.mempool,
            verifier=DirectVerifier(),
            clock_drift_ms=DRIFT_MS,
            timeouts=self.timeouts,
            history=node.disk,
            tip=node.disk.tip,
            saved=node.disk.saved(key_of(index).validator),
        )
        node.machine.probe(self.now_ms)
        self._perform(node)

    def send_body(self, body: Body) -> None:
        self.nonce += 1
        transaction = Transaction(
            network=genesis_network(self.genesis),
            chain=MAIN_CHAIN,
            sender=key("payer").account,
            nonce=Nonce(self.nonce),
            body=body,
        )
        self.submit(sign_transaction(key("payer"), transaction))

    def state(self) -> State:
        """Of the validator that is furthest."""
        node = max(self.nodes, key=lambda node: len(node.disk.finals))
        application = LedgerApplication(make_ledger(self.genesis, MAIN_CHAIN), DirectVerifier())
        node.disk.replay(application)  # type: ignore[arg-type]
        return application.state

    def infractions(self) -> list[Infraction]:
        return [entry for _, entry in self.state().items(EVIDENCE)]

    def missed(self) -> dict[ValidatorId, int]:
        """The most certificates of one window that each validator is missing from."""
        longest = max((node.disk.finals for node in self.nodes), key=len)
        counts: dict[tuple[ValidatorId, int], int] = {}
        for final in longest:
            certificate = final.block.last_certificate
            if certificate is None:
                continue
            present = {entry.validator for entry in certificate.signatures}
            for index in range(NUM_VALIDATORS):
                validator = key_of(index).validator
                slot = (validator, certificate.height // WINDOW)
                counts[slot] = counts.get(slot, 0) + (validator not in present)
        return {
            key_of(index).validator: max(
                (count for (who, _), count in counts.items() if who == key_of(index).validator),
                default=0,
            )
            for index in range(NUM_VALIDATORS)
        }


def live(network: MainNetwork, *, blocks: int, outages: list[Outage], every_ms: int = 120) -> None:
    """Transfers at a steady rate, with outages, until there are `blocks` and all are back."""
    begun = network.now_ms
    down: set[int] = set()
    while max(network.heights()) < blocks:
        now = network.now_ms - begun
        wanted = {entry.index for entry in outages if entry.begins_ms <= now < entry.ends_ms}
        for index in sorted(wanted - down):
            network.crash(index)
        for index in sorted(down - wanted):
            network.start(index)
        down = wanted
        network.send_body(Transfer(recipient=key("payee").account, amount=Units(1)))
        network.run(until_ms=network.now_ms + every_ms)
        for node in network.nodes:
            while node.evidence:
                network.send_body(SubmitEvidence(evidence=node.evidence.pop()))
        assert network.now_ms - begun < 600_000, f"stuck at {network.heights()}"


def require_nobody_punished(network: MainNetwork) -> None:
    network.require_agreement()
    assert not network.halted
    assert network.infractions() == []
    state = network.state()
    for index in range(NUM_VALIDATORS):
        candidate = state.get(CANDIDATES, key_of(index).validator)
        assert candidate is not None
        assert (candidate.bonded, candidate.jailed_until) == (STAKE, 0)
        assert not candidate.is_tombstoned
    assert compute_supply(state) == 1_000_000 + NUM_VALIDATORS * STAKE


@pytest.mark.parametrize("seed", range(8))
def test_crashes_and_loss_punish_nobody(seed: int) -> None:
    rng = random.Random(seed)
    network = MainNetwork(
        seed=seed, conditions=Conditions(loss=0.03, duplication=0.05, delay_ms=(1, 40))
    )
    outages, at = [], 500
    for _ in range(40):
        length = rng.randint(300, 1_500)
        outages.append(Outage(rng.randrange(NUM_VALIDATORS), at, at + length))
        at += length + rng.randint(100, 600)
    live(network, blocks=2 * WINDOW + 10, outages=outages)
    require_nobody_punished(network)
    missed = network.missed()
    assert max(missed.values()) > 0, "nobody was ever away: the run shows nothing"
    assert max(missed.values()) <= ALLOWED


@pytest.mark.parametrize("seed", range(8))
def test_partitions_punish_nobody(seed: int) -> None:
    rng = random.Random(100 + seed)
    network = MainNetwork(seed=seed, conditions=Conditions(loss=0.01, delay_ms=(1, 30)))
    everybody = frozenset(range(NUM_VALIDATORS))
    for _ in range(8):
        # Three and one: the three go on. Two and two: nobody does, until they meet again.
        cut = frozenset(rng.sample(range(NUM_VALIDATORS), rng.choice((1, 2))))
        network.conditions = replace(network.conditions, groups=(cut, everybody - cut))
        for _ in range(rng.randint(2, 8)):
            network.send_body(Transfer(recipient=key("payee").account, amount=Units(1)))
            network.run(until_ms=network.now_ms + rng.randint(50, 400))
        network.conditions = replace(network.conditions, groups=())
        live(network, blocks=max(network.heights()) + 6, outages=[])
    require_nobody_punished(network)
    assert max(network.missed().values()) <= ALLOWED


@pytest.mark.parametrize("seed", range(4))
def test_crashes_in_the_middle_of_a_step_punish_nobody(seed: int) -> None:
    network = MainNetwork(seed=seed, conditions=Conditions(loss=0.02, delay_ms=(1, 30)))
    begun = network.now_ms
    network.crash_chance = 0.003
    while max(network.heights()) < WINDOW:
        network.send_body(Transfer(recipient=key("payee").account, amount=Units(1)))
        network.run(until_ms=network.now_ms + 150)
        for node in network.nodes:
            if node.machine is None:
                network.start(node.index)
            assert node.evidence == []
        assert network.now_ms - begun < 600_000, f"stuck at {network.heights()}"
    network.crash_chance = 0.0
    require_nobody_punished(network)


def test_who_is_away_for_good_is_punished_and_the_others_are_not() -> None:
    network = MainNetwork(seed=1, conditions=Conditions(delay_ms=(1, 10)))
    live(network, blocks=2 * WINDOW, outages=[Outage(2, 0, 10_000_000)])
    (infraction,) = network.infractions()
    assert infraction.charge.offence is Offence.DOWNTIME
    assert infraction.charge.validator == key_of(2).validator
    assert infraction.slashed == STAKE // 1_000
    network.require_agreement()


def test_a_validator_that_forgets_what_it_signed_is_convicted_by_what_the_others_saw() -> None:
    forgetful = key_of(1).validator
    for seed in range(20):
        network = MainNetwork(
            seed=seed, conditions=Conditions(loss=0.1, duplication=0.1, delay_ms=(1, 120))
        )
        begun = network.now_ms
        while not network.infractions() and network.now_ms < begun + 20_000:
            network.send_body(Transfer(recipient=key("payee").account, amount=Units(1)))
            network.run(until_ms=network.now_ms + network.random.randint(5, 90))
            network.crash(1)
            network.nodes[1].disk.states.clear()
            network.start(1)
            for node in network.nodes:
                while node.evidence:
                    network.send_body(SubmitEvidence(evidence=node.evidence.pop()))
        if network.infractions():
            break
    (infraction,) = network.infractions()
    assert infraction.charge.validator == forgetful
    assert infraction.charge.offence in {Offence.DOUBLE_VOTE, Offence.DOUBLE_PROPOSAL}
    candidate = network.state().get(CANDIDATES, forgetful)
    assert candidate is not None
    assert candidate.is_tombstoned
