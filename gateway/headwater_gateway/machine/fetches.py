"""Work that waits for blobs, and the fetches that it waits for.

A blob is fetched once, however many works wait for it. A fetch that failed is tried again after a
pause that grows, as long as somebody waits. A delegate that scores gives up on payloads at a
deadline and scores the others; everything else waits until it is owed no more.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from headwater_gateway.machine.effects import (
    CheckScores,
    ComputeMerge,
    ComputeRoundModel,
    FetchBlob,
    PublishBlob,
    ScoreBatch,
    Waiting,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import ChainId, Digest, RoundNumber, ValidatorId

FIRST_RETRY_MS: Final = 500
LAST_RETRY_MS: Final = 10_000
"""Pauses after a fetch at all holders failed, the first and the longest."""

MAX_ATTEMPTS: Final = 30
"""Of a blob for which no delegate of this gateway waits: about five minutes."""

MAX_FETCHES: Final = 50_000
"""Blobs that are wanted at a time; what wants more is tried again later."""


def list_needs(work: Waiting) -> tuple[Digest, ...]:
    """The blobs without which `work` cannot be done, in an order that everybody shares."""
    if isinstance(work, ScoreBatch):
        given_up = set(work.given_up)
        payloads = (commit.payload for commit in work.commits)
        needs = [work.base, work.task.program, *(p for p in payloads if p not in given_up)]
    elif isinstance(work, CheckScores):
        named = [work.reference, *(commit.payload for commit in work.commits)]
        needs = [blob for blob in named if blob not in work.given_up]
    elif isinstance(work, ComputeRoundModel):
        needs = [work.base, *(commit.payload for commit in work.accepted)]
        if work.correction is not None:
            needs += [work.correction.merged, work.correction.reference]
    elif isinstance(work, ComputeMerge):
        needs = []
        for entry in work.inputs:
            needs.append(entry.model)
            if entry.correction is not None:
                needs += [entry.correction.merged, entry.correction.reference]
    else:
        needs = [work.blob]
    return tuple(dict.fromkeys(needs))


def ticket_of(work: Waiting) -> str:
    """A name for `work`; the duty's where it is one."""
    if isinstance(work, ScoreBatch | ComputeRoundModel | ComputeMerge):
        return work.ticket
    if isinstance(work, CheckScores):
        return f"{work.shard}/check/{blob_digest(work.scores).hex()}"
    return f"{work.shard}/publish/{work.blob.hex()}"


@dataclass(slots=True)
class _Fetch:
    holders: tuple[ValidatorId, ...]
    attempts: int = 1
    retry_ms: int | None = None
    """None while it is under way."""


@dataclass(slots=True)
class _Waiter:
    work: Waiting
    missing: set[Digest]
    until_ms: int | None = None


class Fetches:
    """What one gateway waits for."""

    def __init__(self) -> None:
        self._fetches: dict[Digest, _Fetch] = {}
        self._waiters: dict[str, _Waiter] = {}

    def __len__(self) -> int:
        return len(self._fetches)

    @property
    def num_waiting(self) -> int:
        """Works that wait."""
        return len(self._waiters)

    def wait(
        self,
        work: Waiting,
        holders: Mapping[Digest, tuple[ValidatorId, ...]],
        *,
        until_ms: int | None = None,
    ) -> Iterator[FetchBlob] | None:
        """Keep `work` until the blobs in `holders` are here; None where too much is wanted already.

        Args:
            work: What waits.
            holders: Whom to ask for each missing blob.
            until_ms: When scores, or a check of scores, go on without what is not here; None for
                not yet.
        """
        if len(self._fetches.keys() | holders.keys()) > MAX_FETCHES:
            return None
        self._waiters[ticket_of(work)] = _Waiter(work, set(holders), until_ms)
        return self._start(holders)

    def want(self, holders: Mapping[Digest, tuple[ValidatorId, ...]]) -> Iterator[FetchBlob]:
        """Fetch blobs for which nothing waits, as many as there is room for."""
        room = max(0, MAX_FETCHES - len(self._fetches))
        chosen = [blob for blob in holders if blob not in self._fetches][:room]
        return self._start({blob: holders[blob] for blob in chosen})

    def _start(self, holders: Mapping[Digest, tuple[ValidatorId, ...]]) -> Iterator[FetchBlob]:
        for blob, asked in holders.items():
            if blob not in self._fetches:
                self._fetches[blob] = _Fetch(asked)
                yield FetchBlob(blob=blob, holders=asked)

    def forget(self, tickets: Iterable[str]) -> None:
        """These are owed no more; their fetches end with the attempt that is under way."""
        for ticket in tickets:
            self._waiters.pop(ticket, None)

    def set_deadline(self, shard: ChainId, round_: RoundNumber, until_ms: int) -> None:
        """When those that score a round give up what is not here."""
        for waiter in self._waiters.values():
            work = waiter.work
            if isinstance(work, ScoreBatch) and (work.shard, work.round) == (shard, round_):
                waiter.until_ms = until_ms

    def on_fetched(self, blob: Digest, now_ms: int, *, is_here: bool) -> Iterator[Waiting]:
        """A fetch is over; the works that can go on now."""
        fetch = self._fetches.get(blob)
        if fetch is None:
            return
        waiters = [waiter for waiter in self._waiters.values() if blob in waiter.missing]
        if not is_here:
            is_owed = any(not isinstance(waiter.work, PublishBlob) for waiter in waiters)
            if is_owed or fetch.attempts < MAX_ATTEMPTS:
                pause_ms = min(LAST_RETRY_MS, FIRST_RETRY_MS << min(fetch.attempts - 1, 10))
                fetch.retry_ms = now_ms + pause_ms
                return
            self.forget([ticket_of(waiter.work) for waiter in waiters])
        del self._fetches[blob]
        for waiter in waiters:
            waiter.missing.discard(blob)
            if is_here and not waiter.missing:
                del self._waiters[ticket_of(waiter.work)]
                yield waiter.work

    def next_timer(self) -> int | None:
        """When a fetch is tried again, or something is given up."""
        times = [fetch.retry_ms for fetch in self._fetches.values()]
        times += [waiter.until_ms for waiter in self._waiters.values()]
        return min((at for at in times if at is not None), default=None)

    def on_timer(self, now_ms: int) -> Iterator[FetchBlob | Waiting]:
        """Give up what is due, and try again what somebody waits for."""
        for ticket, waiter in list(self._waiters.items()):
            if waiter.until_ms is not None and waiter.until_ms <= now_ms:
                del self._waiters[ticket]
                yield _give_up(waiter)
        wanted = {blob for waiter in self._waiters.values() for blob in waiter.missing}
        for blob, fetch in list(self._fetches.items()):
            if fetch.retry_ms is None or fetch.retry_ms > now_ms:
                continue
            if blob not in wanted and fetch.attempts >= MAX_ATTEMPTS:
                del self._fetches[blob]
                continue
            fetch.attempts += 1
            fetch.retry_ms = None
            yield FetchBlob(blob=blob, holders=fetch.holders)


def _give_up(waiter: _Waiter) -> Waiting:
    work = waiter.work
    if isinstance(work, CheckScores):
        return replace(work, given_up=tuple(sorted({*work.given_up, *waiter.missing})))
    if isinstance(work, ScoreBatch):
        missing = {*work.given_up, *waiter.missing}
        payloads = (commit.payload for commit in work.commits)
        return replace(work, given_up=tuple(p for p in payloads if p in missing))
    return work
