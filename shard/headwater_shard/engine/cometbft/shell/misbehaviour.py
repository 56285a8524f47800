"""Double signers, as CometBFT's blocks name them, as evidence that our main chain judges.

ABCI says who misbehaved and not how, and a shard's offence is punished on the main chain, which
sees no block of the shard's. The two votes stand in CometBFT's block; with them any gateway makes
evidence that convicts by itself, and brings it as a transaction like any other.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from headwater_protocol.chain.block import VoteKind
from headwater_protocol.chain.comet_vote import CometBlockId, CometVote
from headwater_protocol.chain.evidence import CometEquivocation, verify_comet_equivocation
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import require_valid
from headwater_protocol.errors import BadEncoding, InvalidMessage
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    ValidatorId,
    View,
)
from headwater_shard.engine.cometbft.mapping import address_of

MAX_EVIDENCE_PER_BLOCK: Final = 64

_DUPLICATE_VOTE: Final = "tendermint/DuplicateVoteEvidence"
_KINDS: Final = {1: VoteKind.PREVOTE, 2: VoteKind.PRECOMMIT}
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


def parse_evidence(
    block: Mapping[str, Any],
    *,
    network: Network,
    chain: ChainId,
    validators: Iterable[ValidatorId],
    verifier: Verifier,
) -> tuple[CometEquivocation, ...]:
    """The double votes in a block, as CometBFT's RPC gives it; what does not convict is left out.

    Args:
        block: The result of `block`.
        network: The digest of the genesis.
        chain: Which one.
        validators: Who may be meant.
        verifier: Checks signatures.
    """
    by_address = {address_of(validator).hex().upper(): validator for validator in validators}
    found: list[CometEquivocation] = []
    try:
        items = list(block["block"]["evidence"]["evidence"] or ())
    except (KeyError, TypeError):
        return ()
    for item in items[:MAX_EVIDENCE_PER_BLOCK]:
        try:
            if item["type"] != _DUPLICATE_VOTE:
                continue
            votes = item["value"]["vote_a"], item["value"]["vote_b"]
            validator = by_address[str(votes[0]["validator_address"])]
            first, second = (_parse_vote(vote, chain) for vote in votes)
            evidence = CometEquivocation(
                validator=validator,
                first=first,
                first_signature=_parse_signature(votes[0]),
                second=second,
                second_signature=_parse_signature(votes[1]),
            )
            require_valid(evidence)
            verify_comet_equivocation(evidence, network=network, verifier=verifier)
        except (KeyError, TypeError, ValueError, InvalidMessage):
            continue
        found.append(evidence)
    return tuple(found)


def _parse_vote(vote: Mapping[str, Any], chain: ChainId) -> CometVote:
    block = vote["block_id"]
    seconds, nanoseconds = _parse_time(str(vote["timestamp"]))
    return CometVote(
        kind=_KINDS[int(vote["type"])],
        chain=chain,
        height=Height(int(vote["height"])),
        view=View(int(vote["round"])),
        block=(
            CometBlockId(
                digest=Digest(bytes.fromhex(block["hash"])),
                num_parts=int(block["parts"]["total"]),
                parts=Digest(bytes.fromhex(block["parts"]["hash"])),
            )
            if block["hash"]
            else None
        ),
        seconds=seconds,
        nanoseconds=nanoseconds,
    )


def _parse_signature(vote: Mapping[str, Any]) -> Signature:
    try:
        return Signature(base64.b64decode(vote["signature"], validate=True))
    except binascii.Error as error:
        raise BadEncoding("a signature that is no base64") from error


def _parse_time(text: str) -> tuple[int, int]:
    matched = _TIME.fullmatch(text)
    if matched is None:
        raise BadEncoding(f"no time: {text[:40]!r}")
    moment = datetime.fromisoformat(matched[1]).replace(tzinfo=UTC)
    return int(moment.timestamp()), int((matched[2] or "").ljust(9, "0"))
