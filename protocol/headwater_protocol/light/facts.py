"""Facts of a ledger, by proof, under a header that `verify_header` let through."""

from headwater_protocol.chain.account import Account, RewardBalance
from headwater_protocol.chain.block import BlockHeader
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.chain.proof import (
    MAIN_NAMESPACES,
    SHARD_NAMESPACES,
    StateProof,
    verify_state_proof,
)
from headwater_protocol.chain.round import Round
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, Digest
from headwater_protocol.messages.announcement import round_key


def verify_entry(
    header: BlockHeader, proof: StateProof, *, namespace: str, key: bytes, record: object | None
) -> None:
    """Check that a state has `record` at `key`, or, with None, nothing.

    Raises:
        BadProof: If that does not follow.
        OutOfBounds: If that kind of ledger has no such namespace.
    """
    namespaces = MAIN_NAMESPACES if header.chain == MAIN_CHAIN else SHARD_NAMESPACES
    if namespace not in namespaces:
        raise OutOfBounds(f"{header.chain} has no namespace {namespace}")
    verify_state_proof(
        proof,
        state_root=header.state_root,
        namespaces=namespaces,
        namespace=namespace,
        key=key,
        value=None if record is None else encode_record(record),
    )


def verify_account(
    header: BlockHeader, proof: StateProof, *, account: AccountId, entry: Account | None
) -> None:
    """Check a balance of the main chain; None is an account that does not exist.

    Raises:
        InvalidMessage: If it does not follow.
    """
    verify_entry(header, proof, namespace="accounts", key=account, record=entry)


def verify_round(header: BlockHeader, proof: StateProof, round_: Round) -> None:
    """Check a round of a shard.

    Raises:
        InvalidMessage: If it does not follow.
    """
    verify_entry(header, proof, namespace="rounds", key=round_key(round_.number), record=round_)


def verify_reward(
    header: BlockHeader, proof: StateProof, *, account: AccountId, entry: RewardBalance | None
) -> None:
    """Check what an account has earned on a shard; None is nothing.

    Raises:
        InvalidMessage: If it does not follow.
    """
    verify_entry(header, proof, namespace="rewards", key=account, record=entry)


def verify_round_model(
    header: BlockHeader, proof: StateProof, round_: Round, model: Digest
) -> None:
    """Check that a closed round of a shard came to `model`.

    Raises:
        InvalidMessage: If it does not follow, or the round has another model or none yet.
    """
    verify_round(header, proof, round_)
    if round_.model != model:
        raise OutOfBounds(f"round {round_.number} has another model")


def get_merged_model(epoch: Epoch) -> Digest | None:
    """The model that a proven epoch starts from; None for epoch 0, whose tasks name theirs."""
    return None if epoch.merge is None else epoch.merge.model
