"""What a validator says: each vote and proposal signed, put on disk, then sent, in that order."""

from collections import deque

from headwater_protocol.chain.block import Block, Vote, VoteKind, header_digest
from headwater_protocol.chain.statement import NO_VIEW, LockView, ProposalClaim
from headwater_protocol.identifiers import Digest, View
from headwater_shard.engine.bft.effects import Broadcast, Effect, Persist
from headwater_shard.engine.bft.height import HeightState
from headwater_shard.engine.bft.messages import PrevoteCertificate, Proposal
from headwater_shard.engine.bft.signer import Signer


class Voice:
    """Turns decisions into signed messages, and counts its own votes with the others."""

    __slots__ = ("_effects", "_signer")

    def __init__(self, *, signer: Signer, effects: deque[Effect]) -> None:
        self._signer = signer
        self._effects = effects

    def vote(self, state: HeightState, kind: VoteKind, block: Digest | None) -> None:
        """Vote in the current view, unless another vote was signed there, or a later one."""
        vote = Vote(
            kind=kind,
            chain=state.place.chain,
            height=state.place.height,
            view=View(state.view),
            block=block,
        )
        signed = self._signer.sign_vote(vote, state.lock)
        if signed is None:
            return
        self._persist(state)
        self._effects.append(Broadcast(message=signed))
        state.book.note_view(signed.validator, state.view)
        state.book.tally(state.view, kind).add(signed)

    def propose(
        self, state: HeightState, block: Block, *, valid: PrevoteCertificate | None
    ) -> bool:
        """Propose `block` in the current view; False where this view was spoken in before."""
        digest = header_digest(block.header)
        claim = ProposalClaim(
            chain=state.place.chain,
            height=state.place.height,
            view=View(state.view),
            block=digest,
            valid_view=LockView(NO_VIEW if valid is None else valid.view),
        )
        signed = self._signer.sign_claim(claim, state.lock)
        if signed is None:
            return False
        proposal = Proposal(
            leader=signed.validator,
            view=claim.view,
            block=block,
            valid=valid,
            signature=signed.signature,
        )
        state.add_proposal(proposal, digest)
        self._persist(state)
        self._effects.append(Broadcast(message=proposal))
        return True

    def repeat(self, state: HeightState) -> None:
        """Say again what was said in the current view, in case it was lost."""
        entry = state.proposals.get(state.view)
        if entry is not None and entry[0].leader == self._signer.validator:
            self._effects.append(Broadcast(message=entry[0]))
        for own in self._signer.votes_at(state.place.height):
            if own.vote.view == state.view:
                self._effects.append(Broadcast(message=own))

    def _persist(self, state: HeightState) -> None:
        signed = self._signer.state
        if signed is None:
            return
        named = (
            None if signed.proposal is None else signed.proposal.claim.block,
            None if signed.lock.valid is None else signed.lock.valid.block,
        )
        blocks: list[Block] = []
        for digest in named:
            candidate = None if digest is None else state.candidates.get(digest)
            if candidate is not None and candidate.digest not in state.stored:
                state.stored.add(candidate.digest)
                blocks.append(candidate.block)
        self._effects.append(Persist(state=signed, blocks=tuple(blocks)))
