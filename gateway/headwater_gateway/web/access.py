"""Who gets a blob from a gateway, and who may store one: read off the ledgers, nothing else.

Everybody may see digests and proofs; blobs are for validators, for sponsors, and for those who hold
a grant or a licence. What kind of blob a digest names is what the ledger says, never the asker.
"""

from collections.abc import Mapping

from headwater_protocol.chain.market import BlobClass
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, ChainId, Digest, ValidatorId
from headwater_protocol.messages.announcement import round_key
from headwater_shard.mainchain.market.access import may_read
from headwater_shard.mainchain.market.records import MODELS, TASKS
from headwater_shard.mainchain.records import CANDIDATES, MAIN, MAIN_KEY, SHARDS
from headwater_shard.shardchain.records import PAYLOADS, ROUNDS, SHARD, SHARD_KEY
from headwater_shard.state.state import State

States = Mapping[ChainId, State]
"""Of the main chain and of the shards that are served here."""


def is_member(states: States, account: AccountId) -> bool:
    """Whether `account` is a delegate in office, of the main chain or of a shard served here."""
    validator = ValidatorId(account)
    main = states[MAIN_CHAIN].get(MAIN, MAIN_KEY)
    if main is not None and main.committee.power_of(validator) > 0:
        return True
    records = (states[chain].get(SHARD, SHARD_KEY) for chain in states if chain != MAIN_CHAIN)
    return any(record is not None and record.committee.power_of(validator) for record in records)


def classify(states: States, blob: Digest) -> BlobClass | None:
    """What the ledgers name by `blob`; None where they name nothing by it."""
    main = states[MAIN_CHAIN]
    tasks = [task.task for _, task in main.items(TASKS)]
    if any(task.program == blob for task in tasks):
        return BlobClass.PROGRAMS
    if (
        main.get(MODELS, blob) is not None
        or any(task.initial_model == blob for task in tasks)
        or any(entry.model == blob for _, entry in main.items(SHARDS))
    ):
        return BlobClass.MODELS
    for chain in sorted(states):
        record = None if chain == MAIN_CHAIN else states[chain].get(SHARD, SHARD_KEY)
        if record is None:
            continue
        if states[chain].get(PAYLOADS, blob) is not None:
            return BlobClass.PAYLOADS
        round_ = states[chain].get(ROUNDS, round_key(record.last_round))
        base = None if round_ is None else round_.base
        if blob in {record.model, record.reference, base}:
            return BlobClass.MODELS
    return None


def may_get(states: States, account: AccountId, blob: Digest) -> bool:
    """Whether `account`, who proved to be that, gets `blob`."""
    main = states[MAIN_CHAIN]
    if main.get(CANDIDATES, account) is not None or is_member(states, account):
        return True
    blob_class = classify(states, blob)
    return blob_class is not None and may_read(main, account, blob_class, blob)
