"""Rules of one machine, message by message."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from headwater_protocol.chain.block import (
    MAX_BLOCK_TRANSACTIONS,
    MAX_TRANSACTION_BYTES,
    Block,
    BlockHeader,
    VoteKind,
    VoteSignature,
    certificate_digest,
    header_digest,
    transactions_root,
)
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId, Digest, Height, Network, TimeMs
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.bft.catch_up import MAX_REQUESTERS
from headwater_shard.engine.bft.effects import Broadcast, Effect, Evidence, Finalized, Persist, Send
from headwater_shard.engine.bft.height import MAX_VIEW_JUMP
from headwater_shard.engine.bft.intake import MAX_FUTURE_PROPOSALS, MAX_FUTURE_VOTES
from headwater_shard.engine.bft.leader import Leaders
from headwater_shard.engine.bft.messages import (
    BlockRequest,
    BlockResponse,
    PrevoteCertificate,
    Proposal,
)
from headwater_shard.engine.bft.signer import Step
from headwater_shard.engine.bft.timeouts import Timeouts
from headwater_shard.engine.bft.validation import MAX_PAYLOAD_BYTES
from headwater_shard.engine.consensus import Consensus
from headwater_shard.engine.mempool import Mempool
from tests.support.engine_support import (
    CHAIN,
    DRIFT_MS,
    FAST,
    Disk,
    KeyValueLedger,
    committee_of,
    key_of,
    make_block,
    sign_proposal,
    sign_vote,
)

NOW = 1_000_000


class Bench:
    """A machine whose leader of each view is known, with three peers played by the test."""

    def __init__(
        self, index: int = 0, *, disk: Disk | None = None, timeouts: Timeouts = FAST
    ) -> None:
        self.index = index
        self.disk = Disk() if disk is None else disk
        self.ledger = self.disk.replay(KeyValueLedger(committee_of([10] * 4)))
        self.mempool = Mempool()
        self.machine = Consensus(
            key=key_of(index),
            application=self.ledger,
            mempool=self.mempool,
            verifier=DirectVerifier(),
            clock_drift_ms=DRIFT_MS,
            timeouts=timeouts,
            history=self.disk,
            tip=self.disk.tip,
            saved=self.disk.saved(key_of(index).validator),
        )

    def drain(self) -> list[Effect]:
        effects = list(self.machine.effects())
        for effect in effects:
            if isinstance(effect, Persist | Finalized):
                self.disk.write([effect])
        return effects

    def votes(self) -> list[SignedVote]:
        return [
            effect.message
            for effect in self.drain()
            if isinstance(effect, Broadcast) and isinstance(effect.message, SignedVote)
        ]

    def leader(self, view: int = 0) -> int:
        validator = Leaders(self.machine.rotation).leader(view)
        return next(index for index in range(4) if key_of(index).validator == validator)

    def block(self, *, proposer: int | None = None, transactions: tuple[bytes, ...] = ()) -> Block:
        return make_block(
            self.ledger,
            self.machine,
            proposer=self.leader() if proposer is None else proposer,
            transactions=transactions or (b"a=1",),
            time_ms=NOW,
        )

    def hear_votes(self, kind: VoteKind, block: Digest | None, *, view: int = 0) -> None:
        height = self.machine.height
        for index in range(4):
            if index != self.index:
                vote = sign_vote(index, kind=kind, height=height, view=view, block=block)
                self.machine.receive(vote, NOW)

    def finalize(self, block: Block) -> None:
        self.machine.receive(sign_proposal(self.leader(), block), NOW)
        for kind in VoteKind:
            self.hear_votes(kind, header_digest(block.header))


def follower(**options: Timeouts) -> Bench:
    """A machine that does not lead view 0 of height 1."""
    return next(bench for index in range(4) if (bench := Bench(index, **options)).leader() != index)


def leading() -> Bench:
    return next(bench for index in range(4) if (bench := Bench(index)).leader() == index)


def at_height_two(*, is_leader: bool) -> Bench:
    """A machine with one block behind it, which it did not propose."""
    for index in range(4):
        bench = Bench(index)
        if bench.leader() == index:
            continue
        bench.finalize(bench.block())
        if (bench.leader() == index) == is_leader:
            bench.drain()
            return bench
    raise AssertionError("no such machine")


def test_persist_comes_before_what_it_covers_and_finalized_before_the_next_height() -> None:
    bench = leading()
    bench.machine.submit(b"a=1", NOW)
    effects = bench.drain()
    assert [type(effect) for effect in effects] == [Persist, Broadcast] * 2
    proposal = effects[1]
    assert isinstance(proposal, Broadcast)
    assert isinstance(proposal.message, Proposal)
    first = effects[0]
    assert isinstance(first, Persist)
    assert first.blocks == (proposal.message.block,)
    digest = header_digest(proposal.message.block.header)
    bench.hear_votes(VoteKind.PREVOTE, digest)
    lock = bench.drain()[0]
    assert isinstance(lock, Persist)
    assert (lock.state.step, lock.state.lock.locked_block) == (Step.PRECOMMIT, digest)
    bench.hear_votes(VoteKind.PRECOMMIT, digest)
    assert isinstance(bench.drain()[0], Finalized)
    assert bench.ledger.value(b"a") == b"1"


def test_a_valid_proposal_gets_a_prevote() -> None:
    bench = follower()
    block = bench.block()
    bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
    assert [vote.vote.block for vote in bench.votes()] == [header_digest(block.header)]


def change(header: BlockHeader, field: str) -> BlockHeader:
    wrong: dict[str, object] = {
        "network": Network(bytes(32)),
        "time_ms": TimeMs(NOW + DRIFT_MS + 1),
        "previous": Digest(bytes([9]) * 32),
        "outcomes_root": Digest(bytes(32)),
        "state_root": Digest(bytes(32)),
        "committee": Digest(bytes(32)),
        "next_committee": committee_digest(committee_of([1])),
    }
    return replace(header, **{field: wrong[field]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field",
    [
        "network",
        "time_ms",
        "previous",
        "outcomes_root",
        "state_root",
        "committee",
        "next_committee",
    ],
)
def test_a_proposal_with_one_wrong_field_gets_a_prevote_for_no_block(field: str) -> None:
    bench = follower()
    block = bench.block()
    wrong = replace(block, header=change(block.header, field))
    bench.machine.receive(sign_proposal(bench.leader(), wrong), NOW)
    assert [vote.vote.block for vote in bench.votes()] == [None]
    assert sum(bench.machine.refused.values()) == 1


def test_a_block_that_the_ledger_refuses_gets_a_prevote_for_no_block() -> None:
    bench = follower()
    block = bench.block()
    transactions = (b"!=1",)
    wrong = replace(
        block,
        transactions=transactions,
        header=replace(block.header, transactions_root=transactions_root(transactions)),
    )
    bench.machine.receive(sign_proposal(bench.leader(), wrong), NOW)
    assert [vote.vote.block for vote in bench.votes()] == [None]


def test_a_time_at_the_edge_of_the_drift_is_accepted_and_one_ms_more_is_not() -> None:
    for extra, is_accepted in ((0, True), (1, False)):
        bench = follower()
        block = make_block(
            bench.ledger,
            bench.machine,
            proposer=bench.leader(),
            transactions=(b"a=1",),
            time_ms=NOW + DRIFT_MS + extra,
        )
        bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
        assert [vote.vote.block is not None for vote in bench.votes()] == [is_accepted]


def test_a_time_that_is_not_later_than_the_last_blocks_gets_no_vote() -> None:
    bench = at_height_two(is_leader=False)
    block = make_block(
        bench.ledger,
        bench.machine,
        proposer=bench.leader(),
        transactions=(b"b=1",),
        time_ms=NOW,
    )
    bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
    assert [vote.vote.block for vote in bench.votes()] == [None]


@pytest.mark.parametrize("what", ["missing", "unsigned", "two", "stranger"])
def test_a_wrong_certificate_of_the_last_block_gets_no_vote(what: str) -> None:
    bench = at_height_two(is_leader=False)
    block = make_block(
        bench.ledger,
        bench.machine,
        proposer=bench.leader(),
        transactions=(b"b=1",),
        time_ms=NOW + 1,
    )
    certificate = block.last_certificate
    assert certificate is not None
    signatures = certificate.signatures
    wrong = {
        "missing": None,
        "unsigned": replace(
            certificate,
            signatures=tuple(
                replace(entry, signature=signatures[0].signature) for entry in signatures
            ),
        ),
        "two": replace(certificate, signatures=signatures[:2]),
        "stranger": replace(
            certificate,
            signatures=tuple(
                sorted(
                    (*signatures[1:], replace(signatures[0], validator=key_of(9).validator)),
                    key=lambda entry: entry.validator,
                )
            ),
        ),
    }[what]
    header = replace(block.header, last_certificate=certificate_digest(wrong))
    bench.machine.receive(
        sign_proposal(bench.leader(), replace(block, last_certificate=wrong, header=header)), NOW
    )
    assert [vote.vote.block for vote in bench.votes()] == [None]


def test_contents_that_a_header_does_not_name_are_not_kept_under_it() -> None:
    bench = follower()
    block = bench.block()
    swapped = replace(block, transactions=(b"b=2",))
    bench.machine.receive(sign_proposal(bench.leader(), swapped), NOW)
    assert bench.machine.refused == {ReasonCode.WRONG_DIGEST: 1}
    bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
    assert [vote.vote.block for vote in bench.votes()] == [header_digest(block.header)]


def resized(block: Block, transactions: tuple[bytes, ...]) -> Block:
    root = transactions_root(transactions)
    return replace(
        block,
        transactions=transactions,
        header=replace(block.header, transactions_root=root),
    )


def test_a_payload_at_the_limit_is_judged_and_one_byte_more_is_refused_unread() -> None:
    full = [b"k=" + bytes(MAX_TRANSACTION_BYTES - 2)] * (MAX_PAYLOAD_BYTES // MAX_TRANSACTION_BYTES)
    rest = MAX_PAYLOAD_BYTES % MAX_TRANSACTION_BYTES
    for extra, votes in ((0, 1), (1, 0)):
        bench = follower()
        block = resized(bench.block(), (*full, b"k=" + bytes(rest - 2 + extra)))
        bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
        assert len(bench.votes()) == votes
        assert (ReasonCode.TOO_LARGE in bench.machine.refused) == (votes == 0)


def test_a_count_at_the_limit_is_judged_and_one_more_is_refused_unread() -> None:
    for extra, votes in ((0, 1), (1, 0)):
        bench = follower()
        block = resized(bench.block(), (b"k=1",) * (MAX_BLOCK_TRANSACTIONS + extra))
        bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
        assert len(bench.votes()) == votes


def test_bad_votes_are_counted_by_reason_and_never_raise() -> None:
    bench = follower()
    good = sign_vote(bench.leader(), kind=VoteKind.PREVOTE, height=1)
    for vote, reason in (
        (replace(good, signature=bytes(64)), ReasonCode.BAD_SIGNATURE),  # type: ignore[arg-type]
        (sign_vote(9, kind=VoteKind.PREVOTE, height=1), ReasonCode.NOT_PERMITTED),
        (
            sign_vote(bench.leader(), kind=VoteKind.PREVOTE, height=1, chain=ChainId("b")),
            ReasonCode.WRONG_CHAIN,
        ),
        (
            sign_vote(bench.leader(), kind=VoteKind.PREVOTE, height=1, network=Network(bytes(32))),
            ReasonCode.BAD_SIGNATURE,
        ),
    ):
        before = bench.machine.refused.get(reason, 0)
        bench.machine.receive(vote, NOW)
        assert bench.machine.refused[reason] == before + 1
    assert bench.machine.is_idle
    assert bench.drain() == []


def test_who_does_not_lead_a_view_cannot_propose_in_it() -> None:
    bench = follower()
    other = next(index for index in range(4) if index not in {bench.index, bench.leader()})
    bench.machine.receive(sign_proposal(other, bench.block(proposer=other)), NOW)
    assert bench.machine.refused == {ReasonCode.NOT_PERMITTED: 1}
    assert bench.drain() == []


def test_a_locked_validator_prevotes_another_block_only_when_later_prevotes_justify_it() -> None:
    bench = follower()
    first = bench.block()
    digest = header_digest(first.header)
    bench.machine.receive(sign_proposal(bench.leader(), first), NOW)
    bench.hear_votes(VoteKind.PREVOTE, digest)
    assert [v.vote.block for v in bench.votes()] == [digest, digest]
    for view in (1, 2):
        bench.hear_votes(VoteKind.PRECOMMIT, None, view=view - 1)
        leader = bench.leader(view)
        if leader == bench.index:
            # It proposes what it is locked on, and is outvoted.
            assert {v.vote.block for v in bench.votes()} == {digest}
            bench.hear_votes(VoteKind.PREVOTE, None, view=view)
            assert [v.vote.block for v in bench.votes()] == [None]
            continue
        rival = bench.block(proposer=leader, transactions=(b"rival=1",))
        bench.machine.receive(sign_proposal(leader, rival, view=view), NOW)
        assert bench.votes()[-1].vote.block is None
        bench.hear_votes(VoteKind.PREVOTE, None, view=view)
        bench.drain()
    bench.hear_votes(VoteKind.PRECOMMIT, None, view=2)
    view = 3 if bench.leader(3) != bench.index else 4
    if view == 4:
        bench.hear_votes(VoteKind.PREVOTE, None, view=3)
        bench.hear_votes(VoteKind.PRECOMMIT, None, view=3)
    bench.drain()
    rival = bench.block(proposer=bench.leader(1), transactions=(b"rival=1",))
    rival_digest = header_digest(rival.header)
    prevotes = [
        sign_vote(index, kind=VoteKind.PREVOTE, height=1, view=1, block=rival_digest)
        for index in sorted(range(4), key=lambda index: key_of(index).validator)
    ]
    valid = PrevoteCertificate(
        view=prevotes[0].vote.view,
        block=rival_digest,
        signatures=tuple(
            block_signature(vote) for vote in prevotes if vote.validator != bench.machine.validator
        ),
    )
    bench.machine.receive(sign_proposal(bench.leader(view), rival, view=view, valid=valid), NOW)
    assert [v.vote.block for v in bench.votes()] == [rival_digest]


def block_signature(vote: SignedVote) -> VoteSignature:
    return VoteSignature(validator=vote.validator, signature=vote.signature)


@pytest.mark.parametrize("what", ["too few", "bad signature", "later view", "other block"])
def test_a_proposal_with_a_wrong_justification_is_refused(what: str) -> None:
    bench = next(
        bench for index in range(4) if (bench := Bench(index)) and bench.leader(1) != index
    )
    block = bench.block(proposer=bench.leader())
    digest = header_digest(block.header)
    votes = [
        sign_vote(index, kind=VoteKind.PREVOTE, height=1, view=0, block=digest)
        for index in sorted(range(4), key=lambda index: key_of(index).validator)
    ]
    valid = PrevoteCertificate(
        view=votes[0].vote.view,
        block=digest,
        signatures=tuple(block_signature(vote) for vote in votes),
    )
    entries = valid.signatures
    wrong = {
        "too few": replace(valid, signatures=entries[:2]),
        "bad signature": replace(
            valid, signatures=(replace(entries[0], signature=bytes(64)), *entries[1:])
        ),
        "later view": replace(valid, view=1),
        "other block": replace(valid, block=Digest(bytes(32))),
    }[what]
    proposal = sign_proposal(bench.leader(1), block, view=1, valid=wrong)  # type: ignore[arg-type]
    bench.machine.receive(proposal, NOW)
    assert sum(bench.machine.refused.values()) == 1
    assert bench.machine.is_idle


def test_a_restarted_validator_repeats_its_vote_and_signs_no_other() -> None:
    bench = follower()
    block = bench.block()
    bench.machine.receive(sign_proposal(bench.leader(), block), NOW)
    (said,) = bench.votes()
    again = Bench(bench.index, disk=bench.disk)
    rival = again.block(transactions=(b"rival=1",))
    again.machine.receive(sign_proposal(bench.leader(), rival), NOW)
    assert again.votes() == []
    at = again.machine.next_timer()
    assert at is not None
    again.machine.on_timer(NOW)
    assert again.votes() == [said]


def test_a_restarted_leader_proposes_the_same_block_again() -> None:
    bench = leading()
    bench.machine.submit(b"a=1", NOW)
    effects = bench.drain()
    said = [e.message for e in effects if isinstance(e, Broadcast)]
    again = Bench(bench.index, disk=bench.disk)
    again.machine.submit(b"b=1", NOW)
    again.machine.on_timer(NOW)
    assert [e.message for e in again.drain() if isinstance(e, Broadcast)] == said


def test_a_validator_whose_signed_state_is_ahead_of_its_ledger_follows_without_voting() -> None:
    bench = follower()
    block = bench.block()
    bench.finalize(block)
    bench.drain()
    stale = Disk()
    stale.states = {
        bench.machine.validator: replace(
            bench.disk.states[bench.machine.validator], height=Height(5)
        )
    }
    behind = Bench(bench.index, disk=stale)
    behind.finalize(block)
    effects = behind.drain()
    assert [type(effect) for effect in effects] == [Finalized]


def test_a_machine_starts_only_from_what_belongs_together() -> None:
    bench = follower()
    bench.finalize(bench.block())
    bench.drain()
    tip = bench.disk.tip
    assert tip is not None

    def start(**options: object) -> Callable[[], Consensus]:
        return lambda: Consensus(
            key=key_of(bench.index),
            application=bench.ledger,
            mempool=Mempool(),
            verifier=DirectVerifier(),
            clock_drift_ms=DRIFT_MS,
            **options,  # type: ignore[arg-type]
        )

    with pytest.raises(ConfigError, match="the last block stored is 0"):
        start()()
    other = replace(tip, rotation=replace(tip.rotation, committee=committee_of([1] * 4)))
    with pytest.raises(ConfigError, match="another committee"):
        start(tip=other)()
    wrong = replace(tip, certificate=replace(tip.certificate, block=Digest(bytes(32))))
    with pytest.raises(ConfigError, match="another block"):
        start(tip=wrong)()
    saved = bench.disk.saved(key_of(bench.index).validator)
    assert saved is not None
    strange = replace(saved, state=replace(saved.state, validator=key_of(9).validator))
    with pytest.raises(ConfigError, match="another validator's"):
        start(tip=tip, saved=strange)()


def test_nothing_to_do_means_no_timer_and_work_means_now() -> None:
    bench = follower()
    assert bench.machine.next_timer() is None
    bench.mempool.add(b"a=1", bench.ledger.check_tx)
    assert bench.machine.next_timer() == 0
    bench.machine.on_timer(NOW)
    assert not bench.machine.is_idle
    assert bench.drain() == []
    assert bench.machine.next_timer() == NOW + FAST.resend_ms
    bench.machine.on_timer(NOW + FAST.propose_ms - 1)
    assert bench.votes() == []
    bench.machine.on_timer(NOW + FAST.propose_ms)
    assert [vote.vote.block for vote in bench.votes()] == [None]


def test_timeouts_grow_with_the_view_up_to_the_cap() -> None:
    timeouts = Timeouts(propose_ms=100, propose_step_ms=50, cap_ms=220)
    assert [timeouts.propose(view) for view in range(4)] == [100, 150, 200, 220]
    assert timeouts.prevote(10**6) == timeouts.precommit(10**6) == 220
    for broken in ({"propose_ms": 0}, {"resend_ms": 0}, {"prevote_step_ms": -1}, {"probe_ms": 0}):
        with pytest.raises(ConfigError, match=next(iter(broken))):
            Timeouts(**broken)


def test_transactions_that_no_block_can_take_yet_are_parked_without_empty_blocks() -> None:
    bench = leading()
    bench.machine.submit(b"wait=1", NOW)
    assert bench.drain() == []
    assert len(bench.mempool) == 1
    assert not bench.mempool.has_work


def test_a_leader_waits_when_every_time_it_could_give_is_too_far_ahead() -> None:
    bench = at_height_two(is_leader=True)
    early = NOW - DRIFT_MS - 100
    bench.machine.submit(b"b=1", early)
    assert bench.drain() == []
    at = bench.machine.next_timer()
    assert at == NOW + 1 - DRIFT_MS
    bench.machine.on_timer(at)
    assert any(
        isinstance(effect, Broadcast) and isinstance(effect.message, Proposal)
        for effect in bench.drain()
    )


def test_votes_for_the_next_height_are_kept_up_to_their_limit() -> None:
    bench = follower()
    for view in range(MAX_FUTURE_VOTES):
        bench.machine.receive(
            sign_vote(bench.leader(), kind=VoteKind.PREVOTE, height=2, view=view), NOW
        )
    assert bench.machine.refused == {}
    bench.machine.receive(
        sign_vote(bench.leader(), kind=VoteKind.PREVOTE, height=2, view=MAX_FUTURE_VOTES), NOW
    )
    assert bench.machine.refused == {ReasonCode.BUSY: 1}


def test_proposals_for_the_next_height_are_kept_up_to_their_limit() -> None:
    bench = follower()
    block = bench.block()
    ahead = replace(block, header=replace(block.header, height=Height(2)))
    for view in range(MAX_FUTURE_PROPOSALS + 1):
        assert bench.machine.refused == {}
        bench.machine.receive(sign_proposal(bench.leader(), ahead, view=view), NOW)
    assert bench.machine.refused == {ReasonCode.BUSY: 1}


def test_a_view_at_the_largest_jump_is_taken_and_one_more_is_refused() -> None:
    bench = follower()
    peer = bench.leader()
    bench.machine.receive(sign_vote(peer, kind=VoteKind.PREVOTE, height=1, view=MAX_VIEW_JUMP), NOW)
    assert bench.machine.refused == {}
    bench.machine.receive(
        sign_vote(peer, kind=VoteKind.PREVOTE, height=1, view=MAX_VIEW_JUMP + 1), NOW
    )
    assert bench.machine.refused == {ReasonCode.OUT_OF_BOUNDS: 1}
    assert bench.machine.view == 0


def test_a_view_is_joined_when_more_than_a_third_is_there_or_beyond() -> None:
    bench = follower()
    others = [index for index in range(4) if index != bench.index]
    bench.machine.receive(sign_vote(others[0], kind=VoteKind.PREVOTE, height=1, view=40), NOW)
    assert bench.machine.view == 0
    bench.machine.receive(sign_vote(others[1], kind=VoteKind.PREVOTE, height=1, view=20), NOW)
    assert bench.machine.view == 20


def test_conflicting_votes_become_evidence_once() -> None:
    bench = follower()
    peer = bench.leader()
    first = sign_vote(peer, kind=VoteKind.PREVOTE, height=1)
    second = sign_vote(peer, kind=VoteKind.PREVOTE, height=1, block=Digest(bytes(32)))
    third = sign_vote(peer, kind=VoteKind.PREVOTE, height=1, block=Digest(bytes([1]) * 32))
    for vote in (first, second, third, second, first):
        bench.machine.receive(vote, NOW)
    found = [effect for effect in bench.drain() if isinstance(effect, Evidence)]
    assert [(e.equivocation.first, e.equivocation.second) for e in found] == [(first, second)]
    assert bench.machine.equivocations == (found[0].equivocation,)


def test_a_block_request_is_answered_once_in_a_resend_interval() -> None:
    bench = follower()
    bench.finalize(bench.block())
    bench.drain()
    requester = key_of(7).validator
    request = BlockRequest(chain=CHAIN, height=Height(1), requester=requester)
    answers = []
    for at in (NOW, NOW + 1, NOW + FAST.resend_ms):
        bench.machine.receive(request, at)
        answers.append([effect for effect in bench.drain() if isinstance(effect, Send)])
    assert [len(sent) for sent in answers] == [1, 0, 1]
    assert answers[0][0].to == requester
    missing = BlockRequest(chain=CHAIN, height=Height(2), requester=requester)
    bench.machine.receive(missing, NOW)
    assert bench.drain() == []


def test_requesters_are_answered_up_to_their_limit() -> None:
    bench = follower()
    bench.finalize(bench.block())
    bench.drain()
    for number in range(MAX_REQUESTERS + 1):
        requester = replace(
            BlockRequest(chain=CHAIN, height=Height(1), requester=key_of(7).validator),
            requester=number.to_bytes(32, "big"),
        )
        bench.machine.receive(requester, NOW)
    assert len(bench.drain()) == MAX_REQUESTERS


def test_a_block_response_must_be_certified_by_this_heights_committee() -> None:
    helper = follower()
    helper.finalize(helper.block())
    helper.drain()
    final = helper.disk.finals[0]
    response = BlockResponse(
        responder=helper.machine.validator,
        tip=Height(1),
        block=final.block,
        certificate=final.certificate,
    )
    few = replace(final.certificate, signatures=final.certificate.signatures[:2])
    lagging = follower()
    for wrong, reason in (
        (replace(response, certificate=few), ReasonCode.LOW_POWER),
        (
            replace(response, block=replace(final.block, transactions=(b"b=2",))),
            ReasonCode.WRONG_DIGEST,
        ),
    ):
        lagging.machine.receive(wrong, NOW)
        assert lagging.machine.refused[reason] == 1
        assert lagging.machine.height == 1
    lagging.machine.receive(response, NOW)
    assert lagging.machine.height == 2
    assert [type(effect) for effect in lagging.drain()] == [Finalized]


def test_late_precommits_join_the_certificate_of_the_next_block() -> None:
    bench = at_height_two(is_leader=True)
    assert len(bench.disk.finals[0].certificate.signatures) == 3
    bench.machine.submit(b"b=1", NOW)
    proposals = [
        effect.message
        for effect in bench.drain()
        if isinstance(effect, Broadcast) and isinstance(effect.message, Proposal)
    ]
    assert proposals[0].block.last_certificate is not None
    assert len(proposals[0].block.last_certificate.signatures) == 4


def test_a_probe_asks_everybody_for_the_next_block_while_idle() -> None:
    bench = follower(timeouts=replace(FAST, probe_ms=1_000))
    assert bench.machine.next_timer() == 0
    bench.machine.on_timer(NOW)
    (effect,) = bench.drain()
    assert isinstance(effect, Broadcast)
    assert isinstance(effect.message, BlockRequest)
    assert bench.machine.next_timer() == NOW + 1_000
