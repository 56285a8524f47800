from dataclasses import replace

import pytest

from headwater_protocol.chain.block import (
    NO_DIGEST,
    BlockHeader,
    Certificate,
    Vote,
    VoteKind,
    VoteSignature,
    certificate_digest,
    header_digest,
    transactions_root,
    verify_certificate,
    vote_message,
)
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import BadEncoding, BadSignature, InsufficientPower, OutOfBounds
from headwater_protocol.identifiers import ChainId, Network
from headwater_protocol.merkle.sequence import compute_list_root
from tests.support.network import certify, key, make_cast
from tests.support.records import digest, make_header

SHARD = ChainId("shard-0")
FOUR = make_cast(validators_per_shard=4)
KEYS = sorted(FOUR.validators[SHARD], key=lambda entry: entry.validator)
COMMITTEE = FOUR.genesis.committee(SHARD)
HEADER = replace(make_header(SHARD, digest("state")), committee=committee_digest(COMMITTEE))
WHOLE = certify(HEADER, KEYS)


def verify(
    certificate: Certificate, header: BlockHeader = HEADER, *, is_complete: bool = True
) -> None:
    verify_certificate(
        certificate,
        header=header,
        committee=COMMITTEE,
        verifier=DirectVerifier(),
        is_complete=is_complete,
    )


def spoil(certificate: Certificate, index: int) -> Certificate:
    signatures = list(certificate.signatures)
    signatures[index] = VoteSignature(
        validator=signatures[index].validator, signature=signatures[0].signature
    )
    return replace(certificate, signatures=tuple(signatures))


@pytest.mark.parametrize("count", [3, 4])
def test_more_than_two_thirds_certify(count):
    verify(certify(HEADER, KEYS[:count]))
    verify(certify(HEADER, KEYS[:count], view=7))


@pytest.mark.parametrize("count", [1, 2])
def test_two_thirds_or_less_do_not(count):
    with pytest.raises(InsufficientPower):
        verify(certify(HEADER, KEYS[:count]))


@pytest.mark.parametrize(
    "changed",
    [{"block": digest("other")}, {"height": 2}, {"chain": ChainId("shard-1")}],
    ids=["block", "height", "chain"],
)
def test_a_certificate_of_another_block_is_refused(changed):
    with pytest.raises(BadEncoding, match="another block"):
        verify(replace(WHOLE, **changed))


def test_a_header_certified_by_another_committee_is_refused():
    header = replace(HEADER, committee=digest("other"))
    with pytest.raises(OutOfBounds, match="another committee"):
        verify(certify(header, KEYS), header)


def test_a_signer_is_listed_once_and_in_order():
    for signatures in (
        WHOLE.signatures[::-1],
        (WHOLE.signatures[0], *WHOLE.signatures),
    ):
        with pytest.raises(BadEncoding, match="once, in order"):
            verify(replace(WHOLE, signatures=signatures))


def test_a_stranger_among_the_signers_is_refused():
    with pytest.raises(OutOfBounds, match="no delegate"):
        verify(certify(HEADER, [*KEYS, key("stranger")]))


@pytest.mark.parametrize("view", [1, 2])
def test_a_vote_of_another_view_does_not_count(view):
    with pytest.raises(BadSignature):
        verify(replace(WHOLE, view=view))


def test_a_prevote_is_no_precommit():
    vote = Vote(kind=VoteKind.PREVOTE, chain=SHARD, height=1, view=0, block=header_digest(HEADER))
    message = vote_message(HEADER.network, vote)
    signatures = tuple(
        VoteSignature(validator=entry.validator, signature=entry.sign(message)) for entry in KEYS
    )
    with pytest.raises(BadSignature):
        verify(replace(WHOLE, signatures=signatures))


def test_a_vote_on_another_network_does_not_count():
    header = replace(HEADER, network=Network(digest("network")))
    moved = replace(WHOLE, block=header_digest(header))
    with pytest.raises(BadSignature):
        verify(moved, header)


def test_an_auditor_finds_a_forged_signature_that_a_device_may_pass_over():
    forged = spoil(WHOLE, 3)
    with pytest.raises(BadSignature):
        verify(forged)
    verify(forged, is_complete=False)
    with pytest.raises(BadSignature):
        verify(spoil(WHOLE, 1), is_complete=False)


def test_every_field_of_a_header_is_part_of_its_digest():
    digests = {header_digest(HEADER)}
    for name in BlockHeader.__slots__:
        value = getattr(HEADER, name)
        if isinstance(value, bytes):
            changed = bytes([value[0] ^ 1]) + value[1:]
        else:
            changed = value + 1 if isinstance(value, int) else value + "x"
        digests.add(header_digest(replace(HEADER, **{name: changed})))
    assert len(digests) == 1 + len(BlockHeader.__slots__)


def test_no_certificate_has_no_digest():
    assert certificate_digest(None) == NO_DIGEST
    assert certificate_digest(WHOLE) != NO_DIGEST


def test_a_row_of_transactions_has_a_root_in_its_own_domain():
    assert transactions_root((b"a", b"b")) != compute_list_root([b"a", b"b"])
    assert transactions_root((b"a", b"b")) != transactions_root((b"b", b"a"))
