"""Work waits for blobs that other gateways have; a payload that nobody serves is given up."""

from dataclasses import replace

import pytest

from headwater_gateway.machine import fetches as fetches_module
from headwater_gateway.machine.effects import FetchBlob, PublishBlob
from headwater_gateway.machine.fetches import (
    FIRST_RETRY_MS,
    LAST_RETRY_MS,
    MAX_ATTEMPTS,
    Fetches,
)
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.transaction import UNAVAILABLE, AttestModel, PostScores
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Digest
from headwater_shard.mainchain.records import SHARDS
from headwater_shard.placement import list_holders, rank_holders
from headwater_shard.shardchain.records import SHARD, SHARD_KEY
from tests.support.gateway_support import SHARD_0, gateway_task
from tests.support.gateways import Gateways
from tests.support.network import key

BLOB = blob_digest(b"blob")
HOLDERS = (key("a").validator, key("b").validator)
WORK = PublishBlob(shard=SHARD_0, blob=BLOB)


def committee_of(gateways: Gateways):
    record = gateways.shard.app.state.get(SHARD, SHARD_KEY)
    assert record is not None
    return record.committee


@pytest.mark.parametrize("replicates", [True, False])
def test_every_gateway_scores_and_attests_what_one_of_them_took_in(replicates: bool) -> None:
    gateways = Gateways(replicates=replicates)
    payloads = gateways.publish_all(node=0)
    gateways.settle(20)
    assert gateways.shard.round.number == 2
    assert (
        gateways.shard.app.state.get(SHARD, SHARD_KEY).model
        != gateways.cast.genesis.task.initial_model
    )  # type: ignore[union-attr]
    for node in gateways.nodes:
        (scores,) = [s.transaction.body for s in gateways.bodies(PostScores, node=node.index)]
        assert isinstance(scores, PostScores)
        assert UNAVAILABLE not in scores.scores
        assert len(gateways.bodies(AttestModel, node=node.index)) == 1
        assert set(payloads) <= set(node.shelf.blobs)


def test_whom_to_ask_is_the_placement_s_order_without_oneself() -> None:
    gateways = Gateways(replicates=False)
    (node, *_) = gateways.nodes
    asked: dict[Digest, tuple[object, ...]] = {}
    original = gateways._fetch

    def note(who: object, effect: FetchBlob) -> None:
        if who is gateways.nodes[1]:
            asked[effect.blob] = effect.holders
        original(who, effect)  # type: ignore[arg-type]

    gateways._fetch = note  # type: ignore[method-assign]
    payloads = gateways.publish_all(node=node.index)
    gateways.settle(3)
    me = gateways.nodes[1].keys[0].validator
    for payload in payloads:
        ranked = rank_holders(payload, committee_of(gateways))
        assert asked[payload] == tuple(holder for holder in ranked if holder != me)


def test_a_payload_that_nobody_serves_is_given_up_at_half_of_the_scoring_time() -> None:
    gateways = Gateways(replicates=False, task=gateway_task(score_ms=10_000))
    gateways.nodes[0].withholds = True
    gateways.publish_all(node=0)
    gateways.settle(10)
    round_ = gateways.shard.round
    assert round_.phase is RoundPhase.SCORE
    assert len(gateways.bodies(PostScores)) == 1, "the one that has them scores them"
    gateways.pass_ms(round_.score_until_ms - 5_000 - gateways.now_ms - 1)
    assert len(gateways.bodies(PostScores)) == 1
    gateways.pass_ms(1)
    assert len(gateways.bodies(PostScores)) == 4
    for node in gateways.nodes[1:]:
        (signed,) = gateways.bodies(PostScores, node=node.index)
        body = signed.transaction.body
        assert isinstance(body, PostScores)
        assert set(body.scores) == {UNAVAILABLE}
    gateways.settle(10)
    assert gateways.shard.round.number == 2, "the round closed on its base, and the next is open"


def test_a_gateway_that_was_cut_off_scores_when_the_blob_has_come() -> None:
    gateways = Gateways(replicates=False)
    gateways.cut = {frozenset((0, 3)), frozenset((1, 3)), frozenset((2, 3))}
    gateways.publish_all(node=0)
    gateways.settle(5)
    assert gateways.bodies(PostScores, node=3) == []
    gateways.cut.clear()
    gateways.pass_ms(LAST_RETRY_MS)
    (signed,) = gateways.bodies(PostScores, node=3)
    body = signed.transaction.body
    assert isinstance(body, PostScores)
    assert UNAVAILABLE not in body.scores


def test_after_a_start_a_gateway_fetches_what_it_is_to_keep_and_lacks() -> None:
    gateways = Gateways(num_gateways=6)
    payloads = gateways.publish_all(node=0)
    gateways.settle(6)
    node = gateways.nodes[3]
    node.shelf.blobs.clear()
    node.fetched.clear()
    node.machine = gateways._make_machine(node.keys)
    tips = {chain: tip for chain in gateways.chains if (tip := gateways.tip(chain)) is not None}
    node.machine.start(tips, gateways.now_ms)
    gateways.perform()
    mine = {
        payload
        for payload in payloads
        if node.keys[0].validator in list_holders(payload, committee_of(gateways))
    }
    others = set(payloads) - mine
    assert mine <= set(node.shelf.blobs)
    assert not others & set(node.fetched)


def test_a_settled_checkpoint_says_what_is_needed_still() -> None:
    gateways = Gateways(task=gateway_task(rounds=8))
    rounds: list[list[Digest]] = []
    for number in range(1, 8):
        assert gateways.shard.round.number == number
        rounds.append(gateways.publish_all())
        gateways.settle(20)
    needed = gateways.nodes[0].tidied[-1].needed
    assert gateways.cast.genesis.task.program in needed
    assert gateways.cast.genesis.task.initial_model in needed
    assert not needed & {*rounds[0], *rounds[1]}, "settled, and long closed"
    assert {*rounds[-2], *rounds[-3]} <= needed, "closed a moment ago, when the last one settled"
    entry = gateways.main.app.state.get(SHARDS, SHARD_0.encode())
    assert entry is not None
    assert entry.model in needed


def test_a_blob_is_fetched_once_for_all_that_wait() -> None:
    fetches = Fetches()
    other = replace(WORK, shard="shard-1")  # type: ignore[arg-type]
    assert list(fetches.wait(WORK, {BLOB: HOLDERS}) or ()) == [
        FetchBlob(blob=BLOB, holders=HOLDERS)
    ]
    assert list(fetches.wait(other, {BLOB: HOLDERS}) or ()) == []
    assert list(fetches.on_fetched(BLOB, 0, is_here=True)) == [WORK, other]
    assert (len(fetches), fetches.num_waiting) == (0, 0)


def test_pauses_between_fetches_grow_to_a_limit_and_attempts_end() -> None:
    fetches, now_ms = Fetches(), 0
    list(fetches.wait(WORK, {BLOB: HOLDERS}) or ())
    pauses: list[int] = []
    for _ in range(MAX_ATTEMPTS - 1):
        assert list(fetches.on_fetched(BLOB, now_ms, is_here=False)) == []
        at = fetches.next_timer()
        assert at is not None
        assert list(fetches.on_timer(at - 1)) == []
        assert list(fetches.on_timer(at)) == [FetchBlob(blob=BLOB, holders=HOLDERS)]
        pauses.append(at - now_ms)
        now_ms = at
    assert pauses[0] == FIRST_RETRY_MS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_RETRY_MS
    assert list(fetches.on_fetched(BLOB, now_ms, is_here=False)) == []
    assert (len(fetches), fetches.num_waiting, fetches.next_timer()) == (0, 0, None)


def test_what_is_wanted_at_a_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches_module, "MAX_FETCHES", 2)
    fetches = Fetches()
    blobs = [blob_digest(b"%d" % n) for n in range(3)]
    assert fetches.wait(WORK, dict.fromkeys(blobs, HOLDERS)) is None
    assert len(list(fetches.want(dict.fromkeys(blobs, HOLDERS)))) == 2
    assert fetches.wait(WORK, dict.fromkeys(blobs[:2], HOLDERS)) is not None
    assert fetches.wait(WORK, {blobs[2]: HOLDERS}) is None


def test_answers_to_what_nobody_asked_for_are_ignored() -> None:
    fetches = Fetches()
    assert list(fetches.on_fetched(BLOB, 0, is_here=True)) == []
    assert list(fetches.on_fetched(BLOB, 0, is_here=False)) == []
