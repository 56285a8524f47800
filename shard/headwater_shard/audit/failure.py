"""What an audit says when something does not hold: where it is, and what is wrong there."""

from collections.abc import Iterator
from contextlib import contextmanager

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.identifiers import ChainId, Height


class Mismatch(HeadwaterError):
    """A check failed at the block that is being followed; `located` adds which one that is."""

    def __init__(self, problem: str, *, item: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.item = item


class AuditFailure(HeadwaterError):
    """The first thing that does not hold."""

    def __init__(
        self,
        problem: str,
        *,
        chain: ChainId | None = None,
        height: Height | None = None,
        item: str | None = None,
    ) -> None:
        """Name a place and its problem, in one line.

        Args:
            problem: What is wrong, with both sides of a comparison.
            chain: The ledger that it is about; None for a file outside the ledgers.
            height: The block; None where it is about the ledger as a whole.
            item: A round, an update, a checkpoint, a merge, or a file and the offset in it.
        """
        self.problem = " ".join(problem.split())
        self.chain = chain
        self.height = height
        self.item = item
        block = chain if height is None else f"{chain} block {height}"
        super().__init__(": ".join(part for part in (block, item, self.problem) if part))


@contextmanager
def located(
    *, chain: ChainId | None = None, height: Height | None = None, item: str | None = None
) -> Iterator[None]:
    """Name the place of whatever goes wrong inside.

    Raises:
        AuditFailure: In place of any other exception.
    """
    try:
        yield
    except AuditFailure:
        raise
    except Mismatch as error:
        raise AuditFailure(
            error.problem, chain=chain, height=height, item=error.item or item
        ) from error
    except HeadwaterError as error:
        raise AuditFailure(str(error), chain=chain, height=height, item=item) from error
    # Damaged bytes can surface anywhere, from SQLite to numpy; an audit names the place even so.
    except Exception as error:
        problem = f"cannot be checked, {type(error).__name__}: {error}"
        raise AuditFailure(problem, chain=chain, height=height, item=item) from error


def require_equal(
    what: str, *, found: object, expected: object, by: str = "replay", item: str | None = None
) -> None:
    """Check that the ledger says what was computed.

    Raises:
        Mismatch: If it does not; both sides are in the message.
    """
    if found != expected:
        raise Mismatch(
            f"{what} differs: the ledger has {describe(found)}, {by} gives {describe(expected)}",
            item=item,
        )


def describe(value: object) -> str:
    """A value for a message: bytes as the beginning of their hex digits."""
    if isinstance(value, bytes):
        return value.hex()[:16] + ("…" if len(value) > 8 else "")
    return "none" if value is None else str(value)
