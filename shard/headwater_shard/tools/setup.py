"""Making keys, and the genesis of a new network."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    Parameters,
    encode_genesis,
)
from headwater_protocol.chain.task import Codec, OptimizerKind, Task, Training
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SEED_BYTES, SecretKey
from headwater_protocol.errors import ConfigError, OutOfBounds
from headwater_protocol.identifiers import (
    ChainId,
    NumExamples,
    Score,
    TaskId,
    TimeMs,
    Units,
    VotingPower,
)
from headwater_protocol.model.fixed_point import FixedPointModel, encode_model
from headwater_protocol.model.norms import compute_noise_cosine
from headwater_protocol.model.rule import AggregationRule
from headwater_shard.blobs import BlobStore
from headwater_shard.layout import DataFolder

FRACTION_BITS = 20
SPARE_BALANCE = 1_000_000
"""Of the sponsor beside the task's budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What a new network is made of."""

    name: str
    shards: int
    delegates: int
    """Of each shard."""
    stake: int
    """Of each delegate."""
    rounds: int
    round_budget: int
    cohort_size: int
    tensor_sizes: Sequence[int]


def make_key(path: Path) -> SecretKey:
    """A new key in a file that only its owner can read.

    Raises:
        ConfigError: If there is a file already, or it cannot be written.
    """
    key = SecretKey(secrets.token_bytes(SEED_BYTES))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(key.seed.hex() + "\n")
    except OSError as error:
        raise ConfigError(
            "key file", f"{path}: {error.strerror}", fix="choose another path"
        ) from error
    return key


def load_key(path: Path) -> SecretKey:
    """The key whose seed stands in a file as 64 hexadecimal digits.

    Raises:
        ConfigError: If it cannot be read or holds something else.
    """
    try:
        return SecretKey(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "--key", f"{path}: {error}", fix="make one with headwater-shard keys FILE"
        ) from error


def init_network(
    folder: DataFolder, plan: NetworkPlan, *, program: bytes, now_ms: int, seed: int
) -> Genesis:
    """Write a genesis, its keys and its first blobs into an empty folder.

    Args:
        folder: Where to.
        plan: The network.
        program: The training program.
        now_ms: The genesis' time.
        seed: Draws the initial model.

    Raises:
        ConfigError: If the folder holds a genesis or keys, or the plan contradicts itself.
    """
    if folder.genesis.exists():
        raise ConfigError("DIR", f"{folder.path} has a genesis", fix="choose an empty folder")
    model = _initial_model(plan.tensor_sizes, seed)
    keys = folder.path / "keys"
    shards = tuple(sorted(ChainId(f"shard-{index}") for index in range(plan.shards)))
    sponsor, registrar = make_key(keys / "sponsor.key"), make_key(keys / "registrar.key")
    validators = [
        GenesisValidator(
            validator=make_key(keys / f"{shard}-{index}.key").validator,
            stake=VotingPower(plan.stake),
            shard=shard,
        )
        for shard in shards
        for index in range(plan.delegates)
    ]
    task = _make_task(plan, program, model)
    budget = plan.rounds * plan.round_budget * plan.shards
    genesis = Genesis(
        name=plan.name,
        time_ms=TimeMs(now_ms),
        parameters=Parameters(
            checkpoint_interval=4,
            checkpoints_per_epoch=1,
            merge_wait_ms=5_000,
            epoch_timeout_ms=600_000,
            retention_rounds=16,
            clock_drift_ms=5_000,
        ),
        accounts=(GenesisAccount(account=sponsor.account, balance=Units(budget + SPARE_BALANCE)),),
        validators=tuple(sorted(validators, key=lambda entry: entry.validator)),
        shards=shards,
        registrars=(registrar.account,),
        sponsor=sponsor.account,
        task=task,
    )
    try:
        genesis.require_consistent()
    except OutOfBounds as error:
        raise ConfigError("network", str(error), fix="change the option that it names") from error
    store = BlobStore(folder.blobs)
    store.put_all([program, model])
    store.close()
    folder.genesis.write_bytes(encode_genesis(genesis))
    return genesis


def _initial_model(tensor_sizes: Sequence[int], seed: int) -> bytes:
    """Uniform parameters, small enough for a few layers: symmetric zeros would never train."""
    rng = np.random.default_rng(seed)
    limit = 2**FRACTION_BITS // 10
    values = rng.integers(-limit, limit, sum(tensor_sizes), dtype=np.int32)
    return encode_model(FixedPointModel(parameters=values, fraction_bits=FRACTION_BITS))


def _make_task(plan: NetworkPlan, program: bytes, model: bytes) -> Task:
    return Task(
        task=TaskId(plan.name),
        program=blob_digest(program),
        tensor_sizes=tuple(plan.tensor_sizes),
        fraction_bits=FRACTION_BITS,
        initial_model=blob_digest(model),
        training=Training(
            optimizer=OptimizerKind.ADAM,
            learning_rate_millionths=10_000,
            momentum_thousandths=0,
            proximal_millionths=0,
            clip_norm_thousandths=0,
            local_epochs=5,
            max_steps=1_000,
            batch_size=16,
        ),
        codec=Codec(bits=8, keep_thousandths=1_000),
        rule=AggregationRule(clip_ratio_thousandths=2_000),
        max_examples=NumExamples(1_000),
        score_threshold=Score(0),
        reputation_thousandths=500,
        rounds=plan.rounds,
        cohort_size=plan.cohort_size,
        min_updates=1,
        collect_ms=60_000,
        score_ms=60_000,
        attest_ms=60_000,
        round_budget=Units(plan.round_budget),
        delegate_thousandths=100,
        reward_floor=compute_noise_cosine(sum(plan.tensor_sizes)),
    )
