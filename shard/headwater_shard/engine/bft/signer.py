"""One validator's key and the memory that keeps it from signing twice.

Everything signed is first recorded in a `SignedState`, which has to be on disk before the signature
leaves the process. After a restart the signer repeats what it said and says nothing else about the
same step, or an earlier one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import Block, Vote, VoteKind, vote_message
from headwater_protocol.chain.statement import (
    NO_VIEW,
    LockView,
    ProposalClaim,
    SignedClaim,
    SignedVote,
    proposal_message,
)
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import Count
from headwater_protocol.identifiers import ChainId, Digest, Height, Network, ValidatorId, View
from headwater_shard.engine.bft.messages import PrevoteCertificate

MAX_OWN_VOTES: Final = 8
"""Own votes of a height that are kept to help others out of their views: those of four views."""


class Step(StrEnum):
    """How far a validator is in a view."""

    PROPOSE = "propose"
    """Waits for the leader's proposal, or makes it."""
    PREVOTE = "prevote"
    """Has prevoted."""
    PRECOMMIT = "precommit"
    """Has precommitted."""


RANKS: Final = {Step.PROPOSE: 0, Step.PREVOTE: 1, Step.PRECOMMIT: 2}
STEP_OF_VOTE: Final = {VoteKind.PREVOTE: Step.PREVOTE, VoteKind.PRECOMMIT: Step.PRECOMMIT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What a validator is bound to at a height, as in the paper."""

    locked_view: LockView
    """The last view in which it precommitted a block."""
    locked_block: Digest | None
    """That block."""
    valid: PrevoteCertificate | None
    """The latest block that a quorum prevoted, which it proposes when it leads."""


NO_LOCK: Final = Lock(locked_view=LockView(NO_VIEW), locked_block=None, valid=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedState:
    """What a validator has signed last; on disk before the signature leaves."""

    KIND: ClassVar[str] = "signed-state/1"

    validator: ValidatorId
    chain: ChainId
    height: Height
    view: View
    step: Step
    lock: Lock
    proposal: SignedClaim | None
    """Its latest proposal at this height."""
    votes: Annotated[tuple[SignedVote, ...], Count(0, MAX_OWN_VOTES)]
    """Its latest votes at this height, in order of signing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """What comes back from disk for one validator."""

    state: SignedState
    blocks: tuple[Block, ...]
    """The blocks that the state names by digest, as far as they were kept."""


class Signer:
    """Signs each step at most once, in order."""

    __slots__ = ("_chain", "_key", "_network", "_state", "validator")

    def __init__(
        self, *, key: SecretKey, network: Network, chain: ChainId, state: SignedState | None
    ) -> None:
        self._key = key
        self._network = network
        self._chain = chain
        self._state = state
        self.validator = key.validator

    @property
    def state(self) -> SignedState | None:
        """What has been signed last."""
        return self._state

    def sign_vote(self, vote: Vote, lock: Lock) -> SignedVote | None:
        """Sign `vote` under `lock`; None where the step is over already."""
        step = STEP_OF_VOTE[vote.kind]
        if not self._may_sign(vote.height, vote.view, step):
            return None
        signed = SignedVote(
            validator=self.validator,
            vote=vote,
            signature=self._key.sign(vote_message(self._network, vote)),
        )
        self._record(
            height=vote.height,
            view=vote.view,
            step=step,
            lock=lock,
            proposal=self._proposal_at(vote.height),
            votes=(*self.votes_at(vote.height), signed),
        )
        return signed

    def sign_claim(self, claim: ProposalClaim, lock: Lock) -> SignedClaim | None:
        """Sign a proposal's `claim` under `lock`; None where the step is over already."""
        if not self._may_sign(claim.height, claim.view, Step.PROPOSE):
            return None
        signed = SignedClaim(
            validator=self.validator,
            claim=claim,
            signature=self._key.sign(proposal_message(self._network, claim)),
        )
        self._record(
            height=claim.height,
            view=claim.view,
            step=Step.PROPOSE,
            lock=lock,
            proposal=signed,
            votes=self.votes_at(claim.height),
        )
        return signed

    def votes_at(self, height: int) -> tuple[SignedVote, ...]:
        """The latest own votes at `height`, in order of signing."""
        state = self._state
        return state.votes if state is not None and state.height == height else ()

    def _proposal_at(self, height: int) -> SignedClaim | None:
        state = self._state
        return state.proposal if state is not None and state.height == height else None

    def _may_sign(self, height: int, view: int, step: Step) -> bool:
        state = self._state
        return state is None or (height, view, RANKS[step]) > (
            state.height,
            state.view,
            RANKS[state.step],
        )

    def _record(
        self,
        *,
        height: Height,
        view: View,
        step: Step,
        lock: Lock,
        proposal: SignedClaim | None,
        votes: Iterable[SignedVote],
    ) -> None:
        self._state = SignedState(
            validator=self.validator,
            chain=self._chain,
            height=height,
            view=view,
            step=step,
            lock=lock,
            proposal=proposal,
            votes=tuple(votes)[-MAX_OWN_VOTES:],
        )
