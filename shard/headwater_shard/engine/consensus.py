"""Byzantine agreement on one chain, as a state machine without I/O for one validator.

The algorithm is Tendermint: in each view the leader proposes, everybody prevotes, then precommits;
more than two thirds of the power in precommits decide. A validator that precommitted is locked and
prevotes another block only when a later view's prevotes justify it, so no two blocks of a height
are ever decided while at most one third of the power is Byzantine.

Where it goes beyond the paper, and why:

- The header commits to the state after the block, so the leader executes before it proposes and
  everybody executes before prevoting, and compares the whole header.
- A proposal of an earlier view's block carries the prevotes that justify it, and own messages are
  repeated while a height is undecided. That stands in for the paper's assumption that whatever one
  honest validator receives, all do.
- No empty blocks without need. A validator is idle until it knows of work: its mempool has some,
  the ledger's timer is due, or a peer's message for this height was seen. Only then do timeouts
  run. A leader proposes when it has work itself; when as many views as there are delegates have
  gone by without a block, it proposes an empty one, so that a false alarm ends.
- Times in headers never decide what stands: a clock is asked before a prevote only.

Who drives it performs `effects()` in order after each call, and calls `on_timer` when
`next_timer()` is reached. `Persist` and `Finalized` have to be durable before what comes after them
is sent.

Buchman, Kwon, Milosevic, "The latest gossip on BFT consensus", 2018 (arXiv:1807.04938). Line
numbers in comments are those of its algorithm 1.
"""

from collections import deque
from collections.abc import Iterator, Mapping

from headwater_protocol.chain.block import (
    NO_DIGEST,
    Block,
    Certificate,
    VoteKind,
)
from headwater_protocol.chain.evidence import Equivocation
from headwater_protocol.chain.statement import NO_VIEW, LockView, SignedVote
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import Digest, Height, TimeMs, ValidatorId, View
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.bft.catch_up import CatchUp
from headwater_shard.engine.bft.effects import (
    Broadcast,
    Effect,
    Finalized,
    Halted,
    Send,
)
from headwater_shard.engine.bft.height import Candidate, HeightState
from headwater_shard.engine.bft.history import (
    BlockSource,
    FinalizedBlock,
    RecentBlocks,
    Tip,
    require_fitting,
)
from headwater_shard.engine.bft.intake import Intake
from headwater_shard.engine.bft.judge import Judge
from headwater_shard.engine.bft.leader import Rotation, initial_rotation, next_rotation
from headwater_shard.engine.bft.messages import BlockRequest, Message, Proposal
from headwater_shard.engine.bft.parent import ParentVerifier, ParentVotes
from headwater_shard.engine.bft.signer import STEP_OF_VOTE, Lock, SavedState, Signer, Step
from headwater_shard.engine.bft.timeouts import Timeouts
from headwater_shard.engine.bft.validation import (
    make_context,
    make_place,
)
from headwater_shard.engine.bft.voice import Voice
from headwater_shard.engine.bft.votes import (
    Electorate,
    make_certificate,
    make_prevote_certificate,
)
from headwater_shard.engine.bft.work import Work
from headwater_shard.engine.border import Application
from headwater_shard.engine.mempool import Mempool


class Consensus:
    """One validator, or one follower without voting power, of one chain."""

    def __init__(
        self,
        *,
        key: SecretKey,
        application: Application,
        mempool: Mempool,
        verifier: Verifier,
        clock_drift_ms: int,
        timeouts: Timeouts | None = None,
        history: BlockSource | None = None,
        tip: Tip | None = None,
        saved: SavedState | None = None,
    ) -> None:
        """Start at the application's committed height.

        Args:
            key: Of this validator.
            application: Its replica of the ledger, at genesis or at `tip`.
            mempool: Its waiting transactions; may be shared by replicas of one process.
            verifier: Checks signatures of peers.
            clock_drift_ms: How far a block's time may be ahead of this validator's clock.
            timeouts: None takes the defaults.
            history: Where older finalized blocks are found for peers that lag.
            tip: The last stored block; None at genesis.
            saved: What this validator persisted last; without it, it may only be new.

        Raises:
            ConfigError: If the application, the tip and the signed state do not fit together.
        """
        self._application = application
        self._mempool = mempool
        self._verifier = verifier
        self._timeouts = Timeouts() if timeouts is None else timeouts
        self._effects: deque[Effect] = deque()
        self._inbox: deque[Message] = deque()
        self._refused: dict[ReasonCode, int] = {}
        self._history = RecentBlocks(history)
        self._catch_up = CatchUp(resend_ms=self._timeouts.resend_ms)
        self._is_halted = False
        self._probe_at: int | None = None if self._timeouts.probe_ms is None else 0
        require_fitting(application, key.validator, tip, saved)
        self._signer = Signer(
            key=key,
            network=application.network,
            chain=application.chain,
            state=None if saved is None else saved.state,
        )
        self._voice = Voice(signer=self._signer, effects=self._effects)
        self._work = Work(
            application=application,
            mempool=mempool,
            validator=key.validator,
            clock_drift_ms=clock_drift_ms,
        )
        self._judge = Judge(
            application=application, clock_drift_ms=clock_drift_ms, count=self._count
        )
        self._intake = Intake(
            signer=self._signer,
            verifier=verifier,
            history=self._history,
            catch_up=self._catch_up,
            effects=self._effects,
            resend_ms=self._timeouts.resend_ms,
        )
        if tip is None:
            self._state = self._open_height(
                initial_rotation(application.committee), None, NO_DIGEST
            )
        else:
            self._set_parent(tip.block, tip.certificate, tip.rotation, now_ms=0)
            self._state = self._open_height(tip.rotation, tip.block, tip.certificate.block)
        if saved is not None:
            self._state.restore(saved)

    @property
    def validator(self) -> ValidatorId:
        """Who this is."""
        return self._signer.validator

    @property
    def height(self) -> Height:
        """The height that is being decided."""
        return self._state.place.height

    @property
    def view(self) -> View:
        """The current attempt at it, from 0."""
        return View(self._state.view)

    @property
    def rotation(self) -> Rotation:
        """Committee and priorities of the height that is being decided."""
        return self._state.rotation

    @property
    def is_idle(self) -> bool:
        """Whether it knows of nothing to do at this height."""
        return not self._state.is_active

    @property
    def is_halted(self) -> bool:
        """Whether it has stopped for good, as its `Halted` effect says why."""
        return self._is_halted

    @property
    def refused(self) -> Mapping[ReasonCode, int]:
        """How many messages were refused, by reason."""
        return dict(sorted(self._refused.items()))

    @property
    def equivocations(self) -> tuple[Equivocation, ...]:
        """The double signatures found since the start, at most `MAX_EVIDENCE`."""
        return tuple(self._intake.equivocations)

    def submit(self, transaction: bytes, now_ms: int) -> ReasonCode:
        """Queue a transaction of a client; `OK` where it waits for a block now."""
        reason = self._mempool.add(transaction, self._application.check_tx)
        if reason is ReasonCode.OK:
            self._run(now_ms)
        return reason

    def receive(self, message: Message, now_ms: int) -> None:
        """Take a peer's message; a bad one is counted in `refused`, nothing is raised for it."""
        self._inbox.append(message)
        self._run(now_ms)

    def probe(self, now_ms: int) -> None:
        """Ask all peers for the next block, as after a start or when a link is back."""
        if self._timeouts.probe_ms is not None:
            self._probe_at = now_ms + self._timeouts.probe_ms
        self._effects.append(Broadcast(message=self._request()))

    def next_timer(self) -> int | None:
        """When `on_timer` is due, in ms; a time that is past means now, None means never."""
        if self._is_halted:
            return None
        state = self._state
        times = list(state.timers.values())
        if state.is_active:
            times.append(state.resend_at or 0)
        others = (self._catch_up.request_at, self._probe_at, self._work.next_timer(state))
        times += [at for at in others if at is not None]
        return min(times, default=None)

    def on_timer(self, now_ms: int) -> None:
        """Do what is due at `now_ms`; harmless where nothing is."""
        if self._is_halted:
            return
        state = self._state
        timers = state.timers
        if timers.get(Step.PROPOSE, now_ms + 1) <= now_ms:
            self._cast(VoteKind.PREVOTE, None)  # line 57
        elif timers.get(Step.PREVOTE, now_ms + 1) <= now_ms:
            self._cast(VoteKind.PRECOMMIT, None)  # line 61
        elif timers.get(Step.PRECOMMIT, now_ms + 1) <= now_ms:
            self._enter_view(state.view + 1)  # line 65
        self._run(now_ms)
        if self._state.is_active and (self._state.resend_at or 0) <= now_ms:
            self._state.resend_at = now_ms + self._timeouts.resend_ms
            self._voice.repeat(self._state)
        peer = self._catch_up.next_peer(self._state.electorate, now_ms)
        if peer is not None:
            self._effects.append(Send(to=peer, message=self._request()))
        if self._probe_at is not None and self._probe_at <= now_ms:
            self.probe(now_ms)

    def effects(self) -> Iterator[Effect]:
        """What to do next, each once, in the order in which it has to happen."""
        while self._effects:
            yield self._effects.popleft()

    # Messages in, and rules until none applies.

    def _run(self, now_ms: int) -> None:
        while not self._is_halted:
            if self._inbox:
                self._take(self._inbox.popleft(), now_ms)
            elif not self._apply_rule(now_ms):
                break
        if not self._is_halted:
            self._arm_timers(now_ms)

    def _take(self, message: Message, now_ms: int) -> None:
        try:
            if isinstance(message, SignedVote):
                self._intake.take_vote(message, self._state, now_ms)
            elif isinstance(message, Proposal):
                self._intake.take_proposal(message, self._state, now_ms)
            elif isinstance(message, BlockRequest):
                self._intake.take_request(message, self._state, now_ms)
            else:
                final = self._intake.take_response(message, self._state, now_ms)
                if final is not None:
                    block, certificate = final
                    candidate = self._state.add_candidate(block, certificate.block)
                    self._finalize(candidate, certificate, now_ms, was_behind=True)
        except InvalidMessage as error:
            self._count(error)

    def _count(self, error: InvalidMessage) -> None:
        self._refused[error.reason] = self._refused.get(error.reason, 0) + 1

    def _apply_rule(self, now_ms: int) -> bool:
        """Apply the first rule that has something to do; False where none has."""
        state = self._state
        decided = state.book.decided()
        if decided is not None and self._decide(*decided, now_ms):
            return True
        reached = state.book.reached_view(state.view)
        if reached > state.view:
            self._enter_view(reached)  # line 55
            return True
        if not state.is_active:
            state.is_active = self._is_delegate() and self._work.is_due(state, now_ms)
            if not state.is_active:
                return False
        if state.resend_at is None and not self._signer.votes_at(state.place.height):
            state.resend_at = now_ms + self._timeouts.resend_ms
        if state.step is Step.PROPOSE:
            return self._propose(now_ms) or self._prevote(now_ms) or self._leave_view()
        return self._precommit(now_ms) or self._leave_view()

    def _decide(self, view: int, digest: Digest, now_ms: int) -> bool:
        """Line 49: a quorum of precommits finalizes a block, once its contents are known."""
        state = self._state
        tally = state.book.tally(view, VoteKind.PRECOMMIT)
        candidate = state.candidates.get(digest)
        if candidate is None:
            for validator in sorted(tally.votes):
                self._catch_up.note(
                    validator,
                    working_on=state.place.height + 1,
                    height=state.place.height,
                    electorate=state.electorate,
                    now_ms=now_ms,
                )
            return False
        certificate = make_certificate(
            tally,
            chain=state.place.chain,
            height=state.place.height,
            view=View(view),
            block=digest,
        )
        self._finalize(candidate, certificate, now_ms, was_behind=False)
        return True

    def _enter_view(self, view: int) -> None:
        self._state.enter_view(view)
        self._state.is_active = True

    def _propose(self, now_ms: int) -> bool:
        """Lines 14 to 19: the leader proposes, once it has something to propose."""
        state = self._state
        if not self._work.is_leader(state) or self._work.is_too_early(state, now_ms):
            return False
        valid, block = state.lock.valid, state.valid_block
        if valid is None or block is None:
            valid = None
            try:
                block = self._work.make_block(state, self._intake.parent, now_ms)
            except InvalidMessage as error:
                self._count(error)
                state.gave_up_view = state.view
                return False
            if block is None:
                return False
        if not self._voice.propose(state, block, valid=valid):
            state.gave_up_view = state.view
            return False
        return True

    def _prevote(self, now_ms: int) -> bool:
        """Lines 22 and 28: prevote the leader's block if it holds and no lock forbids it."""
        state = self._state
        entry = state.proposals.get(state.view)
        if entry is None:
            return False
        proposal, digest = entry
        valid_view = NO_VIEW if proposal.valid is None else proposal.valid.view
        is_free = state.lock.locked_view <= valid_view or state.lock.locked_block == digest
        is_fit = is_free and self._is_fit(state.candidates[digest], now_ms)
        self._cast(VoteKind.PREVOTE, digest if is_fit else None)
        return True

    def _precommit(self, now_ms: int) -> bool:
        """Lines 36 and 44: precommit what a quorum prevoted, and lock on it."""
        state = self._state
        tally = state.book.tally(state.view, VoteKind.PREVOTE)
        digest = tally.block
        candidate = None if digest is None else state.candidates.get(digest)
        if (
            digest is not None
            and candidate is not None
            and state.justified_view < state.view
            and self._is_fit(candidate, now_ms)
        ):
            state.justified_view = state.view
            valid = make_prevote_certificate(tally, view=View(state.view), block=digest)
            state.valid_block = candidate.block
            if state.step is Step.PREVOTE:
                state.lock = Lock(
                    locked_view=LockView(state.view), locked_block=digest, valid=valid
                )
                self._cast(VoteKind.PRECOMMIT, digest)
            else:
                state.lock = Lock(
                    locked_view=state.lock.locked_view,
                    locked_block=state.lock.locked_block,
                    valid=valid,
                )
            return True
        if tally.has_quorum_of_none and state.step is Step.PREVOTE:
            self._cast(VoteKind.PRECOMMIT, None)
            return True
        return False

    def _leave_view(self) -> bool:
        """A view in which a quorum precommitted no block decides nothing any more."""
        state = self._state
        tally = state.book.tally(state.view, VoteKind.PRECOMMIT)
        if not tally.has_quorum_of_none:
            return False
        self._enter_view(state.view + 1)
        return True

    def _arm_timers(self, now_ms: int) -> None:
        """Lines 21, 34 and 47: start the waits that have a reason now."""
        state = self._state
        if not state.is_active:
            return
        view = state.view
        if state.step is Step.PROPOSE:
            state.timers.setdefault(Step.PROPOSE, now_ms + self._timeouts.propose(view))
        elif state.step is Step.PREVOTE and state.book.tally(view, VoteKind.PREVOTE).has_quorum:
            state.timers.setdefault(Step.PREVOTE, now_ms + self._timeouts.prevote(view))
        if state.book.tally(view, VoteKind.PRECOMMIT).has_quorum:
            state.timers.setdefault(Step.PRECOMMIT, now_ms + self._timeouts.precommit(view))

    # What leaves this validator.

    def _cast(self, kind: VoteKind, block: Digest | None) -> None:
        """Take a step, with a vote where this validator has one and has not said otherwise."""
        state = self._state
        state.step = STEP_OF_VOTE[kind]
        state.timers.pop(Step.PROPOSE, None)
        if state.step is Step.PRECOMMIT:
            state.timers.pop(Step.PREVOTE, None)
        if self._is_delegate():
            self._voice.vote(state, kind, block)

    def _request(self) -> BlockRequest:
        place = self._state.place
        return BlockRequest(chain=place.chain, height=place.height, requester=self.validator)

    # From one height to the next.

    def _finalize(
        self, candidate: Candidate, certificate: Certificate, now_ms: int, *, was_behind: bool
    ) -> None:
        """Make a certified block stand; a replica that finds it wrong stops instead."""
        state = self._state
        execution = candidate.execution
        if execution is None:
            try:
                execution = self._judge.execute_certified(
                    candidate.block, place=state.place, verifier=self._parent_verifier()
                )
            except InvalidMessage as error:
                self._is_halted = True
                self._count(error)
                self._effects.append(Halted(height=state.place.height, error=error))
                return
        self._application.commit(make_context(candidate.block))
        rotation = next_rotation(state.rotation, execution.next_committee)
        self._effects.append(
            Finalized(
                block=candidate.block,
                certificate=certificate,
                execution=execution,
                rotation=rotation,
            )
        )
        height = state.place.height
        self._mempool.finalize(height, candidate.block.transactions, self._application.check_tx)
        self._set_parent(candidate.block, certificate, rotation, now_ms=now_ms)
        self._state = self._open_height(rotation, candidate.block, candidate.digest)
        self._inbox.extendleft(reversed(self._intake.take_future()))
        self._catch_up.start_height(height + 1, was_behind=was_behind, now_ms=now_ms)

    def _set_parent(
        self, block: Block, certificate: Certificate, rotation: Rotation, *, now_ms: int
    ) -> None:
        certifiers = rotation.certifiers
        if certifiers is not None:
            self._intake.parent = ParentVotes(
                certificate,
                network=block.header.network,
                electorate=Electorate(certifiers),
                decided_ms=TimeMs(now_ms),
            )
        self._history.add(FinalizedBlock(block=block, certificate=certificate))

    def _open_height(
        self, rotation: Rotation, parent: Block | None, parent_digest: Digest
    ) -> HeightState:
        place = make_place(
            network=self._application.network,
            chain=self._application.chain,
            parent=None if parent is None else parent.header,
            parent_digest=parent_digest,
            certifiers=rotation.certifiers,
            committee=rotation.committee,
        )
        return HeightState(place=place, rotation=rotation)

    def _is_delegate(self) -> bool:
        return self._state.electorate.power_of(self.validator) > 0

    def _parent_verifier(self) -> ParentVerifier:
        return ParentVerifier(self._intake.parent, self._verifier)

    def _is_fit(self, candidate: Candidate, now_ms: int) -> bool:
        return self._judge.is_fit(
            candidate,
            place=self._state.place,
            verifier=self._parent_verifier(),
            now_ms=now_ms,
        )
