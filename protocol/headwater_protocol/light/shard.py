"""Following one shard: which committees may still certify its blocks.

A shard takes an epoch over a while after the main chain began it, when its open round is closed. So
a device keeps the committees of the epochs since the last one that it saw in office, and drops the
older ones as soon as a block of a newer one is there: the shard never goes back.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import BlockHeader
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import Count
from headwater_protocol.identifiers import ChainId, EpochNumber, ValidatorId
from headwater_protocol.light.client import Pin, TrustedState, advance, make_trusted
from headwater_protocol.light.errors import WrongEpoch
from headwater_protocol.light.update import EpochUpdate

MAX_TERMS: Final = 8
"""Epochs that a shard may lag behind the main chain in the eyes of a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Who serves the shard in one epoch."""

    epoch: EpochNumber
    committee: Committee


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTrust:
    """All that a device keeps of the network."""

    KIND: ClassVar[str] = "shard-trust/1"

    shard: ChainId
    trusted: TrustedState
    """Of the main chain."""
    terms: Annotated[tuple[Term, ...], Count(1, MAX_TERMS)]
    """From the last one seen in office to the last one proven, in order."""

    def is_delegate(self, validator: ValidatorId) -> bool:
        """Whether a key serves the shard in one of the terms."""
        return any(term.committee.power_of(validator) > 0 for term in self.terms)

    def require_committee(self, epoch: EpochNumber) -> Committee:
        """Who serves the shard in an epoch.

        Raises:
            WrongEpoch: If it is not one of the terms.
        """
        for term in self.terms:
            if term.epoch == epoch:
                return term.committee
        raise WrongEpoch(f"epoch {epoch}, known are {self.terms[0].epoch} to {self.last.epoch}")

    def require_certifier(self, header: BlockHeader) -> Term:
        """The term whose committee a header of the shard names.

        Raises:
            WrongEpoch: If it names none of them: it is of retired delegates, or of unknown ones.
        """
        for term in self.terms:
            if committee_digest(term.committee) == header.committee:
                return term
        raise WrongEpoch(
            f"block {header.height} names no committee of the epochs "
            f"{self.terms[0].epoch} to {self.last.epoch}"
        )

    @property
    def last(self) -> Term:
        """The last one proven."""
        return self.terms[-1]


def make_shard_trust(genesis: Genesis, shard: ChainId, pin: Pin | None = None) -> ShardTrust:
    """What a pinned genesis says about a shard.

    Raises:
        WrongShard: If it has no such shard.
        WrongEpoch: If it is not the pinned one.
    """
    trusted = make_trusted(genesis, pin)
    term = Term(epoch=trusted.epoch.epoch, committee=trusted.committee_of(shard))
    return ShardTrust(shard=shard, trusted=trusted, terms=(term,))


def advance_shard(
    trust: ShardTrust,
    update: EpochUpdate,
    now_ms: int,
    verifier: Verifier,
    *,
    pin: Pin | None = None,
) -> ShardTrust:
    """What is known after an update; errors as of `advance`."""
    trusted = advance(trust.trusted, update, now_ms, verifier, pin=pin)
    terms = trust.terms
    if trusted.epoch.epoch > trust.last.epoch:
        term = Term(epoch=trusted.epoch.epoch, committee=trusted.committee_of(trust.shard))
        terms = (*terms, term)[-MAX_TERMS:]
    return replace(trust, trusted=trusted, terms=terms)


def note_in_office(trust: ShardTrust, term: Term) -> ShardTrust:
    """What is known once a verified block shows a term in office: the ones before are retired."""
    kept = tuple(entry for entry in trust.terms if entry.epoch >= term.epoch)
    return trust if kept == trust.terms else replace(trust, terms=kept)
