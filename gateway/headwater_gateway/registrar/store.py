"""What a registrar has promised, in one SQLite file beside the ledgers.

A token is spent, its device accepted and its certificate kept in one transaction that is on disk
before the answer leaves, so neither a crash nor two devices at once can spend a token twice, and
an answer that was lost can be given again. The command line writes into the same file while the
gateway runs.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from headwater_gateway.registrar.authority import MAX_REVOKED, IssuedCertificate
from headwater_gateway.registrar.tokens import (
    DeviceEntry,
    Refused,
    TokenEntry,
    Verdict,
    judge_join,
    judge_renewal,
)
from headwater_protocol.errors import ConfigError, StorageError
from headwater_protocol.identifiers import ChainId, DeviceId, Network
from headwater_protocol.messages.credential import JoinRequest, RenewalRequest
from headwater_protocol.messages.token import TokenId
from headwater_protocol.reasons import ReasonCode

BUSY_TIMEOUT_S: Final = 10.0
"""How long a write waits for one of another process."""
MAX_TOKENS: Final = 100_000
"""That are not spent; expired ones make room."""
MAX_DEVICES: Final = 100_000
MAX_LIVE_CERTIFICATES: Final = 8
"""Of one device; one more puts its oldest on the revocation list."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
    token BLOB PRIMARY KEY,
    salt BLOB NOT NULL,
    digest BLOB NOT NULL,
    shard TEXT,
    weight INTEGER NOT NULL,
    label TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    device BLOB UNIQUE,
    spent_ms INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS devices (
    device BLOB PRIMARY KEY,
    shard TEXT NOT NULL,
    weight INTEGER NOT NULL,
    token BLOB NOT NULL,
    label TEXT NOT NULL,
    accepted_ms INTEGER NOT NULL,
    transport_key BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    certificate TEXT NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    cut_ms INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS certificates (
    serial BLOB PRIMARY KEY,
    device BLOB NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS certificates_by_device ON certificates (device);
"""

COLUMNS_OF_TOKENS: Final = (
    "token, salt, digest, shard, weight, label, created_ms, expires_ms, revoked_ms, device,"
    " spent_ms"
)
COLUMNS_OF_DEVICES: Final = (
    "device, shard, weight, token, label, accepted_ms, transport_key, sequence, certificate,"
    " not_after_ms, revoked_ms, cut_ms"
)

Issue = Callable[[DeviceId, bytes], IssuedCertificate]
"""Makes a certificate for a device over a transport key."""


class RegistrarStore:
    """The tokens, devices and certificates of one network; for one thread at a time."""

    def __init__(self, path: Path, *, network: Network) -> None:
        """Open the file, or make it.

        Args:
            path: Of the file; only its owner can read it.
            network: What it has to be of.

        Raises:
            StorageError: If it is unusable, or of another network.
        """
        self._path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(SCHEMA)
            with self._writing():
                self._database.execute(
                    "INSERT OR IGNORE INTO facts VALUES ('network', ?)", (bytes(network),)
                )
                found = self._fact("network")
        if found != network:
            raise StorageError(f"{path}: is another network's; give another folder")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> "RegistrarStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def version(self) -> int:
        """Another number after another process or connection has written."""
        with self._errors():
            return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def add_tokens(self, entries: Sequence[TokenEntry], now_ms: int) -> None:
        """Store new tokens; those that expired unspent make room.

        Raises:
            ConfigError: If there would be too many.
            StorageError: If the file is unusable.
        """
        with self._writing():
            self._database.execute(
                "DELETE FROM tokens WHERE device IS NULL AND expires_ms <= ?", (now_ms,)
            )
            count = self._count("SELECT count(*) FROM tokens WHERE device IS NULL")
            if count + len(entries) > MAX_TOKENS:
                raise ConfigError(
                    "token", f"{count} are open", fix=f"revoke some; there are {MAX_TOKENS} at most"
                )
            for entry in entries:
                self._database.execute(
                    f"INSERT INTO tokens ({COLUMNS_OF_TOKENS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
                    (
                        *(entry.token, entry.salt, entry.digest, entry.shard, entry.weight),
                        *(entry.label, entry.created_ms, entry.expires_ms, None, None, None),
                    ),
                )

    def tokens(self) -> list[TokenEntry]:
        """All of them, oldest first."""
        with self._errors():
            rows = self._database.execute(
                f"SELECT {COLUMNS_OF_TOKENS} FROM tokens ORDER BY created_ms, token"  # noqa: S608
            )
            return [_token(row) for row in rows]

    def revoke_token(self, token: TokenId, now_ms: int) -> TokenEntry:
        """Take a token back that nobody has spent.

        Raises:
            Refused: If there is none, or it is spent.
            StorageError: If the file is unusable.
        """
        with self._writing():
            entry = self._token(token)
            if entry is None:
                raise Refused(ReasonCode.TOKEN_UNKNOWN, f"no token {token.hex()}")
            if entry.device is not None:
                raise Refused(
                    ReasonCode.TOKEN_SPENT,
                    f"device {entry.device.hex()} has spent it; revoke the device instead",
                )
            self._database.execute(
                "UPDATE tokens SET revoked_ms = coalesce(revoked_ms, ?) WHERE token = ?",
                (now_ms, token),
            )
        return entry

    def accept(
        self,
        request: JoinRequest,
        *,
        shards: Sequence[ChainId],
        issue: Issue,
        now_ms: int,
    ) -> DeviceEntry:
        """Let a device join, or give it its answer again; on disk before this returns.

        Args:
            request: Verified.
            shards: Those served here; a token without a shard goes to the one with the fewest.
            issue: Makes a certificate.
            now_ms: UTC.

        Raises:
            Refused: With the reason.
            StorageError: If the file is unusable.
        """
        with self._writing():
            token, known = self._token(request.token), self._device(request.device)
            verdict = judge_join(token, known, request, now_ms)
            if verdict is Verdict.REPEAT and known is not None:
                return known
            if verdict is Verdict.SPEND and token is not None:
                if self._count("SELECT count(*) FROM devices") >= MAX_DEVICES:
                    raise Refused(ReasonCode.BUSY, f"{MAX_DEVICES} devices joined here")
                shard = token.shard or self._emptiest(shards)
                if shard not in shards:
                    raise Refused(ReasonCode.WRONG_SHARD, f"{shard} is not served here")
                self._database.execute(
                    "UPDATE tokens SET device = ?, spent_ms = ? WHERE token = ?",
                    (request.device, now_ms, token.token),
                )
                self._database.execute(
                    f"INSERT INTO devices ({COLUMNS_OF_DEVICES}) "  # noqa: S608
                    "VALUES (?, ?, ?, ?, ?, ?, x'', 0, '', 0, NULL, NULL)",
                    (request.device, shard, token.weight, token.token, token.label, now_ms),
                )
            return self._issue(request, issue, now_ms)

    def renew(self, request: RenewalRequest, *, issue: Issue, now_ms: int) -> DeviceEntry:
        """Give a device another certificate, or the same answer again.

        Args:
            request: Verified.
            issue: Makes a certificate.
            now_ms: UTC.

        Raises:
            Refused: With the reason.
            StorageError: If the file is unusable.
        """
        with self._writing():
            known = self._device(request.device)
            verdict = judge_renewal(known, request)
            if verdict is Verdict.REPEAT and known is not None:
                return known
            self._database.execute(
                "UPDATE devices SET sequence = ? WHERE device = ?",
                (request.sequence, request.device),
            )
            return self._issue(request, issue, now_ms)

    def revoke_device(self, device: DeviceId, now_ms: int) -> DeviceEntry:
        """Take a device's certificates and enrolment back; to do it again does no harm.

        Raises:
            Refused: If it did not join here.
            StorageError: If the file is unusable.
        """
        with self._writing():
            if self._device(device) is None:
                raise Refused(ReasonCode.NOT_ENROLLED, f"no device {device.hex()} joined here")
            for table in ("devices", "certificates"):
                self._database.execute(
                    f"UPDATE {table} SET revoked_ms = coalesce(revoked_ms, ?) WHERE device = ?",  # noqa: S608
                    (now_ms, device),
                )
            return self._existing(device)

    def note_cut(self, device: DeviceId, now_ms: int) -> None:
        """The live session of a revoked device was ended at all brokers."""
        with self._writing():
            self._database.execute(
                "UPDATE devices SET cut_ms = ? WHERE device = ?", (now_ms, device)
            )

    def device(self, device: DeviceId) -> DeviceEntry | None:
        """One device; None if it did not join here."""
        with self._errors():
            return self._device(device)

    def devices(self) -> list[DeviceEntry]:
        """All of them, oldest first."""
        with self._errors():
            rows = self._database.execute(
                f"SELECT {COLUMNS_OF_DEVICES} FROM devices ORDER BY accepted_ms, device"  # noqa: S608
            )
            return [_device(row) for row in rows]

    def revoked_serials(self, now_ms: int) -> list[tuple[bytes, int]]:
        """Serial numbers that are revoked and not expired yet, with the time of each."""
        with self._errors():
            rows = self._database.execute(
                "SELECT serial, revoked_ms FROM certificates"
                " WHERE revoked_ms IS NOT NULL AND not_after_ms > ?"
                " ORDER BY revoked_ms DESC, serial LIMIT ?",
                (now_ms, MAX_REVOKED),
            )
            return [(bytes(serial), int(revoked_ms)) for serial, revoked_ms in rows]

    def next_list(self, time_ms: int) -> tuple[int, int]:
        """Number and time of the next revocation list: both greater than the last one's.

        Times differ by a second, since OpenSSL compares them to the second.
        """
        with self._writing():
            number = int.from_bytes(self._fact("list number") or b"", "big") + 1
            last_ms = int.from_bytes(self._fact("list time") or b"", "big")
            chosen_ms = max(time_ms, last_ms + 1_000)
            for name, value in (("list number", number), ("list time", chosen_ms)):
                self._database.execute(
                    "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value.to_bytes(8, "big"))
                )
        return number, chosen_ms

    @property
    def read_list(self) -> bytes | None:
        """The digest of the list that brokers were last told to read."""
        with self._errors():
            return self._fact("read list")

    def note_read_list(self, digest: bytes) -> None:
        """Brokers were told to read the list with this digest of its serial numbers."""
        with self._writing():
            self._database.execute(
                "INSERT OR REPLACE INTO facts VALUES ('read list', ?)", (digest,)
            )

    def _issue(
        self, request: JoinRequest | RenewalRequest, issue: Issue, now_ms: int
    ) -> DeviceEntry:
        issued = issue(request.device, request.transport_key)
        self._database.execute(
            "DELETE FROM certificates WHERE device = ? AND not_after_ms <= ?",
            (request.device, now_ms),
        )
        self._database.execute(
            "INSERT INTO certificates VALUES (?, ?, ?, NULL)",
            (issued.serial, request.device, issued.not_after_ms),
        )
        self._database.execute(
            "UPDATE certificates SET revoked_ms = ? WHERE revoked_ms IS NULL AND serial IN ("
            " SELECT serial FROM certificates WHERE device = ? AND revoked_ms IS NULL"
            " ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
            (now_ms, request.device, MAX_LIVE_CERTIFICATES),
        )
        self._database.execute(
            "UPDATE devices SET transport_key = ?, certificate = ?, not_after_ms = ?"
            " WHERE device = ?",
            (request.transport_key, issued.pem, issued.not_after_ms, request.device),
        )
        return self._existing(request.device)

    def _emptiest(self, shards: Sequence[ChainId]) -> ChainId:
        counts = dict.fromkeys(sorted(shards), 0)
        for shard, count in self._database.execute(
            "SELECT shard, count(*) FROM devices WHERE revoked_ms IS NULL GROUP BY shard"
        ):
            if shard in counts:
                counts[ChainId(shard)] = count
        return min(counts, key=lambda shard: (counts[shard], shard))

    def _existing(self, device: DeviceId) -> DeviceEntry:
        entry = self._device(device)
        if entry is None:
            raise StorageError(f"{self._path}: lost device {device.hex()}")
        return entry

    def _token(self, token: TokenId) -> TokenEntry | None:
        row = self._database.execute(
            f"SELECT {COLUMNS_OF_TOKENS} FROM tokens WHERE token = ?",  # noqa: S608
            (token,),
        ).fetchone()
        return None if row is None else _token(row)

    def _device(self, device: DeviceId) -> DeviceEntry | None:
        row = self._database.execute(
            f"SELECT {COLUMNS_OF_DEVICES} FROM devices WHERE device = ?",  # noqa: S608
            (device,),
        ).fetchone()
        return None if row is None else _device(row)

    def _fact(self, name: str) -> bytes | None:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def _count(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{self._path}: {error}; check the disk") from error


def _token(row: Sequence[object]) -> TokenEntry:
    token, salt, digest, shard, weight, label, created, expires, revoked, device, spent = row
    return TokenEntry(
        token=TokenId(_bytes(token)),
        salt=_bytes(salt),
        digest=_bytes(digest),
        shard=None if shard is None else ChainId(str(shard)),
        weight=_number(weight),
        label=str(label),
        created_ms=_number(created),
        expires_ms=_number(expires),
        revoked_ms=None if revoked is None else _number(revoked),
        device=None if device is None else DeviceId(_bytes(device)),
        spent_ms=None if spent is None else _number(spent),
    )


def _device(row: Sequence[object]) -> DeviceEntry:
    device, shard, weight, token, label, accepted, key, sequence, pem, end, revoked, cut = row
    return DeviceEntry(
        device=DeviceId(_bytes(device)),
        shard=ChainId(str(shard)),
        weight=_number(weight),
        token=TokenId(_bytes(token)),
        label=str(label),
        accepted_ms=_number(accepted),
        transport_key=_bytes(key),
        sequence=_number(sequence),
        certificate=str(pem),
        not_after_ms=_number(end),
        revoked_ms=None if revoked is None else _number(revoked),
        cut_ms=None if cut is None else _number(cut),
    )


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise StorageError(f"expected bytes, found {value!r}")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise StorageError(f"expected a number, found {value!r}")
    return value
