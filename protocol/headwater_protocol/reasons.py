"""Reason codes: the one vocabulary in which anything refused is told why.

A code is what a device reads in a receipt, an operator in a counter and an auditor on a ledger.
The values are part of the wire format: a code is never renamed, only added.
"""

from enum import StrEnum
from typing import Final


class ReasonCode(StrEnum):
    """Why a message, a transaction or an update was refused; `OK` where it was not."""

    OK = "ok"
    # Updates, as a gateway or a committee answers a device.
    BAD_SIGNATURE = "bad_signature"
    NOT_ENROLLED = "not_enrolled"
    NOT_IN_COHORT = "not_in_cohort"
    STALE_ROUND = "stale_round"
    WRONG_BASE = "wrong_base"
    DUPLICATE = "duplicate"
    TOO_LARGE = "too_large"
    BAD_ENCODING = "bad_encoding"
    OUT_OF_BOUNDS = "out_of_bounds"
    LOW_SCORE = "low_score"
    BUDGET_SPENT = "budget_spent"
    QUARANTINED = "quarantined"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    # Transactions, as a ledger answers a sender.
    WRONG_NETWORK = "wrong_network"
    WRONG_CHAIN = "wrong_chain"
    WRONG_NONCE = "wrong_nonce"
    WRONG_PHASE = "wrong_phase"
    WRONG_EPOCH = "wrong_epoch"
    WRONG_SHARD = "wrong_shard"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_TASK = "unknown_task"
    NOT_PERMITTED = "not_permitted"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    LOW_POWER = "low_power"
    BROKEN_LINK = "broken_link"
    WRONG_DIGEST = "wrong_digest"
    BAD_PROOF = "bad_proof"
    UNKNOWN_CANDIDATE = "unknown_candidate"
    UNKNOWN_DELEGATION = "unknown_delegation"
    TOMBSTONED = "tombstoned"
    LOW_BOND = "low_bond"
    INSUFFICIENT_STAKE = "insufficient_stake"
    SAME_CANDIDATE = "same_candidate"
    STILL_MATURING = "still_maturing"
    NOTHING_MATURED = "nothing_matured"
    TRUST_EXPIRED = "trust_expired"
    # Evidence, as the main chain answers a reporter.
    DIFFERENT_STEPS = "different_steps"
    SAME_STATEMENT = "same_statement"
    NOT_REFUTED = "not_refuted"
    STALE_EVIDENCE = "stale_evidence"
    ALREADY_PUNISHED = "already_punished"
    JAILED = "jailed"
    NOT_JAILED = "not_jailed"
    UNKNOWN_MODEL = "unknown_model"
    NOT_FOR_SALE = "not_for_sale"
    PRICE_CHANGED = "price_changed"
    NO_DEPOSIT = "no_deposit"
    NO_GRANT = "no_grant"
    # Devices, as a registrar answers them and a ledger one that may not come back.
    REVOKED = "revoked"
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105
    TOKEN_SPENT = "token_spent"  # noqa: S105
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105


MEANINGS: Final[dict[ReasonCode, str]] = {
    ReasonCode.OK: "Accepted.",
    ReasonCode.BAD_SIGNATURE: "The signature does not verify under the claimed key.",
    ReasonCode.NOT_ENROLLED: "The device is not on this shard's ledger; enrol it first.",
    ReasonCode.NOT_IN_COHORT: "The device was not drawn for this round; wait for the next one.",
    ReasonCode.STALE_ROUND: "The round is over or not open yet; train on the current announcement.",
    ReasonCode.WRONG_BASE: "The update was trained on another model than the round's base.",
    ReasonCode.DUPLICATE: "This round already has an update of the device.",
    ReasonCode.TOO_LARGE: "The message exceeds its limit in bytes.",
    ReasonCode.BAD_ENCODING: "The bytes do not decode, or not to what encodes to the same bytes.",
    ReasonCode.OUT_OF_BOUNDS: "A value lies outside the range that the task or the format allows.",
    ReasonCode.LOW_SCORE: "The committee's median score is under the task's threshold.",
    ReasonCode.BUDGET_SPENT: "The budget that this would draw on is used up.",
    ReasonCode.QUARANTINED: "The device is excluded for a while after repeated refusals.",
    ReasonCode.UNAVAILABLE: "The payload could not be had from any gateway in time.",
    ReasonCode.BUSY: "A queue is at its limit; send again after a pause.",
    ReasonCode.WRONG_NETWORK: "Signed for another network.",
    ReasonCode.WRONG_CHAIN: "Signed for another chain of this network.",
    ReasonCode.WRONG_NONCE: "The nonce is not the sender's next one.",
    ReasonCode.WRONG_PHASE: "The round is not in the phase that takes this transaction.",
    ReasonCode.WRONG_EPOCH: "The epoch is not the current one.",
    ReasonCode.WRONG_SHARD: "The shard is not registered, or not the one meant.",
    ReasonCode.UNKNOWN_ACCOUNT: "The account does not exist.",
    ReasonCode.UNKNOWN_TASK: "The task does not exist.",
    ReasonCode.NOT_PERMITTED: "The sender does not hold the role that this needs.",
    ReasonCode.INSUFFICIENT_FUNDS: "The balance does not cover the amount.",
    ReasonCode.LOW_POWER: "The signers hold no more than two thirds of the voting power.",
    ReasonCode.BROKEN_LINK: "The predecessor named is not the last one recorded.",
    ReasonCode.WRONG_DIGEST: "The digest differs from what the ledger or a recomputation gives.",
    ReasonCode.BAD_PROOF: "The Merkle proof does not lead to the root.",
    ReasonCode.UNKNOWN_CANDIDATE: "Nobody bonded as a candidate under this key.",
    ReasonCode.UNKNOWN_DELEGATION: "The sender has no stake with this candidate.",
    ReasonCode.TOMBSTONED: "The candidate is excluded for good after a fault.",
    ReasonCode.LOW_BOND: "The bond is under the network's smallest self-bond.",
    ReasonCode.INSUFFICIENT_STAKE: "The delegation is worth less than the amount.",
    ReasonCode.SAME_CANDIDATE: "Stake cannot move from a candidate to itself.",
    ReasonCode.STILL_MATURING: "Stake that was redelegated has to mature before it moves on.",
    ReasonCode.NOTHING_MATURED: "No unbonding of the sender has completed its period.",
    ReasonCode.TRUST_EXPIRED: "What is trusted is older than the trust period; pin anew.",
    ReasonCode.DIFFERENT_STEPS: "The two statements are about different things, so both may hold.",
    ReasonCode.SAME_STATEMENT: "The two statements say the same, so they do not conflict.",
    ReasonCode.NOT_REFUTED: "The evidence does not show that what was signed is wrong.",
    ReasonCode.STALE_EVIDENCE: "The offence is older than the unbonding period.",
    ReasonCode.ALREADY_PUNISHED: "The validator was punished for this offence before.",
    ReasonCode.JAILED: "The validator's time in jail is not over.",
    ReasonCode.NOT_JAILED: "The validator is not in jail.",
    ReasonCode.UNKNOWN_MODEL: "No settled checkpoint and no merge has this model.",
    ReasonCode.NOT_FOR_SALE: "The model has no price, or nobody has contributed to it.",
    ReasonCode.PRICE_CHANGED: "The price is not the one that the buyer agreed to.",
    ReasonCode.NO_DEPOSIT: "The deposit is missing, too small, or locked for another shard.",
    ReasonCode.NO_GRANT: "The sender gave no such grant.",
    ReasonCode.REVOKED: "The registrar took the device's enrolment back, for good.",
    ReasonCode.TOKEN_UNKNOWN: "No such token was given out, or its secret is another one.",
    ReasonCode.TOKEN_SPENT: "Another device has used the token; ask for one of your own.",
    ReasonCode.TOKEN_EXPIRED: "The token's time is over; ask for a new one.",
    ReasonCode.TOKEN_REVOKED: "The operator took the token back; ask for a new one.",
}
"""One sentence a code, shown to people; `docs/reason-codes.md` is this table."""
