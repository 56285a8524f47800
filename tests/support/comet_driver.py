"""CometBFT as a replica sees it, driven call by call: proposals, votes, decisions, no process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, View
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.bft.effects import DurableEffect, Finalized
from headwater_shard.engine.cometbft.mapping import address_of
from headwater_shard.engine.cometbft.replica import Replica, Settled
from headwater_shard.engine.cometbft.wire import abci_pb2, types_pb2
from tests.support.network import GENESIS_MS, Cast

ACCEPT = abci_pb2.ResponseProcessProposal.ACCEPT
REJECT = abci_pb2.ResponseProcessProposal.REJECT
MAX_TX_BYTES = 8 * 1024 * 1024


@dataclass
class Member:
    """One validator's replica, its disk and what it was told."""

    key: SecretKey
    replica: Replica
    disk: list[Finalized] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    reports: list[int] = field(default_factory=list)

    @property
    def height(self) -> int:
        return self.replica.application.height


class Driver:
    """All validators of a chain, whose clock and view a test sets."""

    def __init__(self, cast: Cast, *, chain: ChainId = MAIN_CHAIN) -> None:
        self.cast = cast
        self.chain = chain
        self.now_ms = GENESIS_MS + 1_000
        self.view = 0
        self.members = [self.make_member(key) for key in cast.all_validators]
        self.commit_info = abci_pb2.ExtendedCommitInfo()
        self.decided: list[abci_pb2.RequestFinalizeBlock] = []

    def make_member(self, key: SecretKey) -> Member:
        disk: list[Finalized] = []
        settled: list[Settled] = []
        reports: list[int] = []

        class Disk:
            def write(self, effects: Sequence[DurableEffect]) -> None:
                for effect in effects:
                    assert isinstance(effect, Finalized)
                    assert effect.block.header.height == len(disk) + 1
                    disk.append(effect)

        replica = Replica(
            application=LedgerApplication(
                make_ledger(self.cast.genesis, self.chain), DirectVerifier()
            ),
            genesis=self.cast.genesis,
            key=key,
            verifier=DirectVerifier(),
            store=Disk(),
            tip=None,
            now_ms=lambda: self.now_ms,
            view_at=lambda height: View(self.view),
            on_settled=settled.append,
            on_misbehaviour=reports.append,
        )
        return Member(key=key, replica=replica, disk=disk, settled=settled, reports=reports)

    def propose(self, member: Member, *transactions: bytes) -> list[bytes]:
        """What a leader makes of the mempool."""
        request = abci_pb2.RequestPrepareProposal(
            max_tx_bytes=MAX_TX_BYTES,
            txs=transactions,
            local_last_commit=self.commit_info,
            height=member.height + 1,
            proposer_address=address_of(member.key.validator),
        )
        return list(member.replica.prepare_proposal(request).txs)

    def proposal(
        self, entries: Sequence[bytes], proposer: SecretKey, height: int
    ) -> abci_pb2.RequestProcessProposal:
        digest = hashlib.sha256(b"|".join(entries) + proposer.public_key).digest()
        return abci_pb2.RequestProcessProposal(
            txs=entries,
            hash=digest,
            height=height,
            proposer_address=address_of(proposer.validator),
        )

    def judge(self, member: Member, proposal: abci_pb2.RequestProcessProposal) -> int:
        return member.replica.process_proposal(proposal).status

    def extend(self, member: Member, proposal: abci_pb2.RequestProcessProposal) -> bytes:
        request = abci_pb2.RequestExtendVote(
            hash=proposal.hash,
            height=proposal.height,
            txs=proposal.txs,
            proposer_address=proposal.proposer_address,
        )
        return member.replica.extend_vote(request).vote_extension

    def hear(
        self,
        member: Member,
        speaker: SecretKey,
        extension: bytes,
        proposal: abci_pb2.RequestProcessProposal,
    ) -> int:
        request = abci_pb2.RequestVerifyVoteExtension(
            hash=proposal.hash,
            validator_address=address_of(speaker.validator),
            height=proposal.height,
            vote_extension=extension,
        )
        return member.replica.verify_vote_extension(request).status

    def decide(
        self, member: Member, proposal: abci_pb2.RequestProcessProposal
    ) -> abci_pb2.ResponseFinalizeBlock:
        request = abci_pb2.RequestFinalizeBlock(
            txs=proposal.txs,
            hash=proposal.hash,
            height=proposal.height,
            proposer_address=proposal.proposer_address,
        )
        response = member.replica.finalize_block(request)
        member.replica.commit()
        return response

    def note_commit(self, extensions: dict[SecretKey, bytes], *, view: int = 0) -> None:
        """What the next leader is told of the votes for the last block."""
        self.commit_info = abci_pb2.ExtendedCommitInfo(round=view)
        for key in self.cast.all_validators:
            vote = self.commit_info.votes.add(
                validator=abci_pb2.Validator(address=address_of(key.validator), power=1),
                block_id_flag=types_pb2.BLOCK_ID_FLAG_ABSENT,
            )
            if key in extensions:
                vote.block_id_flag = types_pb2.BLOCK_ID_FLAG_COMMIT
                vote.vote_extension = extensions[key]

    def block(
        self,
        *transactions: bytes,
        leader: int = 0,
        hears: bool = True,
        absent: Sequence[int] = (),
    ) -> list[abci_pb2.ResponseFinalizeBlock]:
        """One block through all its calls; `hears` says whether precommits reach others."""
        self.now_ms += 10
        proposer = self.members[leader]
        entries = self.propose(proposer, *transactions)
        proposal = self.proposal(entries, proposer.key, proposer.height + 1)
        present = [m for index, m in enumerate(self.members) if index not in absent]
        for member in present:
            assert self.judge(member, proposal) == ACCEPT, member.replica.refused
        extensions = {member.key: self.extend(member, proposal) for member in present}
        if hears:
            for member in self.members:
                for speaker, extension in extensions.items():
                    if speaker is not member.key:
                        assert self.hear(member, speaker, extension, proposal) == ACCEPT
        responses = [self.decide(member, proposal) for member in self.members]
        self.note_commit(extensions, view=self.view)
        return responses
