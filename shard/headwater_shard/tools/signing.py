"""Building transactions for `headwater-shard tx` from options."""

from collections.abc import Callable, Mapping
from typing import Final

from headwater_protocol.chain.justice import Unjail
from headwater_protocol.chain.market import (
    BlobClass,
    BuyLicence,
    CloseTask,
    GrantAccess,
    LockDeposit,
    OpenTask,
    RevokeAccess,
    SetPrice,
)
from headwater_protocol.chain.stake import (
    Bond,
    DelegateStake,
    RedelegateStake,
    SetCommission,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import Body, Transaction, Transfer, sign_transaction
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import decode_record, require_valid
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import MAIN_CHAIN, Network, Nonce

Values = Mapping[str, str]

_NEEDED: Final[dict[str, tuple[tuple[str, ...], Callable[..., Body]]]] = {
    "transfer": (("to:recipient", "amount"), Transfer),
    "bond": (("amount", "commission:commission_thousandths"), Bond),
    "commission": (("commission:commission_thousandths",), SetCommission),
    "delegate": (("validator", "amount"), DelegateStake),
    "undelegate": (("validator", "amount"), UndelegateStake),
    "redelegate": (("source", "validator:destination", "amount"), RedelegateStake),
    "withdraw": (("validator",), WithdrawStake),
    "unjail": ((), Unjail),
    "close-task": (("task",), CloseTask),
    "open-task": (("task",), OpenTask),
    "lock-deposit": (("device", "shard", "amount"), LockDeposit),
    "set-price": (("model", "price?"), SetPrice),
    "buy": (("model", "price"), BuyLicence),
    "grant": (("account", "class:blob_class", "blob?"), GrantAccess),
    "revoke": (("account", "class:blob_class", "blob?"), RevokeAccess),
}
KINDS: Final = tuple(sorted(_NEEDED))
"""What can be built."""


def list_options(kind: str) -> str:
    """The options that a kind takes, for a message."""
    names = [entry.partition(":")[0] for entry in _NEEDED[kind][0]]
    return (
        " ".join(f"[--{name[:-1]}]" if name.endswith("?") else f"--{name}" for name in names)
        or "no options"
    )


def build_body(kind: str, values: Values) -> Body:
    """The transaction of a kind with these options.

    Raises:
        ConfigError: If an option is missing, of no use, or out of its bounds.
    """
    if kind not in _NEEDED:
        raise ConfigError("KIND", f"there is no {kind!r}", fix=f"one of {', '.join(KINDS)}")
    needed, make = _NEEDED[kind]
    fields: dict[str, object] = {}
    taken = set()
    for entry in needed:
        name, _, field = entry.partition(":")
        is_optional = name.endswith("?")
        name = name.rstrip("?")
        taken.add(name)
        if name not in values and not is_optional:
            raise ConfigError(f"--{name}", "is missing", fix=f"{kind} takes {list_options(kind)}")
        value = None if name not in values else _parse(kind, name, values[name])
        fields[(field or name).rstrip("?")] = value
    for name in sorted(values):
        if name not in taken:
            raise ConfigError(
                f"--{name}", f"means nothing to {kind}", fix=f"it takes {list_options(kind)}"
            )
    body = make(**fields)
    try:
        require_valid(body)
    except InvalidMessage as error:
        raise ConfigError(kind, str(error), fix="correct the option") from error
    return body


def sign_body(key: SecretKey, body: Body, *, network: Network, nonce: int) -> bytes:
    """The encoded transaction, for the main chain."""
    return sign_transaction(
        key,
        Transaction(
            network=network,
            chain=MAIN_CHAIN,
            sender=key.account,
            nonce=Nonce(nonce),
            body=body,
        ),
    )


def _parse(kind: str, name: str, text: str) -> object:
    if kind == "close-task":
        return text
    try:
        if name in {"amount", "price", "commission"}:
            return int(text)
        if name == "shard":
            return text
        if name == "class":
            return BlobClass(text)
        if name == "task":
            return decode_record(Task, bytes.fromhex(text))
        return bytes.fromhex(text)
    except (ValueError, InvalidMessage) as error:
        fix = {
            "class": "one of " + ", ".join(BlobClass),
            "amount": "give whole units",
            "price": "give whole units",
        }.get(name, "give hexadecimal digits")
        raise ConfigError(f"--{name}", str(error), fix=fix) from error
