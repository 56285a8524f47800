"""Whatever bytes come, a decoder gives a record or one of our errors."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.genesis import decode_genesis, encode_genesis
from headwater_protocol.chain.transaction import decode_transaction
from headwater_protocol.encoding.cbor import decode_canonical, encode_canonical
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import BadEncoding, InvalidMessage
from headwater_protocol.identifiers import Network
from headwater_protocol.messages.announcement import decode_announcement
from headwater_protocol.messages.chunk import decode_chunk
from headwater_protocol.messages.receipt import decode_receipt
from headwater_protocol.messages.status import decode_status
from headwater_protocol.messages.topics import TopicKind, Topics, parse_topic
from headwater_protocol.messages.update import decode_update
from tests.support.records import (
    CAST,
    example_records,
    record_classes,
)
from tests.support.strategies import records, restructured, spoiled

EXAMPLES = {}
for _record in example_records():
    EXAMPLES.setdefault(type(_record).KIND, encode_record(_record))

DECODERS = {
    "announcement/1": decode_announcement,
    "chunk/1": decode_chunk,
    "genesis/1": decode_genesis,
    "signed-receipt/1": decode_receipt,
    "signed-status/2": decode_status,
    "signed-transaction/1": decode_transaction,
    "update/1": decode_update,
}
KINDS = {kind.KIND: kind for kind in record_classes()}


def require_faithful(decode, data: bytes) -> None:
    try:
        record = decode(data)
    except InvalidMessage:
        return
    assert encode_record(record) == data


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_takes_its_own_example(name):
    assert encode_record(DECODERS[name](EXAMPLES[name])) == EXAMPLES[name]


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_decoder_answers_spoiled_bytes_with_our_errors_only(name, data):
    require_faithful(DECODERS[name], data.draw(spoiled(EXAMPLES[name])))
    require_faithful(DECODERS[name], data.draw(restructured(EXAMPLES[name])))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_our_errors_in_every_decoder(data):
    for decode in DECODERS.values():
        with pytest.raises(InvalidMessage):
            decode(data)


@pytest.mark.parametrize("name", DECODERS)
def test_every_truncation_and_extension_is_refused(name):
    data = EXAMPLES[name]
    for end in range(0, len(data), 1 + len(data) // 200):
        with pytest.raises(InvalidMessage):
            DECODERS[name](data[:end])
    with pytest.raises(InvalidMessage):
        DECODERS[name](data + b"\0")


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_encoded_decodes_to_itself(name, data):
    record = data.draw(records(KINDS[name]))
    encoded = encode_record(record)
    assert decode_record(KINDS[name], encoded) == record


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_decodes_encodes_to_the_same_bytes(name, data):
    for encoded in (data.draw(spoiled(EXAMPLES[name])), data.draw(restructured(EXAMPLES[name]))):
        require_faithful(lambda given_bytes: decode_record(KINDS[name], given_bytes), encoded)


@pytest.mark.parametrize("name", KINDS)
def test_no_kind_passes_for_another(name):
    for other, data in EXAMPLES.items():
        if other != name:
            with pytest.raises(BadEncoding):
                decode_record(KINDS[name], data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_canonical_bytes_are_the_only_ones_of_their_value(data):
    try:
        value = decode_canonical(data, max_bytes=40)
    except InvalidMessage:
        return
    assert encode_canonical(value) == data


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_topic_that_parses_is_the_topic_of_its_parts(data):
    topics = Topics(CAST.network, CAST.genesis.shards[0])
    device = CAST.sponsor.device
    valid = data.draw(
        st.sampled_from(
            [
                topics.round,
                topics.chunk(CAST.genesis.task.program, 12),
                topics.update(device),
                topics.receipt(device),
                topics.status(device),
                topics.enroll("token-1"),
            ]
        )
    )
    at = data.draw(st.integers(0, len(valid)))
    piece = data.draw(st.sampled_from(["", "/", "#", "+", "0", "A", "\n", "é", "٣", valid[:at]]))
    text = valid[:at] + piece + valid[at + data.draw(st.integers(0, 3)) :]
    try:
        topic = parse_topic(text)
    except InvalidMessage:
        return
    again = Topics(Network(bytes.fromhex(topic.network) + bytes(24)), topic.shard)
    assert (
        text
        == {
            TopicKind.ROUND: lambda: again.round,
            TopicKind.CHUNK: lambda: again.chunk(topic.blob, topic.index),
            TopicKind.UPDATE: lambda: again.update(topic.device),
            TopicKind.RECEIPT: lambda: again.receipt(topic.device),
            TopicKind.STATUS: lambda: again.status(topic.device),
            TopicKind.ENROLL: lambda: again.enroll(topic.token),
        }[topic.kind]()
    )


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_arbitrary_text_is_no_topic(text):
    with pytest.raises(BadEncoding):
        parse_topic(text)


def test_a_genesis_that_contradicts_itself_is_refused_when_decoded():
    genesis = replace(CAST.genesis, sponsor=CAST.genesis.validators[0].validator)
    with pytest.raises(InvalidMessage, match="sponsor"):
        decode_genesis(encode_genesis(genesis))
