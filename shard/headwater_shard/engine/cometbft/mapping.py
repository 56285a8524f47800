"""What CometBFT calls our validators, and what of our state it compares."""

import hashlib
from typing import Final

from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.proof import compute_state_root
from headwater_protocol.errors import InvalidBlock
from headwater_protocol.identifiers import Digest, ValidatorId
from headwater_shard.engine.cometbft.wire import abci_pb2, types_pb2
from headwater_shard.mainchain.justice.records import LIVENESS
from headwater_shard.state.state import State

ADDRESS_BYTES: Final = 20

QUIET_NAMESPACES: Final = frozenset({LIVENESS.namespace})
"""What an empty block changes for no other reason than that it is there."""


def address_of(validator: ValidatorId) -> bytes:
    """How CometBFT names a validator."""
    return hashlib.sha256(validator).digest()[:ADDRESS_BYTES]


def find_validator(committee: Committee, address: bytes) -> ValidatorId:
    """The delegate with an address.

    Raises:
        InvalidBlock: If the committee has none.
    """
    for delegate in committee.delegates:
        if address_of(delegate.validator) == address:
            return delegate.validator
    raise InvalidBlock(f"{address.hex()} is no delegate's address")


def compute_app_hash(state: State) -> Digest:
    """The digest of a state that CometBFT compares and makes proof blocks for.

    The count of missed signatures is left out: while a delegate is down every block changes it, so
    each proof block would ask for the next one and a chain would never rest. Our headers, and with
    them the certificates, cover it.
    """
    return compute_state_root(
        tuple(
            root
            for namespace, root in zip(state.namespaces, state.namespace_roots, strict=True)
            if namespace not in QUIET_NAMESPACES
        )
    )


def validator_updates(before: Committee, after: Committee) -> list[abci_pb2.ValidatorUpdate]:
    """What leads CometBFT from one set of validators to the next, in order of the keys."""
    powers = {entry.validator: 0 for entry in before.delegates}
    powers |= {entry.validator: entry.voting_power for entry in after.delegates}
    return [
        abci_pb2.ValidatorUpdate(
            pub_key=types_pb2.PublicKey(ed25519=validator), power=powers[validator]
        )
        for validator in sorted(powers)
        if powers[validator] != before.power_of(validator)
    ]
