"""Everything that a validator knows about the one height that it works on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headwater_protocol.chain.block import Block, VoteKind, header_digest
from headwater_protocol.chain.statement import NO_VIEW, SignedClaim
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import Digest, ValidatorId
from headwater_shard.engine.bft.leader import Leaders, Rotation
from headwater_shard.engine.bft.messages import Proposal
from headwater_shard.engine.bft.signer import NO_LOCK, Lock, SavedState, Step
from headwater_shard.engine.bft.validation import Place
from headwater_shard.engine.bft.votes import MAX_PAST_VIEWS, Electorate, VoteBook
from headwater_shard.engine.border import Execution

MAX_VIEW_JUMP: Final = 1_000_000
"""Views that a message may be ahead; a year of views at the cap of the timeouts."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A block that may come to stand at this height, judged at most once."""

    block: Block
    digest: Digest
    execution: Execution | None = None
    """What it leads to; None until it was found to hold."""
    error: InvalidMessage | None = None
    """Why it does not hold."""


class HeightState:
    """The variables of the algorithm for one height; dropped when the height is decided."""

    __slots__ = (
        "accused",
        "book",
        "candidates",
        "electorate",
        "gave_up_view",
        "helped",
        "is_active",
        "justified_view",
        "leaders",
        "lock",
        "place",
        "proposals",
        "resend_at",
        "rotation",
        "step",
        "stored",
        "timers",
        "valid_block",
        "view",
    )

    def __init__(self, *, place: Place, rotation: Rotation) -> None:
        self.place = place
        self.rotation = rotation
        self.electorate = Electorate(rotation.committee)
        self.leaders = Leaders(rotation)
        self.book = VoteBook(self.electorate)
        self.view = 0
        self.step = Step.PROPOSE
        self.lock = NO_LOCK
        self.valid_block: Block | None = None
        """The block that `lock.valid` is about."""
        self.is_active = False
        """Whether there is work known at this height, so that timers run."""
        self.proposals: dict[int, tuple[Proposal, Digest]] = {}
        """By view the first proposal of its leader, with its block's digest."""
        self.candidates: dict[Digest, Candidate] = {}
        self.stored: set[Digest] = set()
        """Blocks of this height that went to disk already."""
        self.timers: dict[Step, int] = {}
        """When the wait of a step of the current view ends, in ms."""
        self.resend_at: int | None = None
        """When own messages are repeated, in ms; None is at once, after a restart."""
        self.justified_view = -1
        """The last view in which a quorum of prevotes for a known block was taken note of."""
        self.gave_up_view = -1
        """The last view in which this leader found nothing that it can propose."""
        self.accused: set[tuple[ValidatorId, int, VoteKind | None]] = set()
        """Whose double signatures of this height were reported; None stands for a proposal."""
        self.helped: dict[ValidatorId, int] = {}
        """When a delegate in an earlier view was last sent own votes of that view, in ms."""

    def add_proposal(self, proposal: Proposal, digest: Digest) -> None:
        """Keep the first proposal of a view."""
        self.proposals[proposal.view] = (proposal, digest)
        self.add_candidate(proposal.block, digest)

    def add_candidate(self, block: Block, digest: Digest) -> Candidate:
        """Keep a block once, however often it is proposed."""
        candidate = self.candidates.get(digest)
        if candidate is None:
            candidate = self.candidates[digest] = Candidate(block=block, digest=digest)
        return candidate

    def enter_view(self, view: int) -> None:
        """Go to `view` and forget what lies too far behind it."""
        self.view = view
        self.step = Step.PROPOSE
        self.timers.clear()
        oldest = view - MAX_PAST_VIEWS
        self.book.forget_before(oldest)
        self.proposals = {
            number: proposal for number, proposal in self.proposals.items() if number >= oldest
        }
        kept = {digest for _, digest in self.proposals.values()}
        if self.lock.valid is not None:
            kept.add(self.lock.valid.block)
        self.candidates = {
            digest: candidate for digest, candidate in self.candidates.items() if digest in kept
        }

    def restore(self, saved: SavedState) -> None:
        """Go on where a signed state of this height says that its validator was."""
        signed = saved.state
        if signed.height != self.place.height:
            return
        blocks = {header_digest(block.header): block for block in saved.blocks}
        self.view = signed.view
        self.step = signed.step
        self.is_active = True
        self.lock = signed.lock
        if signed.lock.valid is not None:
            self.valid_block = blocks.get(signed.lock.valid.block)
        for digest in sorted(blocks):
            self.add_candidate(blocks[digest], digest)
            self.stored.add(digest)
        self.book.note_view(signed.validator, signed.view)
        for own in signed.votes:
            self.book.tally(own.vote.view, own.vote.kind).add(own)
        if signed.proposal is not None:
            self._restore_proposal(signed.proposal, signed.lock, blocks)

    def _restore_proposal(
        self, signed: SignedClaim, lock: Lock, blocks: Mapping[Digest, Block]
    ) -> None:
        claim = signed.claim
        is_new = claim.valid_view == NO_VIEW
        # The prevotes that justified it may have given way to later ones; then it stays unsaid.
        is_justified = (
            lock.valid is not None
            and lock.valid.block == claim.block
            and int(lock.valid.view) == claim.valid_view
        )
        if claim.block in blocks and (is_new or is_justified):
            proposal = Proposal(
                leader=signed.validator,
                view=claim.view,
                block=blocks[claim.block],
                valid=None if is_new else lock.valid,
                signature=signed.signature,
            )
            self.add_proposal(proposal, claim.block)
