"""Deposits that devices lock at the start of a run."""

from headwater_firmware_sim.network import NetworkPlan
from headwater_protocol.chain.market import LockDeposit
from headwater_protocol.chain.transaction import Transaction, sign_transaction
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, Nonce, Units


def lock_deposit(
    plan: NetworkPlan, device: int, units: int, *, key: SecretKey | None = None
) -> bytes:
    """The transaction by which a device locks `units` behind itself, its first one.

    The same bytes whenever they are made, so that sending them again does no harm.

    Args:
        plan: The network.
        device: Its index.
        units: At least 1.
        key: Signs in place of the plan's, which it has to equal.
    """
    key = key or plan.devices[device]
    return sign_transaction(
        key,
        Transaction(
            network=plan.network,
            chain=MAIN_CHAIN,
            sender=key.account,
            nonce=Nonce(1),
            body=LockDeposit(device=key.device, shard=plan.shard_of(device), amount=Units(units)),
        ),
    )
