"""Transfers between accounts."""

from headwater_protocol.chain.account import Account
from headwater_protocol.chain.transaction import Transfer
from headwater_protocol.identifiers import AccountId, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import ACCOUNTS
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def get_balance(draft: Draft, account: AccountId) -> int:
    """The units that an account holds; 0 where there is none."""
    entry = draft.get(ACCOUNTS, account)
    return 0 if entry is None else entry.balance


def credit(draft: Draft, account: AccountId, amount: int) -> None:
    """Add units to an account, which is made where it is missing."""
    draft.put(ACCOUNTS, account, Account(balance=Units(get_balance(draft, account) + amount)))


def debit(draft: Draft, account: AccountId, amount: int) -> None:
    """Take units from an account.

    Raises:
        InvalidTransaction: If there is no such account or it holds less.
    """
    entry = draft.get(ACCOUNTS, account)
    if entry is None:
        raise InvalidTransaction(
            ReasonCode.UNKNOWN_ACCOUNT, f"there is no account {account.hex()[:16]}"
        )
    if entry.balance < amount:
        raise InvalidTransaction(
            ReasonCode.INSUFFICIENT_FUNDS, f"{entry.balance} units do not cover {amount}"
        )
    draft.put(ACCOUNTS, account, Account(balance=Units(entry.balance - amount)))


def process_transfer(draft: Draft, body: Transfer, sender: AccountId) -> None:
    """Move units from the sender to the recipient.

    Raises:
        InvalidTransaction: If the amount is 0 or the sender does not hold it.
    """
    if body.amount == 0:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "a transfer of nothing")
    debit(draft, sender, body.amount)
    credit(draft, body.recipient, body.amount)
