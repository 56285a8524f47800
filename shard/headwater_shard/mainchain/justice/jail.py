"""Jail: who may stand for election, and how a validator comes back."""

from dataclasses import replace

from headwater_protocol.identifiers import AccountId, Height, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.records import CANDIDATES, Candidate
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def is_barred(candidate: Candidate) -> bool:
    """Whether a candidate cannot be elected: it is in jail until it asks out, or tombstoned."""
    return candidate.is_tombstoned or candidate.jailed_until > 0


def process_unjail(draft: Draft, sender: AccountId, context: BlockContext) -> None:
    """Let the sender out of jail, to be elected at the end of the epoch.

    Raises:
        InvalidTransaction: If it is no candidate, not in jail, not for long enough, or tombstoned.
    """
    candidate = draft.get(CANDIDATES, ValidatorId(sender))
    if candidate is None:
        raise InvalidTransaction(
            ReasonCode.UNKNOWN_CANDIDATE, f"{sender.hex()[:16]} is no candidate"
        )
    if candidate.is_tombstoned:
        raise InvalidTransaction(ReasonCode.TOMBSTONED, f"{sender.hex()[:16]} is out for good")
    if candidate.jailed_until == 0:
        raise InvalidTransaction(ReasonCode.NOT_JAILED, f"{sender.hex()[:16]} is not in jail")
    if context.height < candidate.jailed_until:
        raise InvalidTransaction(
            ReasonCode.JAILED, f"in jail until block {candidate.jailed_until}, not {context.height}"
        )
    draft.put(CANDIDATES, sender, replace(candidate, jailed_until=Height(0)))
