"""Founding a network: keys, genesis, initial model and a `gateway.toml`, for one machine.

One process hosts all validators of the network, with the embedded engine. Everything that a second
machine would need later is a file of its own: the genesis, the blobs, and one key a delegate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_gateway.config import CONFIG_NAME, format_shard, format_template
from headwater_gateway.keyfile import create_key
from headwater_gateway.task_file import TaskFile
from headwater_models.initialization import initial_parameters
from headwater_models.program import Program
from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    encode_genesis,
    genesis_network,
)
from headwater_protocol.crypto.hashing import Domain, blob_digest, hash_bytes
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import (
    ChainId,
    Network,
    TimeMs,
    Units,
    VotingPower,
)
from headwater_protocol.model.fixed_point import encode_model, from_float32

VALIDATOR_STAKE: Final = 1_000_000
"""Units behind each validator: all have the same power."""
SPARE_BALANCE: Final = 1_000_000
"""Units of the sponsor beside the task's budget."""
MAX_SHARDS: Final = 64
MAX_VALIDATORS: Final = 32
"""Of one shard in one process."""

GENESIS_NAME: Final = "genesis.cbor"
PROGRAM_NAME: Final = "program.tflite"
MODEL_NAME: Final = "initial-model.bin"
DATA_NAME: Final = "data"
KEYS_NAME: Final = "keys"
DEVICES_NAME: Final = "devices-{shard}.txt"
DEVICES_HEADING: Final = """\
# Devices to enrol in {shard}: one id a line, as headwater-agent id prints it. Read at each start.
"""

DrawSeed = Callable[[str], bytes]
"""Gives the 32 bytes from which a named key is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingPlan:
    """What is asked for."""

    folder: Path
    """New or empty."""
    name: str
    num_shards: int
    num_validators: int
    """Of each shard."""
    validators_key: str = "--delegates"
    """The option that gave their number, for errors."""
    task: TaskFile
    program: Program
    validation: str
    """Path of the validation data as it is to stand in the configuration."""
    port: int
    """Of the embedded broker."""
    time_ms: TimeMs
    """Of the genesis."""
    tls: str | None = None
    """In place of `[broker]`, for brokers with TLS and a registrar; see `registrar.setup`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What a new network begins with."""

    genesis: Genesis
    delegates: Mapping[ChainId, Sequence[SecretKey]]
    """Of each shard."""
    registrar: SecretKey
    sponsor: SecretKey
    model: bytes
    """The initial one, encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """What was written."""

    genesis: Genesis
    config: Path

    @property
    def network(self) -> Network:
        """The digest to pin."""
        return genesis_network(self.genesis)


def derive_seed(secret: bytes, role: str) -> bytes:
    """The 32 secret bytes of a role, from a secret of 32 bytes."""
    return hash_bytes(Domain.SEED, b"founding", secret, role.encode())


def lay_foundation(plan: FoundingPlan, draw_seed: DrawSeed) -> Foundation:
    """Make the keys, the genesis and the initial model; nothing is written.

    Raises:
        ConfigError: If the plan contradicts itself, or the folder is in use.
    """
    for key, value, highest in (
        ("--shards", plan.num_shards, MAX_SHARDS),
        (plan.validators_key, plan.num_validators, MAX_VALIDATORS),
        ("--port", plan.port, 65_535),
    ):
        if not 1 <= value <= highest:
            raise ConfigError(key, f"is {value}", fix=f"give 1 to {highest}")
    folder = plan.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("--out", f"{folder} is not empty", fix="choose a new folder")
    shards = tuple(ChainId(f"shard-{index + 1}") for index in range(plan.num_shards))
    delegates = {
        shard: tuple(
            SecretKey(draw_seed(f"{shard}/{index}")) for index in range(plan.num_validators)
        )
        for shard in shards
    }
    registrar, sponsor = SecretKey(draw_seed("registrar")), SecretKey(draw_seed("sponsor"))
    model_seed = int.from_bytes(draw_seed("model")[:8], "big")
    parameters = initial_parameters(plan.program, model_seed)
    model = encode_model(from_float32(parameters, fraction_bits=plan.task.fraction_bits))
    genesis = _make_genesis(
        plan, delegates=delegates, registrar=registrar, sponsor=sponsor, model=model
    )
    return Foundation(
        genesis=genesis, delegates=delegates, registrar=registrar, sponsor=sponsor, model=model
    )


def found_network(plan: FoundingPlan, draw_seed: DrawSeed) -> Founding:
    """Write all files of a new network on one machine.

    Raises:
        ConfigError: If the plan contradicts itself, or the folder is in use or cannot be written.
    """
    made, folder = lay_foundation(plan, draw_seed), plan.folder
    genesis, shards = made.genesis, made.genesis.shards
    delegates = {
        shard: {
            f"{KEYS_NAME}/{shard}-{index + 1}.key": key
            for index, key in enumerate(made.delegates[shard])
        }
        for shard in shards
    }
    keys = {name: key.seed for named in delegates.values() for name, key in named.items()}
    keys[f"{KEYS_NAME}/registrar.key"] = made.registrar.seed
    keys[f"{KEYS_NAME}/sponsor.key"] = made.sponsor.seed
    config = format_template(
        genesis=GENESIS_NAME,
        network=genesis_network(genesis),
        folder=DATA_NAME,
        blobs=(PROGRAM_NAME, MODEL_NAME),
        registrar_key=f"{KEYS_NAME}/registrar.key",
        port=plan.port,
        tls=plan.tls,
    ) + "".join(
        format_shard(
            name=shard,
            keys=sorted(delegates[shard]),
            validation=plan.validation,
            devices=DEVICES_NAME.format(shard=shard),
        )
        for shard in shards
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_common(folder, made, plan.program)
        for name, seed in sorted(keys.items()):
            create_key(folder / name, seed)
        for shard in shards:
            heading = DEVICES_HEADING.format(shard=shard)
            (folder / DEVICES_NAME.format(shard=shard)).write_text(heading, encoding="utf-8")
        (folder / CONFIG_NAME).write_text(config, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{folder}: {error}", fix="choose a folder of yours") from error
    return Founding(genesis=genesis, config=folder / CONFIG_NAME)


def write_common(folder: Path, made: Foundation, program: Program) -> None:
    """Write what every gateway of a network has, and the folder for its keys.

    Raises:
        OSError: If `folder` cannot be written.
    """
    (folder / KEYS_NAME).mkdir(mode=0o700)
    (folder / GENESIS_NAME).write_bytes(encode_genesis(made.genesis))
    (folder / PROGRAM_NAME).write_bytes(program.data)
    (folder / MODEL_NAME).write_bytes(made.model)


def _make_genesis(
    plan: FoundingPlan,
    *,
    delegates: Mapping[ChainId, Sequence[SecretKey]],
    registrar: SecretKey,
    sponsor: SecretKey,
    model: bytes,
) -> Genesis:
    task = plan.task.make_task(plan.program, blob_digest(model))
    validators = [
        GenesisValidator(validator=key.validator, stake=VotingPower(VALIDATOR_STAKE), shard=shard)
        for shard, keys in sorted(delegates.items())
        for key in keys
    ]
    budget = task.round_budget * task.rounds * plan.num_shards
    genesis = Genesis(
        name=plan.name,
        time_ms=plan.time_ms,
        parameters=plan.task.parameters,
        accounts=(GenesisAccount(account=sponsor.account, balance=Units(budget + SPARE_BALANCE)),),
        validators=tuple(sorted(validators, key=lambda entry: entry.validator)),
        shards=tuple(sorted(delegates)),
        registrars=(registrar.account,),
        sponsor=sponsor.account,
        task=task,
    )
    try:
        genesis.require_consistent()
    except InvalidMessage as error:
        raise ConfigError("genesis", str(error), fix="change the options or the task") from error
    return genesis
