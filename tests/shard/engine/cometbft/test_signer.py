"""The signer: CometBFT's own bytes, and never two words about one step."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.chain.block import VoteKind
from headwater_protocol.chain.comet_vote import (
    CometVote,
    comet_chain_id,
    comet_extension_message,
    comet_vote_message,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import is_signature
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height, Network, View
from headwater_shard.engine.cometbft.extensions import sign_extension
from headwater_shard.engine.cometbft.frames import encode_frame
from headwater_shard.engine.cometbft.shell.signing import SignedFile
from headwater_shard.engine.cometbft.signer import CometSigner, RefusedToSign, SignedStep
from headwater_shard.engine.cometbft.wire import privval_pb2, types_pb2
from tests.support.justice import comet_vote
from tests.support.network import key

NETWORK = Network(blob_digest(b"network"))
KEY = key("validator")
CHAIN_ID = comet_chain_id(NETWORK, MAIN_CHAIN)
KINDS = {
    VoteKind.PREVOTE: types_pb2.SIGNED_MSG_TYPE_PREVOTE,
    VoteKind.PRECOMMIT: types_pb2.SIGNED_MSG_TYPE_PRECOMMIT,
}


EARLIER = SignedStep(
    height=Height(1),
    view=View(0),
    step=1,
    seconds=1,
    nanoseconds=0,
    message=b"earlier",
    signature=KEY.sign(b"earlier"),
)


def make_signer(saved: list[SignedStep] | None = None) -> CometSigner:
    """One that signed at height 1 before anything in `saved`."""
    saved = [] if saved is None else saved
    return CometSigner(
        key=KEY,
        network=NETWORK,
        chain=MAIN_CHAIN,
        last=saved[-1] if saved else EARLIER,
        save=saved.append,
    )


def make_forgetful(saved: list[SignedStep], *, signs: bool = False) -> CometSigner:
    return CometSigner(
        key=KEY,
        network=NETWORK,
        chain=MAIN_CHAIN,
        last=None,
        save=saved.append,
        signs_without_memory=signs,
    )


def test_a_new_validator_signs_the_first_height_of_a_chain() -> None:
    signer = make_forgetful([])
    signer.sign_vote(vote(height=1), CHAIN_ID)
    signer.sign_vote(vote(height=2), CHAIN_ID)


def test_an_operator_may_vouch_for_a_key_that_remembers_nothing() -> None:
    saved: list[SignedStep] = []
    make_forgetful(saved, signs=True).sign_vote(vote(height=5), CHAIN_ID)
    assert [step.height for step in saved] == [5]


def test_who_remembers_nothing_lets_one_height_pass() -> None:
    saved: list[SignedStep] = []
    signer = make_forgetful(saved)
    for view in (0, 1, 0):
        with pytest.raises(RefusedToSign, match="forgotten"):
            signer.sign_vote(vote(height=5, view=view), CHAIN_ID)
        with pytest.raises(RefusedToSign, match="forgotten"):
            signer.sign_proposal(proposal(height=5, view=view), CHAIN_ID)
    assert signer.view_at(Height(5)) is None
    signer.sign_vote(vote(height=6), CHAIN_ID)
    assert [step.height for step in saved] == [6]


def block_id(name: bytes = b"block") -> types_pb2.BlockID:
    return types_pb2.BlockID(
        hash=blob_digest(name),
        part_set_header=types_pb2.PartSetHeader(total=1, hash=blob_digest(b"parts")),
    )


def extension(*, height: int = 5, view: int = 0) -> bytes:
    return sign_extension(
        KEY,
        network=NETWORK,
        chain=MAIN_CHAIN,
        height=Height(height),
        view=View(view),
        block=blob_digest(b"header"),
    )


def vote(
    kind: VoteKind = VoteKind.PREVOTE,
    *,
    height: int = 5,
    view: int = 0,
    block: bytes | None = b"block",
    seconds: int = 1_700_000_000,
    extended: bytes | None = None,
) -> types_pb2.Vote:
    made = types_pb2.Vote(type=KINDS[kind], height=height, round=view)
    made.timestamp.seconds, made.timestamp.nanos = seconds, 7
    if block is not None:
        made.block_id.CopyFrom(block_id(block))
        if kind is VoteKind.PRECOMMIT:
            made.extension = extension(height=height, view=view) if extended is None else extended
    return made


def proposal(name: bytes = b"block", *, height: int = 5, view: int = 0) -> types_pb2.Proposal:
    made = types_pb2.Proposal(
        type=types_pb2.SIGNED_MSG_TYPE_PROPOSAL,
        height=height,
        round=view,
        pol_round=-1,
        block_id=block_id(name),
    )
    made.timestamp.seconds = 1_700_000_000
    return made


@given(
    kind=st.sampled_from(list(VoteKind)),
    height=st.integers(0, 2**63 - 1),
    view=st.integers(0, 2**31 - 1),
    block=st.none() | st.binary(max_size=8),
    seconds=st.integers(0, 2**40),
    nanoseconds=st.integers(0, 999_999_999),
)
def test_votes_are_signed_as_canonical_protobuf(
    kind: VoteKind, height: int, view: int, block: bytes | None, seconds: int, nanoseconds: int
) -> None:
    ours: CometVote = comet_vote(
        block,
        kind=kind,
        chain=MAIN_CHAIN,
        height=height,
        view=view,
        seconds=seconds,
        nanoseconds=nanoseconds,
    )
    theirs = types_pb2.CanonicalVote(type=KINDS[kind], height=height, round=view, chain_id=CHAIN_ID)
    if block is not None:
        theirs.block_id.hash = blob_digest(block)
        theirs.block_id.part_set_header.total = 1
        theirs.block_id.part_set_header.hash = blob_digest(b"parts")
    theirs.timestamp.SetInParent()
    theirs.timestamp.seconds, theirs.timestamp.nanos = seconds, nanoseconds
    assert comet_vote_message(NETWORK, ours) == encode_frame(theirs.SerializeToString())


@given(data=st.binary(max_size=400), height=st.integers(0, 2**40), view=st.integers(0, 2**31 - 1))
def test_extensions_are_signed_as_canonical_protobuf(data: bytes, height: int, view: int) -> None:
    ours = comet_extension_message(
        NETWORK, MAIN_CHAIN, data, height=Height(height), view=View(view)
    )
    theirs = types_pb2.CanonicalVoteExtension(
        extension=data, height=height, round=view, chain_id=CHAIN_ID
    )
    assert ours == encode_frame(theirs.SerializeToString())


def test_a_chains_name_fits_cometbft() -> None:
    longest = ChainId("s" * 32)
    assert len(comet_chain_id(NETWORK, longest)) <= 50
    assert comet_chain_id(NETWORK, longest) != comet_chain_id(NETWORK, MAIN_CHAIN)


def test_a_precommit_carries_both_signatures() -> None:
    signed = make_signer().sign_vote(vote(VoteKind.PRECOMMIT), CHAIN_ID)
    message = comet_extension_message(
        NETWORK, MAIN_CHAIN, signed.extension, height=Height(5), view=View(0)
    )
    assert is_signature(KEY.public_key, message, signed.extension_signature)
    assert signed.signature


STEPS = [
    lambda signer: signer.sign_proposal(proposal(), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(VoteKind.PRECOMMIT), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(view=1), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(height=6), CHAIN_ID),
]
OTHERS = [
    lambda signer: signer.sign_proposal(proposal(b"other"), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(block=b"other"), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(VoteKind.PRECOMMIT, block=None), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(view=1, block=None), CHAIN_ID),
    lambda signer: signer.sign_vote(vote(height=6, block=b"other"), CHAIN_ID),
]


@pytest.mark.parametrize("done", range(len(STEPS)))
def test_nothing_is_signed_that_goes_back_or_differs(done: int) -> None:
    saved: list[SignedStep] = []
    for step in STEPS[: done + 1]:
        step(make_signer(saved))
    count = len(saved)
    for step in STEPS[:done]:
        with pytest.raises(RefusedToSign):
            step(make_signer(saved))
    for step in OTHERS[: done + 1]:
        with pytest.raises(RefusedToSign):
            step(make_signer(saved))
    assert len(saved) == count


def test_the_same_vote_at_another_time_is_the_vote_that_was_signed() -> None:
    saved: list[SignedStep] = []
    first = make_signer(saved).sign_vote(vote(), CHAIN_ID)
    again = make_signer(saved).sign_vote(vote(seconds=1_700_000_099), CHAIN_ID)
    assert (again.signature, again.timestamp) == (first.signature, first.timestamp)
    assert len(saved) == 1


@pytest.mark.parametrize(
    "extended", [b"", b"no record", extension(view=1), extension(height=6)], ids=range(4)
)
def test_a_precommit_without_our_extension_of_its_view_is_refused(extended: bytes) -> None:
    saved: list[SignedStep] = []
    signer = make_signer(saved)
    with pytest.raises((RefusedToSign, InvalidMessage)):
        signer.sign_vote(vote(VoteKind.PRECOMMIT, extended=extended), CHAIN_ID)
    assert saved == []


def test_refusals_are_answers() -> None:
    signer = make_signer()
    for name, request in (
        ("vote", types_pb2.Vote(height=1)),
        ("vote", vote(VoteKind.PRECOMMIT, extended=b"")),
    ):
        message = privval_pb2.Message()
        message.sign_vote_request.vote.CopyFrom(request)
        message.sign_vote_request.chain_id = CHAIN_ID
        assert signer.answer(message).signed_vote_response.error.description, name
    message = privval_pb2.Message()
    message.sign_vote_request.vote.CopyFrom(vote())
    message.sign_vote_request.chain_id = "another"
    assert signer.answer(message).signed_vote_response.error.description
    message = privval_pb2.Message(pub_key_request=privval_pb2.PubKeyRequest(chain_id=CHAIN_ID))
    assert signer.answer(message).pub_key_response.pub_key.ed25519 == KEY.public_key
    message = privval_pb2.Message(pub_key_request=privval_pb2.PubKeyRequest(chain_id="another"))
    assert signer.answer(message).pub_key_response.error.description
    message = privval_pb2.Message(ping_request=privval_pb2.PingRequest())
    assert signer.answer(message).WhichOneof("sum") == "ping_response"


def test_the_view_is_that_of_the_last_word_at_the_height() -> None:
    saved: list[SignedStep] = []
    signer = make_signer(saved)
    assert signer.view_at(Height(5)) is None
    signer.sign_vote(vote(view=2), CHAIN_ID)
    assert signer.view_at(Height(5)) == 2
    assert signer.view_at(Height(6)) is None
    assert make_signer(saved).view_at(Height(5)) == 2


def test_what_was_signed_survives_on_disk(tmp_path: Path) -> None:
    file = SignedFile(tmp_path / "signed.cbor")
    assert file.load() is None
    saved: list[SignedStep] = []
    make_signer(saved).sign_vote(vote(), CHAIN_ID)
    file.save(saved[0])
    assert file.load() == saved[0]
    file.save(replace(saved[0], view=View(3)))
    assert file.load() == replace(saved[0], view=View(3))
    (tmp_path / "signed.cbor").write_bytes(b"half")
    with pytest.raises(StorageError, match="restore the file"):
        file.load()
