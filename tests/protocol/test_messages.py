from dataclasses import replace

import pytest

from headwater_protocol.chain.claim import update_message
from headwater_protocol.chain.proof import SHARD_NAMESPACES, StateProof, verify_state_proof
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import (
    BadEncoding,
    BadProof,
    BadSignature,
    InsufficientPower,
    OutOfBounds,
    TooLarge,
)
from headwater_protocol.identifiers import MAX_UNSIGNED, ChainId, Network
from headwater_protocol.messages.announcement import (
    MAX_ANNOUNCEMENT_BYTES,
    Announcement,
    decode_announcement,
    round_key,
    verify_announcement,
)
from headwater_protocol.messages.receipt import (
    MAX_RECEIPT_BYTES,
    Receipt,
    Stage,
    decode_receipt,
    sign_receipt,
    verify_receipt,
)
from headwater_protocol.messages.status import (
    MAX_STATUS_BYTES,
    Status,
    decode_status,
    sign_status,
    verify_status,
)
from headwater_protocol.messages.topics import (
    ACCESS,
    MAX_TOPIC_CHARACTERS,
    TopicKind,
    Topics,
    network_name,
    parse_topic,
)
from headwater_protocol.messages.update import (
    MAX_PAYLOAD_BYTES,
    MAX_UPDATE_BYTES,
    Update,
    decode_update,
    update_claim,
    update_commit,
)
from headwater_protocol.reasons import ReasonCode
from tests.support.network import certify, key
from tests.support.records import (
    CAST,
    DEVICES,
    SHARD,
    digest,
    example_records,
    make_announcement,
    make_round,
    signers,
)

ANNOUNCEMENT = make_announcement()
VERIFIER = DirectVerifier()
RECEIPT = next(record for record in example_records() if isinstance(record, Receipt))
UPDATE = next(record for record in example_records() if isinstance(record, Update))
TOPICS = Topics(CAST.network, SHARD)


def verify(
    announcement: Announcement, *, network: Network = CAST.network, shard: ChainId = SHARD
) -> None:
    verify_announcement(
        announcement,
        network=network,
        shard=shard,
        committee=CAST.genesis.committee(SHARD),
        verifier=VERIFIER,
    )


# Announcements


def test_an_announcement_is_proven_from_the_committee():
    verify(ANNOUNCEMENT)
    verify(decode_announcement(encode_record(ANNOUNCEMENT)))


SPOILED = {
    "another round": (
        replace(ANNOUNCEMENT, round=replace(ANNOUNCEMENT.round, base=digest("evil"))),
        BadProof,
    ),
    "another task": (
        replace(ANNOUNCEMENT, task=replace(ANNOUNCEMENT.task, program=digest("evil"))),
        BadProof,
    ),
    "a round of another task": (
        replace(ANNOUNCEMENT, round=replace(ANNOUNCEMENT.round, task="other")),
        OutOfBounds,
    ),
    "proofs exchanged": (
        replace(
            ANNOUNCEMENT,
            round_proof=ANNOUNCEMENT.task_proof,
            task_proof=ANNOUNCEMENT.round_proof,
        ),
        BadProof,
    ),
    "another state": (
        replace(ANNOUNCEMENT, header=replace(ANNOUNCEMENT.header, state_root=digest("evil"))),
        BadEncoding,
    ),
    "too few signers": (
        replace(ANNOUNCEMENT, certificate=certify(ANNOUNCEMENT.header, signers(SHARD)[:1])),
        InsufficientPower,
    ),
    "strangers": (
        replace(ANNOUNCEMENT, certificate=certify(ANNOUNCEMENT.header, [key("stranger")])),
        OutOfBounds,
    ),
}


@pytest.mark.parametrize(("announcement", "error"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_announcement_is_refused(announcement, error):
    with pytest.raises(error):
        verify(announcement)


def test_an_announcement_of_another_network_or_shard_is_refused():
    with pytest.raises(OutOfBounds):
        verify(ANNOUNCEMENT, network=Network(bytes(32)))
    with pytest.raises(OutOfBounds):
        verify(ANNOUNCEMENT, shard=ChainId("shard-1"))


def test_a_state_proof_names_its_namespace_and_all_roots():
    proof = ANNOUNCEMENT.round_proof

    def check(changed: StateProof, value: bytes | None = encode_record(make_round())) -> None:
        verify_state_proof(
            changed,
            state_root=ANNOUNCEMENT.header.state_root,
            namespaces=SHARD_NAMESPACES,
            namespace="rounds",
            key=round_key(make_round().number),
            value=value,
        )

    check(proof)
    for changed in (
        replace(proof, namespace="tasks"),
        replace(proof, namespace_roots=proof.namespace_roots[:-1]),
        replace(proof, namespace_roots=(*proof.namespace_roots, bytes(32))),
        replace(proof, namespace_roots=proof.namespace_roots[::-1]),
        replace(proof, map_proof=replace(proof.map_proof, siblings=())),
    ):
        with pytest.raises(BadProof):
            check(changed)
    with pytest.raises(BadProof):
        check(proof, None)


def test_an_announcement_past_its_limit_is_not_parsed():
    with pytest.raises(TooLarge):
        decode_announcement(bytes(MAX_ANNOUNCEMENT_BYTES + 1))


# Receipts and statuses


def test_a_receipt_is_the_gateways_word():
    signed = sign_receipt(signers(SHARD)[0], CAST.network, RECEIPT)
    assert decode_receipt(encode_record(signed)) == signed
    verify_receipt(signed, network=CAST.network, verifier=VERIFIER)
    for spoiled, network in (
        (replace(signed, receipt=replace(RECEIPT, reward=900)), CAST.network),
        (replace(signed, receipt=replace(RECEIPT, gateway=key("other").validator)), CAST.network),
        (signed, Network(bytes(32))),
    ):
        with pytest.raises(BadSignature):
            verify_receipt(spoiled, network=network, verifier=VERIFIER)


def test_nothing_is_earned_at_intake():
    intake = replace(RECEIPT, stage=Stage.INTAKE)
    with pytest.raises(OutOfBounds, match="intake"):
        decode_receipt(encode_record(sign_receipt(key("a"), CAST.network, intake)))
    unpaid = sign_receipt(key("a"), CAST.network, replace(intake, reward=0, score=0))
    assert decode_receipt(encode_record(unpaid)) == unpaid


def test_the_largest_receipt_and_status_fit_their_limits():
    longest = max(ReasonCode, key=len)
    receipt = replace(
        RECEIPT,
        shard=ChainId("s" * 32),
        round=MAX_UNSIGNED,
        reason=longest,
        height=MAX_UNSIGNED,
        score=-10_001,
        reward=MAX_UNSIGNED,
        time_ms=MAX_UNSIGNED,
    )
    signed = sign_receipt(key("a"), CAST.network, receipt)
    assert len(encode_record(signed)) <= MAX_RECEIPT_BYTES
    assert decode_receipt(encode_record(signed)) == signed
    status = sign_status(
        DEVICES[0],
        CAST.network,
        Status(device=DEVICES[0].device, session=MAX_UNSIGNED, is_online=False),
    )
    assert len(encode_record(status)) <= MAX_STATUS_BYTES
    for decode, limit in ((decode_receipt, MAX_RECEIPT_BYTES), (decode_status, MAX_STATUS_BYTES)):
        with pytest.raises(TooLarge):
            decode(bytes(limit + 1))


def test_a_status_is_the_devices_word():
    status = Status(device=DEVICES[0].device, session=3, is_online=True)
    signed = sign_status(DEVICES[0], CAST.network, status)
    assert decode_status(encode_record(signed)) == signed
    verify_status(signed, network=CAST.network, verifier=VERIFIER)
    for spoiled in (
        replace(signed, status=replace(status, session=4)),
        replace(signed, status=replace(status, is_online=False)),
        sign_status(DEVICES[1], CAST.network, status),
    ):
        with pytest.raises(BadSignature):
            verify_status(spoiled, network=CAST.network, verifier=VERIFIER)


# Updates


def test_an_update_restores_what_its_device_signed():
    claim, commit = update_claim(UPDATE, SHARD), update_commit(UPDATE)
    message = update_message(CAST.network, claim)
    assert VERIFIER.verify(UPDATE.device, message, UPDATE.signature)
    assert (commit.device, commit.payload, commit.num_examples, commit.signature) == (
        claim.device,
        claim.payload,
        claim.num_examples,
        UPDATE.signature,
    )
    other = update_message(CAST.network, update_claim(replace(UPDATE, payload=b"x"), SHARD))
    assert not VERIFIER.verify(UPDATE.device, other, UPDATE.signature)


def test_the_largest_payload_fits_an_update_and_one_byte_more_does_not():
    largest = replace(UPDATE, payload=bytes(MAX_PAYLOAD_BYTES), round=MAX_UNSIGNED)
    assert decode_update(encode_record(largest)) == largest
    with pytest.raises(OutOfBounds):
        decode_update(encode_record(replace(UPDATE, payload=bytes(MAX_PAYLOAD_BYTES + 1))))
    with pytest.raises(OutOfBounds):
        decode_update(encode_record(replace(UPDATE, payload=b"")))
    with pytest.raises(TooLarge):
        decode_update(bytes(MAX_UPDATE_BYTES + 1))
    data = encode_record(UPDATE)
    assert decode_update(data, max_bytes=len(data)) == UPDATE
    with pytest.raises(TooLarge):
        decode_update(data, max_bytes=len(data) - 1)


@pytest.mark.parametrize("num_examples", [0, 2**24 + 1])
def test_an_update_counts_between_one_and_the_limit_of_examples(num_examples):
    with pytest.raises(OutOfBounds, match="num_examples"):
        decode_update(encode_record(replace(UPDATE, num_examples=num_examples)))


# Topics


def test_a_topic_says_what_it_carries():
    device = DEVICES[0].device
    blob = digest("model")
    network = network_name(CAST.network)
    for text, expected in (
        (TOPICS.round, (TopicKind.ROUND, None, None, None, None)),
        (TOPICS.chunk(blob, 7), (TopicKind.CHUNK, None, blob, 7, None)),
        (TOPICS.update(device), (TopicKind.UPDATE, device, None, None, None)),
        (TOPICS.receipt(device), (TopicKind.RECEIPT, device, None, None, None)),
        (TOPICS.status(device), (TopicKind.STATUS, device, None, None, None)),
        (TOPICS.enroll("t-1_A"), (TopicKind.ENROLL, None, None, None, "t-1_A")),
    ):
        topic = parse_topic(text)
        assert (topic.network, topic.shard) == (network, SHARD)
        assert (topic.kind, topic.device, topic.blob, topic.index, topic.token) == expected


BAD_TOPICS = {
    "empty": "",
    "a filter for updates": TOPICS.updates,
    "a filter for statuses": TOPICS.statuses,
    "a filter for pieces": TOPICS.chunks(digest("model")),
    "another version": TOPICS.round.replace("hw/1", "hw/2"),
    "a level more": TOPICS.round + "/x",
    "a slash more": TOPICS.round + "/",
    "a slash in front": "/" + TOPICS.round,
    "a line end": TOPICS.round + "\n",
    "capitals": TOPICS.round.upper(),
    "a shard in capitals": TOPICS.round.replace("shard-0", "Shard-0"),
    "a shard that is too long": TOPICS.round.replace("shard-0", "s" * 33),
    "a network that is too short": TOPICS.round.replace(network_name(CAST.network), "0" * 15),
    "a leading zero": TOPICS.chunk(digest("model"), 7).removesuffix("7") + "07",
    "a negative piece": TOPICS.chunk(digest("model"), -1),
    "a piece past the limit": TOPICS.chunk(digest("model"), 1_000_000),
    "a device that is too short": TOPICS.root + "/devices/00/update",
    "an unknown word": TOPICS.root + f"/devices/{'0' * 64}/upgrade",
    "no token": TOPICS.enroll(""),
    "a token with a wildcard": TOPICS.enroll("+"),
    "a token that is too long": TOPICS.enroll("t" * 65),
    "too many characters": TOPICS.round + "x" * MAX_TOPIC_CHARACTERS,
}


@pytest.mark.parametrize("text", BAD_TOPICS.values(), ids=BAD_TOPICS.keys())
def test_what_the_grammar_lacks_is_no_topic(text):
    with pytest.raises(BadEncoding, match="no topic"):
        parse_topic(text)


def matches(pattern: str, topic: str) -> bool:
    levels, parts = pattern.split("/"), topic.split("/")
    if levels[-1] == "#":
        return len(parts) > len(levels) - 1 and matches(
            "/".join(levels[:-1]), "/".join(parts[: len(levels) - 1])
        )
    return len(levels) == len(parts) and all(
        level in {"+", part} for level, part in zip(levels, parts, strict=True)
    )


def may(role: str, topic: str, *, publish: bool, device: str = DEVICES[0].device.hex()) -> bool:
    names = {"%n": network_name(CAST.network), "%s": SHARD, "%d": device}
    for access in ACCESS:
        pattern = access.pattern
        for placeholder, name in names.items():
            pattern = pattern.replace(placeholder, name)
        if access.role == role and access.may_publish is publish and matches(pattern, topic):
            return True
    return False


def test_a_device_publishes_its_own_updates_and_status_and_nothing_else():
    own, other = DEVICES[0].device, DEVICES[1].device
    assert may("device", TOPICS.update(own), publish=True)
    assert may("device", TOPICS.status(own), publish=True)
    for topic in (
        TOPICS.update(other),
        TOPICS.status(other),
        TOPICS.receipt(own),
        TOPICS.round,
        TOPICS.chunk(digest("model"), 0),
        TOPICS.enroll("t"),
    ):
        assert not may("device", topic, publish=True)


def test_a_device_reads_rounds_models_and_its_own_receipts_and_nothing_else():
    own, other = DEVICES[0].device, DEVICES[1].device
    for topic in (TOPICS.round, TOPICS.chunk(digest("model"), 0), TOPICS.receipt(own)):
        assert may("device", topic, publish=False)
    for topic in (TOPICS.receipt(other), TOPICS.update(other), TOPICS.update(own)):
        assert not may("device", topic, publish=False)


def test_a_gateway_reads_updates_and_never_writes_one():
    own = DEVICES[0].device
    assert may("gateway", TOPICS.update(own), publish=False)
    assert may("gateway", TOPICS.receipt(own), publish=True)
    assert not may("gateway", TOPICS.update(own), publish=True)
    assert not may("gateway", TOPICS.status(own), publish=True)
