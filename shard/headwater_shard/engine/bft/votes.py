"""The votes of one height: who voted what in which view, and what has a quorum.

Signatures are the caller's business; this counts. Memory is bounded: each delegate has one vote in
each step of each view that is kept, and views are kept in a window around the current one. Of votes
beyond the window only the highest view of each delegate is remembered, which is what it takes to
join the others after a long partition.
"""

from typing import Final

from headwater_protocol.chain.block import Certificate, VoteKind, VoteSignature
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.identifiers import ChainId, Digest, Height, ValidatorId, View
from headwater_shard.engine.bft.messages import PrevoteCertificate

MAX_PAST_VIEWS: Final = 8
"""Views before the current one whose votes and proposals are kept."""

MAX_FUTURE_VIEWS: Final = 8
"""Views after the current one whose votes and proposals are kept."""


class Electorate:
    """A committee with its powers looked up in constant time."""

    __slots__ = ("_powers", "committee", "total_power")

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.total_power = committee.total_power
        self._powers: dict[ValidatorId, int] = {
            delegate.validator: delegate.voting_power for delegate in committee.delegates
        }

    def __len__(self) -> int:
        return len(self._powers)

    def power_of(self, validator: ValidatorId) -> int:
        """The power of `validator`, 0 where it is no delegate."""
        return self._powers.get(validator, 0)

    def is_quorum(self, power: int) -> bool:
        """Whether `power` is more than two thirds of the total."""
        return power * 3 > self.total_power * 2

    def has_honest(self, power: int) -> bool:
        """Whether `power` is more than one third, so that not all of it is Byzantine."""
        return power * 3 > self.total_power


class VoteTally:
    """The votes of one step of one view."""

    __slots__ = ("_electorate", "_powers", "block", "has_quorum", "has_quorum_of_none", "votes")

    def __init__(self, electorate: Electorate) -> None:
        self._electorate = electorate
        self._powers: dict[Digest | None, int] = {}
        self.votes: dict[ValidatorId, SignedVote] = {}
        self.block: Digest | None = None
        """The block that a quorum voted for."""
        self.has_quorum_of_none = False
        """Whether a quorum voted for no block."""
        self.has_quorum = False
        """Whether a quorum voted at all."""

    def add(self, signed: SignedVote) -> SignedVote | None:
        """Count a delegate's vote once; the vote that it conflicts with, if it does."""
        known = self.votes.get(signed.validator)
        if known is not None:
            return None if known.vote == signed.vote else known
        self.votes[signed.validator] = signed
        block = signed.vote.block
        power = self._powers.get(block, 0) + self._electorate.power_of(signed.validator)
        self._powers[block] = power
        if self._electorate.is_quorum(power):
            if block is None:
                self.has_quorum_of_none = True
            else:
                self.block = block
        self.has_quorum = self._electorate.is_quorum(sum(self._powers.values()))
        return None

    def signatures(self, block: Digest) -> tuple[VoteSignature, ...]:
        """The signatures for `block`, in order of the validators' keys."""
        return tuple(
            VoteSignature(validator=validator, signature=signed.signature)
            for validator, signed in sorted(self.votes.items())
            if signed.vote.block == block
        )


class VoteBook:
    """All votes of one height that are worth keeping."""

    __slots__ = ("_electorate", "_highest", "_tallies")

    def __init__(self, electorate: Electorate) -> None:
        self._electorate = electorate
        self._tallies: dict[tuple[int, VoteKind], VoteTally] = {}
        self._highest: dict[ValidatorId, int] = {}

    def tally(self, view: int, kind: VoteKind) -> VoteTally:
        """The votes of `kind` in `view`."""
        tally = self._tallies.get((view, kind))
        if tally is None:
            tally = self._tallies[view, kind] = VoteTally(self._electorate)
        return tally

    def find(self, validator: ValidatorId, view: int, kind: VoteKind) -> SignedVote | None:
        """A delegate's vote, where it is known."""
        tally = self._tallies.get((view, kind))
        return None if tally is None else tally.votes.get(validator)

    def note_view(self, validator: ValidatorId, view: int) -> None:
        """Remember that a delegate has reached `view`."""
        if view > self._highest.get(validator, -1):
            self._highest[validator] = view

    def reached_view(self, current: int) -> int:
        """The highest view above `current` that some honest delegate has reached, or `current`.

        The paper asks for votes of more than one third in one view; votes in later views say as
        much about the earlier ones.
        """
        power = 0
        ahead = sorted(
            (view, self._electorate.power_of(validator))
            for validator, view in self._highest.items()
            if view > current
        )
        for view, share in reversed(ahead):
            power += share
            if self._electorate.has_honest(power):
                return view
        return current

    def decided(self) -> tuple[int, Digest] | None:
        """The first view in which a quorum precommitted a block, and the block."""
        for view, kind in sorted(self._tallies):
            block = self._tallies[view, kind].block
            if kind is VoteKind.PRECOMMIT and block is not None:
                return view, block
        return None

    def forget_before(self, view: int) -> None:
        """Drop the votes of views before `view`."""
        for key in [key for key in self._tallies if key[0] < view]:
            del self._tallies[key]


def make_prevote_certificate(tally: VoteTally, *, view: View, block: Digest) -> PrevoteCertificate:
    """The prevotes of a quorum for `block`."""
    return PrevoteCertificate(view=view, block=block, signatures=tally.signatures(block))


def make_certificate(
    tally: VoteTally, *, chain: ChainId, height: Height, view: View, block: Digest
) -> Certificate:
    """The precommits of a quorum for `block`."""
    return Certificate(
        chain=chain, height=height, view=view, block=block, signatures=tally.signatures(block)
    )
