"""For every kind of transaction of a shard, the ways to be invalid and the reason for each."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.checkpoint import CheckpointSignature
from headwater_protocol.chain.cohort import Standing, compute_draw_weight
from headwater_protocol.chain.committee import make_committee
from headwater_protocol.chain.round import is_in_cohort
from headwater_protocol.chain.transaction import (
    AdoptEpoch,
    AttestModel,
    CommitUpdates,
    EnrolDevice,
    PostScores,
    Revocation,
    RevokeDevice,
    SignCheckpoint,
)
from headwater_protocol.crypto.hashing import Domain, blob_digest
from headwater_protocol.identifiers import Network
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.cohort import is_drawn
from headwater_shard.shardchain.records import DEVICES as DEVICES_TABLE
from headwater_shard.shardchain.records import UPDATES, update_key
from tests.support.ledgers import (
    adopt,
    attest,
    attest_merge,
    collect,
    commit_body,
    delegates,
    emit_checkpoint,
    epoch_of,
    epoch_update,
    execute,
    hand_over,
    open_round,
    play_round,
    refusal,
    score,
    settle,
    shard_of,
    sign_body,
)
from tests.support.network import Chain, certify, key, make_cast, make_task

NEWCOMER = compute_draw_weight(Standing(weight=1, mark=0), 0)
DEVICES = sorted((key(f"d{index}") for index in range(6)), key=lambda entry: entry.device)
STRANGER = key("stranger")
OTHER_DELEGATE = key("shard-1/0")


def make_chain(**task: object) -> Chain:
    cast = make_cast(shards=("shard-0", "shard-1"), task=make_task(**task))
    chain = Chain(cast, "shard-0")
    open_round(chain, DEVICES)
    return chain


# Enrolment


@pytest.fixture(scope="module")
def enrolling() -> Chain:
    return make_chain()


def enrolment(chain: Chain, *, signer=None, registrar=None, device=STRANGER, **changes):
    body = chain.enrolment(device)
    changed = replace(body.enrolment, **changes)
    signer = signer or chain.cast.registrar
    return EnrolDevice(
        enrolment=changed,
        registrar=(registrar or chain.cast.registrar).account,
        signature=signer.sign_record(Domain.ENROLMENT, chain.cast.network, changed),
    )


ENROLMENTS = {
    "unknown registrar": (
        lambda c: enrolment(c, signer=STRANGER, registrar=STRANGER),
        ReasonCode.NOT_PERMITTED,
    ),
    "forged": (lambda c: enrolment(c, signer=STRANGER), ReasonCode.BAD_SIGNATURE),
    "weight changed": (
        lambda c: replace(enrolment(c), enrolment=replace(enrolment(c).enrolment, weight=1_000)),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed for another network": (
        lambda c: replace(
            enrolment(c),
            signature=c.cast.registrar.sign_record(
                Domain.ENROLMENT, Network(bytes(32)), enrolment(c).enrolment
            ),
        ),
        ReasonCode.BAD_SIGNATURE,
    ),
    "another shard": (lambda c: enrolment(c, shard="shard-1"), ReasonCode.WRONG_SHARD),
    "expired": (lambda c: enrolment(c, expires_ms=c.now_ms + 9), ReasonCode.OUT_OF_BOUNDS),
    "enrolled already": (lambda c: enrolment(c, device=DEVICES[0]), ReasonCode.DUPLICATE),
}


@pytest.mark.parametrize(("make", "reason"), ENROLMENTS.values(), ids=ENROLMENTS.keys())
def test_an_enrolment_is_refused(enrolling, make, reason):
    # The sender is the registrar: who relays an enrolment does not matter.
    data = enrolling.sign(enrolling.cast.registrar, make(enrolling))
    assert refusal(enrolling, data) is reason


def test_an_enrolment_counts_to_its_last_millisecond_whoever_sends_it():
    chain = make_chain()
    body = enrolment(chain, expires_ms=chain.now_ms + 10)
    execute(chain, chain.sign(STRANGER, body), after_ms=10)


# Revocation


@pytest.fixture(scope="module")
def revoking() -> Chain:
    chain = make_chain()
    execute(chain, chain.sign(STRANGER, revocation(chain, device=DEVICES[1])))
    return chain


def revocation(chain: Chain, *, signer=None, registrar=None, device=DEVICES[0], **changes):
    plain = {"shard": chain.chain, "device": device.device, "expires_ms": chain.now_ms + 3_600_000}
    word = Revocation(**{**plain, **changes})
    signer = signer or chain.cast.registrar
    return RevokeDevice(
        revocation=word,
        registrar=(registrar or chain.cast.registrar).account,
        signature=signer.sign_record(Domain.REVOCATION, chain.cast.network, word),
    )


def resigned(chain: Chain, domain: Domain, network: Network) -> RevokeDevice:
    body = revocation(chain)
    signature = chain.cast.registrar.sign_record(domain, network, body.revocation)
    return replace(body, signature=signature)


REVOCATIONS = {
    "unknown registrar": (
        lambda c: revocation(c, signer=STRANGER, registrar=STRANGER),
        ReasonCode.NOT_PERMITTED,
    ),
    "forged": (lambda c: revocation(c, signer=STRANGER), ReasonCode.BAD_SIGNATURE),
    "the device itself": (lambda c: revocation(c, signer=DEVICES[0]), ReasonCode.BAD_SIGNATURE),
    "signed for another device": (
        lambda c: replace(revocation(c), signature=revocation(c, device=DEVICES[2]).signature),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed for another network": (
        lambda c: resigned(c, Domain.REVOCATION, Network(bytes(32))),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed as an enrolment": (
        lambda c: resigned(c, Domain.ENROLMENT, c.cast.network),
        ReasonCode.BAD_SIGNATURE,
    ),
    "another shard": (lambda c: revocation(c, shard="shard-1"), ReasonCode.WRONG_SHARD),
    "expired": (lambda c: revocation(c, expires_ms=c.now_ms + 9), ReasonCode.OUT_OF_BOUNDS),
    "not enrolled": (lambda c: revocation(c, device=STRANGER), ReasonCode.NOT_ENROLLED),
    "revoked before": (lambda c: revocation(c, device=DEVICES[1]), ReasonCode.REVOKED),
    "enrolled again": (lambda c: enrolment(c, device=DEVICES[1]), ReasonCode.REVOKED),
}


@pytest.mark.parametrize(("make", "reason"), REVOCATIONS.values(), ids=REVOCATIONS.keys())
def test_a_revocation_is_refused(revoking, make, reason):
    data = revoking.sign(revoking.cast.registrar, make(revoking))
    assert refusal(revoking, data) is reason


def test_a_revocation_counts_to_its_last_millisecond_whoever_sends_it():
    chain = make_chain()
    body = revocation(chain, expires_ms=chain.now_ms + 10)
    execute(chain, chain.sign(STRANGER, body), after_ms=10)


def test_an_update_of_a_revoked_device_has_a_reason_of_its_own():
    chain = make_chain()
    execute(chain, chain.sign(STRANGER, revocation(chain)))
    data = chain.sign(delegates(chain)[0], commit_body(chain, DEVICES[:1]))
    assert refusal(chain, data) is ReasonCode.REVOKED
    execute(chain, chain.sign(delegates(chain)[0], commit_body(chain, DEVICES[1:])))


def test_what_a_device_committed_before_its_revocation_is_judged_and_paid():
    chain = make_chain()
    collect(chain, DEVICES)
    number = chain.round.number
    execute(chain, chain.sign(STRANGER, revocation(chain)))
    score(chain, [100] * len(DEVICES))
    attest(chain, blob_digest(b"model"))
    entry = chain.app.state.get(UPDATES, update_key(number, DEVICES[0].device))
    assert entry is not None
    assert entry.is_judged
    assert entry.reason is ReasonCode.OK
    assert entry.reward > 0


@pytest.mark.parametrize("cohort_size", [3, 100])
def test_a_revoked_device_is_in_no_cohort_after(cohort_size):
    chain = make_chain(cohort_size=cohort_size, rounds=12)
    execute(chain, *(chain.sign(STRANGER, revocation(chain, device=one)) for one in DEVICES[:3]))
    for _ in range(8):
        before = chain.round.number
        while chain.round.number == before:
            chain.block(after_ms=20_000)
        for device in DEVICES[:3]:
            entry = chain.app.state.get(DEVICES_TABLE, device.device)
            assert entry is not None
            assert entry.is_revoked
            assert entry.drawn_round <= 1
        open_round(chain)
        for device in DEVICES[3:]:
            entry = chain.app.state.get(DEVICES_TABLE, device.device)
            assert is_drawn(entry, chain.round)


# Commits


@pytest.fixture(scope="module")
def collecting() -> Chain:
    chain = make_chain(cohort_size=3)
    execute(chain, chain.sign(delegates(chain)[0], commit_body(chain, cohort(chain)[:1])))
    return chain


def cohort(chain: Chain):
    return [entry for entry in DEVICES if is_in_cohort(chain.round, entry.device, NEWCOMER)]


def outside(chain: Chain):
    return next(entry for entry in DEVICES if entry not in cohort(chain))


def spoiled_commit(chain: Chain, **changes: object) -> CommitUpdates:
    body = commit_body(chain, cohort(chain)[1:])
    return replace(body, commits=(replace(body.commits[0], **changes), *body.commits[1:]))


def commit_for(chain: Chain, **changes: object) -> CommitUpdates:
    """A commit whose device signed for another round, base or shard than the open one."""
    device = cohort(chain)[1]
    other = Chain(chain.cast, "shard-1") if "shard" in changes else chain
    round_ = replace(chain.round, **{k: v for k, v in changes.items() if k != "shard"})

    class Signing(Chain):
        round = round_

    signing = Signing(chain.cast, other.chain)
    return CommitUpdates(round=chain.round.number, commits=(signing.commit(device, b"p"),))


COMMITS = {
    "not a delegate": (
        STRANGER,
        lambda c: commit_body(c, cohort(c)[1:]),
        ReasonCode.NOT_PERMITTED,
    ),
    "a delegate of another shard": (
        OTHER_DELEGATE,
        lambda c: commit_body(c, cohort(c)[1:]),
        ReasonCode.NOT_PERMITTED,
    ),
    "a round to come": (
        None,
        lambda c: replace(commit_body(c, cohort(c)[1:]), round=c.round.number + 1),
        ReasonCode.STALE_ROUND,
    ),
    "round 0": (
        None,
        lambda c: replace(commit_body(c, cohort(c)[1:]), round=0),
        ReasonCode.STALE_ROUND,
    ),
    "out of order": (
        None,
        lambda c: replace(
            commit_body(c, cohort(c)[1:]), commits=commit_body(c, cohort(c)[1:]).commits[::-1]
        ),
        ReasonCode.DUPLICATE,
    ),
    "a device twice in a batch": (
        None,
        lambda c: replace(
            commit_body(c, cohort(c)[1:2]), commits=commit_body(c, cohort(c)[1:2]).commits * 2
        ),
        ReasonCode.DUPLICATE,
    ),
    "a device again": (
        None,
        lambda c: commit_body(c, cohort(c)[:1], num_examples=7),
        ReasonCode.DUPLICATE,
    ),
    "one known device spoils the batch": (
        None,
        lambda c: commit_body(c, cohort(c)),
        ReasonCode.DUPLICATE,
    ),
    "not enrolled": (None, lambda c: commit_body(c, [STRANGER]), ReasonCode.NOT_ENROLLED),
    "not in the cohort": (
        None,
        lambda c: commit_body(c, [outside(c)]),
        ReasonCode.NOT_IN_COHORT,
    ),
    "another payload than signed": (
        None,
        lambda c: spoiled_commit(c, payload=blob_digest(b"other")),
        ReasonCode.BAD_SIGNATURE,
    ),
    "more examples than signed": (
        None,
        lambda c: spoiled_commit(c, num_examples=999),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed by nobody": (
        None,
        lambda c: spoiled_commit(c, signature=bytes(64)),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed for another round": (
        None,
        lambda c: commit_for(c, number=c.round.number + 1),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed for another base": (
        None,
        lambda c: commit_for(c, base=blob_digest(b"other")),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed for another shard": (
        None,
        lambda c: commit_for(c, shard="shard-1"),
        ReasonCode.BAD_SIGNATURE,
    ),
}


@pytest.mark.parametrize(("sender", "make", "reason"), COMMITS.values(), ids=COMMITS.keys())
def test_a_batch_is_refused_whole(collecting, sender, make, reason):
    sender = sender or delegates(collecting)[1]
    assert refusal(collecting, collecting.sign(sender, make(collecting))) is reason


def test_a_batch_of_the_rest_of_the_cohort_is_taken(collecting):
    body = commit_body(collecting, cohort(collecting)[1:])
    data = collecting.sign(delegates(collecting)[1], body)
    assert collecting.app.check_tx(data) is ReasonCode.OK
    (device,) = [commit.device for commit in commit_for(collecting).commits]
    assert device == cohort(collecting)[1].device
    control = collecting.sign(delegates(collecting)[1], commit_for(collecting))
    assert collecting.app.check_tx(control) is ReasonCode.OK


# Scores


@pytest.fixture(scope="module")
def scoring() -> Chain:
    chain = make_chain()
    collect(chain, DEVICES)
    score(chain, [1] * 6, by=delegates(chain)[:1])
    assert chain.round.phase == "score"
    return chain


def scores(chain: Chain, **changes: object) -> PostScores:
    body = PostScores(
        task=chain.round.task,
        round=chain.round.number,
        batch=0,
        scores=(1,) * 6,
        reference=blob_digest(b"reference"),
    )
    return replace(body, **changes)


SCORES = {
    "not a delegate": (STRANGER, {}, ReasonCode.NOT_PERMITTED),
    "a device": (DEVICES[0], {}, ReasonCode.NOT_PERMITTED),
    "a delegate of another shard": (OTHER_DELEGATE, {}, ReasonCode.NOT_PERMITTED),
    "another round": (None, {"round": 2}, ReasonCode.STALE_ROUND),
    "another task": (None, {"task": "another"}, ReasonCode.UNKNOWN_TASK),
    "no such batch": (None, {"batch": 1}, ReasonCode.OUT_OF_BOUNDS),
    "too few scores": (None, {"scores": (1,) * 5}, ReasonCode.OUT_OF_BOUNDS),
    "too many scores": (None, {"scores": (1,) * 7}, ReasonCode.OUT_OF_BOUNDS),
}


@pytest.mark.parametrize(("sender", "changes", "reason"), SCORES.values(), ids=SCORES.keys())
def test_scores_are_refused(scoring, sender, changes, reason):
    sender = sender or delegates(scoring)[1]
    assert refusal(scoring, scoring.sign(sender, scores(scoring, **changes))) is reason


def test_a_delegate_scores_a_batch_once(scoring):
    data = scoring.sign(delegates(scoring)[0], scores(scoring, scores=(2,) * 6))
    assert refusal(scoring, data) is ReasonCode.DUPLICATE


# Phases


def test_each_phase_refuses_what_another_takes():
    chain = make_chain()
    gateway = delegates(chain)[0]
    model = AttestModel(round=1, model=blob_digest(b"m"))
    early = chain.sign(gateway, model)
    assert refusal(chain, early) is ReasonCode.WRONG_PHASE
    late_commits = commit_body(chain, DEVICES[:1])
    collect(chain, DEVICES[1:])
    chain.block(after_ms=1_000)
    assert chain.round.phase == "score"
    assert refusal(chain, chain.sign(gateway, late_commits)) is ReasonCode.WRONG_PHASE
    assert refusal(chain, chain.sign(gateway, model)) is ReasonCode.WRONG_PHASE
    score(chain, [1] * 5)
    assert chain.round.phase == "attest"
    late_scores = replace(scores(chain), scores=(1,) * 5)
    assert refusal(chain, chain.sign(gateway, late_scores)) is ReasonCode.WRONG_PHASE
    assert refusal(chain, chain.sign(gateway, late_commits)) is ReasonCode.WRONG_PHASE
    attest(chain, model.model)
    chain.block()
    assert chain.round.number == 2
    for body in (model, late_scores, late_commits):
        assert refusal(chain, chain.sign(gateway, body)) is ReasonCode.STALE_ROUND


# Attestations


@pytest.fixture(scope="module")
def attesting() -> Chain:
    chain = make_chain()
    collect(chain, DEVICES)
    score(chain, [1] * 6)
    attest(chain, blob_digest(b"m"), by=delegates(chain)[:1])
    return chain


ATTESTATIONS = {
    "not a delegate": (lambda c: STRANGER, 1, ReasonCode.NOT_PERMITTED),
    "a delegate of another shard": (lambda c: OTHER_DELEGATE, 1, ReasonCode.NOT_PERMITTED),
    "a round to come": (lambda c: delegates(c)[1], 2, ReasonCode.STALE_ROUND),
    "the same again": (lambda c: delegates(c)[0], 1, ReasonCode.DUPLICATE),
}


@pytest.mark.parametrize(
    ("sender", "number", "reason"), ATTESTATIONS.values(), ids=ATTESTATIONS.keys()
)
def test_an_attestation_is_refused(attesting, sender, number, reason):
    body = AttestModel(round=number, model=blob_digest(b"m"))
    assert refusal(attesting, attesting.sign(sender(attesting), body)) is reason


def test_a_delegate_cannot_change_its_mind(attesting):
    body = AttestModel(round=1, model=blob_digest(b"another"))
    data = attesting.sign(delegates(attesting)[0], body)
    assert refusal(attesting, data) is ReasonCode.DUPLICATE


# Checkpoint signatures


@pytest.fixture(scope="module")
def checkpointed() -> Chain:
    chain = make_chain()
    for _ in range(2):
        play_round(chain, DEVICES)
    signed = emit_checkpoint(chain)
    first = delegates(chain)[0]
    execute(chain, chain.sign(first, sign_body(chain, first, signed)))
    return chain


def checkpoint_body(chain: Chain, index: int = 1, **changes: object) -> SignCheckpoint:
    return replace(sign_body(chain, delegates(chain)[index], emit_checkpoint(chain)), **changes)


def forged(chain: Chain) -> SignCheckpoint:
    signer = delegates(chain)[1]
    signature = CheckpointSignature(
        validator=signer.validator, signature=delegates(chain)[2].sign(b"x")
    )
    return checkpoint_body(chain, signature=signature)


CHECKPOINTS = {
    "not a delegate": (
        lambda c: STRANGER,
        lambda c: sign_body(c, STRANGER, emit_checkpoint(c)),
        ReasonCode.NOT_PERMITTED,
    ),
    "a delegate of another shard": (
        lambda c: OTHER_DELEGATE,
        lambda c: sign_body(c, OTHER_DELEGATE, emit_checkpoint(c)),
        ReasonCode.NOT_PERMITTED,
    ),
    "another's signature": (
        lambda c: delegates(c)[2],
        checkpoint_body,
        ReasonCode.NOT_PERMITTED,
    ),
    "another digest": (
        lambda c: delegates(c)[1],
        lambda c: checkpoint_body(c, checkpoint=bytes(32)),
        ReasonCode.BROKEN_LINK,
    ),
    "another number": (
        lambda c: delegates(c)[1],
        lambda c: checkpoint_body(c, number=2),
        ReasonCode.BROKEN_LINK,
    ),
    "signed already": (
        lambda c: delegates(c)[0],
        lambda c: checkpoint_body(c, 0),
        ReasonCode.DUPLICATE,
    ),
    "forged": (lambda c: delegates(c)[1], forged, ReasonCode.BAD_SIGNATURE),
}


@pytest.mark.parametrize(("sender", "make", "reason"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_signature_is_refused(checkpointed, sender, make, reason):
    data = checkpointed.sign(sender(checkpointed), make(checkpointed))
    assert refusal(checkpointed, data) is reason


def test_there_is_nothing_to_sign_before_the_first_checkpoint(checkpointed):
    fresh = Chain(checkpointed.cast, "shard-0")
    data = fresh.sign(delegates(fresh)[1], checkpoint_body(checkpointed))
    assert refusal(fresh, data) is ReasonCode.BROKEN_LINK


# Merges


@pytest.fixture(scope="module")
def merged() -> tuple[Chain, Chain]:
    """A main chain with two merges, and a shard that has adopted none; both shards settled."""
    cast = make_cast(shards=("shard-0", "shard-1"), task=make_task(rounds=6))
    main = Chain(cast, "main")
    shards = [Chain(cast, name) for name in cast.genesis.shards]
    for chain in shards:
        open_round(chain, DEVICES)
        play_round(chain, DEVICES)
        play_round(chain, DEVICES)
        settle(main, chain)
    attest_merge(main, blob_digest(b"merge 1"))
    adopt(shards[1], main, by=STRANGER)
    play_round(shards[1], DEVICES)
    play_round(shards[1], DEVICES)
    settle(main, shards[1])
    main.block(after_ms=60_001)
    return main, shards[0]


def adoption(main: Chain, **changes: object):
    return AdoptEpoch(update=replace(epoch_update(main, 1), **changes))


def amended(main: Chain, **changes: object):
    """The adoption of a record with another merge."""
    epoch = epoch_of(main, 1)
    return adoption(main, epoch=replace(epoch, merge=replace(epoch.merge, **changes)))


def resealed(main: Chain, signers=None, **changes: object):
    """The adoption under a header that was changed and certified anew."""
    header = replace(epoch_update(main, 1).header, **changes)
    return adoption(main, header=header, certificate=certify(header, signers or delegates(main)))


def other_proof(main: Chain):
    return main.app.query("accounts", main.cast.sponsor.account).proof


ADOPTIONS = {
    "another model": (
        lambda m: amended(m, model=bytes(32)),
        ReasonCode.BAD_PROOF,
    ),
    "another input": (
        lambda m: amended(m, inputs=epoch_of(m, 1).merge.inputs[:1]),
        ReasonCode.BAD_PROOF,
    ),
    "another epoch": (
        lambda m: adoption(m, epoch=replace(epoch_of(m, 1), epoch=9)),
        ReasonCode.WRONG_EPOCH,
    ),
    "a proof of something else": (
        lambda m: adoption(m, proof=other_proof(m)),
        ReasonCode.BAD_PROOF,
    ),
    "a proof without its path": (
        lambda m: adoption(
            m,
            proof=replace(
                epoch_update(m, 1).proof,
                map_proof=replace(epoch_update(m, 1).proof.map_proof, siblings=()),
            ),
        ),
        ReasonCode.BAD_PROOF,
    ),
    "another state": (
        lambda m: resealed(m, state_root=bytes(32)),
        ReasonCode.BAD_PROOF,
    ),
    "a header that nobody certified": (
        lambda m: adoption(m, header=replace(epoch_update(m, 1).header, state_root=bytes(32))),
        ReasonCode.BAD_ENCODING,
    ),
    "a certificate of too few": (
        lambda m: resealed(m, signers=delegates(m)[:5]),
        ReasonCode.LOW_POWER,
    ),
    "a certificate of strangers": (
        lambda m: resealed(m, signers=[STRANGER]),
        ReasonCode.OUT_OF_BOUNDS,
    ),
    "a committee of the sender's own": (
        lambda m: resealed(
            m,
            signers=[STRANGER],
            committee=make_own_committee(),
        ),
        ReasonCode.WRONG_EPOCH,
    ),
    "a forged certificate": (
        lambda m: adoption(
            m,
            certificate=replace(
                epoch_update(m, 1).certificate, view=epoch_update(m, 1).certificate.view + 1
            ),
        ),
        ReasonCode.BAD_SIGNATURE,
    ),
    "another network": (
        lambda m: resealed(m, network=Network(bytes(32))),
        ReasonCode.WRONG_NETWORK,
    ),
    "another chain": (lambda m: resealed(m, chain="shard-1"), ReasonCode.WRONG_CHAIN),
}


def make_own_committee() -> bytes:
    from headwater_protocol.chain.committee import committee_digest

    return committee_digest(make_committee([(STRANGER.validator, 1)]))


@pytest.mark.parametrize(("make", "reason"), ADOPTIONS.values(), ids=ADOPTIONS.keys())
def test_a_merge_is_refused(merged, make, reason):
    main, chain = merged
    assert refusal(chain, chain.sign(STRANGER, make(main))) is reason


def test_a_merge_is_adopted_once(merged):
    main, chain = merged
    body = adoption(main)
    assert chain.app.check_tx(chain.sign(STRANGER, body)) is ReasonCode.OK
    execute(chain, chain.sign(STRANGER, body))
    assert refusal(chain, chain.sign(STRANGER, body)) is ReasonCode.DUPLICATE
    assert (shard_of(chain).epoch, shard_of(chain).adopted) == (0, 1)
    hand_over(chain)
    assert shard_of(chain).epoch == 1
    older = adoption(main, epoch=replace(epoch_of(main, 1), epoch=0))
    assert refusal(chain, chain.sign(STRANGER, older)) is ReasonCode.DUPLICATE
