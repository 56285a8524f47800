"""Offences of validators, what each costs, and the transactions around them.

| offence | slashed | jailed | tombstoned |
|---|---|---|---|
| two votes for one step, or two proposals for one view | 5 % | | yes |
| two attestations of one model | 5 % | | yes |
| an attestation that the quorum refuted | 2 % | yes | |
| a score that recomputation refutes | 2 % | yes | |
| a payload taken in and not served | 1 % | yes | |
| more blocks missed in a window than allowed | 0.1 % | yes | |

Signing twice is never an accident of an honest validator, whose signed state is on disk before a
signature leaves, and it is what breaks consensus: it ends a validator for good. The others end its
term. All stake behind the validator since the election that put it in office is slashed alike,
whoever owns it; a tenth of what the validator itself loses goes to the reporter, the rest is
burned.

A validator that is jailed or tombstoned is not elected at the end of the epoch. Until then it stays
in its committees and its votes count: a quorum has to mean the same to everybody for the whole
epoch, and the fault model has room for it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from headwater_protocol.chain.evidence import Evidence


class Offence(StrEnum):
    """What a validator is punished for."""

    DOUBLE_VOTE = "double_vote"
    DOUBLE_PROPOSAL = "double_proposal"
    DOUBLE_ATTESTATION = "double_attestation"
    WRONG_ATTESTATION = "wrong_attestation"
    REFUTED_SCORE = "refuted_score"
    WITHHELD_PAYLOAD = "withheld_payload"
    DOWNTIME = "downtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """What an offence costs."""

    slash_thousandths: int
    """Of the stake behind the validator."""
    is_final: bool
    """Whether it is tombstoned; else it is jailed for `Parameters.jail_blocks`."""


PENALTIES: Final[dict[Offence, Penalty]] = {
    Offence.DOUBLE_VOTE: Penalty(slash_thousandths=50, is_final=True),
    Offence.DOUBLE_PROPOSAL: Penalty(slash_thousandths=50, is_final=True),
    Offence.DOUBLE_ATTESTATION: Penalty(slash_thousandths=50, is_final=True),
    Offence.WRONG_ATTESTATION: Penalty(slash_thousandths=20, is_final=False),
    Offence.REFUTED_SCORE: Penalty(slash_thousandths=20, is_final=False),
    Offence.WITHHELD_PAYLOAD: Penalty(slash_thousandths=10, is_final=False),
    Offence.DOWNTIME: Penalty(slash_thousandths=1, is_final=False),
}

REPORTER_THOUSANDTHS: Final = 100
"""Of what the offender itself loses, for who brought the evidence. Nothing of what its delegators
lose: a delegate with little stake of its own would sin and report itself for a share of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitEvidence:
    """Accuse a validator; anybody may, the evidence is what counts."""

    KIND: ClassVar[str] = "submit-evidence/1"

    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjail:
    """Stand for election again, once the sender's time is served."""

    KIND: ClassVar[str] = "unjail/1"


JusticeBody = SubmitEvidence | Unjail
