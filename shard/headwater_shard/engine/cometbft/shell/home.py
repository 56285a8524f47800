"""The home folder of a CometBFT node, written from a typed configuration before each start.

Only what differs from CometBFT's defaults is written. The key of the validator is not in it: the
node asks for signatures over a socket.
"""

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from headwater_protocol.chain.block import MAX_BLOCK_BYTES, MAX_TRANSACTION_BYTES
from headwater_protocol.chain.comet_vote import comet_chain_id
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.crypto.signing import SEED_BYTES, SecretKey
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId
from headwater_shard.engine.cometbft.mapping import ADDRESS_BYTES, address_of
from headwater_shard.engine.mempool import MAX_MEMPOOL_BYTES, MAX_MEMPOOL_TRANSACTIONS

MAX_COMET_BLOCK_BYTES: Final = MAX_BLOCK_BYTES + 2 * 1024 * 1024
"""One of our blocks with CometBFT's header, commit and evidence."""

MAX_EVIDENCE_BYTES: Final = 1024 * 1024
MAX_TOTAL_POWER: Final = (2**63 - 1) // 8
"""Of a set of validators, as CometBFT has it."""

MAX_RPC_BODY_BYTES: Final = 2 * MAX_TRANSACTION_BYTES
"""A transaction in base64, with room."""

MAX_SOCKET_PATH_BYTES: Final = 100
"""Linux takes 107 bytes for a unix socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CometTimeouts:
    """How long a node waits in each step; each later view waits `step_ms` longer."""

    propose_ms: int = 3_000
    prevote_ms: int = 1_000
    precommit_ms: int = 1_000
    step_ms: int = 500
    commit_ms: int = 1_000
    """For the precommits that a quorum came without; none where all are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSync:
    """Where a new node takes a snapshot from, and what it trusts."""

    rpc_servers: tuple[str, ...]
    """At least two, as `host:port` or `unix:///path`."""
    trust_height: int
    trust_hash: str
    """Of CometBFT's header at that height, in hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything about one node."""

    home: Path
    """Its folder: configuration, data, sockets, log."""
    p2p_address: str = "tcp://127.0.0.1:26656"
    rpc_address: str | None = None
    """`tcp://host:port`; None listens on a unix socket in the home folder alone."""
    persistent_peers: tuple[str, ...] = ()
    """As `id@host:port`."""
    timeouts: CometTimeouts = field(default_factory=CometTimeouts)
    state_sync: StateSync | None = None
    log_level: str = "info"
    binary: Path | None = None
    """None looks for it on the PATH and in `~/go/bin`."""
    node_key: Path | None = None
    """What peers know the node by; None keeps one in the home folder, which goes with it."""
    signs_without_memory: bool = False
    """Whether a validator that remembers nothing signs at the height under way; see `signer`."""

    @property
    def node_key_file(self) -> Path:
        """Where the node's own key is."""
        return (self.node_key or self.home / "config" / "node_key.json").absolute()

    @property
    def abci_socket(self) -> Path:
        """Where the application listens."""
        return self.home / "abci.sock"

    @property
    def signer_socket(self) -> Path:
        """Where the node listens for its signer."""
        return self.home / "signer.sock"

    @property
    def rpc_socket(self) -> Path:
        """Where the node answers."""
        return self.home / "rpc.sock"

    @property
    def signed_file(self) -> Path:
        """What the validator signed last."""
        return self.home / "signed.cbor"

    @property
    def log_file(self) -> Path:
        """What the node prints."""
        return self.home / "cometbft.log"

    @property
    def rpc_endpoint(self) -> Path | tuple[str, int]:
        """Where a client finds the node."""
        if self.rpc_address is None:
            return self.rpc_socket
        host, _, port = self.rpc_address.removeprefix("tcp://").rpartition(":")
        return host, int(port)


def write_home(config: NodeConfig, genesis: Genesis, chain: ChainId) -> str:
    """Write the node's files; a node key that is there stays. The node's id.

    Raises:
        ConfigError: If the folder cannot be written, a socket's path is too long, or the stakes
            exceed what CometBFT counts.
    """
    longest = max(len(os.fsencode(path)) for path in (config.abci_socket, config.signer_socket))
    if longest > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            str(config.home),
            f"a socket there has a path of {longest} bytes, {MAX_SOCKET_PATH_BYTES} work",
            fix="give a shorter folder",
        )
    try:
        (config.home / "config").mkdir(parents=True, exist_ok=True)
        (config.home / "data").mkdir(exist_ok=True)
        _write(config.home / "config" / "genesis.json", make_genesis_json(genesis, chain))
        _write(config.home / "config" / "config.toml", make_config_toml(config, genesis))
        # CometBFT opens a signer of its own besides ours, and wants its files whole.
        state = config.home / "data" / "priv_validator_state.json"
        if not state.exists():
            _write(state, {"height": "0", "round": 0, "step": 0})
        return ensure_node_key(config.node_key_file)
    except OSError as error:
        raise ConfigError(
            str(config.home), f"cannot be written: {error}", fix="check permissions"
        ) from error


def ensure_node_key(path: Path) -> str:
    """The id of the node whose key is at `path`; a new one is made where there is none.

    Raises:
        ConfigError: If the file holds no key.
        OSError: If it cannot be read or written.
    """
    if not path.exists():
        key = SecretKey(os.urandom(SEED_BYTES))
        value = base64.b64encode(key.seed + key.public_key).decode()
        _write(path, {"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": value}})
    try:
        secret = base64.b64decode(json.loads(path.read_text())["priv_key"]["value"])
        public_key = SecretKey(secret[:SEED_BYTES]).public_key
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(str(path), f"holds no key: {error}", fix="remove it") from error
    return hashlib.sha256(public_key).digest()[:ADDRESS_BYTES].hex()


def make_genesis_json(genesis: Genesis, chain: ChainId) -> dict[str, object]:
    """CometBFT's genesis of one chain of ours.

    Raises:
        ConfigError: If there is more stake than CometBFT can count.
    """
    balances = sum(int(entry.balance) for entry in genesis.accounts)
    supply = balances + sum(entry.stake for entry in genesis.validators)
    if supply > MAX_TOTAL_POWER:
        raise ConfigError(
            "genesis",
            f"a supply of {supply} units, of which all may become stake",
            fix=f"CometBFT counts up to {MAX_TOTAL_POWER}",
        )
    parameters = genesis.parameters
    time = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=genesis.time_ms)
    return {
        "genesis_time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "chain_id": comet_chain_id(genesis_network(genesis), chain),
        "initial_height": "1",
        "consensus_params": {
            "block": {"max_bytes": str(MAX_COMET_BLOCK_BYTES), "max_gas": "-1"},
            "evidence": {
                "max_age_num_blocks": str(parameters.unbonding_blocks),
                "max_age_duration": str(parameters.trust_period_ms * 1_000_000),
                "max_bytes": str(MAX_EVIDENCE_BYTES),
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": "0"},
            "abci": {"vote_extensions_enable_height": "1"},
        },
        "validators": [
            {
                "address": address_of(entry.validator).hex().upper(),
                "pub_key": {
                    "type": "tendermint/PubKeyEd25519",
                    "value": base64.b64encode(entry.validator).decode(),
                },
                "power": str(entry.voting_power),
                "name": "",
            }
            for entry in genesis.committee(chain).delegates
        ],
        "app_hash": "",
    }


def make_config_toml(config: NodeConfig, genesis: Genesis) -> str:
    """What differs from CometBFT's defaults."""
    timeouts, sync = config.timeouts, config.state_sync
    step = f"{timeouts.step_ms}ms"
    tables: dict[str, dict[str, object]] = {
        "": {
            "proxy_app": f"unix://{config.abci_socket}",
            "abci": "socket",
            "moniker": config.home.name,
            "priv_validator_laddr": f"unix://{config.signer_socket}",
            "node_key_file": str(config.node_key_file),
            "log_level": config.log_level,
        },
        "rpc": {
            "laddr": config.rpc_address or f"unix://{config.rpc_socket}",
            "max_body_bytes": MAX_RPC_BODY_BYTES,
            "pprof_laddr": "",
        },
        "p2p": {
            "laddr": config.p2p_address,
            "persistent_peers": ",".join(config.persistent_peers),
            "addr_book_strict": False,
            "allow_duplicate_ip": True,
            "pex": False,
        },
        "mempool": {
            "size": MAX_MEMPOOL_TRANSACTIONS,
            "max_txs_bytes": MAX_MEMPOOL_BYTES,
            "max_tx_bytes": MAX_TRANSACTION_BYTES,
            "cache_size": MAX_MEMPOOL_TRANSACTIONS,
        },
        "consensus": {
            "timeout_propose": f"{timeouts.propose_ms}ms",
            "timeout_propose_delta": step,
            "timeout_prevote": f"{timeouts.prevote_ms}ms",
            "timeout_prevote_delta": step,
            "timeout_precommit": f"{timeouts.precommit_ms}ms",
            "timeout_precommit_delta": step,
            "timeout_commit": f"{timeouts.commit_ms}ms",
            "skip_timeout_commit": True,
            "create_empty_blocks": False,
            "create_empty_blocks_interval": "0s",
        },
        "statesync": {"enable": False},
        # Our own store is the index; a second one would only cost time.
        "tx_index": {"indexer": "null"},
        "instrumentation": {"prometheus": False},
    }
    if sync is not None:
        tables["statesync"] = {
            "enable": True,
            "rpc_servers": ",".join(sync.rpc_servers),
            "trust_height": sync.trust_height,
            "trust_hash": sync.trust_hash,
            "trust_period": f"{genesis.parameters.trust_period_ms}ms",
            "discovery_time": "5s",
        }
    lines: list[str] = []
    for name, entries in tables.items():
        if name:
            lines += ["", f"[{name}]"]
        # A JSON string, number or boolean is one of TOML too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
    return "\n".join(lines) + "\n"


def _write(path: Path, content: str | dict[str, object]) -> None:
    text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
    if not path.exists() or path.read_text() != text:
        path.touch(mode=0o600)
        path.write_text(text)
