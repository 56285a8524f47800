"""Who made a model: the rewards that a shard had paid when the model was settled, as a list.

Each account has an interval of the row of all units paid, in order of the keys. A price is cut at
the ends of the intervals, so that every account's part is its share rounded up or down, and the
parts sum to the price without anybody walking the list: an account proves its interval under the
list's root, which the checkpoint carries, and is paid for any number of sales at once.

Balinski and Young, "Fair Representation", 1982, on rounding by cumulated quotas.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater_protocol.chain.round import CountField
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import AccountId, Digest, Units
from headwater_protocol.merkle.sequence import (
    compute_list_proof,
    compute_list_root,
    verify_list_proof,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One account's interval of what its shard has paid."""

    KIND: ClassVar[str] = "contribution/1"

    account: AccountId
    start: Units
    """Paid to accounts of smaller keys."""
    units: Units
    """Paid to this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributions:
    """What a checkpoint commits to."""

    root: Digest
    """List root over the encoded `Contribution`s in order of the accounts."""
    count: CountField
    total: Units
    """Units paid in all."""


def list_contributions(totals: Iterable[tuple[bytes, int]]) -> tuple[Contribution, ...]:
    """The intervals of accounts that were paid these totals."""
    start, entries = 0, []
    for account, units in sorted(totals):
        entries.append(
            Contribution(account=AccountId(account), start=Units(start), units=Units(units))
        )
        start += units
    return tuple(entries)


def commit_contributions(entries: Sequence[Contribution]) -> Contributions:
    """What a checkpoint says about a list."""
    return Contributions(
        root=compute_list_root([encode_record(entry) for entry in entries]),
        count=len(entries),
        total=Units(sum(entry.units for entry in entries)),
    )


def prove_contribution(entries: Sequence[Contribution], index: int) -> tuple[Digest, ...]:
    """The siblings that prove one entry of a list.

    Raises:
        IndexError: If there is no such entry.
    """
    return compute_list_proof([encode_record(entry) for entry in entries], index)


def verify_contribution(
    contribution: Contribution,
    *,
    index: int,
    siblings: Sequence[Digest],
    contributions: Contributions,
) -> None:
    """Check that a list holds an entry.

    Raises:
        BadProof: If it does not follow.
    """
    verify_list_proof(
        root=contributions.root,
        item=encode_record(contribution),
        index=index,
        count=contributions.count,
        siblings=siblings,
    )


def compute_part(amount: int, *, start: int, units: int, total: int) -> int:
    """What an interval of `total` gets of `amount`; the parts of all intervals sum to it."""
    return amount * (start + units) // total - amount * start // total


NO_CONTRIBUTIONS = commit_contributions(())
"""Before anything was paid."""
