"""Delegates that cheat, with their real keys: in votes, in scores and in models.

A traitor's machine runs as everybody's does; what it says beside that is added here. It posts
absurd scores and attests digests that nobody computes, and from a given round on it signs two
prevotes of one view and tells them all other validators of its chain.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from headwater_gateway.machine.effects import (
    ComputeMerge,
    ComputeRoundModel,
    ScoreBatch,
    Scored,
    Submit,
)
from headwater_gateway.shell.chain import ChainHost, StepResult
from headwater_gateway.shell.service import GatewayService, ServiceSetup
from headwater_protocol.chain.block import Vote, VoteKind, vote_message
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, ValidatorId, View
from headwater_shard.shardchain.records import SHARD, SHARD_KEY

FIRST_EQUIVOCATION_ROUND: Final = 3
"""Late enough that the smaller offences come to light before the one that ends a validator."""

ABSURD_SCORE: Final = 10_000
"""A cosine of one: every update, honest or not, is what the traitor had trained itself."""


class ByzantineHost(ChainHost):
    """A chain some of whose validators vote twice, once each."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        chain: ChainId,
        keys: Sequence[SecretKey],
        path: Path,
        verifier: Verifier,
        traitors: Mapping[ValidatorId, SecretKey],
    ) -> None:
        """As an honest chain's; `traitors` are keys of this process."""
        super().__init__(genesis=genesis, chain=chain, keys=keys, path=path, verifier=verifier)
        self._traitors = dict(traitors)

    def step(self, submissions: Sequence[Submit], now_ms: int) -> StepResult:
        """As an honest chain's, with a conflicting pair of votes in front when it is time."""
        if submissions and self._is_time():
            committee = self._engine.application.committee
            for validator in sorted(self._traitors):
                if committee.power_of(validator):
                    self._vote_twice(self._traitors[validator], now_ms)
            self._traitors.clear()
        return super().step(submissions, now_ms)

    def _is_time(self) -> bool:
        if self.chain == MAIN_CHAIN:
            return False
        shard = self.state.get(SHARD, SHARD_KEY)
        return shard is not None and shard.last_round >= FIRST_EQUIVOCATION_ROUND

    def _vote_twice(self, key: SecretKey, now_ms: int) -> None:
        for other in self._engine.validators:
            machine = self._engine.machine(other)
            if other == key.validator:
                continue
            for block in (blob_digest(b"this"), blob_digest(b"that")):
                vote = Vote(
                    kind=VoteKind.PREVOTE,
                    chain=self.chain,
                    height=machine.height,
                    view=View(0),
                    block=block,
                )
                signature = key.sign(vote_message(self._engine.application.network, vote))
                signed = SignedVote(validator=key.validator, vote=vote, signature=signature)
                machine.receive(signed, now_ms)


class ByzantineService(GatewayService):
    """A gateway some of whose delegates cheat."""

    def __init__(
        self,
        setup: ServiceSetup,
        *,
        traitors: Sequence[SecretKey],
        verifier: Verifier,
        on_finalized: Callable[[ChainId, StepResult], None] | None = None,
    ) -> None:
        """As an honest gateway; `traitors` are among the keys in `setup`."""
        self._traitors = {key.validator: key for key in traitors}
        super().__init__(
            setup,
            verifier=verifier,
            on_finalized=on_finalized,
            make_host=partial(ByzantineHost, traitors=self._traitors),
        )

    def _score(self, work: ScoreBatch) -> Scored | None:
        scored = super()._score(work)
        if scored is None or work.validator not in self._traitors:
            return scored
        return Scored(scores=(ABSURD_SCORE,) * len(scored.scores), reference=scored.reference)

    def _compute_model(self, work: ComputeRoundModel) -> Digest | None:
        model = super()._compute_model(work)
        return self._twist(work.validator, model)

    def _compute_merge(self, work: ComputeMerge) -> Digest | None:
        model = super()._compute_merge(work)
        return self._twist(work.validator, model)

    def _twist(self, validator: ValidatorId, model: Digest | None) -> Digest | None:
        if model is None or validator not in self._traitors:
            return model
        return blob_digest(b"not " + model)
