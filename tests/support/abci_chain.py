"""Blocks of a test's ledger over ABCI, as CometBFT would have them: encoded, decided, committed.

`HEADWATER_LEDGER_ENGINE=cometbft` makes every `Chain` of the ledgers' tests run this way, so the
same test functions hold on either engine.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication
from headwater_shard.engine.bft.effects import DurableEffect
from headwater_shard.engine.border import BlockContext, Execution
from headwater_shard.engine.cometbft.desk import SnapshotDesk
from headwater_shard.engine.cometbft.dispatch import answer
from headwater_shard.engine.cometbft.mapping import address_of, compute_app_hash
from headwater_shard.engine.cometbft.preamble import Preamble, pack_block
from headwater_shard.engine.cometbft.replica import Replica, Settled
from headwater_shard.engine.cometbft.wire import abci_pb2

VARIABLE: Final = "HEADWATER_LEDGER_ENGINE"
ENGINES: Final = ("embedded", "cometbft")


class NoDisk:
    def write(self, effects: Sequence[DurableEffect]) -> None: ...


class AbciLedger:
    """A replica that only follows: it is told what was decided."""

    def __init__(self, genesis: Genesis, application: LedgerApplication) -> None:
        self.settled: list[Settled] = []
        self.application = application
        self.replica = Replica(
            application=application,
            genesis=genesis,
            key=SecretKey(b"\x01" * 32),
            verifier=DirectVerifier(),
            store=NoDisk(),
            tip=None,
            now_ms=lambda: 0,
            view_at=lambda height: None,
            on_settled=self.settled.append,
            on_misbehaviour=lambda height: None,
        )
        self.desk = SnapshotDesk(
            application=application,
            verifier=DirectVerifier(),
            chunks=None,  # type: ignore[arg-type]  # nobody asks for a snapshot
            install=lambda ledger, blocks: None,
        )

    def finalize(self, context: BlockContext, execution: Execution) -> None:
        """Decide and commit a block, and compare with what executing it gave."""
        preamble = Preamble(time_ms=context.time_ms, last_certificate=context.last_certificate)
        entries = pack_block(preamble, context.transactions)
        response = self._call(
            abci_pb2.Request(
                finalize_block=abci_pb2.RequestFinalizeBlock(
                    txs=entries,
                    hash=hashlib.sha256(b"|".join(entries)).digest(),
                    height=context.height,
                    proposer_address=address_of(context.proposer),
                )
            )
        ).finalize_block
        reasons = [ReasonCode(result.log) for result in response.tx_results[1:]]
        assert reasons == [outcome.reason for outcome in execution.outcomes]
        codes = [result.code for result in response.tx_results[1:]]
        assert codes == [reason is not ReasonCode.OK for reason in reasons]
        self._call(abci_pb2.Request(commit=abci_pb2.RequestCommit()))
        state = self.application.state
        assert state.root == execution.state_root
        assert response.app_hash == compute_app_hash(state)
        if context.last_certificate is not None:
            # What the certificate proves stands now, one block behind.
            assert self.settled[-1].final.certificate == context.last_certificate

    def _call(self, request: abci_pb2.Request) -> abci_pb2.Response:
        """Over the wire and back."""
        sent = abci_pb2.Request.FromString(request.SerializeToString())
        response = answer(self.replica, self.desk, sent)
        return abci_pb2.Response.FromString(response.SerializeToString())
