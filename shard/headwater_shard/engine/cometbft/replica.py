"""One replica behind ABCI 2.0: CometBFT's calls, answered from a ledger and its store.

A block of CometBFT is one of ours (`preamble.py`), heights are equal, and who may propose follows
from the ledger's committee. What stands on disk is what is certified: a block is written with our
own certificate, as soon as that is known. A validator knows it when CometBFT decides, since every
precommit brought a signature; who only follows learns it from the next block. The one block that
may be decided and not written is kept here and executed again after a crash, because `Info` names
the last height that was written.

No clock, no socket, no thread: `shell/` brings them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from headwater_protocol.chain.block import (
    MAX_BLOCK_TRANSACTIONS,
    NO_DIGEST,
    Block,
    Certificate,
    header_digest,
    verify_certificate,
)
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import HeadwaterError, InvalidBlock, InvalidMessage
from headwater_protocol.identifiers import Digest, Height, TimeMs, ValidatorId, View
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication
from headwater_shard.engine.bft.effects import DurableEffect, Finalized
from headwater_shard.engine.bft.history import Tip
from headwater_shard.engine.bft.leader import Rotation, initial_rotation, next_rotation
from headwater_shard.engine.bft.validation import (
    MAX_PAYLOAD_BYTES,
    Place,
    make_header,
    make_place,
    verify_body,
    verify_clock,
)
from headwater_shard.engine.border import BlockContext, Execution
from headwater_shard.engine.cometbft.extensions import (
    DECIDED_VIEW,
    ExtensionBook,
    decode_extension,
    sign_extension,
)
from headwater_shard.engine.cometbft.mapping import (
    compute_app_hash,
    find_validator,
    validator_updates,
)
from headwater_shard.engine.cometbft.preamble import (
    ENTRY_OVERHEAD_BYTES,
    MAX_PREAMBLE_BYTES,
    Preamble,
    decode_late_vote,
    decode_tick,
    encode_late_vote,
    is_note,
    is_tick,
    pack_block,
    unpack_block,
)
from headwater_shard.engine.cometbft.wire import abci_pb2, types_pb2
from headwater_shard.state.state import State

MAX_PROPOSALS: Final = 16
"""Executed proposals of one height; a view brings one."""

MAX_REASONS_KEPT: Final = 64
"""Refused proposals and extensions that are kept for `refused`."""

CODESPACE: Final = "headwater"
REFUSED: Final = 1
"""The code of a transaction that is refused; the reason stands in `log`."""


class BlockWriter(Protocol):
    """Where certified blocks go."""

    def write(self, effects: Sequence[DurableEffect]) -> None:
        """Put blocks on disk, all or none; durable when it returns.

        Raises:
            StorageError: If the store is unusable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A block that stands, with its certificate, on disk."""

    final: Finalized
    state: State
    """After the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Executed:
    block: Block
    context: BlockContext
    digest: Digest
    execution: Execution
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tail:
    executed: _Executed
    rotation: Rotation


class Replica:
    """The application of one CometBFT node."""

    def __init__(
        self,
        *,
        application: LedgerApplication,
        genesis: Genesis,
        key: SecretKey,
        verifier: Verifier,
        store: BlockWriter,
        tip: Tip | None,
        now_ms: Callable[[], int],
        view_at: Callable[[Height], View | None],
        on_settled: Callable[[Settled], None],
        on_misbehaviour: Callable[[Height], None],
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        """Start at the application's committed height.

        Args:
            application: The ledger, at genesis or at `tip`.
            genesis: The network's.
            key: The validator's; CometBFT signs with the same one.
            verifier: Checks signatures.
            store: Where certified blocks go.
            tip: The last stored block; None at genesis.
            now_ms: The clock: a proposal's time, and how far ahead another's may be.
            view_at: In which view of a height the node votes, as its signer saw it.
            on_settled: Told of each block once it is on disk, in order.
            on_misbehaviour: Told of heights whose block names a validator that signed twice.
            on_stuck: Told when a proposal lacked the last block's certificate: `late_vote` helps.
        """
        self.application = application
        self._genesis = genesis
        self._key = key
        self._verifier = verifier
        self._store = store
        self._now_ms = now_ms
        self._view_at = view_at
        self._on_settled = on_settled
        self._on_misbehaviour = on_misbehaviour
        self._on_stuck = on_stuck
        self._is_stuck = False
        self._tail: _Tail | None = None
        self._decided: _Executed | None = None
        self._proposals: dict[bytes, _Executed] = {}
        self._extended: dict[View, Digest] = {}
        self.refused: dict[str, int] = {}
        """Why proposals and extensions were refused, with counts."""
        self._start(tip)

    @property
    def place(self) -> Place:
        """Where the next block goes."""
        return self._place

    def restart(self, tip: Tip) -> None:
        """Go on from a block that this replica did not execute; the application is there."""
        self._tail = self._decided = None
        self._proposals.clear()
        self._start(tip)

    def _start(self, tip: Tip | None) -> None:
        if tip is None:
            self._rotation = initial_rotation(self.application.committee)
            self._parent: Block | None = None
        else:
            self._rotation = tip.rotation
            self._parent = tip.block
        self._place = self._make_place()
        self._book = self._make_book()
        self._parent_book: ExtensionBook | None = None

    # Information and mempool.

    def info(self) -> abci_pb2.ResponseInfo:
        """The height from which CometBFT replays, and its digest."""
        height = self.application.height
        return abci_pb2.ResponseInfo(
            data=f"headwater {self.application.chain}",
            last_block_height=height,
            last_block_app_hash=self._app_hash() if height else b"",
        )

    def init_chain(self, request: abci_pb2.RequestInitChain) -> abci_pb2.ResponseInitChain:
        """Check that CometBFT starts from what our genesis says.

        Raises:
            InvalidBlock: If its validators are not the first committee.
        """
        found = {bytes(entry.pub_key.ed25519): entry.power for entry in request.validators}
        committee = self.application.committee
        expected = {bytes(entry.validator): entry.voting_power for entry in committee.delegates}
        if found != expected or request.initial_height not in {0, 1}:
            raise InvalidBlock("CometBFT's genesis is not made from this network's")
        return abci_pb2.ResponseInitChain(app_hash=self._app_hash())

    def check_tx(self, request: abci_pb2.RequestCheckTx) -> abci_pb2.ResponseCheckTx:
        """Whether an entry may wait: a transaction that would succeed, or a note in its time."""
        entry = request.tx
        if is_tick(entry):
            reason = ReasonCode.OK if self._is_due(entry) else ReasonCode.DUPLICATE
        elif is_note(entry):
            reason = self._take_late_vote(entry)
        else:
            reason = self.application.check_tx(entry)
        if reason is ReasonCode.OK:
            return abci_pb2.ResponseCheckTx()
        return abci_pb2.ResponseCheckTx(code=REFUSED, log=reason.value, codespace=CODESPACE)

    def query(self, request: abci_pb2.RequestQuery) -> abci_pb2.ResponseQuery:
        """An entry of the committed state; `path` is the namespace, `data` the key."""
        try:
            result = self.application.query(request.path, request.data)
        except KeyError:
            return abci_pb2.ResponseQuery(
                code=REFUSED, log=f"no namespace {request.path!r}", codespace=CODESPACE
            )
        proofs = types_pb2.ProofOps()
        if request.prove:
            proofs.ops.add(
                type="headwater:state", key=request.data, data=encode_record(result.proof)
            )
        return abci_pb2.ResponseQuery(
            key=request.data,
            value=result.value or b"",
            log="" if result.value is not None else "absent",
            height=result.height,
            proof_ops=proofs if request.prove else None,
        )

    # Proposals and votes.

    def prepare_proposal(
        self, request: abci_pb2.RequestPrepareProposal
    ) -> abci_pb2.ResponsePrepareProposal:
        """The preamble and those transactions that succeed and fit.

        Without a certificate of the block before the proposal is one that others refuse; then
        validators send late votes, and a later leader has them.
        """
        place = self._place
        time_ms = TimeMs(max(self._now_ms(), place.earliest_ms))
        certificate = self._collect_certificate(request.local_last_commit)
        if certificate is None and place.parent is not None:
            self._note_stuck()
        preamble = Preamble(time_ms=time_ms, last_certificate=certificate)
        room = min(
            MAX_PAYLOAD_BYTES,
            request.max_tx_bytes
            - MAX_PREAMBLE_BYTES
            - ENTRY_OVERHEAD_BYTES * (1 + min(len(request.txs), MAX_BLOCK_TRANSACTIONS)),
        )
        transactions = self.application.prepare_proposal(
            [entry for entry in request.txs if not is_note(entry)],
            time_ms=time_ms,
            max_bytes=max(0, room),
        )
        return abci_pb2.ResponsePrepareProposal(txs=pack_block(preamble, transactions))

    def process_proposal(
        self, request: abci_pb2.RequestProcessProposal
    ) -> abci_pb2.ResponseProcessProposal:
        """Execute a proposal and compare; what no honest leader proposes is refused."""
        statuses = abci_pb2.ResponseProcessProposal.ProposalStatus
        try:
            executed = self._execute(request, is_proposal=True)
            verify_clock(
                executed.block.header,
                now_ms=self._now_ms(),
                clock_drift_ms=self._genesis.parameters.clock_drift_ms,
            )
        except InvalidMessage as error:
            self._refuse(error)
            return abci_pb2.ResponseProcessProposal(status=statuses.REJECT)
        return abci_pb2.ResponseProcessProposal(status=statuses.ACCEPT)

    def extend_vote(self, request: abci_pb2.RequestExtendVote) -> abci_pb2.ResponseExtendVote:
        """Our signature over our header, in the view in which this node votes.

        The extension is empty where the view is not known, or another block was signed in it; the
        signer refuses a precommit that comes with it.

        Raises:
            InvalidMessage: If the block does not hold, which the prevotes rule out.
        """
        executed = self._execute(request, is_proposal=True)
        view = self._view_at(Height(request.height))
        if view is None or self._extended.setdefault(view, executed.digest) != executed.digest:
            return abci_pb2.ResponseExtendVote()
        extension = sign_extension(
            self._key,
            network=self._place.network,
            chain=self._place.chain,
            height=self._place.height,
            view=view,
            block=executed.digest,
        )
        self._book.add(self._key.validator, extension)
        return abci_pb2.ResponseExtendVote(vote_extension=extension)

    def verify_vote_extension(
        self, request: abci_pb2.RequestVerifyVoteExtension
    ) -> abci_pb2.ResponseVerifyVoteExtension:
        """Whether a precommit brings its validator's signature over our header of the block.

        Of a block that this node has not executed yet only the signature can be checked; a vote
        must not be lost because it overtook the proposal.
        """
        statuses = abci_pb2.ResponseVerifyVoteExtension.VerifyStatus
        try:
            if request.height != self._place.height:
                raise InvalidBlock(f"a vote of height {request.height} at {self._place.height}")
            validator = find_validator(self._place.committee, request.validator_address)
            signed = self._book.add(validator, request.vote_extension)
            known = self._proposals.get(request.hash)
            if known is not None and signed.vote.block != known.digest:
                raise InvalidBlock(f"{validator.hex()[:16]} signs another header of the block")
        except InvalidMessage as error:
            self._refuse(error)
            return abci_pb2.ResponseVerifyVoteExtension(status=statuses.REJECT)
        return abci_pb2.ResponseVerifyVoteExtension(status=statuses.ACCEPT)

    # Blocks.

    def finalize_block(
        self, request: abci_pb2.RequestFinalizeBlock
    ) -> abci_pb2.ResponseFinalizeBlock:
        """Execute the decided block.

        Raises:
            InvalidMessage: If it does not follow from the state: this replica is wrong, or more
                than a third of the power.
        """
        executed = self._decided = self._execute(request, is_proposal=False)
        if request.misbehavior:
            self._on_misbehaviour(Height(request.height))
        execution = executed.execution
        results = [abci_pb2.ExecTxResult()]
        results += [
            abci_pb2.ExecTxResult(
                code=0 if outcome.reason is ReasonCode.OK else REFUSED,
                log=outcome.reason.value,
                codespace=CODESPACE,
            )
            for outcome in execution.outcomes
        ]
        elected = execution.elected_committee
        return abci_pb2.ResponseFinalizeBlock(
            tx_results=results,
            validator_updates=(
                [] if elected is None else validator_updates(execution.next_committee, elected)
            ),
            app_hash=compute_app_hash(executed.state),
        )

    def commit(self) -> abci_pb2.ResponseCommit:
        """Make the decided block the committed one; on disk is then what has its certificate.

        Raises:
            InvalidBlock: If no block was decided.
            StorageError: If the store is unusable.
        """
        executed, self._decided = self._decided, None
        if executed is None:
            raise InvalidBlock("a commit without a decided block")
        settled: list[Settled] = []
        if self._tail is not None and executed.block.last_certificate is not None:
            settled.append(_settle(self._tail, executed.block.last_certificate))
        rotation = next_rotation(self._rotation, executed.execution.next_committee)
        tail = _Tail(executed=executed, rotation=rotation)
        certificate = self._book.certificate(executed.digest)
        if certificate is not None:
            settled.append(_settle(tail, certificate))
        if settled:
            self._store.write([entry.final for entry in settled])
        self.application.commit(executed.context)
        self._tail = tail if certificate is None else None
        self._rotation, self._parent = rotation, executed.block
        self._place = self._make_place(executed.digest)
        self._parent_book, self._book = self._book, self._make_book()
        self._proposals.clear()
        self._extended.clear()
        self._is_stuck = False
        for entry in settled:
            self._on_settled(entry)
        return abci_pb2.ResponseCommit()

    # What the calls have in common.

    def _execute(
        self,
        request: abci_pb2.RequestProcessProposal
        | abci_pb2.RequestExtendVote
        | abci_pb2.RequestFinalizeBlock,
        *,
        is_proposal: bool,
    ) -> _Executed:
        known = self._proposals.get(request.hash)
        if known is not None:
            return known
        place = self._place
        if request.height != place.height:
            raise InvalidBlock(f"block {request.height} after {place.height - 1}")
        preamble, transactions = unpack_block(request.txs)
        self._verify_parent(preamble.last_certificate)
        if preamble.time_ms < place.earliest_ms:
            raise InvalidBlock(f"block time {preamble.time_ms}, earliest is {place.earliest_ms}")
        context = BlockContext(
            height=place.height,
            time_ms=preamble.time_ms,
            proposer=find_validator(place.committee, request.proposer_address),
            previous=place.parent_digest,
            last_certificate=preamble.last_certificate,
            transactions=transactions,
        )
        if is_proposal:
            execution = self.application.process_proposal(context)
        else:
            execution = self.application.finalize_block(context)
        block = Block(
            header=make_header(place, context, execution),
            transactions=transactions,
            last_certificate=preamble.last_certificate,
        )
        verify_body(block)
        executed = _Executed(
            block=block,
            context=context,
            digest=header_digest(block.header),
            execution=execution,
            state=self.application.executed_state(context),
        )
        while len(self._proposals) >= MAX_PROPOSALS:
            self._proposals.pop(next(iter(self._proposals)))
        self._proposals[request.hash] = executed
        return executed

    def _verify_parent(self, certificate: Certificate | None) -> None:
        place = self._place
        if place.parent is None or place.certifiers is None:
            if certificate is not None:
                raise InvalidBlock("a first block has no certificate before it")
            return
        if certificate is None:
            self._note_stuck()
            raise InvalidBlock("the certificate of the block before is missing")
        verify_certificate(
            certificate, header=place.parent, committee=place.certifiers, verifier=self._verifier
        )

    def _collect_certificate(self, commit: abci_pb2.ExtendedCommitInfo) -> Certificate | None:
        """The parent's certificate, of the extensions of its commit and of those heard before."""
        place = self._place
        if place.parent is None or place.certifiers is None:
            return None
        book = self._get_parent_book(place.certifiers)
        book.add_all(_list_extensions(commit, place.certifiers))
        return book.certificate(place.parent_digest)

    def late_vote(self) -> bytes | None:
        """A note for the mempool: this validator's signature over the last block's header.

        None where no proposal lacked a certificate, or this validator did not serve.
        """
        place = self._place
        if not self._is_stuck or place.parent is None or place.certifiers is None:
            return None
        if place.certifiers.power_of(self._key.validator) == 0:
            return None
        return encode_late_vote(
            sign_extension(
                self._key,
                network=place.network,
                chain=place.chain,
                height=place.parent.height,
                view=DECIDED_VIEW,
                block=place.parent_digest,
            )
        )

    def _take_late_vote(self, entry: bytes) -> ReasonCode:
        place, extension = self._place, decode_late_vote(entry)
        if extension is None:
            return ReasonCode.BAD_ENCODING
        if place.certifiers is None:
            return ReasonCode.DUPLICATE
        try:
            signed = decode_extension(extension)
            if signed.vote.view != DECIDED_VIEW or signed.vote.block != place.parent_digest:
                return ReasonCode.OUT_OF_BOUNDS
            self._get_parent_book(place.certifiers).add(signed.validator, extension)
        except InvalidMessage as error:
            return error.reason
        # Kept for the certificate in any case; a reason for a block only where one is needed.
        return ReasonCode.OK if self._is_stuck else ReasonCode.DUPLICATE

    def _note_stuck(self) -> None:
        if not self._is_stuck:
            self._is_stuck = True
            self._on_stuck()

    def _get_parent_book(self, certifiers: Committee) -> ExtensionBook:
        if self._parent_book is None:
            self._parent_book = self._make_book(
                height=Height(self._place.height - 1), committee=certifiers
            )
        return self._parent_book

    def _is_due(self, entry: bytes) -> bool:
        timer_ms = self.application.next_timer()
        if timer_ms is None or timer_ms > self._now_ms():
            return False
        return decode_tick(entry) == (self._place.height, timer_ms)

    def _app_hash(self) -> Digest:
        return compute_app_hash(self.application.state)

    def _make_place(self, parent_digest: Digest | None = None) -> Place:
        parent = None if self._parent is None else self._parent.header
        if parent_digest is None:
            parent_digest = NO_DIGEST if parent is None else header_digest(parent)
        return make_place(
            network=self.application.network,
            chain=self.application.chain,
            parent=parent,
            parent_digest=parent_digest,
            certifiers=self._rotation.certifiers,
            committee=self._rotation.committee,
        )

    def _make_book(
        self, *, height: Height | None = None, committee: Committee | None = None
    ) -> ExtensionBook:
        return ExtensionBook(
            network=self._place.network,
            chain=self._place.chain,
            height=self._place.height if height is None else height,
            committee=self._place.committee if committee is None else committee,
            verifier=self._verifier,
        )

    def _refuse(self, error: HeadwaterError) -> None:
        reason = str(error)
        if reason in self.refused or len(self.refused) < MAX_REASONS_KEPT:
            self.refused[reason] = self.refused.get(reason, 0) + 1


def _settle(tail: _Tail, certificate: Certificate) -> Settled:
    executed = tail.executed
    return Settled(
        final=Finalized(
            block=executed.block,
            certificate=certificate,
            execution=executed.execution,
            rotation=tail.rotation,
        ),
        state=executed.state,
    )


def _list_extensions(
    commit: abci_pb2.ExtendedCommitInfo, certifiers: Committee
) -> dict[ValidatorId, bytes]:
    extensions: dict[ValidatorId, bytes] = {}
    for vote in commit.votes:
        if vote.block_id_flag != types_pb2.BLOCK_ID_FLAG_COMMIT:
            continue
        try:
            validator = find_validator(certifiers, vote.validator.address)
        except InvalidMessage:
            continue
        extensions[validator] = vote.vote_extension
    return extensions
