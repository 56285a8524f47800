"""Following elections: from the pinned genesis, one certified epoch after the other.

The committee that is trusted certifies the block that writes the next epoch, which names the next
committee of the main chain and those of all shards. So one certificate and one proof an epoch lead
from the genesis to any fact, and a device keeps a few kilobytes.

Signatures of a committee are believed for the trust period after its last known block. Later its
members may have taken their stake back, and a fork that they sign would cost them nothing. Who was
away for longer, or joins an old network, needs somebody's word for a younger epoch: a `Pin`.

Buchman, Kwon, Milosevic and others, "Tendermint Light Client", 2020; Buterin, "Proof of Stake: How
I Learned to Love Weak Subjectivity", 2014.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from headwater_protocol.chain.block import BlockHeader, Certificate, verify_certificate
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.epoch import Epoch, epoch_digest, epoch_key
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.proof import MAIN_NAMESPACES, verify_state_proof
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import Range, encode_record
from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    MAX_UNSIGNED,
    ChainId,
    Digest,
    EpochNumber,
    Network,
    TimeMs,
)
from headwater_protocol.light.errors import (
    TrustExpired,
    WrongChain,
    WrongEpoch,
    WrongNetwork,
    WrongShard,
)
from headwater_protocol.light.update import EpochUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedState:
    """All that a light client has to keep."""

    KIND: ClassVar[str] = "trusted-state/1"

    network: Network
    epoch: Epoch
    """The last one proven: the committee of the main chain, and those of all shards."""
    time_ms: TimeMs
    """Of the main chain's last block that is known to hold it."""
    trust_period_ms: Annotated[int, Range(1, MAX_UNSIGNED)]
    """From the genesis."""

    @property
    def expires_ms(self) -> int:
        """From when on nothing signed by the epoch's delegates is believed."""
        return self.time_ms + self.trust_period_ms

    def require_fresh(self, now_ms: int) -> None:
        """Check that the epoch's delegates still have stake to lose.

        Raises:
            TrustExpired: If the trust period is over.
        """
        if now_ms >= self.expires_ms:
            raise TrustExpired(
                f"epoch {self.epoch.epoch} was last seen at {self.time_ms}, trusted until "
                f"{self.expires_ms}, it is {now_ms}"
            )

    def committee_of(self, chain: ChainId) -> Committee:
        """Who certifies `chain` in the trusted epoch.

        Raises:
            WrongShard: If the epoch has no such shard.
        """
        if chain == MAIN_CHAIN:
            return self.epoch.committee
        committee = self.epoch.committee_of(chain)
        if committee is None:
            raise WrongShard(f"epoch {self.epoch.epoch} has no shard {chain}")
        return committee


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """An epoch that an operator vouches for; on the way there no trust period counts."""

    epoch: EpochNumber
    digest: Digest
    """Of its record."""
    time_ms: TimeMs
    """When it was in force, by the operator's word."""

    def time_of(self, epoch: Epoch) -> TimeMs:
        """What the pin says of an epoch: its own time for the pinned one, 0 for others.

        Raises:
            WrongEpoch: If it is another record than the pinned one, under its number.
        """
        if epoch.epoch != self.epoch:
            return TimeMs(0)
        if epoch_digest(epoch) != self.digest:
            raise WrongEpoch(f"another epoch {epoch.epoch} than the pinned one")
        return self.time_ms


def make_trusted(genesis: Genesis, pin: Pin | None = None) -> TrustedState:
    """What a pinned genesis is enough to trust.

    Raises:
        WrongEpoch: If the pin is of epoch 0, and of another one than the genesis has.
    """
    epoch = genesis.epoch()
    return TrustedState(
        network=genesis_network(genesis),
        epoch=epoch,
        time_ms=TimeMs(max(genesis.time_ms, 0 if pin is None else pin.time_of(epoch))),
        trust_period_ms=genesis.parameters.trust_period_ms,
    )


def advance(
    trusted: TrustedState,
    update: EpochUpdate,
    now_ms: int,
    verifier: Verifier,
    *,
    pin: Pin | None = None,
) -> TrustedState:
    """The state after an update: the next epoch, or the same one seen later.

    Args:
        trusted: Where to start.
        update: Untrusted.
        now_ms: The caller's clock, or the block time of a ledger.
        verifier: Checks single signatures; as many are checked as make a quorum.
        pin: Lets epochs up to it pass whatever their age, as long as they lead to it.

    Raises:
        TrustExpired: If the trust period is over.
        WrongNetwork: If the header is of another network.
        WrongChain: If it is not of the main chain.
        WrongEpoch: If the update is of no such epoch, or not certified by the trusted committee.
        InvalidMessage: If the certificate or the proof does not hold.
    """
    epoch, header = update.epoch, update.header
    if pin is None or epoch.epoch > pin.epoch:
        trusted.require_fresh(now_ms)
    pinned_ms = TimeMs(0) if pin is None else pin.time_of(epoch)
    _require_place(trusted, header, MAIN_CHAIN)
    if epoch.epoch not in {trusted.epoch.epoch, trusted.epoch.epoch + 1}:
        raise WrongEpoch(f"epoch {epoch.epoch} after {trusted.epoch.epoch}")
    if header.committee != committee_digest(trusted.epoch.committee):
        raise WrongEpoch(f"certified by other delegates than those of epoch {trusted.epoch.epoch}")
    if epoch.epoch == trusted.epoch.epoch:
        if epoch != trusted.epoch:
            raise WrongEpoch(f"another epoch {epoch.epoch} than the one that was proven")
    elif (header.height, header.next_committee) != (
        epoch.start_height,
        committee_digest(epoch.committee),
    ):
        raise BadProof("the header does not hand over to the epoch's committee")
    verify_certificate(
        update.certificate,
        header=header,
        committee=trusted.epoch.committee,
        verifier=verifier,
        is_complete=False,
    )
    verify_state_proof(
        update.proof,
        state_root=header.state_root,
        namespaces=MAIN_NAMESPACES,
        namespace="epochs",
        key=epoch_key(epoch.epoch),
        value=encode_record(epoch),
    )
    time_ms = TimeMs(max(trusted.time_ms, header.time_ms, pinned_ms))
    return replace(trusted, epoch=epoch, time_ms=time_ms)


def verify_header(
    trusted: TrustedState,
    header: BlockHeader,
    certificate: Certificate,
    *,
    chain: ChainId,
    now_ms: int,
    verifier: Verifier,
) -> None:
    """Check that the trusted epoch's delegates of `chain` certified a header of it.

    Raises:
        TrustExpired: If the trust period is over.
        WrongNetwork: If the header is of another network.
        WrongChain: If it is of another chain.
        WrongShard: If the epoch has no such shard.
        InvalidMessage: If the certificate does not hold.
    """
    trusted.require_fresh(now_ms)
    _require_place(trusted, header, chain)
    verify_certificate(
        certificate,
        header=header,
        committee=trusted.committee_of(chain),
        verifier=verifier,
        is_complete=False,
    )


def _require_place(trusted: TrustedState, header: BlockHeader, chain: ChainId) -> None:
    if header.network != trusted.network:
        raise WrongNetwork("a header of another network")
    if header.chain != chain:
        raise WrongChain(f"a header of {header.chain}, not of {chain}")
