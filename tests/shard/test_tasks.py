"""Tasks, claims and deposits on the ledgers: escrow in, exact rewards out, the rest back."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.market import (
    ClaimRewards,
    CloseTask,
    LockDeposit,
    OpenTask,
    SettleDeposit,
)
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import AdoptTask, Transfer
from headwater_protocol.crypto.hashing import Domain, blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, TaskId, TimeMs, Units
from headwater_protocol.messages.announcement import task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.records import DEPOSITS, TASKS
from headwater_shard.mainchain.records import CANDIDATES, MAIN, MAIN_KEY
from headwater_shard.shardchain import retention
from headwater_shard.shardchain.records import (
    BATCHES,
    DEVICES,
    PAYLOADS,
    PENALTIES,
    SHARD_KEY,
)
from tests.support.ledgers import (
    adopt,
    attest_merge,
    commit_body,
    delegates,
    execute,
    main_of,
    open_round,
    reasons,
    refusal,
    shard_of,
)
from tests.support.market import INCENTIVES, Market, make_market
from tests.support.network import key, make_task

BUDGET = 1_000
"""Of a round of the test task."""


def finish(market: Market, shard: str = "shard-0") -> None:
    while not market.is_final(shard):
        market.play(shard)


def lock(market: Market, amount: int, shard: str = "shard-0") -> None:
    for device in market.devices[ChainId(shard)]:
        body = LockDeposit(device=device.device, shard=ChainId(shard), amount=Units(amount))
        execute(market.main, market.main.sign(device, body))


def enrol_with_deposits(market: Market, amount: int, *, weight: int = 1) -> None:
    chain = market.shard()
    execute(
        chain,
        *(
            chain.sign(market.cast.registrar, enrolment(market, device, amount, weight))
            for device in market.devices[chain.chain]
        ),
    )


def enrolment(market, device, amount, weight=1, owner=None):  # type: ignore[no-untyped-def]
    chain = market.shard()
    body = chain.enrolment(device)
    changed = replace(body.enrolment, deposit=Units(amount), weight=weight, owner=owner)
    signature = market.cast.registrar.sign_record(Domain.ENROLMENT, market.cast.network, changed)
    return replace(body, enrolment=changed, signature=signature)


def test_the_budget_waits_in_a_pot_for_each_shard():
    market = make_market(shards=("shard-0", "shard-1"))
    task = market.cast.genesis.task
    for shard in ("shard-0", "shard-1"):
        assert market.pot(shard).units == task.round_budget * task.rounds
    assert market.supply == sum(entry.balance for entry in market.cast.genesis.accounts) + sum(
        entry.stake for entry in market.cast.genesis.validators
    )


def test_a_claim_pays_what_a_settled_round_earned_and_no_more():
    market = make_market()
    supply, before = market.supply, [market.balance(d) for d in market.devices[ChainId("shard-0")]]
    market.play(scores=[300, 200, 100])
    market.claim_all()
    earned = market.rewards()
    assert sum(earned.values()) == BUDGET
    for device, held in zip(market.devices[ChainId("shard-0")], before, strict=True):
        assert market.balance(device) == held + earned[device.device]
    assert market.pot().units == 3 * BUDGET
    assert market.claim_body() is None
    assert market.supply == supply


def test_a_delegate_shares_its_reward_with_its_pool():
    market = make_market()
    validator = market.cast.all_validators[0]
    before = market.main.app.state.get(CANDIDATES, validator.validator)
    market.play()
    market.claim_all()
    after = market.main.app.state.get(CANDIDATES, validator.validator)
    earned = market.rewards()[validator.validator]
    assert before is not None
    assert after is not None
    commission = earned * before.commission_thousandths // 1_000
    assert after.bonded == before.bonded + earned - commission
    assert market.balance(validator) == commission


def test_a_claim_can_skip_checkpoints_and_is_idempotent():
    market = make_market()
    market.play()
    early = market.claim_body()
    assert early is not None
    market.play()
    market.play()
    market.claim_all()
    assert market.pot().units == BUDGET
    # The early proof still verifies, and has no news any more.
    sign = market.main.sign(key("alice"), early)
    assert refusal(market.main, sign) is ReasonCode.DUPLICATE


def test_a_claim_for_one_account_does_not_spoil_the_batch():
    market = make_market()
    market.play()
    body = market.claim_body()
    assert body is not None
    alone = replace(body, claims=body.claims[1:2])
    execute(market.main, market.main.sign(key("alice"), alone))
    execute(market.main, market.main.sign(market.cast.sponsor, body))
    assert market.pot().units == 3 * BUDGET


def test_unspent_budget_returns_with_the_final_checkpoint():
    market = make_market()
    supply, before = market.supply, market.balance(market.cast.sponsor)
    market.play()
    market.play(scores=[-100, -100, -100])  # Nothing accepted: the round pays nothing.
    finish(market)
    assert market.balance(market.cast.sponsor) == before + BUDGET
    market.claim_all()
    assert market.pot().units == 0
    entry = market.main.app.state.get(TASKS, task_key(market.cast.genesis.task.task))
    assert entry is not None
    assert (entry.open_shards, entry.returned) == (0, BUDGET)
    assert sum(market.rewards().values()) == 3 * BUDGET
    assert market.supply == supply


def test_a_sponsor_opens_the_next_task_when_the_last_one_is_finished():
    market = make_market(task=make_task(rounds=1))
    alice = key("alice")
    task = make_task(task=TaskId("second"), rounds=2, round_budget=Units(300))
    body = OpenTask(task=task)
    assert refusal(market.main, market.main.sign(alice, body)) is ReasonCode.WRONG_PHASE
    finish(market)
    supply = market.supply
    execute(market.main, market.main.sign(alice, body))
    assert market.balance(alice) == 400
    assert market.pot().units == 600 + sum(market.rewards().values())
    assert not market.is_final()
    market.claim_all()
    assert market.pot().units == 600
    assert market.supply == supply


def next_task(market: Market, task: Task, sponsor: SecretKey) -> AdoptTask:
    """Open a task and prove it to a shard that has finished the last one."""
    chain = market.shard()
    adopt(chain, market.main, by=sponsor)
    execute(market.main, market.main.sign(sponsor, OpenTask(task=task)))
    block, certificate = market.main.blocks[-1]
    entry = market.main.app.state.get(TASKS, task_key(task.task))
    assert entry is not None
    return AdoptTask(
        entry=entry,
        proof=market.main.app.query("tasks", task_key(task.task)).proof,
        header=block.header,
        certificate=certificate,
    )


def test_a_shard_takes_the_next_task_up_and_settles_it():
    market = make_market(task=make_task(rounds=1))
    supply, alice = market.supply, key("alice")
    finish(market)
    chain = market.shard()
    task = make_task(
        task=TaskId("second"),
        rounds=2,
        round_budget=Units(300),
        initial_model=blob_digest(b"another model"),
    )
    body = next_task(market, task, alice)
    execute(chain, chain.sign(key("bob"), body))
    assert refusal(chain, chain.sign(key("bob"), body)) is ReasonCode.DUPLICATE
    assert (chain.round.task, chain.round.base) == (task.task, task.initial_model)
    market.play()
    market.play(scores=[-1, -1, -1])
    assert market.is_final()
    market.claim_all()
    assert market.pot().units == 0
    assert sum(market.rewards().values()) == BUDGET + 300
    assert market.balance(alice) == 1_000 - 300
    assert market.supply == supply


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("another task", ReasonCode.BAD_PROOF),
        ("one too far", ReasonCode.BAD_PROOF),
        ("another chain", ReasonCode.WRONG_CHAIN),
        ("not finished", ReasonCode.WRONG_PHASE),
        ("uncertified", ReasonCode.LOW_POWER),
    ],
)
def test_the_next_task_is_refused(how, reason):
    market = make_market(task=make_task(rounds=1))
    finish(market)
    chain = market.shard()
    body = next_task(market, make_task(task=TaskId("second"), round_budget=Units(1)), key("alice"))
    match how:
        case "another task":
            entry = replace(body.entry, task=replace(body.entry.task, round_budget=Units(2)))
            body = replace(body, entry=entry)
        case "one too far":
            body = replace(body, entry=replace(body.entry, number=3))
        case "another chain":
            block, certificate = chain.blocks[-1]
            body = replace(body, header=block.header, certificate=certificate)
        case "not finished":
            shard = replace(shard_of(chain), is_finished=False)
            chain.app._state = chain.app.state.updated({"chain": {SHARD_KEY: shard}})
        case "uncertified":
            few = replace(body.certificate, signatures=body.certificate.signatures[:1])
            body = replace(body, certificate=few)
    assert refusal(chain, chain.sign(key("bob"), body)) is reason


def prove_task(market: Market, task: TaskId) -> AdoptTask:
    block, certificate = market.main.blocks[-1]
    entry = market.main.app.state.get(TASKS, task_key(task))
    assert entry is not None
    return AdoptTask(
        entry=entry,
        proof=market.main.app.query("tasks", task_key(task)).proof,
        header=block.header,
        certificate=certificate,
    )


def close(market: Market) -> AdoptTask:
    """The sponsor ends the first task; what proves it to a shard."""
    task = market.cast.genesis.task.task
    execute(market.main, market.main.sign(market.cast.sponsor, CloseTask(task=task)))
    return prove_task(market, task)


def test_a_closed_task_ends_with_its_open_round_and_returns_what_is_unspent():
    market = make_market()
    supply, before = market.supply, market.balance(market.cast.sponsor)
    market.play()
    chain = market.shard()
    open_round(chain)
    body = close(market)
    execute(chain, chain.sign(key("bob"), body))
    assert chain.round.phase is RoundPhase.COLLECT
    assert refusal(chain, chain.sign(key("bob"), body)) is ReasonCode.DUPLICATE
    market.play()
    assert market.is_final()
    assert (shard_of(chain).last_round, shard_of(chain).is_finished) == (2, True)
    chain.block(after_ms=10_000)
    assert shard_of(chain).last_round == 2
    market.claim_all()
    assert sum(market.rewards().values()) == 2 * BUDGET
    assert market.balance(market.cast.sponsor) == before + 2 * BUDGET
    assert (market.pot().units, market.supply) == (0, supply)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_task_that_is_closed_between_rounds_ends_at_once(rounds):
    market = make_market(enrols=rounds > 0, task=make_task(rounds=4, min_updates=1))
    chain, before = market.shard(), market.balance(market.cast.sponsor)
    if rounds:
        market.play(devices=market.devices[chain.chain])
        shard = replace(shard_of(chain), last_closed_ms=TimeMs(chain.now_ms + 10**9))
        chain.app._state = chain.app.state.updated({"chain": {SHARD_KEY: shard}})
    execute(chain, chain.sign(key("bob"), close(market)))
    market.settle_all()
    assert market.is_final()
    assert shard_of(chain).last_round == rounds
    assert market.balance(market.cast.sponsor) == before + (4 - rounds) * BUDGET
    task = make_task(task=TaskId("second"), rounds=1, round_budget=Units(300))
    if main_of(market.main).is_merging:
        attest_merge(market.main, shard_of(chain).model)
    for epoch in range(shard_of(chain).adopted + 1, main_of(market.main).epoch + 1):
        adopt(chain, market.main, epoch, by=key("bob"))
    execute(market.main, market.main.sign(key("alice"), OpenTask(task=task)))
    execute(chain, chain.sign(key("bob"), prove_task(market, task.task)))
    assert (shard_of(chain).task, shard_of(chain).is_closing) == (task.task, False)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unknown", ReasonCode.UNKNOWN_TASK),
        ("of somebody else", ReasonCode.NOT_PERMITTED),
        ("finished", ReasonCode.WRONG_PHASE),
        ("twice", ReasonCode.DUPLICATE),
    ],
)
def test_closing_a_task_is_refused(how, reason):
    market = make_market(task=make_task(rounds=1))
    sender, task = market.cast.sponsor, market.cast.genesis.task.task
    match how:
        case "unknown":
            task = TaskId("nothing")
        case "of somebody else":
            sender = key("alice")
        case "finished":
            finish(market)
        case "twice":
            execute(market.main, market.main.sign(sender, CloseTask(task=task)))
    assert refusal(market.main, market.main.sign(sender, CloseTask(task=task))) is reason


def test_a_shard_does_not_close_a_task_that_its_sponsor_has_not():
    market = make_market()
    chain = market.shard()
    execute(
        market.main,
        market.main.sign(key("alice"), Transfer(recipient=key("bob").account, amount=Units(1))),
    )
    body = prove_task(market, market.cast.genesis.task.task)
    assert refusal(chain, chain.sign(key("bob"), body)) is ReasonCode.DUPLICATE
    forged = replace(body, entry=replace(body.entry, is_closing=True))
    assert refusal(chain, chain.sign(key("bob"), forged)) is ReasonCode.BAD_PROOF


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": TaskId("test")}, ReasonCode.DUPLICATE),
        ({"round_budget": Units(0)}, ReasonCode.OUT_OF_BOUNDS),
        ({"round_budget": Units(2**62)}, ReasonCode.OUT_OF_BOUNDS),
        ({"tensor_sizes": (2**24, 1)}, ReasonCode.OUT_OF_BOUNDS),
        ({"round_budget": Units(501)}, ReasonCode.INSUFFICIENT_FUNDS),
    ],
)
def test_a_task_is_refused(changes, reason):
    market = make_market(task=make_task(rounds=1))
    finish(market)
    task = make_task(**{"task": TaskId("second"), "rounds": 2, **changes})
    sign = market.main.sign(key("alice"), OpenTask(task=task))
    assert refusal(market.main, sign) is reason
    stranger = market.main.sign(key("nobody"), OpenTask(task=make_task(task=TaskId("third"))))
    assert refusal(market.main, stranger) is ReasonCode.UNKNOWN_ACCOUNT


def spoil(body: ClaimRewards, how: str) -> ClaimRewards:
    first, *others = body.claims
    match how:
        case "unknown shard":
            return replace(body, shard=ChainId("shard-9"))
        case "not settled":
            return replace(body, checkpoint=9)
        case "order":
            return replace(body, claims=(*others, first))
        case "twice":
            return replace(body, claims=(first, first))
        case "nothing":
            return replace(body, claims=(replace(first, total=Units(0)),))
        case "more":
            return replace(body, claims=(replace(first, total=Units(first.total + 1)), *others))
        case "less":
            return replace(body, claims=(replace(first, total=Units(first.total - 1)), *others))
        case "another's":
            return replace(body, claims=(replace(first, proof=others[0].proof),))
        case "few roots":
            return replace(body, namespace_roots=body.namespace_roots[1:])
        case "other roots":
            roots = (body.namespace_roots[1], *body.namespace_roots[1:])
            return replace(body, namespace_roots=roots)
    raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unknown shard", ReasonCode.WRONG_SHARD),
        ("not settled", ReasonCode.BROKEN_LINK),
        ("order", ReasonCode.OUT_OF_BOUNDS),
        ("twice", ReasonCode.OUT_OF_BOUNDS),
        ("nothing", ReasonCode.OUT_OF_BOUNDS),
        ("more", ReasonCode.BAD_PROOF),
        ("less", ReasonCode.BAD_PROOF),
        ("another's", ReasonCode.BAD_PROOF),
        ("few roots", ReasonCode.BAD_PROOF),
        ("other roots", ReasonCode.BAD_PROOF),
    ],
)
def test_a_claim_is_refused(how, reason):
    market = make_market()
    market.play()
    body = market.claim_body()
    assert body is not None
    sign = market.main.sign(key("alice"), spoil(body, how))
    assert refusal(market.main, sign) is reason


def test_a_pot_never_pays_more_than_it_holds():
    market = make_market()
    market.play()
    body = market.claim_body()
    assert body is not None
    # A shard whose committee forges rewards: its pot is the limit of the damage.
    state = market.main.app.state
    emptied = replace(market.pot(), units=Units(BUDGET - 1))
    market.main.app._state = state.updated({"pots": {b"shard-0": emptied}})
    sign = market.main.sign(key("alice"), body)
    assert refusal(market.main, sign) is ReasonCode.BUDGET_SPENT


def test_a_deposit_is_locked_and_returns_whole_to_an_honest_device():
    market = make_market(incentives=INCENTIVES, enrols=False)
    supply = market.supply
    lock(market, 100)
    enrol_with_deposits(market, 100)
    device = market.devices[ChainId("shard-0")][0]
    assert (market.balance(device), market.deposit(device)) == (900, 100)
    market.play()
    assert market.settle_deposits() == 0
    body = settle_body(market, device)
    assert refusal(market.main, market.main.sign(device, body)) is ReasonCode.DUPLICATE
    finish(market)
    assert market.settle_deposits() == 3
    assert market.deposit(device) == 0
    assert market.balance(device) == 1_000
    assert market.supply == supply


def settle_body(market: Market, device) -> SettleDeposit:  # type: ignore[no-untyped-def]
    claim = market.claim_body()
    assert claim is not None
    return SettleDeposit(
        device=device.device,
        checkpoint=claim.checkpoint,
        penalty=Units(0),
        namespace_roots=claim.namespace_roots,
        proof=market.shard().app.state.prove(PENALTIES.namespace, device.device).map_proof,
    )


def test_repeated_refusals_quarantine_and_then_cost_part_of_the_deposit():
    market = make_market(
        incentives=INCENTIVES, enrols=False, task=make_task(rounds=12), checkpoint_interval=1
    )
    supply = market.supply
    lock(market, 100)
    enrol_with_deposits(market, 100)
    chain = market.shard()
    *honest, bad = sorted(market.devices[chain.chain], key=lambda entry: entry.device)
    quarantined = []
    while not market.is_final():
        open_round(chain)
        record = chain.app.state.get(DEVICES, bad.device)
        assert record is not None
        is_out = record.quarantined_until >= chain.round.number
        quarantined.append(is_out)
        if is_out:
            body = commit_body(chain, [bad])
            sign = chain.sign(delegates(chain)[0], body)
            assert refusal(chain, sign) is ReasonCode.QUARANTINED
            assert chain.round.cohort_size == 2
            market.play(devices=honest)
        else:
            market.play(devices=[*honest, bad], scores=[100, 100, -100])
    # Two strikes, two rounds out, then one strike is enough each time.
    assert quarantined == [False, False, True, True] + [False, True, True] * 2 + [False, True]
    penalty = chain.app.state.get(PENALTIES, bad.device)
    assert penalty is not None
    assert penalty.total == 3 * 25
    market.claim_all()
    market.settle_deposits()
    assert market.balance(bad) == 1_000 - 75
    assert all(market.balance(device) > 1_000 for device in honest)
    main = market.main.app.state.get(MAIN, MAIN_KEY)
    assert main is not None
    assert main.burned == 75
    assert list(market.main.app.state.items(DEPOSITS)) == []
    assert market.supply == supply


def test_penalties_can_be_taken_before_the_end():
    market = make_market(incentives=INCENTIVES, enrols=False, task=make_task(rounds=12))
    lock(market, 100)
    enrol_with_deposits(market, 100)
    chain = market.shard()
    *honest, bad = sorted(market.devices[chain.chain], key=lambda entry: entry.device)
    for _ in range(2):
        market.play(devices=[*honest, bad], scores=[100, 100, -100])
    for _ in range(2):
        market.play(devices=honest)
    market.play(devices=[*honest, bad], scores=[100, 100, -100])
    assert market.settle_deposits() == 1
    assert market.deposit(bad) == 75
    assert market.settle_deposits() == 0


def test_an_accepted_update_takes_a_strike_away_and_reputation_recovers():
    market = make_market(incentives=INCENTIVES, enrols=False, task=make_task(rounds=12))
    enrol_with_deposits(market, 100)
    chain = market.shard()
    *honest, device = sorted(market.devices[chain.chain], key=lambda entry: entry.device)
    reputations = []
    for score in (-8_000, 8_000, -8_000, 8_000, 8_000):
        market.play(devices=[*honest, device], scores=[100, 100, score])
        record = chain.app.state.get(DEVICES, device.device)
        assert record is not None
        assert record.quarantined_until == 0
        reputations.append(record.reputation)
    assert reputations[0] < 0 < reputations[-1]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nothing", ReasonCode.OUT_OF_BOUNDS),
        ("unknown shard", ReasonCode.WRONG_SHARD),
        ("overdraft", ReasonCode.INSUFFICIENT_FUNDS),
        ("another's", ReasonCode.NOT_PERMITTED),
        ("another shard", ReasonCode.NO_DEPOSIT),
        ("nobody", ReasonCode.UNKNOWN_ACCOUNT),
    ],
)
def test_a_deposit_is_refused(how, reason):
    market = make_market(shards=("shard-0", "shard-1"))
    device = market.devices[ChainId("shard-0")][0]
    body = LockDeposit(device=device.device, shard=ChainId("shard-0"), amount=Units(10))
    execute(market.main, market.main.sign(device, body))
    sender = {"another's": key("alice"), "nobody": key("nobody")}.get(how, device)
    match how:
        case "nothing":
            body = replace(body, amount=Units(0))
        case "unknown shard":
            body = replace(body, shard=ChainId("shard-9"))
        case "overdraft":
            body = replace(body, amount=Units(991))
        case "another shard":
            body = replace(body, shard=ChainId("shard-1"))
        case "nobody":
            body = replace(body, device=key("nobody").device)
    assert refusal(market.main, market.main.sign(sender, body)) is reason


def test_no_deposit_is_taken_for_a_finished_shard():
    market = make_market(task=make_task(rounds=1))
    finish(market)
    body = LockDeposit(device=key("alice").device, shard=ChainId("shard-0"), amount=Units(1))
    sign = market.main.sign(key("alice"), body)
    assert refusal(market.main, sign) is ReasonCode.WRONG_PHASE


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no deposit", ReasonCode.NO_DEPOSIT),
        ("not settled", ReasonCode.BROKEN_LINK),
        ("forged", ReasonCode.BAD_PROOF),
        ("other namespace", ReasonCode.BAD_PROOF),
    ],
)
def test_a_settlement_is_refused(how, reason):
    market = make_market()
    lock(market, 10)
    market.play()
    device = market.devices[ChainId("shard-0")][0]
    body = settle_body(market, device)
    match how:
        case "no deposit":
            body = replace(body, device=key("alice").device)
        case "not settled":
            body = replace(body, checkpoint=7)
        case "forged":
            body = replace(body, penalty=Units(5))
        case "other namespace":
            proof = market.shard().app.state.prove("rewards", device.device).map_proof
            body = replace(body, proof=proof)
    assert refusal(market.main, market.main.sign(key("alice"), body)) is reason


def test_an_enrolment_without_the_deposit_is_refused():
    market = make_market(incentives=INCENTIVES, enrols=False)
    device = market.devices[ChainId("shard-0")][0]
    chain = market.shard()
    sign = chain.sign(market.cast.registrar, enrolment(market, device, 99))
    assert refusal(chain, sign) is ReasonCode.NO_DEPOSIT


def test_a_payload_that_somebody_sent_before_is_a_duplicate():
    market = make_market()
    chain = market.shard()
    first, second, _ = market.devices[chain.chain]
    open_round(chain)
    gateway = delegates(chain)[0]
    body = commit_body(chain, [first])
    execute(chain, chain.sign(gateway, body))
    copied = replace(body, commits=(chain.commit(second, body.commits[0].payload),))
    assert refusal(chain, chain.sign(gateway, copied)) is ReasonCode.DUPLICATE


def replay_every_round(market: Market, *, rounds: int) -> list[ReasonCode]:
    """What a device hears that sends the payload of its first round in each of the next ones."""
    chain = market.shard()
    device, *others = market.devices[chain.chain]
    open_round(chain)
    payload = chain.commit(device).payload
    market.play()
    answers: list[ReasonCode] = []
    for _ in range(rounds):
        open_round(chain)
        commit = chain.commit(device, payload)
        body = replace(commit_body(chain, [device]), commits=(commit,))
        answers.extend(reasons(chain.block(chain.sign(delegates(chain)[0], body))))
        if answers[-1] is ReasonCode.OK:
            break
        market.play(devices=others)
    return answers


def test_a_replayed_payload_is_refused_long_after_its_round_was_forgotten():
    market = make_market(task=make_task(rounds=12), retention_rounds=2)
    assert replay_every_round(market, rounds=10) == [ReasonCode.DUPLICATE] * 10
    assert market.shard().app.state.count(BATCHES) == 2


def test_payloads_are_forgotten_in_the_end_and_no_sooner(monkeypatch):
    monkeypatch.setattr(retention, "PAYLOAD_ROUNDS", 4)
    monkeypatch.setattr(retention, "PAYLOAD_PART_BITS", 1)
    market = make_market(task=make_task(rounds=12), retention_rounds=2)
    # The payload of round 1 goes in round 5 or 6, by the half of the table that it is in.
    answers = replay_every_round(market, rounds=10)
    assert answers in (
        [ReasonCode.DUPLICATE] * 4 + [ReasonCode.OK],
        [ReasonCode.DUPLICATE] * 5 + [ReasonCode.OK],
    )


def test_what_is_remembered_of_payloads_stays_bounded(monkeypatch):
    monkeypatch.setattr(retention, "PAYLOAD_ROUNDS", 4)
    monkeypatch.setattr(retention, "PAYLOAD_PART_BITS", 1)
    market = make_market(task=make_task(rounds=12), retention_rounds=2)
    while not market.is_final("shard-0"):
        market.play()
    rounds = {entry.round for _, entry in market.shard().app.state.items(PAYLOADS)}
    assert set(range(9, 13)) <= rounds <= set(range(8, 13))


def test_a_zero_score_earns_nothing():
    market = make_market()
    devices = sorted(market.devices[ChainId("shard-0")], key=lambda entry: entry.device)
    market.play(scores=[0, 100, 100])
    assert devices[0].device not in market.rewards()
    assert sum(market.rewards().values()) == BUDGET
