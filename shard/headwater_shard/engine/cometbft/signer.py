"""The validator's signatures for CometBFT, from the one key that the validator has.

CometBFT asks for each signature over its remote signer protocol, so the key stays in this process.
That also tells the view in which the node votes, which ABCI does not: a validator prevotes before
it precommits. What was signed last is on disk before a signature leaves, and nothing is ever signed
that goes back or says something else about the same step. A precommit is signed only with an
extension that names its own view, so our certificates hold what they say.

A validator that remembers nothing, because its disk was lost or because it was never in office, may
have voted at the height that is under way. It lets that height pass and signs from the next one on.
The first height of a chain is the exception: nobody has signed anything before it.

CometBFT specification 0.38, "Validator Signing".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from google.protobuf.timestamp_pb2 import Timestamp

from headwater_protocol.chain.block import VoteKind
from headwater_protocol.chain.comet_vote import (
    CometBlockId,
    CometVote,
    comet_chain_id,
    comet_extension_message,
    comet_vote_message,
)
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import Length, Range
from headwater_protocol.errors import HeadwaterError, InvalidMessage
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    View,
)
from headwater_shard.engine.cometbft.extensions import decode_extension
from headwater_shard.engine.cometbft.frames import encode_frame
from headwater_shard.engine.cometbft.wire import privval_pb2, types_pb2

PROPOSE: Final = 1
PREVOTE: Final = 2
PRECOMMIT: Final = 3

MAX_SIGNED_BYTES: Final = 512
"""A canonical vote or proposal is below 200 bytes."""

_KINDS: Final = {
    types_pb2.SIGNED_MSG_TYPE_PREVOTE: VoteKind.PREVOTE,
    types_pb2.SIGNED_MSG_TYPE_PRECOMMIT: VoteKind.PRECOMMIT,
}


class RefusedToSign(HeadwaterError):
    """A signature that would contradict an earlier one, or that nobody may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStep:
    """What a validator signed last for CometBFT; on disk before the signature leaves."""

    KIND: ClassVar[str] = "comet-signed/1"

    height: Height
    view: View
    step: Annotated[int, Range(PROPOSE, PRECOMMIT)]
    seconds: Annotated[int, Range(0, MAX_UNSIGNED)]
    nanoseconds: Annotated[int, Range(0, 999_999_999)]
    message: Annotated[bytes, Length(1, MAX_SIGNED_BYTES)]
    """The bytes that were signed."""
    signature: Signature


class CometSigner:
    """One validator of one chain."""

    def __init__(
        self,
        *,
        key: SecretKey,
        network: Network,
        chain: ChainId,
        last: SignedStep | None,
        save: Callable[[SignedStep], None],
        signs_without_memory: bool = False,
    ) -> None:
        """Go on from what was signed.

        Args:
            key: The validator's.
            network: The digest of the genesis.
            chain: Which one.
            last: What `save` was given last; without it, the first height that is asked for goes by
                without a signature, unless it is the chain's first.
            save: Puts a step on disk; durable when it returns.
            signs_without_memory: Sign the first height too, on an operator's word that this key has
                not signed there: the way out if a third of the power has forgotten at once.
        """
        self._key = key
        self._network = network
        self._chain = chain
        self._chain_id = comet_chain_id(network, chain)
        self._last = last
        self._save = save
        self._forgotten: int | None = 0 if signs_without_memory else None

    def view_at(self, height: Height) -> View | None:
        """The view of `height` in which the node voted last; None where it has not yet."""
        last = self._last
        return last.view if last is not None and last.height == height else None

    def answer(self, request: privval_pb2.Message) -> privval_pb2.Message:
        """The answer to one request; a refusal is an answer too.

        Raises:
            StorageError: If what is signed cannot be put on disk.
        """
        kind = request.WhichOneof("sum")
        response = privval_pb2.Message()
        if kind == "ping_request":
            response.ping_response.SetInParent()
        elif kind == "pub_key_request":
            if request.pub_key_request.chain_id == self._chain_id:
                response.pub_key_response.pub_key.ed25519 = self._key.public_key
            else:
                response.pub_key_response.error.description = "another chain's signer"
        elif kind == "sign_vote_request":
            try:
                vote = self.sign_vote(
                    request.sign_vote_request.vote, request.sign_vote_request.chain_id
                )
                response.signed_vote_response.vote.CopyFrom(vote)
            except (RefusedToSign, InvalidMessage) as error:
                response.signed_vote_response.error.description = str(error)
        elif kind == "sign_proposal_request":
            try:
                proposal = self.sign_proposal(
                    request.sign_proposal_request.proposal, request.sign_proposal_request.chain_id
                )
                response.signed_proposal_response.proposal.CopyFrom(proposal)
            except (RefusedToSign, InvalidMessage) as error:
                response.signed_proposal_response.error.description = str(error)
        else:
            response.ping_response.SetInParent()
        return response

    def sign_vote(self, vote: types_pb2.Vote, chain_id: str) -> types_pb2.Vote:
        """The vote with its signatures; where it was signed before, as it was signed then.

        Raises:
            RefusedToSign: If it contradicts an earlier signature, or its extension is not ours.
            StorageError: If what is signed cannot be put on disk.
        """
        kind = _KINDS.get(vote.type)
        if kind is None or chain_id != self._chain_id:
            raise RefusedToSign("no vote of this chain")
        signed = types_pb2.Vote()
        signed.CopyFrom(vote)
        is_for_block = bool(vote.block_id.hash)
        if kind is VoteKind.PRECOMMIT and is_for_block:
            self._require_own_view(vote)
            signed.extension_signature = self._key.sign(
                comet_extension_message(
                    self._network,
                    self._chain,
                    vote.extension,
                    height=Height(vote.height),
                    view=View(vote.round),
                )
            )
        elif vote.extension:
            raise RefusedToSign("an extension of a vote for no block")

        def message_at(seconds: int, nanoseconds: int) -> bytes:
            return comet_vote_message(
                self._network,
                CometVote(
                    kind=kind,
                    chain=self._chain,
                    height=Height(vote.height),
                    view=View(vote.round),
                    block=_block_id(vote.block_id) if is_for_block else None,
                    seconds=seconds,
                    nanoseconds=nanoseconds,
                ),
            )

        step = PREVOTE if kind is VoteKind.PREVOTE else PRECOMMIT
        last = self._sign(vote.height, vote.round, step, vote.timestamp, message_at)
        signed.signature = last.signature
        signed.timestamp.seconds, signed.timestamp.nanos = last.seconds, last.nanoseconds
        return signed

    def sign_proposal(self, proposal: types_pb2.Proposal, chain_id: str) -> types_pb2.Proposal:
        """The proposal with its signature.

        Raises:
            RefusedToSign: If it contradicts an earlier signature.
            StorageError: If what is signed cannot be put on disk.
        """
        if proposal.type != types_pb2.SIGNED_MSG_TYPE_PROPOSAL or chain_id != self._chain_id:
            raise RefusedToSign("no proposal of this chain")

        def message_at(seconds: int, nanoseconds: int) -> bytes:
            canonical = types_pb2.CanonicalProposal(
                type=types_pb2.SIGNED_MSG_TYPE_PROPOSAL,
                height=proposal.height,
                round=proposal.round,
                pol_round=proposal.pol_round,
                block_id=types_pb2.CanonicalBlockID(
                    hash=proposal.block_id.hash,
                    part_set_header=types_pb2.CanonicalPartSetHeader(
                        total=proposal.block_id.part_set_header.total,
                        hash=proposal.block_id.part_set_header.hash,
                    ),
                ),
                chain_id=self._chain_id,
            )
            canonical.timestamp.seconds, canonical.timestamp.nanos = seconds, nanoseconds
            canonical.timestamp.SetInParent()
            return encode_frame(canonical.SerializeToString(deterministic=True))

        last = self._sign(proposal.height, proposal.round, PROPOSE, proposal.timestamp, message_at)
        signed = types_pb2.Proposal()
        signed.CopyFrom(proposal)
        signed.signature = last.signature
        signed.timestamp.seconds, signed.timestamp.nanos = last.seconds, last.nanoseconds
        return signed

    def _require_own_view(self, vote: types_pb2.Vote) -> None:
        extended = decode_extension(vote.extension)
        if (extended.validator, extended.vote.height, extended.vote.view) != (
            self._key.validator,
            vote.height,
            vote.round,
        ):
            raise RefusedToSign(
                f"the extension is of view {extended.vote.view}, the precommit of {vote.round}"
            )

    def _require_unsigned(self, height: int) -> None:
        """Refuse the height at which a lost memory may matter."""
        if self._forgotten is None:
            self._forgotten = height if height > 1 else 0
        if height <= self._forgotten:
            raise RefusedToSign(
                f"what was signed at height {height} is forgotten; signs from the next one on"
            )

    def _sign(
        self,
        height: int,
        view: int,
        step: int,
        time: Timestamp,
        message_at: Callable[[int, int], bytes],
    ) -> SignedStep:
        if height < 1 or view < 0:
            raise RefusedToSign(f"no such height or view: {height}/{view}")
        last = self._last
        if last is None:
            self._require_unsigned(height)
        place = (height, view, step)
        if last is not None and place < (last.height, last.view, last.step):
            raise RefusedToSign(
                f"{place} was passed, {(last.height, last.view, last.step)} is signed"
            )
        if last is not None and place == (last.height, last.view, last.step):
            # A crash may have come between signing and the node's log; only the clock differs then.
            if message_at(last.seconds, last.nanoseconds) != last.message:
                raise RefusedToSign(f"{place} is signed with other contents")
            return last
        message = message_at(time.seconds, time.nanos)
        signed = SignedStep(
            height=Height(height),
            view=View(view),
            step=step,
            seconds=time.seconds,
            nanoseconds=time.nanos,
            message=message,
            signature=self._key.sign(message),
        )
        self._save(signed)
        self._last = signed
        return signed


def _block_id(block: types_pb2.BlockID) -> CometBlockId:
    return CometBlockId(
        digest=Digest(block.hash),
        num_parts=block.part_set_header.total,
        parts=Digest(block.part_set_header.hash),
    )
