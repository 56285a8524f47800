"""What a penalty does: who pays, who is paid, who is barred, and for how long."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.justice import Offence, Unjail
from headwater_protocol.chain.stake import (
    DelegateStake,
    RedelegateStake,
    UndelegateStake,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    EpochNumber,
    Height,
    RoundNumber,
    Units,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.justice.jail import is_barred
from headwater_shard.mainchain.justice.records import LIVENESS, charge_key
from headwater_shard.mainchain.justice.terms import (
    get_epoch_at,
    term_at,
    term_of_height,
    term_of_merge,
    term_of_round,
)
from headwater_shard.mainchain.records import ACCOUNTS, UNBONDINGS, stake_key
from headwater_shard.mainchain.staking.election import elect_delegates
from headwater_shard.mainchain.staking.pool import get_worth
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.state.draft import Draft
from tests.support.justice import PARAMETERS, SHARD, Trial, double_vote, make_trial
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
from tests.support.network import Chain, key

ALICE, BOB = key("alice"), key("bob")


def balance(trial: Trial, owner: SecretKey) -> int:
    account = trial.main.app.state.get(ACCOUNTS, owner.account)
    return 0 if account is None else account.balance


def worth(trial: Trial, owner: SecretKey, validator: SecretKey) -> int:
    return get_worth(trial.main.app.state, owner.account, validator.validator)


def unbonding(trial: Trial, owner: SecretKey, validator: SecretKey) -> int:
    found = trial.main.app.state.get(UNBONDINGS, stake_key(owner.account, validator.validator))
    return 0 if found is None else sum(entry.units for entry in found.entries)


def delegate(trial: Trial, owner: SecretKey, validator: SecretKey, amount: int) -> None:
    body = DelegateStake(validator=validator.validator, amount=Units(amount))
    execute(trial.main, trial.main.sign(owner, body))


def undelegate(trial: Trial, owner: SecretKey, validator: SecretKey, amount: int) -> None:
    body = UndelegateStake(validator=validator.validator, amount=Units(amount))
    execute(trial.main, trial.main.sign(owner, body))


def test_delegators_pay_in_proportion_and_the_reporter_gets_a_tenth_of_the_offenders() -> None:
    trial = make_trial()
    delegate(trial, ALICE, trial.guilty, 40_000)
    delegate(trial, BOB, trial.guilty, 60_000)
    supply = compute_supply(trial.main.app.state)
    trial.submit(double_vote(trial.cast, trial.guilty, height=trial.main.app.height))
    assert worth(trial, ALICE, trial.guilty) == 38_000
    assert worth(trial, BOB, trial.guilty) == 57_000
    assert worth(trial, trial.guilty, trial.guilty) == 95_000
    assert balance(trial, trial.reporter) == 500
    assert main_of(trial.main).burned == 9_500
    assert compute_supply(trial.main.app.state) == supply


def test_stake_that_left_since_the_election_answers_whether_before_or_after_the_fault() -> None:
    trial = make_trial()
    delegate(trial, ALICE, trial.guilty, 40_000)
    delegate(trial, BOB, trial.guilty, 40_000)
    undelegate(trial, BOB, trial.guilty, 10_000)
    trial.main.block()
    fault = trial.main.app.height
    trial.main.block()
    undelegate(trial, ALICE, trial.guilty, 20_000)
    supply = compute_supply(trial.main.app.state)
    trial.submit(double_vote(trial.cast, trial.guilty, height=fault))
    assert unbonding(trial, BOB, trial.guilty) == 9_500
    assert unbonding(trial, ALICE, trial.guilty) == 19_000
    assert worth(trial, ALICE, trial.guilty) == 19_000
    assert worth(trial, BOB, trial.guilty) == 28_500
    assert compute_supply(trial.main.app.state) == supply


def test_stake_that_moved_on_after_the_fault_answers_for_it_where_it_is() -> None:
    trial = make_trial()
    other = delegates(trial.shard)[2]
    delegate(trial, ALICE, trial.guilty, 40_000)
    fault = trial.main.app.height
    body = RedelegateStake(
        source=trial.guilty.validator, destination=other.validator, amount=Units(40_000)
    )
    execute(trial.main, trial.main.sign(ALICE, body))
    supply = compute_supply(trial.main.app.state)
    trial.submit(double_vote(trial.cast, trial.guilty, height=fault))
    assert worth(trial, ALICE, other) == 38_000
    assert worth(trial, other, other) == 100_000
    assert compute_supply(trial.main.app.state) == supply


def test_a_wrong_attestation_reaches_stake_that_left_in_the_epoch_of_its_round() -> None:
    trial = make_trial()
    undelegate(trial, trial.guilty, trial.guilty, 50_000)
    trial.submit(trial.wrong_attestation())
    assert unbonding(trial, trial.guilty, trial.guilty) == 49_000
    assert worth(trial, trial.guilty, trial.guilty) == 49_000


@given(
    amounts=st.lists(st.integers(1, 900_000), min_size=1, max_size=2),
    taken=st.integers(0, 1_000),
)
@settings(max_examples=25)
def test_no_unit_is_lost_or_made_whatever_was_delegated(amounts: list[int], taken: int) -> None:
    trial = make_trial()
    for owner, amount in zip((ALICE, BOB), amounts, strict=False):
        delegate(trial, owner, trial.guilty, amount)
    undelegate(trial, ALICE, trial.guilty, max(1, amounts[0] * taken // 1_000))
    supply = compute_supply(trial.main.app.state)
    trial.submit(trial.wrong_attestation())
    trial.submit(double_vote(trial.cast, trial.guilty, height=1))
    assert compute_supply(trial.main.app.state) == supply
    slashed = sum(entry.slashed for entry in trial.infractions())
    assert slashed == main_of(trial.main).burned + balance(trial, trial.reporter)


def test_offences_of_two_kinds_add_up_and_the_worst_one_ends_it() -> None:
    trial = make_trial()
    trial.submit(trial.wrong_attestation())
    trial.submit(trial.withheld())
    assert trial.candidate().bonded == 97_020
    assert not trial.candidate().is_tombstoned
    trial.submit(trial.double_attestation())
    assert trial.candidate().is_tombstoned
    score = trial.refuted_score((9_999, 0, 0))
    assert refusal(trial.main, trial.sign(score)) is ReasonCode.TOMBSTONED


def test_other_proof_of_a_punished_offence_is_refused() -> None:
    trial = make_trial()
    trial.submit(trial.wrong_attestation(b"wrong"))
    evidence = trial.wrong_attestation(b"wrong in another way")
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.ALREADY_PUNISHED


@pytest.mark.parametrize(("age", "is_taken"), [(20, True), (21, False)])
def test_evidence_is_taken_for_the_unbonding_period(age: int, *, is_taken: bool) -> None:
    trial = make_trial()
    fault = trial.main.app.height
    for _ in range(age - 1):
        trial.main.block()
    transaction = trial.sign(double_vote(trial.cast, trial.guilty, height=fault))
    if is_taken:
        execute(trial.main, transaction)
    else:
        assert refusal(trial.main, transaction) is ReasonCode.STALE_EVIDENCE


def test_a_vote_about_a_block_to_come_is_dated_now() -> None:
    trial = make_trial()
    now = Height(trial.main.app.height)
    draft = Draft(trial.main.app.state)
    assert term_at(draft, Height(1_000), now=now) == term_at(draft, now, now=now)
    trial.submit(double_vote(trial.cast, trial.guilty, height=1_000))
    assert len(trial.infractions()) == 1


def test_a_jailed_validator_asks_out_when_its_time_is_served() -> None:
    trial = make_trial()
    trial.submit(trial.wrong_attestation())
    until = trial.candidate().jailed_until
    assert until == trial.main.app.height + PARAMETERS.jail_blocks
    while trial.main.app.height < until - 1:
        assert refusal(trial.main, trial.main.sign(trial.guilty, Unjail())) is ReasonCode.JAILED
        trial.main.block()
    assert is_barred(trial.candidate())
    execute(trial.main, trial.main.sign(trial.guilty, Unjail()))
    assert not is_barred(trial.candidate())


def test_unjail_is_refused_with_its_reason() -> None:
    trial = make_trial()

    def ask(who: SecretKey) -> ReasonCode:
        return refusal(trial.main, trial.main.sign(who, Unjail()))

    assert ask(trial.guilty) is ReasonCode.NOT_JAILED
    assert ask(ALICE) is ReasonCode.UNKNOWN_CANDIDATE
    trial.submit(trial.double_attestation())
    for _ in range(PARAMETERS.jail_blocks + 1):
        trial.main.block()
    assert ask(trial.guilty) is ReasonCode.TOMBSTONED


def test_a_jailed_validator_is_not_elected_and_serves_until_the_election() -> None:
    trial = make_trial()
    trial.submit(trial.wrong_attestation())
    guilty = trial.guilty.validator
    elected = elect_delegates(trial.main.app.state, PARAMETERS)
    assert guilty not in elected
    assert len(elected) == 7
    assert trial.main.app.committee.power_of(guilty) == 100_000
    settle(trial.main, trial.shard)
    trial.main.block(after_ms=60_000)
    attest_merge(trial.main, blob_digest(b"merged"))
    assert main_of(trial.main).epoch == 1
    epoch = epoch_of(trial.main)
    assert epoch.committee.power_of(guilty) == 0
    assert all(entry.committee.power_of(guilty) == 0 for entry in epoch.shards)


def miss(chain: Chain, absent: SecretKey) -> None:
    """A block whose predecessor's certificate lacks one signature."""
    block, certificate = chain.blocks[-1]
    kept = tuple(e for e in certificate.signatures if e.validator != absent.validator)
    chain.blocks[-1] = (block, replace(certificate, signatures=kept))
    chain.block()


def test_a_delegate_may_miss_what_the_window_allows_and_no_more() -> None:
    trial = make_trial()
    absent = trial.guilty
    # A window begins at a height that its length divides.
    while (trial.main.app.height) % PARAMETERS.downtime_window_blocks:
        trial.main.block()
    supply = compute_supply(trial.main.app.state)
    for _ in range(PARAMETERS.max_missed_blocks):
        miss(trial.main, absent)
    assert trial.infractions() == []
    assert trial.candidate().bonded == 100_000
    miss(trial.main, absent)
    (infraction,) = trial.infractions()
    assert infraction.charge.offence is Offence.DOWNTIME
    assert infraction.reporter is None
    assert infraction.rewarded == 0
    assert trial.candidate().bonded == 99_900
    assert is_barred(trial.candidate())
    assert not trial.candidate().is_tombstoned
    assert main_of(trial.main).burned == 100
    assert compute_supply(trial.main.app.state) == supply
    for _ in range(PARAMETERS.max_missed_blocks + 1):
        miss(trial.main, absent)
    assert len(trial.infractions()) == 1, "who is in jail is not counted"


def test_a_new_window_forgives_what_the_last_one_counted() -> None:
    trial = make_trial()
    while trial.main.app.height % PARAMETERS.downtime_window_blocks != 12:
        trial.main.block()
    for _ in range(2 * PARAMETERS.max_missed_blocks):
        miss(trial.main, trial.guilty)
    assert trial.infractions() == []
    state = trial.main.app.state.get(LIVENESS, trial.guilty.validator)
    assert state is not None
    assert state.missed == PARAMETERS.max_missed_blocks


def test_a_full_certificate_leaves_no_trace() -> None:
    trial = make_trial()
    before = trial.main.app.state.root
    trial.main.block()
    assert trial.main.app.state.root == before


def end_epoch(trial: Trial) -> None:
    """Settle the shard's last checkpoint, and merge."""
    settle(trial.main, trial.shard)
    trial.main.block(after_ms=60_000)
    attest_merge(trial.main, blob_digest(b"merged %d" % main_of(trial.main).epoch))


def enter_epoch(trial: Trial) -> None:
    """Have the shard adopt the main chain's epoch, and close a round in it."""
    adopt(trial.shard, trial.main, by=trial.reporter)
    devices = sorted((key(f"device {index}") for index in range(3)), key=lambda d: d.device)
    for _ in range(10):
        if shard_of(trial.shard).epoch == main_of(trial.main).epoch:
            break
        trial.shard.block(after_ms=10_000)
    play_round(trial.shard, devices)


def test_a_newcomer_is_not_blamed_for_the_block_that_elected_it() -> None:
    trial = make_trial(parameters=replace(PARAMETERS, max_missed_blocks=0))
    trial.submit(trial.wrong_attestation())
    guilty = trial.guilty
    for _ in range(PARAMETERS.jail_blocks):
        trial.main.block()
    end_epoch(trial)
    assert trial.main.app.committee.power_of(guilty.validator) == 0
    enter_epoch(trial)
    execute(trial.main, trial.main.sign(guilty, Unjail()))
    end_epoch(trial)
    assert trial.main.app.committee.power_of(guilty.validator) > 0
    # The certificate of the electing block is by the old committee, that of the next by the new.
    trial.main.block()
    trial.main.block()
    assert len(trial.infractions()) == 1
    assert trial.main.app.state.count(LIVENESS) == 0
    miss(trial.main, guilty)
    assert len(trial.infractions()) == 2


def test_what_follows_a_checkpoint_of_an_epoch_is_of_that_epoch_or_later() -> None:
    trial = make_trial()
    end_epoch(trial)
    enter_epoch(trial)
    signed = settle(trial.main, trial.shard)
    assert signed.checkpoint.epoch == 1
    draft = Draft(trial.main.app.state)
    before = term_of_height(draft, SHARD, signed.checkpoint.height)
    after = term_of_height(draft, SHARD, Height(signed.checkpoint.height + 1))
    assert (before.first, before.last) == (0, 1)
    assert (after.first, after.last) == (1, 1)
    assert after.begins == epoch_of(trial.main, 1).start_height


def test_terms_follow_from_the_checkpoints_around() -> None:
    trial = make_trial()
    draft = Draft(trial.main.app.state)
    first = term_of_height(draft, SHARD, Height(1))
    assert (first.first, first.last, first.begins, first.ends) == (0, 0, 0, None)
    signed = settle(trial.main, trial.shard)
    trial.main.block(after_ms=60_000)
    attest_merge(trial.main, blob_digest(b"merged"))
    started = epoch_of(trial.main).start_height
    draft = Draft(trial.main.app.state)
    early = term_of_height(draft, SHARD, signed.checkpoint.height)
    assert (early.first, early.last, early.begins, early.ends) == (0, 0, 0, started)
    late = term_of_height(draft, SHARD, Height(signed.checkpoint.height + 1))
    assert (late.first, late.last, late.begins, late.ends) == (0, 1, 0, None)
    assert term_of_round(draft, SHARD, RoundNumber(1)).last == 0
    assert term_of_round(draft, SHARD, RoundNumber(2)).last == 1
    assert term_of_merge(draft, EpochNumber(1)).ends == started
    assert term_of_merge(draft, EpochNumber(2)).begins == started
    assert shard_of(trial.shard).epoch == 0


def test_a_height_is_dated_by_the_epoch_whose_committee_certifies_it() -> None:
    trial = make_trial()
    for _ in range(3):
        end_epoch(trial)
        enter_epoch(trial)
    trial.main.block()
    starts = [epoch_of(trial.main, number).start_height for number in range(4)]
    draft, now = Draft(trial.main.app.state), Height(trial.main.app.height)
    for number, start in enumerate(starts):
        # The block that hands over is certified by the committee before.
        assert get_epoch_at(draft, start) == max(0, number - 1)
        assert get_epoch_at(draft, Height(start + 1)) == number
        term = term_at(draft, Height(start + 1), now=now)
        assert (term.begins, term.ends) == (start, start + 1)


def test_a_shards_evidence_goes_stale_after_its_epoch_has_ended() -> None:
    trial = make_trial()
    evidence = trial.wrong_attestation()
    settle(trial.main, trial.shard)
    trial.main.block(after_ms=60_000)
    attest_merge(trial.main, blob_digest(b"merged"))
    started = epoch_of(trial.main).start_height
    while trial.main.app.height < started + PARAMETERS.unbonding_blocks - 1:
        trial.main.block()
    trial.main.block()
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.STALE_EVIDENCE


def test_charges_differ_by_every_field() -> None:
    trial = make_trial()
    trial.submit(trial.withheld())
    (infraction,) = trial.infractions()
    charge = infraction.charge
    others = [
        replace(charge, part=charge.part + 1),
        replace(charge, place=charge.place + 1),
        replace(charge, chain=MAIN_CHAIN),
        replace(charge, offence=Offence.DOWNTIME),
    ]
    assert len({charge_key(entry) for entry in [charge, *others]}) == 5
