"""The keys of `gateway.toml` about the engine: who orders the transactions of the chains."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_gateway.toml_table import TomlTable, quote, quote_list
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId

ENGINES: Final = ("embedded", "cometbft")
"""Who orders the transactions: this process for all delegates of a chain, or a node of CometBFT's
for one delegate, among the nodes of others."""

DEFAULT_SNAPSHOT_INTERVAL_BLOCKS: Final = 1_000
MAX_SNAPSHOT_INTERVAL_BLOCKS: Final = 10_000_000
COMET_KEYS: Final = (
    "binary",
    "node_key",
    "snapshot_interval_blocks",
    "state_sync",
    "sign_without_memory",
    "nodes",
)
NODE_KEYS: Final = ("chain", "listen", "peers")

TEMPLATE: Final = """\
# Who orders transactions. "embedded" hosts all delegates of the shards below in this process.
# "cometbft" runs one node of CometBFT for each chain, with one key, among the nodes of others:
#
# engine = "cometbft"
# [cometbft]
# node_key = "keys/node.json"       # what peers know the nodes by; made if it is missing
# snapshot_interval_blocks = 1000   # between the snapshots that new nodes start from; 0 for none
# state_sync = true                 # with an empty folder, start from a snapshot of the peers below
# [[cometbft.nodes]]                # one for "main" and one for each shard
# chain = "main"
# listen = "tcp://0.0.0.0:26656"
# peers = ["id@host:port"]

"""

_TABLE: Final = string.Template("""\
# CometBFT orders the transactions: one node a chain, with this gateway's key, among the others.
[cometbft]
node_key = $node_key                # what peers know the nodes by
snapshot_interval_blocks = $interval    # between the snapshots that new nodes start from
state_sync = true                   # with an empty folder, start from a snapshot of the peers below
""")

_NODE: Final = string.Template("""
[[cometbft.nodes]]
chain = $chain
listen = $listen
peers = $peers
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class CometNodeConfig:
    """One chain's node of CometBFT."""

    chain: ChainId
    listen: str
    """For its peers, as `tcp://host:port`."""
    peers: tuple[str, ...]
    """As `id@host:port`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CometConfig:
    """The nodes of CometBFT."""

    binary: Path | None
    """The program; None looks for it on the PATH and in `~/go/bin`."""
    nodes: tuple[CometNodeConfig, ...]
    """One for each chain, names distinct."""
    node_key: Path | None = None
    """What peers know the nodes by; None keeps one in each node's folder."""
    snapshot_interval_blocks: int = DEFAULT_SNAPSHOT_INTERVAL_BLOCKS
    """Blocks between the snapshots from which new nodes start; 0 makes none."""
    uses_state_sync: bool = True
    """Whether a node without blocks starts from a snapshot, where its peers have one."""
    signs_without_memory: bool = False
    """Whether a validator that remembers nothing signs at the height under way."""

    def node_of(self, chain: ChainId) -> CometNodeConfig:
        """The node of `chain`.

        Raises:
            ConfigError: If there is none.
        """
        for node in self.nodes:
            if node.chain == chain:
                return node
        raise ConfigError(
            "cometbft.nodes", f"have none for {chain}", fix=f'add one with chain = "{chain}"'
        )


def parse_engine(root: TomlTable) -> CometConfig | None:
    """The engine in a `gateway.toml`; None is the embedded one.

    Raises:
        ConfigError: Names the key and the fix.
    """
    engine = root.text("engine", ENGINES[0])
    if engine not in ENGINES:
        raise ConfigError("engine", f"is {engine!r}", fix=f"use one of {', '.join(ENGINES)}")
    table = root.table("cometbft")
    if engine != "cometbft":
        return None
    interval = table.integer("snapshot_interval_blocks", DEFAULT_SNAPSHOT_INTERVAL_BLOCKS)
    if not 0 <= interval <= MAX_SNAPSHOT_INTERVAL_BLOCKS:
        raise ConfigError(
            table.key("snapshot_interval_blocks"),
            f"is {interval}",
            fix=f"give 0 to {MAX_SNAPSHOT_INTERVAL_BLOCKS}",
        )
    nodes: list[CometNodeConfig] = []
    for entry in table.tables("nodes"):
        node = _parse_node(entry)
        if any(other.chain == node.chain for other in nodes):
            raise ConfigError(entry.key("chain"), f"{node.chain} comes twice", fix="drop one")
        nodes.append(node)
    config = CometConfig(
        binary=table.path("binary") if table.has("binary") else None,
        nodes=tuple(nodes),
        node_key=table.path("node_key") if table.has("node_key") else None,
        snapshot_interval_blocks=interval,
        uses_state_sync=table.boolean("state_sync", default=True),
        signs_without_memory=table.boolean("sign_without_memory", default=False),
    )
    table.require_empty(COMET_KEYS)
    return config


def format_engine(
    nodes: Sequence[CometNodeConfig],
    *,
    node_key: str,
    snapshot_interval_blocks: int = DEFAULT_SNAPSHOT_INTERVAL_BLOCKS,
) -> str:
    """The commented table `[cometbft]`, to stand behind all keys of the root."""
    text = _TABLE.substitute(node_key=quote(node_key), interval=snapshot_interval_blocks)
    return text + "".join(
        _NODE.substitute(
            chain=quote(node.chain), listen=quote(node.listen), peers=quote_list(node.peers)
        )
        for node in nodes
    )


def _parse_node(entry: TomlTable) -> CometNodeConfig:
    listen = entry.text("listen")
    if not listen.startswith("tcp://") or not listen.rpartition(":")[2].isdecimal():
        raise ConfigError(
            entry.key("listen"), f"is {listen!r}", fix='write it as "tcp://0.0.0.0:26656"'
        )
    peers = entry.texts("peers") if entry.has("peers") else ()
    for peer in peers:
        if "@" not in peer or not peer.rpartition(":")[2].isdecimal():
            raise ConfigError(
                entry.key("peers"), f"hold {peer!r}", fix="write each as id@host:port"
            )
    node = CometNodeConfig(chain=ChainId(entry.text("chain")), listen=listen, peers=tuple(peers))
    entry.require_empty(NODE_KEYS)
    return node
