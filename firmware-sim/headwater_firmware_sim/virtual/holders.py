"""Accounts that act on the main chain by themselves: owners of deposits, and delegators.

What they send may be lost with a gateway that crashes or is cut off. So each transaction is sent
again, to another gateway each time, until the ledger has its nonce or refuses it for good.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headwater_firmware_sim.economy.deposits import lock_deposit
from headwater_firmware_sim.virtual.gateway import GatewayNode
from headwater_firmware_sim.virtual.world import World
from headwater_firmware_sim.witnessed_key import WitnessedKey
from headwater_protocol.chain.stake import (
    DelegateStake,
    RedelegateStake,
    StakeBody,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.chain.transaction import Transaction, sign_transaction
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, Nonce, Units, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import (
    ACCOUNTS,
    CANDIDATES,
    MAIN,
    MAIN_KEY,
    UNBONDINGS,
    stake_key,
)
from headwater_shard.mainchain.staking.pool import get_worth
from headwater_shard.state.state import State
from headwater_shard.transition import NONCES

RESEND_MS: Final = 5_000
MAX_SENT_AT_ONCE: Final = 2_000
"""Transactions, so that a large fleet does not fill the queues of the gateways."""

WORTH_WAITING: Final = frozenset({ReasonCode.OK, ReasonCode.DUPLICATE, ReasonCode.BUSY})
"""What a gateway says of a transaction that may yet be executed."""


@dataclass(slots=True, kw_only=True)
class _Letter:
    """A transaction that is not on the ledger yet."""

    sender: AccountId
    nonce: int
    transaction: bytes
    attempts: int
    """Gateways that it was sent to; the first one differs from account to account."""


class Holders:
    """All accounts of a run beside gateways and sponsor."""

    def __init__(self, world: World, gateways: Sequence[GatewayNode]) -> None:
        self._world = world
        self._gateways = gateways
        stage = world.stage
        self._rng = random.Random(f"holders/{stage.seed}")  # noqa: S311  # chance of a simulation
        self._outbox: deque[_Letter] = deque()
        self._state: State | None = None
        self._epoch = -1
        self._is_armed = False
        self._last_nonce: dict[AccountId, int] = {}

    def start(self, state: State) -> None:
        """Lock all deposits and lend the first stake; `state` is the main chain's."""
        stage = self._world.stage
        units = stage.scenario.economy.device_deposit
        for index, plain in enumerate(stage.plan.devices if units else ()):
            key = WitnessedKey(plain, self._world.verifier)
            self._post(key, nonce=1, transaction=lock_deposit(stage.plan, index, units, key=key))
        self.on_main(state)

    def on_main(self, state: State) -> None:
        """The main chain has a new state; an election makes delegators move."""
        self._state = state
        main = state.get(MAIN, MAIN_KEY)
        if main is not None and main.epoch > self._epoch:
            self._epoch = main.epoch
            for key in self._world.stage.plan.delegators:
                body = self._choose(state, key.account)
                if body is not None:
                    self._sign(key, body)
        if self._outbox and not self._is_armed:
            self._send()

    def _send(self) -> None:
        """Send what waits, and look again in a while."""
        state, kept = self._state, list[_Letter]()
        for _ in range(min(len(self._outbox), MAX_SENT_AT_ONCE)):
            letter = self._outbox.popleft()
            entry = None if state is None else state.get(NONCES, letter.sender)
            if entry is not None and entry.nonce >= letter.nonce:
                continue
            gateway = self._gateways[letter.attempts % len(self._gateways)]
            letter.attempts += 1
            reason = ReasonCode.BUSY
            if gateway.is_up:
                reason = gateway.submit(MAIN_CHAIN, letter.transaction)
            if reason in WORTH_WAITING:
                kept.append(letter)
            else:
                self._world.counts[f"holders_{reason.value}"] += 1
        self._outbox.extendleft(reversed(kept))
        self._is_armed = bool(self._outbox)
        if self._is_armed:
            self._world.clock.after(RESEND_MS, self._send)

    def _choose(self, state: State, account: AccountId) -> StakeBody | None:
        """What a delegator does next: lend, move or take back some of what it has."""
        candidates = [
            ValidatorId(key)
            for key, candidate in state.sorted_items(CANDIDATES)
            if not candidate.is_tombstoned
        ]
        lent = [(one, worth) for one in candidates if (worth := get_worth(state, account, one)) > 0]
        leaving = [one for one in candidates if self._has_unbonding(state, account, one)]
        entry = state.get(ACCOUNTS, account)
        balance = 0 if entry is None else entry.balance
        if not candidates:
            return None
        if not lent:
            amount = self._part(balance)
            return (
                DelegateStake(validator=self._rng.choice(candidates), amount=amount)
                if amount
                else None
            )
        source, worth = self._rng.choice(lent)
        roll = self._rng.random()
        if roll < 0.2 and leaving:
            return WithdrawStake(validator=self._rng.choice(leaving))
        if roll < 0.4:
            return UndelegateStake(validator=source, amount=self._part(worth))
        others = [one for one in candidates if one != source]
        if roll < 0.8 and others:
            return RedelegateStake(
                source=source, destination=self._rng.choice(others), amount=self._part(worth)
            )
        amount = self._part(balance)
        return DelegateStake(validator=source, amount=amount) if amount else None

    def _part(self, units: int) -> Units:
        """All of it, or a part."""
        return Units(units if self._rng.random() < 0.5 else self._rng.randint(min(1, units), units))

    @staticmethod
    def _has_unbonding(state: State, account: AccountId, validator: ValidatorId) -> bool:
        return state.get(UNBONDINGS, stake_key(account, validator)) is not None

    def _sign(self, key: SecretKey, body: StakeBody) -> None:
        nonce = self._last_nonce.get(key.account, 0) + 1
        transaction = Transaction(
            network=self._world.stage.plan.network,
            chain=MAIN_CHAIN,
            sender=key.account,
            nonce=Nonce(nonce),
            body=body,
        )
        self._post(key, nonce=nonce, transaction=sign_transaction(key, transaction))

    def _post(self, key: SecretKey, *, nonce: int, transaction: bytes) -> None:
        self._last_nonce[key.account] = nonce
        self._outbox.append(
            _Letter(
                sender=key.account,
                nonce=nonce,
                transaction=transaction,
                attempts=len(self._outbox),
            )
        )
