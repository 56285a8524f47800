"""What the consensus machine asks its shell to do, in the order in which it has to happen."""

from dataclasses import dataclass

from headwater_protocol.chain.block import Block, Certificate
from headwater_protocol.chain.evidence import Equivocation
from headwater_protocol.errors import HeadwaterError
from headwater_protocol.identifiers import Height, ValidatorId
from headwater_shard.engine.bft.leader import Rotation
from headwater_shard.engine.bft.messages import Message
from headwater_shard.engine.bft.signer import SignedState
from headwater_shard.engine.border import Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """Put a validator's signed state on disk before any later effect is performed."""

    state: SignedState
    blocks: tuple[Block, ...]
    """Blocks that the state names and that have to survive with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """Send a message to every other validator."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a message to one validator."""

    to: ValidatorId
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    """A block stands; store it before any later effect is performed."""

    block: Block
    certificate: Certificate
    """Who signed it, as far as this validator saw; others may hold other signatures."""
    execution: Execution
    rotation: Rotation
    """What the next height starts from; stored with the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A validator signed twice."""

    equivocation: Equivocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted:
    """This replica computes something else than what was certified; it has stopped for good."""

    height: Height
    error: HeadwaterError


Effect = Persist | Broadcast | Send | Finalized | Evidence | Halted
DurableEffect = Persist | Finalized
