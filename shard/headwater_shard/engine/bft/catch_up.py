"""Who is ahead of a validator, whom it asks next, and whom it answers.

Both sides are bounded in memory and in rate: one request is under way at a time, and one requester
gets one answer for a height in a resend interval.
"""

from typing import Final

from headwater_protocol.identifiers import Height, ValidatorId
from headwater_shard.engine.bft.votes import Electorate

MAX_PEERS_AHEAD: Final = 256
"""Validators remembered as ahead; delegates displace others."""

MAX_REQUESTERS: Final = 256
"""Validators remembered as answered within a resend interval."""


class CatchUp:
    """The bookkeeping of block requests, in both directions."""

    __slots__ = ("_ahead", "_answered", "_attempts", "_request_at", "_resend_ms")

    def __init__(self, *, resend_ms: int) -> None:
        self._resend_ms = resend_ms
        self._ahead: dict[ValidatorId, int] = {}
        self._attempts = 0
        self._request_at: int | None = None
        self._answered: dict[ValidatorId, tuple[int, int]] = {}

    @property
    def request_at(self) -> int | None:
        """When the next request is due, in ms."""
        return self._request_at

    def note(
        self,
        validator: ValidatorId,
        *,
        working_on: int,
        height: int,
        electorate: Electorate,
        now_ms: int,
    ) -> None:
        """Remember that `validator` works on a height above this replica's `height`.

        One height ahead is what everybody is for a moment, so the block itself is given a resend
        interval to come about here; further ahead it has to be asked for.
        """
        if validator not in self._ahead and len(self._ahead) >= MAX_PEERS_AHEAD:
            strangers = [peer for peer in sorted(self._ahead) if electorate.power_of(peer) == 0]
            if not strangers or electorate.power_of(validator) == 0:
                return
            del self._ahead[strangers[0]]
        self._ahead[validator] = max(working_on, self._ahead.get(validator, 0))
        due = now_ms if working_on > height + 1 else now_ms + self._resend_ms
        if self._request_at is None:
            self._request_at = due

    def start_height(self, height: int, *, was_behind: bool, now_ms: int) -> None:
        """Forget who is not ahead any more; go on asking at once when blocks are fetched."""
        self._ahead = {peer: seen for peer, seen in self._ahead.items() if seen > height}
        self._attempts = 0
        if not self._ahead:
            self._request_at = None
        elif was_behind:
            self._request_at = now_ms
        else:
            self._request_at = now_ms + self._resend_ms

    def next_peer(self, electorate: Electorate, now_ms: int) -> ValidatorId | None:
        """Whom to ask now, None while no request is due; each try asks another peer."""
        if self._request_at is None or now_ms < self._request_at:
            return None
        if not self._ahead:
            self._request_at = None
            return None
        peers = sorted(self._ahead, key=lambda peer: (electorate.power_of(peer) == 0, peer))
        peer = peers[self._attempts % len(peers)]
        self._attempts += 1
        self._request_at = now_ms + self._resend_ms
        return peer

    def may_answer(self, requester: ValidatorId, height: Height, now_ms: int) -> bool:
        """Whether `requester` has not been sent this height within the resend interval."""
        known = self._answered.get(requester)
        if known is not None and known[0] == height and now_ms < known[1] + self._resend_ms:
            return False
        if known is None and len(self._answered) >= MAX_REQUESTERS:
            self._answered = {
                peer: answer
                for peer, answer in self._answered.items()
                if now_ms < answer[1] + self._resend_ms
            }
            if len(self._answered) >= MAX_REQUESTERS:
                return False
        self._answered[requester] = (height, now_ms)
        return True
