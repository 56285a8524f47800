"""Transactions that people bring are submitted once, and the file says what came of them."""

from pathlib import Path

from headwater_gateway.shell.inbox import MAX_FILES_AT_ONCE, Inbox
from headwater_protocol.chain.block import MAX_TRANSACTION_BYTES
from headwater_protocol.chain.transaction import Transaction, Transfer, sign_transaction
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Nonce, Units
from headwater_protocol.reasons import ReasonCode
from tests.support.network import key, make_cast

CHAINS = {MAIN_CHAIN: None}
NETWORK = make_cast().network


def transfer(nonce: int = 1, chain: ChainId = MAIN_CHAIN) -> bytes:
    body = Transfer(recipient=key("bob").account, amount=Units(1))
    transaction = Transaction(
        network=NETWORK, chain=chain, sender=key("alice").account, nonce=Nonce(nonce), body=body
    )
    return sign_transaction(key("alice"), transaction)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_submitted_once_and_renamed_to_the_answer(tmp_path: Path) -> None:
    (tmp_path / "a.tx").write_bytes(transfer(1))
    (tmp_path / "b.tx").write_bytes(transfer(2))
    (tmp_path / "notes.txt").write_text("not mine")
    inbox = Inbox(tmp_path)
    first, second = inbox.look(CHAINS)
    assert (first.chain, first.transaction) == (MAIN_CHAIN, transfer(1))
    assert list(inbox.look(CHAINS)) == []
    inbox.on_submitted(first.ticket, ReasonCode.OK)
    inbox.on_submitted(second.ticket, ReasonCode.WRONG_NONCE)
    inbox.on_submitted("main/evidence/00", ReasonCode.OK)
    assert names(tmp_path) == ["a.queued", "b.wrong_nonce", "notes.txt"]


def test_a_full_queue_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "a.tx").write_bytes(transfer())
    inbox = Inbox(tmp_path)
    (submit,) = inbox.look(CHAINS)
    inbox.on_submitted(submit.ticket, ReasonCode.BUSY)
    assert [again.ticket for again in inbox.look(CHAINS)] == [submit.ticket]


def test_what_cannot_be_submitted_is_answered_at_once(tmp_path: Path) -> None:
    (tmp_path / "chain.tx").write_bytes(transfer(chain=ChainId("shard-9")))
    (tmp_path / "empty.tx").write_bytes(b"")
    (tmp_path / "large.tx").write_bytes(bytes(MAX_TRANSACTION_BYTES + 1))
    (tmp_path / "words.tx").write_bytes(b"words")
    assert list(Inbox(tmp_path).look(CHAINS)) == []
    assert names(tmp_path) == [
        "chain.wrong_chain",
        "empty.bad_encoding",
        "large.too_large",
        "words.bad_encoding",
    ]


def test_what_was_queued_when_the_process_ended_is_submitted_again(tmp_path: Path) -> None:
    (tmp_path / "a.queued").write_bytes(transfer())
    assert [submit.transaction for submit in Inbox(tmp_path).look(CHAINS)] == [transfer()]


def test_many_files_are_taken_in_portions(tmp_path: Path) -> None:
    for nonce in range(1, MAX_FILES_AT_ONCE + 2):
        (tmp_path / f"{nonce:04}.tx").write_bytes(transfer(nonce))
    inbox = Inbox(tmp_path)
    submits = list(inbox.look(CHAINS))
    assert len(submits) == MAX_FILES_AT_ONCE
    for submit in submits:
        inbox.on_submitted(submit.ticket, ReasonCode.OK)
    assert len(list(inbox.look(CHAINS))) == 1


def test_a_folder_that_is_missing_holds_nothing(tmp_path: Path) -> None:
    assert list(Inbox(tmp_path / "inbox").look(CHAINS)) == []
