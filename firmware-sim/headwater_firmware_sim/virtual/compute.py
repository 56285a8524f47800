"""The work of all gateways of a run, each result computed once: all of it is pure."""

from collections.abc import Mapping, Sequence

from headwater_firmware_sim.stage import Material
from headwater_firmware_sim.trainings.scorer import FleetScorer
from headwater_firmware_sim.trainings.work import Trainings
from headwater_gateway.machine.effects import (
    CheckScores,
    ComputeMerge,
    ComputeRoundModel,
    Refutation,
    ScoreBatch,
    Scored,
    TakeIn,
)
from headwater_gateway.worker import (
    ValidationData,
    check_scores,
    check_updates,
    compute_merge,
    compute_model,
)
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import PostScores, decode_transaction
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import ChainId, Digest, RoundNumber, ValidatorId
from headwater_protocol.model.quantized_delta import QuantizedDelta
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import Blobs
from headwater_shard.round_model import decode_update_payload

MAX_MODELS: int = 64
"""Results kept for the other delegates."""

MAX_SCORED: int = 4_096
"""Score lists kept, by what they compare with; a few rounds of every delegate."""

MAX_DECODED_BYTES: int = 256 * 1024 * 1024
"""Of decoded updates, which are kept from intake to the end of their round."""


class Compute:
    """Checks, scores and models, over one store of blobs."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        verifier: Verifier,
        data: Mapping[ValidatorId, ValidationData],
        later: Sequence[Material] = (),
        trainings: Trainings | None = None,
    ) -> None:
        self.blobs = blobs
        self._verifier = verifier
        self._decoded: dict[Digest, QuantizedDelta] = {}
        self._scorer = FleetScorer(
            blobs=blobs, data=data, later=later, decode=self._decode, trainings=trainings
        )
        self._models: dict[object, Digest] = {}
        self._scored: dict[tuple[ChainId, RoundNumber, int, Digest], tuple[int, ...]] = {}
        self._checked: dict[bytes, Refutation | None] = {}

    def check(self, work: TakeIn) -> tuple[ReasonCode, ...]:
        """What becomes of a batch of updates."""
        return check_updates(work, verifier=self._verifier, blobs=self.blobs, decode=self._decode)

    def score(self, work: ScoreBatch) -> Scored | None:
        """A delegate's scores; None where it cannot have any."""
        try:
            scored = self._scorer.score(work)
        except InvalidMessage:
            return None
        while len(self._scored) >= MAX_SCORED:
            del self._scored[next(iter(self._scored))]
        self._scored[(work.shard, work.round, work.batch, scored.reference)] = scored.scores
        return scored

    def check_scores(self, work: CheckScores) -> Refutation | None:
        """What is wrong with a delegate's scores; None where they hold.

        Scores that were computed here, from the reference that is named, need no second look.
        """
        if work.scores in self._checked:
            return self._checked[work.scores]
        body = decode_transaction(work.scores).transaction.body
        refuted = None
        if isinstance(body, PostScores):
            known = self._scored.get((work.shard, work.round, work.batch, body.reference))
            if known != body.scores:
                refuted = check_scores(work, blobs=self.blobs)
        while len(self._checked) >= MAX_SCORED:
            del self._checked[next(iter(self._checked))]
        self._checked[work.scores] = refuted
        return refuted

    def model(self, work: ComputeRoundModel) -> Digest | None:
        """A round's model; None where a blob is missing."""
        key = (work.shard, work.round, work.base, work.accepted, work.correction)
        known = self._models.get(key)
        if known is None:
            try:
                known = compute_model(work, blobs=self.blobs, decode=self._decode)
            except InvalidMessage:
                return None
            self._keep(key, known)
            # Other delegates need no more than the result.
            for commit in work.accepted:
                self._decoded.pop(commit.payload, None)
        return known

    def merge(self, work: ComputeMerge) -> Digest | None:
        """An epoch's merged model; None where a blob is missing."""
        key = (work.epoch, work.inputs)
        known = self._models.get(key)
        if known is None:
            try:
                known = compute_merge(work, blobs=self.blobs)
            except InvalidMessage:
                return None
            self._keep(key, known)
        return known

    def _decode(self, task: Task, payload: bytes) -> QuantizedDelta:
        name = blob_digest(payload)
        known = self._decoded.get(name)
        if known is None:
            known = decode_update_payload(task, payload)
            limit = MAX_DECODED_BYTES // task.num_parameters
            while self._decoded and len(self._decoded) >= limit:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[name] = known
        return known

    def _keep(self, key: object, model: Digest) -> None:
        while len(self._models) >= MAX_MODELS:
            del self._models[next(iter(self._models))]
        self._models[key] = model
