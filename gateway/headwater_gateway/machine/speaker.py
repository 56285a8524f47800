"""Which of a gateway's keys speaks for it to a shard: one that is in office."""

from collections.abc import Sequence

from headwater_protocol.chain.committee import Committee
from headwater_protocol.crypto.signing import SecretKey


def pick_speaker(keys: Sequence[SecretKey], committee: Committee | None) -> SecretKey:
    """The first of `keys` that is a delegate in `committee`; the first of all where none is.

    Devices believe receipts, and ledgers take batches, of delegates only.

    Args:
        keys: At least one.
        committee: Of the epoch that is spoken about.
    """
    if committee is not None:
        for key in keys:
            if committee.power_of(key.validator) > 0:
                return key
    return keys[0]
