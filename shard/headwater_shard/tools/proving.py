"""Proofs of single entries that anybody can check with the genesis alone."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import BlockHeader, Certificate
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.proof import (
    MAIN_NAMESPACES,
    SHARD_NAMESPACES,
    StateProof,
    verify_state_proof,
)
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import Count, Length, Pattern, decode_record
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_protocol.light.client import advance, make_trusted, verify_header
from headwater_protocol.light.update import EpochUpdate, decode_epoch_update
from headwater_protocol.merkle.trie import MAX_KEY_BYTES
from headwater_shard.application import tables_of
from headwater_shard.layout import DataFolder
from headwater_shard.tools.reading import StoredChain

MAX_UPDATES: Final = 512
"""Epochs that a proof leads over."""
MAX_VALUE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProof:
    """An entry of a ledger, or its absence, with what leads there from the genesis."""

    KIND: ClassVar[str] = "entry-proof/1"

    namespace: Annotated[str, Pattern("[a-z]{1,24}")]
    key: Annotated[bytes, Length(0, MAX_KEY_BYTES)]
    value: Annotated[bytes, Length(1, MAX_VALUE_BYTES)] | None
    """The entry's canonical bytes; None for absence."""
    proof: StateProof
    header: BlockHeader
    certificate: Certificate
    updates: Annotated[tuple[EpochUpdate, ...], Count(0, MAX_UPDATES)]
    """The elections up to the header's committee, in order."""


def prove_entry(
    folder: DataFolder, genesis: Genesis, stored: StoredChain, namespace: str, key: bytes
) -> EntryProof:
    """The proof of an entry under the last block of a stored chain.

    Raises:
        ConfigError: If there is no block or namespace, or the folder lacks a proof of an epoch.
    """
    if stored.header is None or stored.certificate is None:
        raise ConfigError("DIR", f"{stored.chain} has no block yet", fix="prove a later state")
    if namespace not in stored.state.namespaces:
        raise ConfigError(
            "NAMESPACE",
            f"{stored.chain} has no namespace {namespace!r}",
            fix=f"one of {', '.join(stored.state.namespaces)}",
        )
    return EntryProof(
        namespace=namespace,
        key=key,
        value=stored.state.get_encoded(namespace, key),
        proof=stored.state.prove(namespace, key),
        header=stored.header,
        certificate=stored.certificate,
        updates=_list_updates(folder, genesis, stored.header),
    )


def verify_entry(
    proof: EntryProof, genesis: Genesis, *, now_ms: int, verifier: Verifier
) -> str | None:
    """Check a proof from the genesis on.

    Returns:
        The entry as text, or None where its absence is proven.

    Raises:
        InvalidMessage: Says what does not hold.
    """
    trusted = make_trusted(genesis)
    for update in proof.updates:
        trusted = advance(trusted, update, now_ms, verifier)
    verify_header(
        trusted,
        proof.header,
        proof.certificate,
        chain=proof.header.chain,
        now_ms=now_ms,
        verifier=verifier,
    )
    is_main = proof.header.chain == MAIN_CHAIN
    verify_state_proof(
        proof.proof,
        state_root=proof.header.state_root,
        namespaces=MAIN_NAMESPACES if is_main else SHARD_NAMESPACES,
        namespace=proof.namespace,
        key=proof.key,
        value=proof.value,
    )
    if proof.value is None:
        return None
    tables = {table.namespace: table.record for table in tables_of(proof.header.chain)}
    return str(decode_record(tables[proof.namespace], proof.value))


def _list_updates(
    folder: DataFolder, genesis: Genesis, header: BlockHeader
) -> tuple[EpochUpdate, ...]:
    """The proofs of epochs from the genesis to the one whose committee certified `header`."""
    updates: list[EpochUpdate] = []
    committee = genesis.committee(header.chain)
    while committee_digest(committee) != header.committee:
        number = len(updates) + 1
        path = folder.epochs / f"{number}.epoch"
        try:
            update = decode_epoch_update(path.read_bytes())
        except (OSError, InvalidMessage) as error:
            raise ConfigError(
                "DIR", f"{path}: {error}", fix="start the gateway once, it makes it again"
            ) from error
        updates.append(update)
        found = (
            update.epoch.committee
            if header.chain == MAIN_CHAIN
            else update.epoch.committee_of(header.chain)
        )
        committee = committee if found is None else found
    return tuple(updates)
