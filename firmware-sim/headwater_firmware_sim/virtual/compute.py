"""The work of all gateways of a run, each result computed once: all of it is pure."""

from collections.abc import Mapping

from headwater_gateway.machine.effects import ComputeMerge, ComputeRoundModel, ScoreBatch, TakeIn
from headwater_gateway.worker import (
    Scorer,
    ValidationData,
    check_updates,
    compute_merge,
    compute_model,
)
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import Digest, ValidatorId
from headwater_protocol.model.quantized_delta import QuantizedDelta
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import Blobs
from headwater_shard.round_model import decode_update_payload

MAX_MODELS: int = 64
"""Results kept for the other delegates."""

MAX_DECODED_BYTES: int = 16 * 1024 * 1024
"""Of decoded updates kept from intake to scoring, and in small fleets to the round's end."""


class Compute:
    """Checks, scores and models, over one store of blobs."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        verifier: Verifier,
        data: Mapping[ValidatorId, ValidationData],
    ) -> None:
        self.blobs = blobs
        self._verifier = verifier
        self._decoded: dict[bytes, QuantizedDelta] = {}
        self._scorer = Scorer(blobs=blobs, data=data, decode=self._decode)
        self._models: dict[object, Digest] = {}

    def check(self, work: TakeIn) -> tuple[ReasonCode, ...]:
        """What becomes of a batch of updates."""
        return check_updates(work, verifier=self._verifier, blobs=self.blobs, decode=self._decode)

    def score(self, work: ScoreBatch) -> tuple[int, ...] | None:
        """A delegate's scores; None where it cannot have any."""
        try:
            return self._scorer.score(work)
        except InvalidMessage:
            return None

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
        known = self._decoded.get(payload)
        if known is None:
            known = decode_update_payload(task, payload)
            limit = MAX_DECODED_BYTES // task.num_parameters
            while self._decoded and len(self._decoded) >= limit:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[payload] = known
        return known

    def _keep(self, key: object, model: Digest) -> None:
        while len(self._models) >= MAX_MODELS:
            del self._models[next(iter(self._models))]
        self._models[key] = model
