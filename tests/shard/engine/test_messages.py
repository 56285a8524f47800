from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import BadEncoding, InvalidMessage, TooLarge
from headwater_protocol.identifiers import Height, View
from headwater_shard.engine.bft.effects import Persist
from headwater_shard.engine.bft.messages import (
    MAX_MESSAGE_BYTES,
    BlockRequest,
    BlockResponse,
    Message,
    Proposal,
    decode_message,
    encode_message,
)
from headwater_shard.engine.bft.signer import SignedState
from tests.support.engine_support import Conditions, Disk, SimulatedNetwork


class Recorder(Disk):
    """A disk that keeps every signed state it was ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[SignedState] = []

    def write(self, effects: list[Persist]) -> None:  # type: ignore[override]
        self.history += [effect.state for effect in effects if isinstance(effect, Persist)]
        super().write(effects)


def make_samples() -> tuple[list[Message], list[SignedState]]:
    network = SimulatedNetwork([10] * 4, seed=4, conditions=Conditions(loss=0.3))
    sent: list[Message] = []
    original = network.send
    disks = [Recorder() for _ in network.nodes]
    for node, disk in zip(network.nodes, disks, strict=True):
        node.disk = disk
        network.start(node.index)

    def send(sender: int, receiver: int, message: Message) -> None:
        sent.append(message)
        original(sender, receiver, message)

    network.send = send  # type: ignore[method-assign]
    for number in range(6):
        network.submit(b"k%d=1" % number)
        network.run(until_ms=network.now_ms + 2_000)
        network.crash(number % 4)
        network.start(number % 4)
    network.run(until_ms=network.now_ms + 2_000)
    return sent, [state for disk in disks for state in disk.history]


SENT, STATES = make_samples()
BY_KIND = {
    kind: max((m for m in SENT if isinstance(m, kind)), key=lambda m: len(encode_message(m)))
    for kind in (Proposal, SignedVote, BlockRequest, BlockResponse)
}


def test_every_message_of_a_run_survives_its_encoding() -> None:
    assert {type(message) for message in SENT} == set(BY_KIND)
    for message in SENT:
        assert decode_message(encode_message(message)) == message


def test_every_signed_state_of_a_run_survives_its_encoding() -> None:
    assert any(state.lock.valid for state in STATES)
    assert any(state.proposal for state in STATES)
    for state in STATES:
        assert decode_record(SignedState, encode_record(state)) == state


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused_with_a_typed_error(data: bytes) -> None:
    try:
        message = decode_message(data)
    except InvalidMessage:
        return
    assert encode_message(message) == data


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(sorted(BY_KIND, key=lambda kind: kind.__name__)),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 3),
)
def test_damaged_messages_decode_to_what_they_say_or_are_refused(
    kind: type[Message], edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encode_message(BY_KIND[kind]))
    for position, value in edits:
        data[position % len(data)] = value
    damaged = bytes(data[: len(data) - cut])
    try:
        message = decode_message(damaged)
    except InvalidMessage:
        return
    assert encode_message(message) == damaged


def test_a_message_past_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLarge):
        decode_message(bytes(MAX_MESSAGE_BYTES + 1))
    with pytest.raises(BadEncoding):
        decode_message(bytes(MAX_MESSAGE_BYTES))


def test_values_out_of_their_range_are_refused() -> None:
    vote = BY_KIND[SignedVote]
    assert isinstance(vote, SignedVote)
    for broken in (
        replace(vote, vote=replace(vote.vote, view=View(2**31))),
        replace(vote, vote=replace(vote.vote, height=Height(-1))),
        replace(vote, signature=vote.signature[:-1]),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidMessage):
            decode_message(encode_message(broken))
