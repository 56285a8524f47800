"""Taking evidence: anybody may bring it, each offence is punished once."""

from headwater_protocol.chain.evidence import Evidence
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.identifiers import AccountId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.justice.conviction import Conviction, Court
from headwater_shard.mainchain.justice.penalty import punish
from headwater_shard.mainchain.justice.records import EVIDENCE, charge_key
from headwater_shard.mainchain.justice.terms import Term
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_evidence(
    draft: Draft, parameters: Parameters, court: Court, body: SubmitEvidence, sender: AccountId
) -> None:
    """Judge evidence and punish what it proves.

    Raises:
        InvalidMessage: As `require_punishable`.
    """
    conviction = require_punishable(parameters, court, body.evidence)
    punish(
        draft,
        parameters,
        conviction.charge,
        infraction_height=conviction.term.begins,
        height=court.height,
        reporter=sender,
    )


def require_punishable(parameters: Parameters, court: Court, evidence: Evidence) -> Conviction:
    """What `evidence` proves, if it is to be punished now.

    Raises:
        InvalidMessage: If it does not convict, its validator is no candidate or tombstoned, the
            offence was punished before, or it or who vouches for it is older than the unbonding
            period.
    """
    conviction = court.judge(evidence)
    charge, draft = conviction.charge, court.draft
    name = charge.validator.hex()[:16]
    candidate = draft.get(CANDIDATES, charge.validator)
    if candidate is None:
        raise InvalidTransaction(ReasonCode.UNKNOWN_CANDIDATE, f"{name} is no candidate")
    if draft.get(EVIDENCE, charge_key(charge)) is not None:
        raise InvalidTransaction(
            ReasonCode.ALREADY_PUNISHED, f"{name} was punished for this {charge.offence}"
        )
    if candidate.is_tombstoned:
        raise InvalidTransaction(ReasonCode.TOMBSTONED, f"{name} is out for good")
    if _is_stale(conviction.term, parameters, court.height):
        raise InvalidTransaction(
            ReasonCode.STALE_EVIDENCE, f"older than {parameters.unbonding_blocks} blocks"
        )
    vouched = conviction.vouched
    if vouched is not None and _is_stale(vouched, parameters, court.height):
        raise InvalidTransaction(
            ReasonCode.STALE_EVIDENCE,
            f"signed by the committee of epoch {vouched.first}, whose stake may have left",
        )
    return conviction


def _is_stale(term: Term, parameters: Parameters, height: int) -> bool:
    """Whether all stake that answers for it may have left."""
    return term.ends is not None and height > term.ends + parameters.unbonding_blocks
