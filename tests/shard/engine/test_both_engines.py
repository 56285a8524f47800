"""The ledgers are the same on either engine: outcomes, states, roots, and the audit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.stake import Bond, DelegateStake
from headwater_protocol.chain.transaction import AttestModel, CommitUpdates, PostScores, Transfer
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import CHECKPOINTS
from tests.support.comet import now_ms, sign, transfer
from tests.support.engines import RUNNERS, Runner, replay, roots
from tests.support.justice import comet_double_vote, double_vote
from tests.support.network import Cast, Chain, key, make_cast, make_task

SHARD_0 = ChainId("shard-0")
ON_BOTH = [
    "embedded",
    pytest.param("cometbft", marks=pytest.mark.cometbft),
]
HOLDINGS = ("accounts", "candidates", "delegations", "nonces")


@pytest.fixture
def cast() -> Cast:
    return make_cast(
        validators_per_shard=1,
        balances=[("alice", 10_000), ("carol", 10_000)],
        task=make_task(collect_ms=60_000, score_ms=60_000, attest_ms=60_000, rounds=1),
    )


@pytest.fixture(params=ON_BOTH)
def main(request: pytest.FixtureRequest, cast: Cast, tmp_path: Path) -> Iterator[Runner]:
    runner = RUNNERS[request.param](cast, tmp_path, MAIN_CHAIN)
    yield runner
    runner.close()


@pytest.fixture(params=ON_BOTH)
def shard(request: pytest.FixtureRequest, cast: Cast, tmp_path: Path) -> Iterator[Runner]:
    runner = RUNNERS[request.param](cast, tmp_path, SHARD_0)
    yield runner
    runner.close()


def main_script(cast: Cast) -> list[bytes]:
    """Transfers and stake; every one succeeds in this order."""
    alice, carol = key("alice"), key("carol")
    validator = cast.all_validators[0].validator
    return [
        *(transfer(cast, nonce, amount=nonce) for nonce in range(1, 8)),
        sign(cast, alice, Bond(amount=Units(900), commission_thousandths=50), 8),
        sign(cast, carol, DelegateStake(validator=alice.validator, amount=Units(400)), 1),
        sign(cast, carol, DelegateStake(validator=validator, amount=Units(300)), 2),
        sign(cast, carol, Transfer(recipient=alice.account, amount=Units(1)), 3),
    ]


def test_transfers_and_stake(main: Runner, cast: Cast, tmp_path: Path) -> None:
    script = main_script(cast)
    main.run(*script)
    assert main.outcomes == dict.fromkeys(script, ReasonCode.OK)
    # The ledger alone, with nothing that orders, comes to the same holdings.
    alone = Chain(cast, MAIN_CHAIN)
    alone.block(*script)
    expected = roots(alone.app.state, *HOLDINGS)
    assert roots(main.app.state, *HOLDINGS) == expected
    main.close()
    assert roots(replay(cast, MAIN_CHAIN, tmp_path), *HOLDINGS) == expected


@pytest.mark.cometbft
def test_both_engines_come_to_the_same_state(cast: Cast, tmp_path: Path) -> None:
    found = {}
    for name, runner_class in RUNNERS.items():
        runner = runner_class(cast, tmp_path / name, MAIN_CHAIN)
        try:
            runner.run(*main_script(cast))
            outcomes = runner.outcomes
        finally:
            runner.close()
        state = replay(cast, MAIN_CHAIN, tmp_path / name)
        found[name] = (outcomes, roots(state, *HOLDINGS))
    assert found["embedded"] == found["cometbft"]


def test_refusals(main: Runner, cast: Cast) -> None:
    main.run(transfer(cast, 3))
    assert main.refuse(transfer(cast, 2)) is ReasonCode.WRONG_NONCE
    assert main.refuse(b"?") is ReasonCode.BAD_ENCODING
    large = sign(cast, key("bob"), Transfer(recipient=key("alice").account, amount=Units(9)), 1)
    assert main.refuse(large) is main.app.check_tx(large)
    assert main.app.check_tx(large) is not ReasonCode.OK


@pytest.mark.parametrize("make", [double_vote, comet_double_vote])
def test_who_signs_twice_is_slashed(main: Runner, cast: Cast, make: object) -> None:
    """The proof is a transaction like any other, whichever engine saw the two votes."""
    newcomer = key("alice")
    main.run(sign(cast, newcomer, Bond(amount=Units(1_000), commission_thousandths=0), 1))
    evidence = make(cast, newcomer, chain=MAIN_CHAIN)  # type: ignore[operator]
    accusation = sign(cast, key("carol"), SubmitEvidence(evidence=evidence), 1)
    main.run(accusation)
    assert main.outcomes[accusation] is ReasonCode.OK
    again = sign(cast, key("carol"), SubmitEvidence(evidence=evidence), 2)
    assert main.refuse(again) is ReasonCode.ALREADY_PUNISHED


def test_a_round_of_a_shard(shard: Runner, cast: Cast, tmp_path: Path) -> None:
    view = Chain(cast, SHARD_0, now_ms=now_ms())
    view.app = shard.app
    (delegate,) = cast.all_validators
    devices = [key("one"), key("two")]
    shard.run(
        *(
            sign(cast, cast.registrar, view.enrolment(device), number, chain=SHARD_0)
            for number, device in enumerate(devices, 1)
        )
    )
    shard.wait_for(lambda: has_round(view))
    number = view.round.number
    cohort = view.round.cohort_size
    commits = sorted(
        (view.commit(device) for device in devices[:cohort]), key=lambda commit: commit.device
    )
    model = blob_digest(b"model of the round")
    for nonce, body in enumerate(
        (
            CommitUpdates(round=number, commits=tuple(commits)),
            PostScores(
                task=view.round.task,
                round=number,
                batch=0,
                scores=(100,) * len(commits),
                reference=blob_digest(b"reference"),
            ),
            AttestModel(round=number, model=model),
        ),
        1,
    ):
        shard.run(sign(cast, delegate, body, nonce, chain=SHARD_0))
    assert (view.round.phase, view.round.model) == (RoundPhase.CLOSED, model)
    # The checkpoint comes with a block that nobody asked for.
    shard.wait_for(lambda: has_checkpoint(shard))
    shard.close()
    state = replay(cast, SHARD_0, tmp_path)
    assert roots(state, "rewards", "devices") == roots(shard.app.state, "rewards", "devices")


def has_round(view: Chain) -> bool:
    try:
        return view.round.phase is RoundPhase.COLLECT
    except AssertionError:
        return False


def has_checkpoint(shard: Runner) -> bool:
    return shard.app.state.count(CHECKPOINTS) > 0
