"""The one signed update that may still count: when to send it, and what the answers mean.

A broker's acknowledgement says nothing about a gateway, so the update goes out again, with growing
waits, until a gateway promised to hold it or the round is over.

One gateway may lie or lag. A promise to hold is a signed statement that can be checked on the
ledger, so one is enough. A refusal ends the sending once gateways with more than a third of the
shard's power gave it, so that at least one honest one did; and even then the entry stays until the
round is over, because another gateway's promise may be under way.

An update that left and was never answered may be on the ledger: its receipt was lost, or the device
was. So the end of its round does not settle what became of it. It goes out once more, as a question
now, and any delegate's answer from the ledger settles it.
"""

from collections.abc import Iterable
from typing import Final

from headwater_agent.machine.backoff import Jitter, compute_wait_ms
from headwater_agent.machine.limits import DAY_MS, DeviceLimits
from headwater_agent.state import OutboxEntry
from headwater_protocol.chain.committee import Committee
from headwater_protocol.identifiers import ValidatorId
from headwater_protocol.messages.receipt import Receipt, SignedReceipt, Stage
from headwater_protocol.reasons import ReasonCode

TRANSIENT: Final = frozenset({ReasonCode.BUSY, ReasonCode.UNAVAILABLE})
"""Intake answers that mean: send it again later."""

HOLDING: Final = frozenset({ReasonCode.OK, ReasonCode.DUPLICATE})
"""Intake answers that mean: it is there. A duplicate of this payload is this very update."""


MAX_QUESTIONS: Final = 6
"""Sends of an update whose round is over, after its end and after each reconnect."""


class Outbox:
    """Plans the sending of at most one update.

    Args:
        limits: Waits between sends.
        jitter: Spreads them.
        entry: From before a restart.
        receipts: From before a restart; the refusals of the entry's round among them count.
        committee: Whose refusals count.
    """

    __slots__ = (
        "_attempt",
        "_committee",
        "_entry",
        "_has_left",
        "_is_asking",
        "_jitter",
        "_limits",
        "_refusals",
        "_resend_ms",
    )

    def __init__(
        self,
        *,
        limits: DeviceLimits,
        jitter: Jitter,
        entry: OutboxEntry | None,
        receipts: Iterable[SignedReceipt],
        committee: Committee,
    ) -> None:
        self._limits = limits
        self._jitter = jitter
        self._committee = committee
        self._entry = entry
        self._attempt = 0
        self._resend_ms = 0
        self._has_left = entry is not None
        """Whether it may have been sent; what a process before this one did is not known."""
        self._is_asking = False
        self._refusals: dict[ValidatorId, ReasonCode] = {
            receipt.gateway: receipt.reason
            for receipt in (signed.receipt for signed in receipts)
            if entry is not None
            and receipt.round == entry.round
            and receipt.stage is Stage.INTAKE
            and receipt.reason not in HOLDING
        }
        """At most one a delegate."""

    def judge_by(self, committee: Committee) -> None:
        """Count refusals by another committee: the one of the round's epoch."""
        self._committee = committee

    @property
    def entry(self) -> OutboxEntry | None:
        """The update, if there is one."""
        return self._entry

    @property
    def refusal(self) -> ReasonCode | None:
        """The reason with the most power behind it, once enough power refused for good."""
        refused = self._committee.power_of_all(self._refusals)
        if refused * 3 <= self._committee.total_power:
            return None
        powers: dict[ReasonCode, int] = {}
        for gateway, reason in sorted(self._refusals.items()):
            powers[reason] = powers.get(reason, 0) + self._committee.power_of(gateway)
        return max(sorted(powers), key=lambda reason: powers[reason])

    @property
    def is_waiting(self) -> bool:
        """Whether the update still has to be sent, or sent again."""
        if self._entry is None or self._entry.is_held or self.refusal is not None:
            return False
        return not self._is_asking or self._attempt < MAX_QUESTIONS

    @property
    def may_be_taken(self) -> bool:
        """Whether the update may be on the ledger without a receipt."""
        entry = self._entry
        return entry is not None and self._has_left and self.refusal is None

    @property
    def is_answered(self) -> bool:
        """Whether a delegate said that the round, which is over, has no such update."""
        return self._is_asking and bool(self._refusals)

    def put(self, entry: OutboxEntry | None, now_ms: int) -> None:
        """Take a new update to be sent at once, or none."""
        self._entry = entry
        self._attempt = 0
        self._resend_ms = now_ms
        self._has_left = self._is_asking = False
        self._refusals.clear()

    def ask(self, now_ms: int) -> None:
        """Its round is over: send it soon, to hear whether the ledger has it."""
        if not self._is_asking:
            self._is_asking = True
            self.resume(now_ms)

    def hold(self, entry: OutboxEntry) -> None:
        """Replace the update's entry by the same one, marked as held, or kept elsewhere."""
        self._entry = entry

    def resume(self, now_ms: int) -> None:
        """After a reconnect: send soon, the waits start anew."""
        self._attempt = 0
        self._resend_ms = now_ms + self._jitter.below(self._limits.resume_jitter_ms)

    def shift(self, shift_ms: int) -> None:
        """The clock jumped: waits last as long as they would have; deadlines are the ledger's."""
        self._resend_ms += shift_ms

    def is_over(self, now_ms: int, *, asks: bool = False) -> bool:
        """Whether nothing more can come of the update, or could if it were asked about."""
        return self._entry is not None and now_ms >= self._end_ms(self._entry, asks=asks)

    def next_timer(self, *, is_connected: bool) -> int | None:
        """When to send, or to give up, whichever is first."""
        if self._entry is None:
            return None
        end_ms = self._end_ms(self._entry)
        return min(self._resend_ms, end_ms) if is_connected and self.is_waiting else end_ms

    def take_due(self, now_ms: int) -> bytes | None:
        """The update if it is to be sent now; the next time is planned."""
        if self._entry is None or not self.is_waiting or now_ms < self._resend_ms:
            return None
        self._resend_ms = now_ms + self._wait_ms(self._attempt)
        self._attempt += 1
        self._has_left = True
        return self._entry.update

    def on_refusal(self, receipt: Receipt, now_ms: int) -> None:
        """Take an intake receipt that promises nothing."""
        if receipt.stage is not Stage.INTAKE or receipt.reason in HOLDING:
            raise ValueError("not a refusal at intake")
        if receipt.reason in TRANSIENT:
            # Attempts are counted where they are made, so a flood of these only restarts one wait.
            self._resend_ms = max(self._resend_ms, now_ms + self._wait_ms(self._attempt))
        else:
            self._refusals[receipt.gateway] = receipt.reason

    def _wait_ms(self, attempt: int) -> int:
        return compute_wait_ms(
            attempt=attempt,
            first_ms=self._limits.first_resend_ms,
            max_ms=self._limits.max_resend_ms,
            jitter=self._jitter,
        )

    def _end_ms(self, entry: OutboxEntry, *, asks: bool = False) -> int:
        if entry.is_held:
            return entry.verdict_until_ms
        if self._is_asking or asks:
            return entry.deadline_ms + self._limits.max_outbox_days * DAY_MS
        return entry.deadline_ms
