"""Whether the ledger has a device: what a registrar shows, checked from the genesis.

Elections are followed one by one, as `headwater_protocol.light` has it, since the committee that
certified the shard's block has to be one that the genesis leads to.
"""

from collections.abc import Callable
from typing import Final

from headwater_protocol.chain.block import verify_certificate
from headwater_protocol.chain.device import Device
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import ChainId, DeviceId, EpochNumber
from headwater_protocol.light.errors import WrongChain, WrongNetwork
from headwater_protocol.light.facts import verify_entry
from headwater_protocol.light.shard import advance_shard, make_shard_trust
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.credential import EnrolmentStatus

MAX_EPOCHS: Final = 4_096
"""Elections that are followed; a network that held more is joined with a pinned epoch."""


def verify_status(
    status: EnrolmentStatus,
    *,
    genesis: Genesis,
    shard: ChainId,
    device: DeviceId,
    fetch_epoch: Callable[[EpochNumber], EpochUpdate],
    now_ms: int,
    verifier: Verifier,
) -> Device | None:
    """The device's proven entry; None if the registrar shows none yet.

    Args:
        status: Untrusted.
        genesis: Pinned.
        shard: Where the device is to be.
        device: Its id.
        fetch_epoch: Gets what leads to an epoch, untrusted.
        now_ms: UTC.
        verifier: Checks signatures.

    Raises:
        InvalidMessage: If what is shown does not hold.
        TransportError: If an epoch cannot be had.
    """
    if status.device != device:
        raise OutOfBounds("an answer about another device")
    proven = status.proven
    if proven is None:
        return None
    if status.epoch > MAX_EPOCHS:
        raise OutOfBounds(f"epoch {status.epoch}, at most {MAX_EPOCHS} are followed")
    trust = make_shard_trust(genesis, shard)
    for number in range(1, status.epoch + 1):
        update = fetch_epoch(EpochNumber(number))
        trust = advance_shard(trust, update, now_ms, verifier)
    header = proven.header
    if header.network != trust.trusted.network:
        raise WrongNetwork("a block of another network")
    if header.chain != shard:
        raise WrongChain(f"a block of {header.chain}, not of {shard}")
    trust.trusted.require_fresh(now_ms)
    verify_certificate(
        proven.certificate,
        header=header,
        committee=trust.require_certifier(header).committee,
        verifier=verifier,
        is_complete=False,
    )
    verify_entry(header, proven.proof, namespace="devices", key=device, record=proven.device)
    return proven.device
