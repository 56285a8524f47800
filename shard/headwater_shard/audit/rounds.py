"""Following a shard's rounds: updates, verdicts, models and rewards, each computed anew.

The state drops old rounds, so a round is checked at the block that closes it, when the ledger still
holds all of it.
"""

from collections.abc import Mapping

from headwater_protocol.chain.checkpoint import Merge
from headwater_protocol.chain.claim import Commit, UpdateClaim, update_message
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import AttestModel, CommitUpdates, PostScores
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    EpochNumber,
    Network,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.audit.failure import Mismatch, require_equal
from headwater_shard.audit.readers import BlobReader
from headwater_shard.audit.replay import ReplayedBlock
from headwater_shard.audit.verdicts import (
    NO_PAYOUT,
    Judgement,
    Payout,
    RoundRecord,
    age_reputations,
    compute_payout,
    find_attested,
    judge_round,
)
from headwater_shard.round_model import compute_round_model
from headwater_shard.shardchain.records import REWARDS, ROUNDS, UPDATES, update_key
from headwater_shard.shardchain.retention import MAX_KEPT_ROUNDS
from headwater_shard.state.state import State


class RoundAudit:
    """The rounds of one shard, up to the last block followed."""

    def __init__(
        self,
        *,
        network: Network,
        shard: ChainId,
        task: Task,
        blobs: BlobReader,
        verifier: Verifier,
    ) -> None:
        self._network = network
        self._shard = shard
        self._task = task
        self._blobs = blobs
        self._verifier = verifier
        self._record = RoundRecord(number=RoundNumber(0))
        self._last_opened = RoundNumber(0)
        self._balances: dict[bytes, int] = {}
        self._reputations: dict[DeviceId, int] = {}
        self.model = task.initial_model
        """Of the last closed round."""
        self._budget = task.round_budget * task.rounds
        self.budget_left = self._budget
        """Units of the task's budget that no round has paid."""
        self.num_closed = 0
        """Rounds checked."""
        self.num_updates = 0
        """Updates whose signatures were checked."""

    @property
    def paid(self) -> int:
        """Units that the rounds have paid."""
        return self._budget - self.budget_left

    def follow(
        self, block: ReplayedBlock, merges: Mapping[EpochNumber, Merge]
    ) -> tuple[Round, ...]:
        """Take a block's transactions, and check the rounds that it closes.

        Args:
            block: The next one.
            merges: Those that the shard has adopted, this block included.

        Returns:
            The rounds closed, in order.

        Raises:
            HeadwaterError: Says what does not hold.
        """
        for transaction in block.transactions:
            body = transaction.body
            sender = ValidatorId(transaction.sender)
            if isinstance(body, CommitUpdates):
                self._verify_commits(block.state, body)
                self._record_of(body.round).batches.append(body.commits)
            elif isinstance(body, PostScores):
                self._record_of(body.round).scores[body.batch, sender] = body.scores
            elif isinstance(body, AttestModel):
                self._record_of(body.round).attestations[sender] = body.model
        closed: list[Round] = []
        for key in sorted(block.changes.get(ROUNDS.namespace, {})):
            round_ = block.state.get(ROUNDS, key)
            if round_ is None:
                number = int.from_bytes(key, "big")
                if self._last_opened - number < MAX_KEPT_ROUNDS:
                    raise Mismatch("is gone from the ledger", item=_name(number))
                continue
            if round_.number > self._last_opened:
                self._require_opened(round_, merges)
            if round_.phase is RoundPhase.CLOSED:
                self._require_closed(block, round_, merges)
                closed.append(round_)
        return tuple(closed)

    def begin_task(self, task: Task) -> None:
        """Go on with another task; what the last one left is the sponsor's again."""
        self._budget = self.paid + task.round_budget * task.rounds
        self.budget_left = task.round_budget * task.rounds
        self._task, self.model = task, task.initial_model

    @property
    def balances(self) -> Mapping[bytes, int]:
        """By account, the sum of the rounds' rewards."""
        return self._balances

    def finish(self, state: State) -> None:
        """Check the sums at the end of the ledger.

        Raises:
            Mismatch: If a balance is not the sum of the rounds' rewards, or the budget is exceeded.
        """
        stored = {key: balance.total for key, balance in state.sorted_items(REWARDS)}
        for key in sorted({*stored, *self._balances}):
            require_equal(
                "the sum of the rewards",
                found=stored.get(key, 0),
                expected=self._balances.get(key, 0),
                by="the rounds' sum",
                item=f"account {key.hex()[:16]}",
            )
        if sum(stored.values()) > self._budget:
            raise Mismatch(f"rewards of {sum(stored.values())} exceed the budget of {self._budget}")

    def _record_of(self, number: RoundNumber) -> RoundRecord:
        if number != self._record.number:
            self._record = RoundRecord(number=number)
        return self._record

    def _verify_commits(self, state: State, body: CommitUpdates) -> None:
        """Check each device's word; the transition did so too, and its answers are remembered."""
        round_ = state.get(ROUNDS, round_key(body.round))
        if round_ is None:
            raise Mismatch("takes updates and is not on the ledger", item=_name(body.round))
        for commit in body.commits:
            claim = UpdateClaim(
                shard=self._shard,
                round=body.round,
                base=round_.base,
                device=commit.device,
                payload=commit.payload,
                num_examples=commit.num_examples,
            )
            message = update_message(self._network, claim)
            if not self._verifier.verify(commit.device, message, commit.signature):
                raise Mismatch("is not signed by its device", item=_name(body.round, commit))
        self.num_updates += len(body.commits)

    def _require_opened(self, round_: Round, merges: Mapping[EpochNumber, Merge]) -> None:
        """A round follows the one before, on its model or on a merge that was adopted since."""
        item = _name(round_.number)
        require_equal(
            "number", found=round_.number, expected=self._last_opened + 1, by="the order", item=item
        )
        self._last_opened = round_.number
        merge = merges.get(round_.epoch)
        if round_.base != self.model and (merge is None or round_.base != merge.model):
            raise Mismatch("its base is neither the last model nor an adopted merge", item=item)

    def _require_closed(
        self, block: ReplayedBlock, round_: Round, merges: Mapping[EpochNumber, Merge]
    ) -> None:
        record = self._record_of(round_.number)
        item = _name(round_.number)
        judgements = judge_round(record, block.committee, self._task, self._reputations)
        self._reputations = age_reputations(self._reputations, judgements)
        accepted = [entry for entry in judgements if entry.reason is ReasonCode.OK]
        aggregates = len(accepted) >= self._task.min_updates
        attested = find_attested(record, block.committee)
        num_accepted = len(accepted)
        if attested is not None and (aggregates or round_.correction is not None):
            model = attested
        else:
            model, aggregates = round_.base, False
            # A round that found no quorum for its model counts none of what it accepted.
            num_accepted = min(num_accepted, round_.num_accepted)
        payout = NO_PAYOUT
        if aggregates:
            payout = compute_payout(
                record,
                judgements,
                committee=block.committee,
                task=self._task,
                model=model,
                budget=min(self._task.round_budget, self.budget_left),
            )
        for what, found, expected in (
            ("batches", round_.num_batches, len(record.batches)),
            ("updates", round_.num_updates, len(judgements)),
            ("accepted updates", round_.num_accepted, num_accepted),
            ("model", round_.model, model),
            ("rewards", round_.paid, payout.total),
            ("closing height", round_.closed_height, block.header.height),
        ):
            require_equal(what, found=found, expected=expected, by="recomputation", item=item)
        self._require_entries(block.state, round_, judgements, payout)
        self._require_blobs(round_, judgements)
        if model != round_.base or aggregates or round_.correction is not None:
            self._require_model(
                round_, [entry.commit for entry in accepted] if aggregates else [], merges
            )
        self._pay(block.state, round_, payout)
        self.model = model
        self.num_closed += 1

    def _require_entries(
        self, state: State, round_: Round, judgements: list[Judgement], payout: Payout
    ) -> None:
        for judgement in judgements:
            commit = judgement.commit
            entry = state.get(UPDATES, update_key(round_.number, commit.device))
            item = _name(round_.number, commit)
            if entry is None:
                raise Mismatch("has no entry on the ledger", item=item)
            for what, found, expected in (
                ("payload", entry.payload, commit.payload),
                ("examples", entry.num_examples, commit.num_examples),
                ("batch", entry.batch, judgement.batch),
                ("verdict", entry.reason, judgement.reason),
                ("median score", entry.score, judgement.score),
                ("reward", entry.reward, payout.devices.get(commit.device, 0)),
            ):
                require_equal(what, found=found, expected=expected, by="recomputation", item=item)
            if not entry.is_judged:
                raise Mismatch("was not judged", item=item)

    def _require_blobs(self, round_: Round, judgements: list[Judgement]) -> None:
        """Whatever the committee could have must still be there."""
        for judgement in judgements:
            commit = judgement.commit
            if judgement.reason is not ReasonCode.UNAVAILABLE and commit.payload not in self._blobs:
                raise Mismatch(
                    f"its payload, blob {commit.payload.hex()}, is missing",
                    item=_name(round_.number, commit),
                )
        for what, digest in (("base", round_.base), ("model", round_.model)):
            if digest is not None and digest not in self._blobs:
                raise Mismatch(
                    f"its {what}, blob {digest.hex()}, is missing", item=_name(round_.number)
                )

    def _require_model(
        self, round_: Round, accepted: list[Commit], merges: Mapping[EpochNumber, Merge]
    ) -> None:
        item = _name(round_.number)
        if round_.correction is not None:
            merge = merges.get(round_.correction.epoch)
            own = [] if merge is None else [e.model for e in merge.inputs if e.shard == self._shard]
            if merge is None or merge.model != round_.correction.merged:
                raise Mismatch("it is corrected by a merge that was not adopted", item=item)
            if own and own[0] != round_.correction.reference:
                raise Mismatch("it is corrected from another model than went in", item=item)
        model = compute_round_model(
            self._task,
            base=round_.base,
            accepted=accepted,
            correction=round_.correction,
            fetch=self._blobs.get,
        )
        require_equal(
            "model", found=round_.model, expected=blob_digest(model), by="recomputation", item=item
        )

    def _pay(self, state: State, round_: Round, payout: Payout) -> None:
        if payout.total > min(self._task.round_budget, self.budget_left):
            raise Mismatch(
                f"rewards of {payout.total} exceed the budget", item=_name(round_.number)
            )
        self.budget_left -= payout.total
        for account, amount in payout.by_account().items():
            self._balances[account] = self._balances.get(account, 0) + amount
            balance = state.get(REWARDS, account)
            require_equal(
                "balance",
                found=0 if balance is None else balance.total,
                expected=self._balances[account],
                by="the rounds' sum",
                item=f"{_name(round_.number)}, reward of {account.hex()[:16]}",
            )


def _name(number: int, commit: Commit | None = None) -> str:
    update = "" if commit is None else f", update of {commit.device.hex()[:16]}"
    return f"round {number}{update}"
