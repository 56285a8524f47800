"""The border between an engine and a ledger: the calls of ABCI 2.0 that a ledger needs.

An engine hands over transactions in an order and learns what they lead to; it never looks inside.
A ledger executes and never asks how the order came about. Execution is pure: `finalize_block` may
be called for any number of rival blocks of one height, and only `commit` makes one of them stand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from headwater_protocol.chain.block import Certificate
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.proof import StateProof
from headwater_protocol.identifiers import ChainId, Digest, Height, Network, TimeMs, ValidatorId
from headwater_protocol.reasons import ReasonCode

Changes = Mapping[str, Mapping[bytes, bytes | None]]
"""By namespace and key the new bytes of an entry, None where it is deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockContext:
    """What a ledger is told about a block that it executes."""

    height: Height
    time_ms: TimeMs
    proposer: ValidatorId
    previous: Digest
    """The predecessor's header digest."""
    last_certificate: Certificate | None
    """Who signed the predecessor; None at height 1."""
    transactions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one transaction; `OK` or why its effects were left out."""

    KIND: ClassVar[str] = "outcome/1"

    reason: ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a block leads to."""

    state_root: Digest
    outcomes: tuple[Outcome, ...]
    next_committee: Committee
    """Who certifies the next block."""
    changes: Changes
    """For the store: the entries that differ from the state before."""
    elected_committee: Committee | None = None
    """Who certifies the block after the next one, where the next one hands over to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """An entry of the committed state with its proof; `value` is None where it is absent."""

    height: Height
    value: bytes | None
    proof: StateProof


class Application(Protocol):
    """One replica of a ledger."""

    @property
    def network(self) -> Network:
        """The digest of the genesis."""
        ...

    @property
    def chain(self) -> ChainId:
        """Which ledger this is."""
        ...

    @property
    def height(self) -> Height:
        """The last committed block; 0 after genesis."""
        ...

    @property
    def state_root(self) -> Digest:
        """The committed state."""
        ...

    @property
    def committee(self) -> Committee:
        """Who certifies the next block."""
        ...

    def next_timer(self) -> int | None:
        """The block time from which a block without transactions would change something."""
        ...

    def check_tx(self, transaction: bytes) -> ReasonCode:
        """Whether a transaction may wait for a block; never raises on a peer's bytes."""
        ...

    def prepare_proposal(
        self, candidates: Sequence[bytes], *, time_ms: TimeMs, max_bytes: int
    ) -> tuple[bytes, ...]:
        """The transactions of a proposal, out of waiting ones, valid and within `max_bytes`."""
        ...

    def process_proposal(self, context: BlockContext) -> Execution:
        """Execute a peer's proposal.

        Raises:
            InvalidBlock: If no honest leader would have proposed it.
        """
        ...

    def finalize_block(self, context: BlockContext) -> Execution:
        """Execute a block on top of the committed state, without committing it.

        Raises:
            InvalidBlock: If it cannot follow the committed state.
        """
        ...

    def commit(self, context: BlockContext) -> None:
        """Make an executed block the committed one."""
        ...

    def query(self, namespace: str, key: bytes) -> QueryResult:
        """An entry of the committed state with its proof.

        Raises:
            KeyError: If there is no such namespace.
        """
        ...
