"""Ways around justice: to convict the honest with keys of old, to cheat with nothing at stake."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.evidence import (
    ProvenEntry,
    RefutedScore,
    WrongAttestation,
)
from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.stake import (
    DelegateStake,
    RedelegateStake,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.chain.transaction import AttestMerge, AttestModel, PostScores
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    EpochNumber,
    Height,
    RoundNumber,
    Units,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import ACCOUNTS, UNBONDINGS, stake_key
from headwater_shard.mainchain.staking.election import get_elected
from headwater_shard.mainchain.staking.pool import get_worth
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.shardchain.records import BATCHES, ROUNDS, batch_key
from tests.support.justice import (
    PARAMETERS,
    SHARD,
    Trial,
    double_vote,
    make_delta,
    make_trial,
    sign_body,
)
from tests.support.ledgers import (
    adopt,
    attest_merge,
    delegates,
    epoch_of,
    execute,
    main_of,
    play_round,
    refusal,
    settle,
    shard_of,
)
from tests.support.network import certify, key

STAKE = 100_000


def end_epoch(trial: Trial) -> None:
    """Settle the shard's last checkpoint, and merge."""
    settle(trial.main, trial.shard)
    trial.main.block(after_ms=60_000)
    attest_merge(trial.main, blob_digest(b"merged %d" % main_of(trial.main).epoch))


def enter_epoch(trial: Trial) -> None:
    """Have the shard adopt the main chain's epoch, and close a round in it."""
    adopt(trial.shard, trial.main, by=trial.reporter)
    for _ in range(10):
        if shard_of(trial.shard).epoch == main_of(trial.main).epoch:
            break
        trial.shard.block(after_ms=10_000)
    devices = sorted((key(f"device {index}") for index in range(3)), key=lambda d: d.device)
    play_round(trial.shard, devices)


class Retired:
    """The shard's first committee, whose stake may have left, and what it says happened later."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.keys = delegates(trial.shard)
        self.header = trial.shard.blocks[0][0].header

    def forge(self, namespace: str, at: bytes, record: object) -> ProvenEntry:
        """An entry of the shard's first block that never was in it."""
        state = self.trial.shard.app.state.updated({namespace: {at: record}})
        header = replace(self.header, state_root=state.root)
        value = state.get_encoded(namespace, at)
        assert value is not None
        return ProvenEntry(
            header=header,
            certificate=certify(header, self.keys),
            proof=state.prove(namespace, at),
            value=value,
        )

    def forge_round(self, number: RoundNumber) -> ProvenEntry:
        """The record of a round that closed on another model."""
        round_ = self.trial.shard.app.state.get(ROUNDS, round_key(number))
        assert isinstance(round_, Round)
        return self.forge(
            ROUNDS.namespace, round_key(number), replace(round_, model=blob_digest(b"forged"))
        )


def attest_honestly(trial: Trial, victim: SecretKey) -> tuple[RoundNumber, bytes]:
    """The last round, and what an honest delegate of the shard signed about it."""
    round_ = trial.shard.round
    assert round_.model is not None
    body = AttestModel(round=round_.number, model=round_.model)
    return round_.number, sign_body(trial.cast, victim, body)


def test_a_retired_committee_convicts_nobody_of_an_attestation() -> None:
    trial = make_trial()
    retired = Retired(trial)
    end_epoch(trial)
    enter_epoch(trial)
    end_epoch(trial)
    enter_epoch(trial)
    number, attestation = attest_honestly(trial, delegates(trial.shard)[0])
    evidence = WrongAttestation(attestation=attestation, round=retired.forge_round(number))
    # A block of before the round cannot hold it, however young the signatures are.
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.WRONG_EPOCH
    for _ in range(PARAMETERS.unbonding_blocks + 1):
        trial.main.block()
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.WRONG_EPOCH


def test_a_committee_whose_stake_has_left_convicts_nobody_on_a_shard_that_settles_nothing() -> None:
    trial = make_trial()
    retired = Retired(trial)
    end_epoch(trial)
    enter_epoch(trial)
    number, attestation = attest_honestly(trial, delegates(trial.shard)[0])
    evidence = WrongAttestation(attestation=attestation, round=retired.forge_round(number))
    started = epoch_of(trial.main, 1).start_height
    while trial.main.app.height < started + PARAMETERS.unbonding_blocks:
        trial.main.block()
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.STALE_EVIDENCE


def test_a_retired_committee_refutes_nobodys_scores() -> None:
    trial = make_trial()
    retired = Retired(trial)
    end_epoch(trial)
    enter_epoch(trial)
    victim, number = delegates(trial.shard)[0], trial.shard.round.number
    batch = trial.shard.app.state.get(BATCHES, batch_key(number, 0))
    assert batch is not None
    reference = make_delta(1, trial.cast)
    body = PostScores(
        task=trial.cast.genesis.task.task,
        round=number,
        batch=0,
        scores=(100, 100, 100),
        reference=blob_digest(reference),
    )
    # In place of what devices sent, something else that the scores do not fit.
    commits = (
        replace(batch.commits[0], payload=blob_digest(trial.payloads[0])),
        *batch.commits[1:],
    )
    evidence = RefutedScore(
        scores=sign_body(trial.cast, victim, body),
        batch=retired.forge(
            BATCHES.namespace, batch_key(number, 0), replace(batch, commits=commits)
        ),
        position=0,
        reference=reference,
        payload=trial.payloads[0],
    )
    for _ in range(PARAMETERS.unbonding_blocks + 1):
        trial.main.block()
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.STALE_EVIDENCE


def test_a_retired_committee_says_of_nobody_that_it_withheld_a_payload() -> None:
    trial = make_trial()
    retired = delegates(trial.shard)
    committee = committee_digest(trial.shard.app.committee)
    end_epoch(trial)
    for _ in range(PARAMETERS.unbonding_blocks + 1):
        trial.main.block()
    # The shard has settled nothing since, so for all that is known it may have that height now.
    evidence = trial.withheld(
        by=retired, committee=committee, height=Height(trial.shard.app.height + 1_000)
    )
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.STALE_EVIDENCE


def leave(trial: Trial, who: SecretKey, *, how: str) -> bytes:
    """A delegate in office takes all its stake away."""
    if how == "undelegate":
        body = UndelegateStake(validator=who.validator, amount=Units(STAKE))
        return trial.main.sign(who, body)
    other = next(entry for entry in trial.cast.all_validators if entry != who)
    return trial.main.sign(
        who,
        RedelegateStake(source=who.validator, destination=other.validator, amount=Units(STAKE)),
    )


def balance_of(trial: Trial, who: SecretKey) -> int:
    account = trial.main.app.state.get(ACCOUNTS, who.account)
    return 0 if account is None else account.balance


def left_of(trial: Trial, who: SecretKey) -> int:
    """What an account still has of its stake, wherever it is."""
    state = trial.main.app.state
    unbonding = state.get(UNBONDINGS, stake_key(who.account, who.validator))
    waiting = 0 if unbonding is None else sum(entry.units for entry in unbonding.entries)
    return waiting + sum(
        get_worth(state, who.account, entry.validator) for entry in trial.cast.all_validators
    )


@pytest.mark.parametrize("how", ["undelegate", "redelegate"])
def test_a_delegate_that_takes_its_stake_away_in_office_answers_with_it(how: str) -> None:
    trial = make_trial()
    execute(trial.main, leave(trial, trial.guilty, how=how))
    for _ in range(5):
        trial.main.block()
    fault = trial.main.app.height
    assert trial.main.app.committee.power_of(trial.guilty.validator) == STAKE
    trial.submit(double_vote(trial.cast, trial.guilty, height=fault))
    assert left_of(trial, trial.guilty) == STAKE * 95 // 100


@pytest.mark.parametrize("chain", [MAIN_CHAIN, SHARD])
def test_stake_that_leaves_in_the_block_after_its_election_answers(chain: ChainId) -> None:
    trial = make_trial()
    settle(trial.main, trial.shard)
    trial.main.block(after_ms=60_000)
    record = main_of(trial.main)
    body = AttestMerge(
        epoch=EpochNumber(record.epoch + 1),
        model=blob_digest(b"merged"),
        attempt=record.merge_attempt,
    )
    execute(trial.main, *(trial.main.sign(entry, body) for entry in delegates(trial.main)))
    elected = get_elected(trial.main.app.state)
    assert elected is not None
    cheat = trial.guilty
    assert elected.committee.power_of(cheat.validator) == STAKE
    execute(trial.main, leave(trial, cheat, how="undelegate"))
    assert trial.main.app.committee.power_of(cheat.validator) == STAKE
    assert trial.main.app.height == elected.start_height
    trial.main.block()
    # What the shard has settled since says that what follows is of the new epoch.
    enter_epoch(trial)
    settle(trial.main, trial.shard)
    height = trial.main.app.height if chain == MAIN_CHAIN else trial.shard.app.height + 1
    trial.submit(double_vote(trial.cast, cheat, chain=chain, height=height))
    assert left_of(trial, cheat) == STAKE * 95 // 100


def test_stake_that_left_in_an_earlier_epoch_does_not_answer_for_this_one() -> None:
    trial = make_trial()
    body = UndelegateStake(validator=trial.guilty.validator, amount=Units(40_000))
    execute(trial.main, trial.main.sign(trial.guilty, body))
    end_epoch(trial)
    assert trial.main.app.committee.power_of(trial.guilty.validator) == 60_000
    trial.main.block()
    evidence = double_vote(trial.cast, trial.guilty, height=trial.main.app.height)
    execute(trial.main, trial.main.sign(trial.reporter, SubmitEvidence(evidence=evidence)))
    assert left_of(trial, trial.guilty) == 40_000 + 57_000


@pytest.mark.parametrize("own", [1, 5_000, STAKE])
def test_nobody_gains_by_an_offence_that_it_reports_itself(own: int) -> None:
    trial = make_trial()
    lender = key("alice")
    lend = DelegateStake(validator=trial.guilty.validator, amount=Units(1_000_000))
    execute(trial.main, trial.main.sign(lender, lend))
    if own < STAKE:
        body = UndelegateStake(validator=trial.guilty.validator, amount=Units(STAKE - own))
        execute(trial.main, trial.main.sign(trial.guilty, body))
        end_epoch(trial)
        for _ in range(PARAMETERS.unbonding_blocks):
            trial.main.block()
        back = WithdrawStake(validator=trial.guilty.validator)
        execute(trial.main, trial.main.sign(trial.guilty, back))
    supply = compute_supply(trial.main.app.state)
    trial.submit(double_vote(trial.cast, trial.guilty, height=trial.main.app.height))
    lost = own - left_of(trial, trial.guilty)
    assert lost > 0
    (infraction,) = trial.infractions()
    assert infraction.slashed >= 1_000_000 * 5 // 100
    assert infraction.rewarded == balance_of(trial, trial.reporter) == lost // 10
    assert compute_supply(trial.main.app.state) == supply
