"""What a device believes: statements of its shard's committee that nothing newer has replaced.

Cheap checks come first, because a verification costs a slow device a few milliseconds and a flood
of forgeries should not.
"""

from collections.abc import Iterable
from dataclasses import replace

from headwater_agent.errors import NotDelegate, StaleRound, WrongDigest
from headwater_agent.machine.reading import Reader
from headwater_agent.state import NO_ROUND
from headwater_protocol.chain.block import NO_DIGEST
from headwater_protocol.chain.committee import Committee
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import DeviceId, Digest, Height, Network, RoundNumber
from headwater_protocol.light.client import Pin
from headwater_protocol.light.shard import ShardTrust
from headwater_protocol.messages.announcement import Announcement
from headwater_protocol.messages.receipt import (
    Receipt,
    SignedReceipt,
    decode_receipt,
    verify_receipt,
)
from headwater_protocol.messages.topics import Topic, network_name, parse_topic


class Gate:
    """Lets verified announcements and receipts through.

    Args:
        network: Pinned.
        device: Whose receipts are meant.
        trust: What is known of the network and its shard.
        verifier: Checks signatures.
        reader: Decodes and checks what the whole fleet is sent.
        pin: An epoch that the operator vouches for.
    """

    __slots__ = (
        "_announced",
        "_announced_height",
        "_announced_round",
        "_block_time_ms",
        "_committee",
        "_device",
        "_network",
        "_network_name",
        "_pin",
        "_reader",
        "_shard",
        "_trust",
        "_verifier",
    )

    def __init__(
        self,
        *,
        network: Network,
        device: DeviceId,
        trust: ShardTrust,
        verifier: Verifier,
        reader: Reader,
        pin: Pin | None = None,
    ) -> None:
        self._network = network
        self._network_name = network_name(network)
        self._shard = trust.shard
        self._device = device
        self._trust = trust
        self._pin = pin
        self._committee = trust.last.committee
        self._verifier = verifier
        self._reader = reader
        self._announced = NO_DIGEST
        self._announced_round = NO_ROUND
        self._announced_height = Height(0)
        self._block_time_ms = 0

    @property
    def announced_round(self) -> RoundNumber:
        """The newest one that was certified; 0 if none was heard of."""
        return self._announced_round

    @property
    def block_time_ms(self) -> int:
        """Of the newest certified block; the time is not earlier. 0 if none was heard of."""
        return self._block_time_ms

    @property
    def trust(self) -> ShardTrust:
        """What is known by now, to be persisted."""
        return self._trust

    @property
    def committee(self) -> Committee:
        """Who judges the round that was announced last."""
        return self._committee

    def open_epoch(self, payload: bytes, now_ms: int) -> bool:
        """Follow an election; whether it was news.

        An epoch before the one that is trusted is none, true or forged: a broker retains what was
        published last, which may be long ago.

        Raises:
            InvalidMessage: If it does not decode or does not follow from what is trusted.
        """
        update = self._reader.epoch(payload)
        known = self._trust.trusted
        if update.epoch.epoch < known.epoch.epoch:
            return False
        if update.epoch == known.epoch and update.header.time_ms <= known.time_ms:
            return False
        self._trust = self._reader.advance(
            self._trust,
            update,
            now_ms=max(now_ms, self._block_time_ms),
            verifier=self._verifier,
            pin=self._pin,
        )
        return True

    def open_topic(self, text: str) -> Topic:
        """The parts of a topic of this shard.

        Raises:
            BadEncoding: If it is no topic of the protocol.
            OutOfBounds: If it is another network's or shard's.
        """
        topic = parse_topic(text)
        if topic.network != self._network_name or topic.shard != self._shard:
            raise OutOfBounds("a topic of another network or shard")
        return topic

    def open_announcement(
        self, payload: bytes, *, last_signed_round: RoundNumber, now_ms: int
    ) -> Announcement | None:
        """A verified announcement that is news; None for the one that was opened last.

        Raises:
            StaleRound: If a later round or block is known, or a later round was signed.
            WrongEpoch: If it is of retired delegates, or of some that no election is known of.
            TrustExpired: If nothing was heard of the main chain for the trust period.
            InvalidMessage: If it does not decode, or more than two thirds did not certify it.
        """
        digest = self._reader.name(payload)
        if digest == self._announced:
            return None
        announcement = self._reader.announcement(payload)
        number, height = announcement.round.number, announcement.header.height
        if number < max(self._announced_round, last_signed_round):
            raise StaleRound(f"round {number} is announced after a later one")
        if height < self._announced_height:
            raise StaleRound(f"height {height} is announced after a later one")
        # A clock that is behind, as without a battery after a power cut, would believe delegates
        # whose stake is long gone; what the network certified is never later than now.
        now_ms = max(now_ms, self._block_time_ms, self._trust.trusted.time_ms)
        self._trust.trusted.require_fresh(now_ms)
        term = self._trust.require_certifier(announcement.header)
        committee = self._trust.require_committee(announcement.round.epoch)
        self._reader.verify(
            announcement,
            network=self._network,
            shard=self._shard,
            committee=term.committee,
            verifier=self._verifier,
        )
        self._trust = self._reader.note_in_office(self._trust, term)
        self._committee = committee
        self._announced = digest
        self._announced_round, self._announced_height = number, height
        self._block_time_ms = max(self._block_time_ms, announcement.header.time_ms)
        return announcement

    def open_receipt(
        self,
        payload: bytes,
        *,
        round_: RoundNumber,
        update_payload: Digest | None,
        known: Iterable[SignedReceipt],
    ) -> SignedReceipt | None:
        """A verified receipt that is news; None for what its gateway said before.

        Args:
            payload: Untrusted.
            round_: The one that was signed last.
            update_payload: What a receipt has to name, or zeros for what could not be decoded; None
                where the update is gone already.
            known: Receipts on disk.

        Raises:
            OutOfBounds: If it is for another device or shard.
            StaleRound: If it is about another round.
            WrongDigest: If it is about another update.
            NotDelegate: If its signer is no delegate.
            InvalidMessage: If it does not decode or its signature does not verify.
        """
        signed = decode_receipt(payload)
        receipt = signed.receipt
        if receipt.shard != self._shard or receipt.device != self._device:
            raise OutOfBounds("a receipt for another device or shard")
        if receipt.round != round_:
            raise StaleRound(f"a receipt for round {receipt.round}")
        if update_payload is not None and receipt.payload not in {update_payload, NO_DIGEST}:
            raise WrongDigest("a receipt for another update")
        if not self._trust.is_delegate(receipt.gateway):
            raise NotDelegate(f"{receipt.gateway.hex()[:16]} is no delegate of {self._shard}")
        if any(_is_same_answer(receipt, other.receipt) for other in known):
            return None
        verify_receipt(signed, network=self._network, verifier=self._verifier)
        # Receipts are kept, so they refer to the names that the device holds and not to copies.
        payload = update_payload if receipt.payload == update_payload else receipt.payload
        own = replace(receipt, shard=self._shard, device=self._device, payload=payload)
        return SignedReceipt(receipt=own, signature=signed.signature)


def _is_same_answer(receipt: Receipt, known: Receipt) -> bool:
    return (receipt.round, receipt.stage, receipt.gateway, receipt.reason) == (
        known.round,
        known.stage,
        known.gateway,
        known.reason,
    )
