"""One example of each record of the protocol, and how to find all of them."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import headwater_protocol
from headwater_protocol.chain.account import Account, RewardBalance
from headwater_protocol.chain.block import (
    NO_DIGEST,
    Block,
    BlockHeader,
    Certificate,
    Vote,
    VoteKind,
    certificate_digest,
    header_digest,
    transactions_root,
)
from headwater_protocol.chain.checkpoint import (
    Checkpoint,
    CheckpointSignature,
    Merge,
    MergeInput,
    SignedCheckpoint,
    checkpoint_digest,
    checkpoint_message,
)
from headwater_protocol.chain.claim import Commit, UpdateClaim, update_message
from headwater_protocol.chain.cohort import Capability
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.chain.proof import (
    MAIN_NAMESPACES,
    SHARD_NAMESPACES,
    StateProof,
    compute_state_root,
)
from headwater_protocol.chain.round import TOP_RANK, MergeCorrection, Round, RoundPhase
from headwater_protocol.chain.stake import (
    Bond,
    DelegateStake,
    RedelegateStake,
    SetCommission,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.chain.transaction import (
    UNAVAILABLE,
    AdoptEpoch,
    AdoptTask,
    AttestMerge,
    AttestModel,
    Body,
    CommitUpdates,
    DeclareCapability,
    EnrolDevice,
    Enrolment,
    PostCheckpoint,
    PostScores,
    SignCheckpoint,
    SignedTransaction,
    Transaction,
    Transfer,
)
from headwater_protocol.crypto.hashing import Domain, blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Nonce,
    NumExamples,
    RoundNumber,
    TaskId,
    TimeMs,
    Units,
    View,
)
from headwater_protocol.light.client import make_trusted
from headwater_protocol.light.shard import make_shard_trust
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.merkle.sequence import compute_list_root
from headwater_protocol.merkle.trie import MerkleMap
from headwater_protocol.messages.announcement import Announcement, round_key, task_key
from headwater_protocol.messages.chunk import split_blob
from headwater_protocol.messages.http_request import HttpMethod, HttpRequest
from headwater_protocol.messages.receipt import Receipt, Stage, sign_receipt
from headwater_protocol.messages.status import (
    REPORTS_A_SESSION,
    CapabilityReport,
    Status,
    sign_status,
)
from headwater_protocol.messages.update import Update
from headwater_protocol.reasons import ReasonCode
from tests.support.credential_records import example_credential_records, make_revocation_body
from tests.support.justice_records import (
    example_justice_records,
    make_evidence,
    make_justice_bodies,
)
from tests.support.market_records import TASK as TASK_ENTRY
from tests.support.market_records import example_market_records, make_market_bodies
from tests.support.network import GENESIS_MS, certify, key, make_cast, make_task

SHARD = ChainId("shard-0")
PAYLOAD = bytes(range(48))
CAST = make_cast(shards=("shard-0", "shard-1"), validators_per_shard=2)
TASK = make_task()
DEVICES = sorted((key("device-0"), key("device-1")), key=lambda entry: entry.device)


def record_classes() -> list[type]:
    """The classes of the protocol that have a KIND, by kind."""
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(headwater_protocol.__path__, "headwater_protocol."):
        for entry in vars(importlib.import_module(module.name)).values():
            if isinstance(entry, type) and dataclasses.is_dataclass(entry):
                name = getattr(entry, "KIND", None)
                if name is not None and found.setdefault(name, entry) is not entry:
                    raise ValueError(f"two classes are called {name}")
    return [found[name] for name in sorted(found)]


def digest(name: str) -> Digest:
    return blob_digest(name.encode())


def prove(
    namespaces: tuple[str, ...], namespace: str, entry_key: bytes, record: object
) -> tuple[Digest, StateProof]:
    """A state that holds `record` and its neighbours, and the proof of it."""
    entries: MerkleMap[None] = MerkleMap()
    entries = entries.updated(
        {bytes([index]): (bytes([index]), None) for index in range(4)}
        | {entry_key: (encode_record(record), None)}
    )
    roots = tuple(entries.root if name == namespace else NO_DIGEST for name in namespaces)
    proof = StateProof(
        namespace=namespace, map_proof=entries.prove(entry_key), namespace_roots=roots
    )
    return compute_state_root(roots), proof


def make_header(
    chain: ChainId,
    state_root: Digest,
    *,
    transactions: tuple[bytes, ...] = (),
    last: Certificate | None = None,
    height: int = 1,
) -> BlockHeader:
    committee = CAST.genesis.committee(chain)
    return BlockHeader(
        network=CAST.network,
        chain=chain,
        height=Height(height),
        time_ms=TimeMs(GENESIS_MS + height),
        previous=NO_DIGEST if last is None else last.block,
        last_certificate=certificate_digest(last),
        transactions_root=transactions_root(transactions),
        outcomes_root=compute_list_root([]),
        state_root=state_root,
        committee=committee_digest(committee),
        next_committee=committee_digest(committee),
        proposer=committee.delegates[0].validator,
    )


def signers(chain: ChainId) -> tuple[SecretKey, ...]:
    return CAST.all_validators if chain == MAIN_CHAIN else CAST.validators[chain]


def make_round() -> Round:
    return Round(
        number=RoundNumber(3),
        epoch=EpochNumber(1),
        task=TASK.task,
        phase=RoundPhase.CLOSED,
        base=digest("base"),
        seed=digest("seed"),
        rank_threshold=TOP_RANK,
        cohort_size=2,
        opened_height=Height(1),
        opened_ms=GENESIS_MS,
        collect_until_ms=TimeMs(GENESIS_MS + 1_000),
        score_until_ms=TimeMs(GENESIS_MS + 2_000),
        attest_until_ms=TimeMs(0),
        num_batches=1,
        num_updates=2,
        num_accepted=1,
        num_examples=30,
        correction=MergeCorrection(
            epoch=EpochNumber(1), merged=digest("merged"), reference=digest("reference")
        ),
        model=digest("model"),
        paid=Units(1_000),
        closed_height=Height(9),
    )


def make_bodies() -> list[Body]:
    """One transaction body of each kind."""
    commits = []
    for index, device in enumerate(DEVICES):
        claim = UpdateClaim(
            shard=SHARD,
            round=RoundNumber(3),
            base=digest("base"),
            device=device.device,
            payload=blob_digest(PAYLOAD),
            num_examples=NumExamples(30 + index),
        )
        commits.append(
            Commit(
                device=device.device,
                payload=claim.payload,
                num_examples=claim.num_examples,
                signature=device.sign(update_message(CAST.network, claim)),
            )
        )
    enrolment = Enrolment(
        shard=SHARD, device=DEVICES[0].device, weight=2, expires_ms=TimeMs(GENESIS_MS + 5_000)
    )
    checkpoint = Checkpoint(
        shard=SHARD,
        number=1,
        epoch=EpochNumber(0),
        merged=EpochNumber(0),
        round=RoundNumber(2),
        height=Height(8),
        state_root=digest("state"),
        model=digest("model"),
        num_examples=60,
        is_final=False,
        previous=NO_DIGEST,
    )
    message = checkpoint_message(CAST.network, checkpoint)
    signatures = tuple(
        sorted(
            (
                CheckpointSignature(validator=entry.validator, signature=entry.sign(message))
                for entry in signers(SHARD)
            ),
            key=lambda entry: entry.validator,
        )
    )
    merge = Merge(
        epoch=EpochNumber(1),
        inputs=(
            MergeInput(
                shard=SHARD,
                checkpoint=checkpoint_digest(checkpoint),
                model=checkpoint.model,
                num_examples=60,
            ),
        ),
        model=digest("merged"),
    )
    epoch = dataclasses.replace(
        CAST.genesis.epoch(),
        epoch=merge.epoch,
        merge=merge,
        seed=digest("seed"),
        start_height=Height(9),
        start_ms=TimeMs(1_700_000_000_900),
    )
    root, proof = prove(MAIN_NAMESPACES, "epochs", epoch_key(epoch.epoch), epoch)
    header = make_header(MAIN_CHAIN, root)
    return [
        EnrolDevice(
            enrolment=enrolment,
            registrar=CAST.registrar.account,
            signature=CAST.registrar.sign_record(Domain.ENROLMENT, CAST.network, enrolment),
        ),
        CommitUpdates(round=RoundNumber(3), commits=tuple(commits)),
        DeclareCapability(
            status=sign_status(
                DEVICES[0],
                CAST.network,
                Status(
                    device=DEVICES[0].device,
                    session=2,
                    is_online=True,
                    report=CapabilityReport(
                        number=2 * REPORTS_A_SESSION + 1,
                        capability=Capability.LIGHT,
                        memory_bytes=2**29,
                        program=digest("program"),
                        steps_per_1000_s=12_000,
                    ),
                ),
            )
        ),
        PostScores(
            task=TaskId("digits"),
            round=RoundNumber(3),
            batch=0,
            scores=(9_000, UNAVAILABLE),
            reference=digest("reference"),
        ),
        AttestModel(round=RoundNumber(3), model=digest("model")),
        SignCheckpoint(number=1, checkpoint=checkpoint_digest(checkpoint), signature=signatures[0]),
        AdoptEpoch(
            update=EpochUpdate(
                epoch=epoch,
                proof=proof,
                header=header,
                certificate=certify(header, signers(MAIN_CHAIN)),
            )
        ),
        Transfer(recipient=DEVICES[0].account, amount=Units(7)),
        PostCheckpoint(signed=SignedCheckpoint(checkpoint=checkpoint, signatures=signatures)),
        AttestMerge(epoch=EpochNumber(1), model=digest("merged")),
        Bond(amount=Units(500), commission_thousandths=100),
        SetCommission(commission_thousandths=50),
        DelegateStake(validator=signers(SHARD)[0].validator, amount=Units(40)),
        UndelegateStake(validator=signers(SHARD)[0].validator, amount=Units(30)),
        RedelegateStake(
            source=signers(SHARD)[0].validator,
            destination=signers(SHARD)[1].validator,
            amount=Units(20),
        ),
        WithdrawStake(validator=signers(SHARD)[0].validator),
        *make_justice_bodies(
            make_evidence(CAST, header, certify(header, signers(MAIN_CHAIN)), proof)
        ),
        *make_market_bodies(),
        AdoptTask(
            entry=TASK_ENTRY,
            proof=proof,
            header=header,
            certificate=certify(header, signers(MAIN_CHAIN)),
        ),
        make_revocation_body(),
    ]


def sign_body(body: Body) -> SignedTransaction:
    sender = CAST.sponsor
    transaction = Transaction(
        network=CAST.network,
        chain=SHARD,
        sender=sender.account,
        nonce=Nonce(5),
        body=body,
    )
    return SignedTransaction(
        transaction=transaction,
        signature=sender.sign_record(Domain.TRANSACTION, CAST.network, transaction),
    )


def make_announcement() -> Announcement:
    """An announcement that `SHARD`'s committee certified."""
    round_ = make_round()
    entries: dict[str, tuple[bytes, object]] = {
        "rounds": (round_key(round_.number), round_),
        "tasks": (task_key(TASK.task), TASK),
    }
    maps: dict[str, MerkleMap[None]] = {
        name: MerkleMap[None]().updated(
            {entry_key: (encode_record(record), None), b"x": (b"y", None)}
        )
        for name, (entry_key, record) in entries.items()
    }
    roots = tuple(maps[name].root if name in maps else NO_DIGEST for name in SHARD_NAMESPACES)
    proofs = {
        name: StateProof(
            namespace=name, map_proof=maps[name].prove(entries[name][0]), namespace_roots=roots
        )
        for name in entries
    }
    header = make_header(SHARD, compute_state_root(roots))
    return Announcement(
        header=header,
        certificate=certify(header, signers(SHARD)),
        round=round_,
        round_proof=proofs["rounds"],
        task=TASK,
        task_proof=proofs["tasks"],
    )


def example_records() -> Iterator[object]:
    """An example of every record that has a KIND; several of some."""
    yield Account(balance=Units(7))
    yield RewardBalance(total=Units(8))
    bodies = make_bodies()
    yield from bodies
    yield from example_market_records()
    for body in bodies:
        if isinstance(body, EnrolDevice):
            yield body.enrolment
        elif isinstance(body, PostCheckpoint):
            yield body.signed
            yield body.signed.checkpoint
        elif isinstance(body, SubmitEvidence):
            yield from example_justice_records([body.evidence])
        elif isinstance(body, AdoptEpoch):
            update = body.update
            yield update
            yield update.epoch
            yield CAST.genesis.epoch()
            if update.epoch.merge is not None:
                yield update.epoch.merge
                yield dataclasses.replace(update.epoch.merge, model=None)
            yield update.proof
            yield update.header
            yield update.certificate
            yield make_trusted(CAST.genesis)
            yield make_shard_trust(CAST.genesis, SHARD)
        signed = sign_body(body)
        yield signed
        yield signed.transaction
    first = make_header(SHARD, digest("state"))
    certificate = certify(first, signers(SHARD))
    transactions = (encode_record(sign_body(bodies[3])),)
    yield Block(header=first, transactions=(), last_certificate=None)
    yield Block(
        header=make_header(
            SHARD, digest("next"), transactions=transactions, last=certificate, height=2
        ),
        transactions=transactions,
        last_certificate=certificate,
    )
    for block in (header_digest(first), None):
        yield Vote(
            kind=VoteKind.PRECOMMIT, chain=SHARD, height=Height(1), view=View(0), block=block
        )
    committee: Committee = CAST.genesis.committee(SHARD)
    yield committee
    yield CAST.genesis
    yield TASK
    yield make_round()
    yield dataclasses.replace(
        make_round(), phase=RoundPhase.COLLECT, correction=None, model=None, paid=Units(0)
    )
    commits = next(body for body in bodies if isinstance(body, CommitUpdates)).commits
    claim = UpdateClaim(
        shard=SHARD,
        round=RoundNumber(3),
        base=digest("base"),
        device=commits[0].device,
        payload=commits[0].payload,
        num_examples=commits[0].num_examples,
    )
    yield claim
    yield Update(
        round=claim.round,
        base=claim.base,
        device=claim.device,
        num_examples=claim.num_examples,
        signature=commits[0].signature,
        payload=PAYLOAD,
    )
    receipt = Receipt(
        stage=Stage.VERDICT,
        shard=SHARD,
        round=RoundNumber(3),
        device=claim.device,
        payload=claim.payload,
        reason=ReasonCode.OK,
        height=Height(9),
        score=9_000,
        reward=Units(800),
        time_ms=GENESIS_MS,
        gateway=signers(SHARD)[0].validator,
    )
    yield receipt
    yield sign_receipt(signers(SHARD)[0], CAST.network, receipt)
    status = Status(device=claim.device, session=4, is_online=True)
    yield status
    yield sign_status(DEVICES[0], CAST.network, status)
    yield next(split_blob(PAYLOAD))
    yield HttpRequest(
        method=HttpMethod.PUT,
        path=f"/blobs/{digest('blob').hex()}",
        body=digest("blob"),
        time_ms=TimeMs(1_700_000_000_000),
    )
    yield make_announcement()
    yield from example_credential_records()
