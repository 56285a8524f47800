"""Double signers: what CometBFT's blocks say of them is evidence that the main chain judges."""

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.chain.block import VoteKind
from headwater_protocol.chain.comet_vote import CometVote, comet_vote_message
from headwater_protocol.chain.evidence import CometEquivocation
from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height, Network, View
from headwater_shard.engine.cometbft.mapping import address_of
from headwater_shard.engine.cometbft.shell.misbehaviour import (
    MAX_EVIDENCE_PER_BLOCK,
    parse_evidence,
)
from headwater_shard.mainchain.records import CANDIDATES
from tests.support.comet import CometChain, sign, transfer
from tests.support.justice import comet_vote
from tests.support.network import Cast, key, make_cast

SHARD = ChainId("shard-0")


def as_json(cast: Cast, signer: SecretKey, vote: CometVote, *, index: int = 0) -> dict[str, Any]:
    """A vote as CometBFT's RPC writes it."""
    assert vote.block is not None
    signature = signer.sign(comet_vote_message(cast.network, vote))
    return {
        "type": 1 if vote.kind is VoteKind.PREVOTE else 2,
        "height": str(vote.height),
        "round": vote.view,
        "block_id": {
            "hash": vote.block.digest.hex().upper(),
            "parts": {
                "total": vote.block.num_parts,
                "hash": vote.block.parts.hex().upper(),
            },
        },
        "timestamp": f"2023-11-14T22:13:20.{vote.nanoseconds:09d}Z",
        "validator_address": address_of(signer.validator).hex().upper(),
        "validator_index": index,
        "signature": base64.b64encode(signature).decode(),
        "extension": None,
        "extension_signature": None,
    }


def evidence_json(
    cast: Cast, signer: SecretKey, *, index: int = 0, **place: object
) -> dict[str, Any]:
    """Duplicate votes of a signer, as they stand in a block."""
    votes = [
        as_json(cast, signer, comet_vote(name, **place), index=index) for name in (b"one", b"two")
    ]
    votes.sort(key=lambda vote: vote["block_id"]["hash"])
    return {
        "type": "tendermint/DuplicateVoteEvidence",
        "value": {"vote_a": votes[0], "vote_b": votes[1]},
    }


def block_json(*items: object) -> dict[str, Any]:
    return {"block": {"evidence": {"evidence": list(items)}}}


def parse(cast: Cast, block: dict[str, Any]) -> tuple[CometEquivocation, ...]:
    return parse_evidence(
        block,
        network=cast.network,
        chain=SHARD,
        validators=[entry.validator for entry in cast.all_validators],
        verifier=DirectVerifier(),
    )


@pytest.fixture(scope="module")
def cast() -> Cast:
    return make_cast()


def test_duplicate_votes_become_evidence(cast: Cast) -> None:
    guilty, other = cast.all_validators[:2]
    found = parse(
        cast,
        block_json(
            evidence_json(cast, guilty),
            {"type": "tendermint/LightClientAttackEvidence", "value": {}},
            evidence_json(cast, other, kind=VoteKind.PREVOTE, view=View(3)),
        ),
    )
    assert [entry.validator for entry in found] == [guilty.validator, other.validator]
    assert (found[1].first.kind, found[1].first.view) == (VoteKind.PREVOTE, 3)


def test_what_does_not_convict_is_left_out(cast: Cast) -> None:
    guilty = cast.all_validators[0]
    good = evidence_json(cast, guilty)
    spoilt = []
    for spoil in (
        lambda item: item["value"]["vote_a"].update(signature="AAAA"),
        lambda item: item["value"]["vote_a"].update(signature="?"),
        lambda item: item["value"]["vote_a"].update(timestamp="yesterday"),
        lambda item: item["value"]["vote_a"].update(height="8"),
        lambda item: item["value"]["vote_a"].update(type=7),
        lambda item: item["value"]["vote_a"].update(validator_address="00"),
        lambda item: item["value"].update(vote_b=item["value"]["vote_a"]),
        lambda item: item["value"].pop("vote_b"),
        lambda item: item.pop("value"),
    ):
        item = copy.deepcopy(good)
        spoil(item)
        spoilt.append(item)
    assert parse(cast, block_json(*spoilt)) == ()
    assert len(parse(cast, block_json(*spoilt, good))) == 1
    elsewhere = make_cast(balances=[("other", 1)])
    assert elsewhere.network != Network(cast.network)
    assert parse(elsewhere, block_json(good)) == ()
    assert len(parse(cast, block_json(*[good] * 100))) == MAX_EVIDENCE_PER_BLOCK


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["block", "evidence", "type", "value", "vote_a", "vote_b", "height"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_of_a_node_raises(cast: Cast, data: object) -> None:
    block = data if isinstance(data, dict) else {"block": data}
    assert parse(cast, block) == ()
    assert parse(cast, block_json(data)) == ()


@pytest.mark.cometbft
def test_a_double_signer_of_a_live_chain_is_slashed(tmp_path: Path) -> None:
    """CometBFT is given the two votes, commits to them, and the ledger punishes."""
    cast = make_cast(validators_per_shard=2, stakes=[100_000, 1_000], balances=[("alice", 1_000)])
    honest, guilty = cast.all_validators
    chain = CometChain(cast=cast, folder=tmp_path, key=honest)
    chain.start()
    try:
        chain.finalize(transfer(cast, 1))
        assert chain.rest() >= 2
        rpc = chain.engine._rpc
        header = rpc.call("block", height="2")["block"]["header"]
        order = [entry["address"] for entry in rpc.call("validators", height="2")["validators"]]
        index = order.index(address_of(guilty.validator).hex().upper())
        item = evidence_json(cast, guilty, index=index, chain=MAIN_CHAIN, height=Height(2))
        item["value"] |= {
            "TotalVotingPower": "101000",
            "ValidatorPower": "1000",
            "Timestamp": header["time"],
        }
        rpc.call("broadcast_evidence", evidence=item)
        chain.finalize(transfer(cast, 2))
        (found,) = chain.wait_for(chain.engine.take_evidence)
        assert found.validator == guilty.validator
        before = chain.app.state.get(CANDIDATES, guilty.validator)
        chain.finalize(sign(cast, key("alice"), SubmitEvidence(evidence=found), 3))
        after = chain.app.state.get(CANDIDATES, guilty.validator)
        assert before is not None
        assert after is not None
        assert after.is_tombstoned
        assert after.bonded < before.bonded
    finally:
        chain.close()
