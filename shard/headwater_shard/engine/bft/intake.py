"""Takes messages of peers in: checks them, keeps what counts, answers those who lag.

Nothing here decides anything. A message is either kept in the `HeightState`, put aside for the next
height, answered, or refused with a typed error that the caller counts.
"""

from collections import deque
from typing import Final

from headwater_protocol.chain.block import Block, Certificate, VoteKind, header_digest, vote_message
from headwater_protocol.chain.evidence import Equivocation
from headwater_protocol.chain.statement import SignedClaim, SignedVote, Statement, proposal_message
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import BadEncoding, BadSignature, OutOfBounds
from headwater_protocol.identifiers import ChainId, Digest, Height, ValidatorId
from headwater_shard.engine.bft.catch_up import CatchUp
from headwater_shard.engine.bft.effects import Effect, Evidence, Send
from headwater_shard.engine.bft.errors import NotPermitted, QueueFull, WrongChain
from headwater_shard.engine.bft.height import MAX_VIEW_JUMP, HeightState
from headwater_shard.engine.bft.history import RecentBlocks
from headwater_shard.engine.bft.messages import (
    BlockRequest,
    BlockResponse,
    Message,
    Proposal,
    claim_of,
)
from headwater_shard.engine.bft.parent import ParentVerifier, ParentVotes
from headwater_shard.engine.bft.signer import Signer
from headwater_shard.engine.bft.validation import verify_body, verify_final, verify_prevotes
from headwater_shard.engine.bft.votes import MAX_FUTURE_VIEWS, MAX_PAST_VIEWS

MAX_EVIDENCE: Final = 256
"""Equivocations that one machine remembers; later ones are counted only."""

MAX_FUTURE_VOTES: Final = 4
"""Votes for the next height that are kept of each delegate."""

MAX_FUTURE_PROPOSALS: Final = 2
"""Proposals for the next height that are kept in all."""


class Intake:
    """What one validator does with messages before the algorithm sees them."""

    __slots__ = (
        "_catch_up",
        "_effects",
        "_future_proposals",
        "_future_votes",
        "_history",
        "_resend_ms",
        "_signer",
        "_verifier",
        "equivocations",
        "parent",
    )

    def __init__(
        self,
        *,
        signer: Signer,
        verifier: Verifier,
        history: RecentBlocks,
        catch_up: CatchUp,
        effects: deque[Effect],
        resend_ms: int,
    ) -> None:
        self._signer = signer
        self._verifier = verifier
        self._history = history
        self._catch_up = catch_up
        self._effects = effects
        self._resend_ms = resend_ms
        self._future_votes: dict[ValidatorId, list[SignedVote]] = {}
        self._future_proposals: list[Proposal] = []
        self.parent: ParentVotes | None = None
        """The certificate of the last block; None before the first."""
        self.equivocations: list[Equivocation] = []
        """Double signatures found so far, at most `MAX_EVIDENCE`."""

    def take_future(self) -> tuple[Message, ...]:
        """What was put aside for the height that begins now."""
        messages: list[Message] = list(self._future_proposals)
        for validator in sorted(self._future_votes):
            messages.extend(self._future_votes[validator])
        self._future_proposals.clear()
        self._future_votes.clear()
        return tuple(messages)

    def take_vote(self, signed: SignedVote, state: HeightState, now_ms: int) -> None:
        """Count a vote of this height, or see what it says about its sender's height and view.

        Raises:
            InvalidMessage: If it is refused.
        """
        vote = signed.vote
        _require_chain(vote.chain, state)
        if signed.validator == self._signer.validator:
            return  # an echo; what it signed, it knows
        if vote.height < state.place.height:
            self._take_late_vote(signed, state, now_ms)
            return
        if vote.height == state.place.height:
            if state.electorate.power_of(signed.validator) == 0:
                raise NotPermitted(signed.validator, "vote without voting power")
            _require_near(vote.view, state)
            known = state.book.find(signed.validator, vote.view, vote.kind)
            if known == signed:
                self._help_out_of_view(signed, state, now_ms)
                return
            if (signed.validator, vote.view, vote.kind) in state.accused:
                return
        message = vote_message(state.place.network, vote)
        if not self._verifier.verify(signed.validator, message, signed.signature):
            raise BadSignature(f"not signed by {signed.validator.hex()[:16]}")
        if vote.height > state.place.height:
            self._note_ahead(signed.validator, vote.height, state, now_ms)
            if vote.height == state.place.height + 1:
                self._keep_future_vote(signed, state)
            return
        state.is_active = True
        state.book.note_view(signed.validator, vote.view)
        self._help_out_of_view(signed, state, now_ms)
        if not _is_kept(vote.view, state):
            return
        other = state.book.tally(vote.view, vote.kind).add(signed)
        if other is not None:
            self._accuse(other, signed, slot=(signed.validator, vote.view, vote.kind), state=state)

    def take_proposal(self, proposal: Proposal, state: HeightState, now_ms: int) -> None:
        """Keep the first proposal of a view's leader.

        Raises:
            InvalidMessage: If it is refused.
        """
        header = proposal.block.header
        height = state.place.height
        _require_chain(header.chain, state)
        if proposal.leader == self._signer.validator or header.height < height:
            return
        digest = header_digest(header)
        if header.height == height:
            _require_near(proposal.view, state)
            if state.electorate.power_of(proposal.leader) == 0:
                raise NotPermitted(proposal.leader, "propose without voting power")
            if proposal.view < state.view - MAX_PAST_VIEWS:
                return
            known = state.proposals.get(proposal.view)
            if known is not None and known[0].signature == proposal.signature:
                return
        self._verify_claim(proposal, digest, state)
        verify_body(proposal.block)
        if header.height > height:
            self._note_ahead(proposal.leader, header.height, state, now_ms)
            if header.height == height + 1:
                self._keep_future_proposal(proposal, state)
            return
        if proposal.view > state.view + MAX_FUTURE_VIEWS:
            state.book.note_view(proposal.leader, proposal.view)
            return
        if proposal.leader != state.leaders.leader(proposal.view):
            raise NotPermitted(proposal.leader, f"lead view {proposal.view}")
        known = state.proposals.get(proposal.view)
        if known is not None:
            first, second = _signed_claim(*known), _signed_claim(proposal, digest)
            if first.claim != second.claim:
                slot = (proposal.leader, int(proposal.view), None)
                self._accuse(first, second, slot=slot, state=state)
            return
        self._verify_justification(proposal, digest, state)
        state.is_active = True
        state.book.note_view(proposal.leader, proposal.view)
        state.add_proposal(proposal, digest)

    def take_request(self, request: BlockRequest, state: HeightState, now_ms: int) -> None:
        """Answer a request for a finalized block.

        Raises:
            InvalidMessage: If it is refused.
        """
        _require_chain(request.chain, state)
        if request.requester != self._signer.validator and request.height < state.place.height:
            self._answer(request.requester, request.height, state, now_ms)

    def take_response(
        self, response: BlockResponse, state: HeightState, now_ms: int
    ) -> tuple[Block, Certificate] | None:
        """The block of this height, when that is what a peer sent.

        Raises:
            InvalidMessage: If it is not certified by this height's committee.
        """
        header = response.block.header
        _require_chain(header.chain, state)
        if header.height != state.place.height:
            return None  # too late, or not asked for
        verifier = ParentVerifier(self.parent, self._verifier)
        verify_final(response.block, response.certificate, state.place, verifier)
        if response.tip > header.height:
            self._note_ahead(response.responder, response.tip + 1, state, now_ms)
        return response.block, response.certificate

    def _take_late_vote(self, signed: SignedVote, state: HeightState, now_ms: int) -> None:
        parent = self.parent
        height = signed.vote.height
        if parent is None:
            return
        if height + 1 == state.place.height:
            parent.take(signed, self._verifier)
            # Votes of the last height keep coming for a moment; only who repeats them is stuck.
            if now_ms < parent.decided_ms + self._resend_ms:
                return
        self._answer(signed.validator, height, state, now_ms)

    def _answer(
        self, requester: ValidatorId, height: Height, state: HeightState, now_ms: int
    ) -> None:
        if not self._catch_up.may_answer(requester, height, now_ms):
            return
        final = self._history.load_block(height)
        if final is not None:
            response = BlockResponse(
                responder=self._signer.validator,
                tip=Height(state.place.height - 1),
                block=final.block,
                certificate=final.certificate,
            )
            self._effects.append(Send(to=requester, message=response))

    def _help_out_of_view(self, signed: SignedVote, state: HeightState, now_ms: int) -> None:
        """Repeat own votes of the view that a peer is still in, which it may have missed."""
        helped_ms = state.helped.get(signed.validator)
        if signed.vote.view >= state.view:
            return
        if helped_ms is not None and now_ms < helped_ms + self._resend_ms:
            return
        state.helped[signed.validator] = now_ms
        for own in self._signer.votes_at(state.place.height):
            if own.vote.view == signed.vote.view:
                self._effects.append(Send(to=signed.validator, message=own))

    def _note_ahead(
        self, validator: ValidatorId, working_on: int, state: HeightState, now_ms: int
    ) -> None:
        self._catch_up.note(
            validator,
            working_on=working_on,
            height=state.place.height,
            electorate=state.electorate,
            now_ms=now_ms,
        )

    def _keep_future_vote(self, signed: SignedVote, state: HeightState) -> None:
        if state.electorate.power_of(signed.validator) == 0:
            return
        votes = self._future_votes.setdefault(signed.validator, [])
        if signed in votes:
            return
        if len(votes) >= MAX_FUTURE_VOTES:
            raise QueueFull("a delegate's votes for the next height", limit=MAX_FUTURE_VOTES)
        votes.append(signed)

    def _keep_future_proposal(self, proposal: Proposal, state: HeightState) -> None:
        if state.electorate.power_of(proposal.leader) == 0:
            return
        if any(kept.signature == proposal.signature for kept in self._future_proposals):
            return
        if len(self._future_proposals) >= MAX_FUTURE_PROPOSALS:
            raise QueueFull("proposals for the next height", limit=MAX_FUTURE_PROPOSALS)
        self._future_proposals.append(proposal)

    def _verify_claim(self, proposal: Proposal, digest: Digest, state: HeightState) -> None:
        message = proposal_message(state.place.network, claim_of(proposal, digest))
        if not self._verifier.verify(proposal.leader, message, proposal.signature):
            raise BadSignature(f"not proposed by {proposal.leader.hex()[:16]}")

    def _verify_justification(self, proposal: Proposal, digest: Digest, state: HeightState) -> None:
        valid = proposal.valid
        if valid is None:
            if proposal.block.header.proposer != proposal.leader:
                raise NotPermitted(proposal.leader, "propose another's block as its own")
            return
        if valid.block != digest or valid.view >= proposal.view:
            raise BadEncoding("the prevotes of a proposal justify another block, or a later view")
        verify_prevotes(
            valid, place=state.place, electorate=state.electorate, verifier=self._verifier
        )

    def _accuse(
        self,
        first: Statement,
        second: Statement,
        *,
        slot: tuple[ValidatorId, int, VoteKind | None],
        state: HeightState,
    ) -> None:
        if slot in state.accused or len(self.equivocations) >= MAX_EVIDENCE:
            return
        state.accused.add(slot)
        equivocation = Equivocation(first=first, second=second)
        self.equivocations.append(equivocation)
        self._effects.append(Evidence(equivocation=equivocation))


def _require_chain(chain: ChainId, state: HeightState) -> None:
    if chain != state.place.chain:
        raise WrongChain(found=chain, expected=state.place.chain)


def _require_near(view: int, state: HeightState) -> None:
    if view > state.view + MAX_VIEW_JUMP:
        raise OutOfBounds(f"view {view} is more than {MAX_VIEW_JUMP} past view {state.view}")


def _is_kept(view: int, state: HeightState) -> bool:
    return state.view - MAX_PAST_VIEWS <= view <= state.view + MAX_FUTURE_VIEWS


def _signed_claim(proposal: Proposal, digest: Digest) -> SignedClaim:
    return SignedClaim(
        validator=proposal.leader, claim=claim_of(proposal, digest), signature=proposal.signature
    )
