"""How a shard goes on from a merge, whether it comes in time or late."""

from dataclasses import dataclass, field

import numpy as np

from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.transaction import CommitUpdates
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.model.fixed_point import FixedPointModel, decode_model, encode_model
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantized_delta import QuantizedDelta, int32_delta
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import MERGES
from headwater_shard.round_model import compute_merged_model, compute_round_model
from headwater_shard.shardchain.records import BATCHES, ROUNDS, batch_key
from tests.support.ledgers import (
    adopt,
    adopt_body,
    attest,
    attest_merge,
    collect,
    delegates,
    emit_checkpoint,
    execute,
    main_of,
    open_round,
    refusal,
    score,
    settle,
    shard_of,
)
from tests.support.network import Chain, key, make_cast, make_task

FLEET = sorted((key(f"d{index}") for index in range(3)), key=lambda entry: entry.device)
SENDER = key("relay")
PATIENT = Parameters(
    checkpoint_interval=2,
    checkpoints_per_epoch=1,
    merge_wait_ms=500,
    epoch_timeout_ms=60_000,
    retention_rounds=3,
    clock_drift_ms=1_000,
)


def encoded(values) -> bytes:
    return encode_model(
        FixedPointModel(parameters=np.array(values, dtype=np.int32), fraction_bits=20)
    )


INITIAL = encoded([0] * 10)


@dataclass
class Network:
    """A main chain and two shards over real models."""

    rounds: int = 8
    min_updates: int = 1
    main: Chain = field(init=False)
    shards: list[Chain] = field(init=False)
    blobs: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cast = make_cast(
            shards=("shard-0", "shard-1"),
            task=make_task(
                rounds=self.rounds,
                min_updates=self.min_updates,
                initial_model=self.put(INITIAL),
            ),
            parameters=PATIENT,
        )
        self.main = Chain(cast, "main")
        self.shards = [Chain(cast, name) for name in cast.genesis.shards]
        for chain in self.shards:
            open_round(chain, FLEET)

    def put(self, data: bytes) -> bytes:
        self.blobs[blob_digest(data)] = data
        return blob_digest(data)

    def values(self, digest: bytes) -> list[int]:
        return decode_model(self.blobs[digest], max_parameters=10).parameters.tolist()

    def collect_and_score(self, chain: Chain) -> None:
        """Every device's update is a step of its own."""
        open_round(chain)
        commits = []
        for index, device in enumerate(FLEET):
            payload = encode_payload(step(index + 10 * chain.round.number))
            self.put(payload)
            commits.append(chain.commit(device, payload))
        body = CommitUpdates(round=chain.round.number, commits=tuple(commits))
        execute(chain, chain.sign(delegates(chain)[0], body))
        score(chain, [100] * len(FLEET))

    def compute(self, chain: Chain) -> bytes:
        """What every delegate attests for the round that waits for it."""
        round_ = chain.round
        commits = [
            commit
            for index in range(round_.num_batches)
            for commit in chain.app.state.get(BATCHES, batch_key(round_.number, index)).commits
        ]
        return self.put(
            compute_round_model(
                chain.cast.genesis.task,
                base=round_.base,
                accepted=commits,
                correction=round_.correction,
                fetch=self.blobs.__getitem__,
            )
        )

    def play(self, chain: Chain) -> bytes:
        self.collect_and_score(chain)
        model = self.compute(chain)
        attest(chain, model)
        return model

    def merge(self) -> bytes:
        """Complete the open merge with the model that everybody computes."""
        merge = self.main.app.state.get(MERGES, epoch_key(self.epoch + 1))
        assert merge is not None
        model = self.put(
            compute_merged_model(
                self.main.cast.genesis.task, merge.inputs, fetch=self.blobs.__getitem__
            )
        )
        attest_merge(self.main, model)
        return model

    @property
    def epoch(self) -> int:
        return main_of(self.main).epoch

    def adopt(self, chain: Chain) -> None:
        adopt(chain, self.main, by=SENDER)


def step(seed: int) -> QuantizedDelta:
    rng = np.random.default_rng(seed)
    return QuantizedDelta(
        codes=rng.integers(-127, 128, 10).astype(np.int8),
        exponents=(-12, -12),
        tensor_sizes=(6, 4),
        bits=8,
        fraction_bits=20,
    )


def closed(chain: Chain, number: int) -> Round:
    round_ = chain.app.state.get(ROUNDS, round_key(number))
    assert round_ is not None
    assert round_.phase == "closed"
    return round_


def settled_network(*, min_updates: int = 1) -> Network:
    """Both shards have closed two rounds and settled; the merge is open."""
    network = Network(min_updates=min_updates)
    for chain in network.shards:
        network.play(chain)
        network.play(chain)
        settle(network.main, chain)
    return network


def test_a_merge_in_time_is_the_next_base_itself():
    network = settled_network()
    model = network.merge()
    for chain in network.shards:
        network.adopt(chain)
        chain.block()
        assert (chain.round.number, chain.round.base, chain.round.epoch) == (3, model, 1)
        shard = shard_of(chain)
        assert (shard.merged, shard.reference, shard.correction) == (1, model, None)
        assert shard.checkpoints_in_epoch == 0


def test_an_adopted_merge_ends_the_wait_for_it():
    network = settled_network()
    network.merge()
    chain = network.shards[0]
    assert chain.round.number == 2
    network.adopt(chain)
    assert chain.round.number == 3


def test_a_late_merge_moves_the_open_rounds_model_by_the_difference():
    network = settled_network()
    chain = network.shards[0]
    reference = closed(chain, 2).model
    local = network.play(chain)
    open_round(chain)
    merged = network.merge()
    network.adopt(chain)
    assert shard_of(chain).correction.reference == reference
    assert chain.round.base == local
    network.collect_and_score(chain)
    assert chain.round.correction.merged == merged
    model = network.compute(chain)
    attest(chain, model)
    mean = np.rint(np.mean([int32_delta(step(index + 40)) for index in range(3)], axis=0)).astype(
        int
    )
    expected = [
        base + move + new - old
        for base, move, new, old in zip(
            network.values(local),
            mean.tolist(),
            network.values(merged),
            network.values(reference),
            strict=True,
        )
    ]
    assert network.values(model) == expected
    shard = shard_of(chain)
    assert (shard.model, shard.reference, shard.correction) == (model, merged, None)
    assert (shard.epoch, shard.merged) == (0, 1)
    checkpoint = emit_checkpoint(chain).checkpoint
    assert (checkpoint.epoch, checkpoint.merged) == (0, 1)


def test_a_merge_that_comes_while_a_round_attests_waits_for_the_next_one():
    network = settled_network()
    chain = network.shards[0]
    open_round(chain) if chain.round.number == 3 else chain.block(after_ms=500)
    assert chain.round.number == 3
    network.collect_and_score(chain)
    merged = network.merge()
    network.adopt(chain)
    assert chain.round.correction is None
    attest(chain, network.compute(chain))
    assert shard_of(chain).merged == 0
    network.collect_and_score(chain)
    assert chain.round.correction.merged == merged
    attest(chain, network.compute(chain))
    assert shard_of(chain).merged == 1


def test_a_merge_moves_a_round_that_accepted_too_few():
    network = settled_network(min_updates=2)
    chain = network.shards[0]
    local = network.play(chain)
    open_round(chain)
    reference = closed(chain, 2).model
    merged = network.merge()
    network.adopt(chain)
    before = shard_of(chain).num_examples
    collect(chain, FLEET)
    score(chain, [100, -1, -1])
    assert (chain.round.phase, chain.round.num_accepted) == ("attest", 1)
    model = network.put(
        compute_round_model(
            chain.cast.genesis.task,
            base=chain.round.base,
            accepted=[],
            correction=chain.round.correction,
            fetch=network.blobs.__getitem__,
        )
    )
    attest(chain, model)
    assert network.values(model) == [
        base + new - old
        for base, new, old in zip(
            network.values(local), network.values(merged), network.values(reference), strict=True
        )
    ]
    four = closed(chain, 4)
    assert (four.model, four.paid, four.num_examples) == (model, 0, 0)
    assert shard_of(chain).merged == 1
    assert emit_checkpoint(chain).checkpoint.num_examples == before == 30


def test_a_correction_without_a_quorum_is_tried_again_in_the_next_round():
    network = settled_network()
    chain = network.shards[0]
    network.play(chain)
    open_round(chain)
    merged = network.merge()
    network.adopt(chain)
    network.collect_and_score(chain)
    assert chain.round.correction is not None
    chain.block(after_ms=1_000)
    assert (closed(chain, 4).model, closed(chain, 4).correction) == (closed(chain, 4).base, None)
    assert shard_of(chain).merged == 0
    emit_checkpoint(chain)
    network.collect_and_score(chain)
    assert chain.round.correction.merged == merged
    attest(chain, network.compute(chain))
    assert shard_of(chain).merged == 1


def test_a_merge_is_refused_while_the_one_before_waits_to_be_applied():
    network = settled_network()
    chain, other = network.shards
    network.play(chain)
    open_round(chain)
    network.merge()
    network.adopt(chain)
    network.adopt(other)
    network.play(other)
    network.play(other)
    settle(network.main, other)
    network.main.block(after_ms=60_001)
    network.merge()
    assert shard_of(chain).correction.epoch == 1
    late = chain.sign(SENDER, adopt_body(network.main))
    assert refusal(chain, late) is ReasonCode.WRONG_PHASE
    network.play(chain)
    emit_checkpoint(chain)
    adopt(chain, network.main, by=SENDER)
    assert shard_of(chain).correction.epoch == 2


def test_a_shard_whose_model_was_left_out_moves_from_the_last_merge():
    network = Network()
    chain, other = network.shards
    for _ in range(2):
        network.play(other)
    settle(network.main, other)
    network.main.block(after_ms=60_001)
    model = network.merge()
    assert model == closed(other, 2).model
    local = network.play(chain)
    network.adopt(chain)
    assert shard_of(chain).correction.reference == chain.cast.genesis.task.initial_model
    network.collect_and_score(chain)
    moved = network.compute(chain)
    attest(chain, moved)
    mean = np.rint(np.mean([int32_delta(step(index + 20)) for index in range(3)], axis=0))
    assert network.values(moved) == [
        base + int(move) + new
        for base, move, new in zip(network.values(local), mean, network.values(model), strict=True)
    ]


def test_an_epoch_is_adopted_however_many_blocks_later():
    network = settled_network()
    model = network.merge()
    for _ in range(3):
        network.main.block()
    chain = network.shards[0]
    network.adopt(chain)
    chain.block()
    assert chain.round.base == model
