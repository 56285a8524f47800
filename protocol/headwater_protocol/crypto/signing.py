"""Ed25519 over `domain || network || canonical bytes`.

A signature says what kind of thing was signed and on which network, so none can be replayed as
another kind or elsewhere. Gateways and ledgers use libsodium through PyNaCl; a device, where
PyNaCl has no wheel, uses pycryptodome. The two agree on every honest signature; on a crafted one
(small-order keys, torsion) libsodium is the stricter, so whatever a ledger decides is decided by
libsodium: `require_libsodium` says so at start-up.

RFC 8032; Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs", SSR 2020.
"""

from typing import TYPE_CHECKING, Final, Protocol

from headwater_protocol.crypto.hashing import Domain, domain_prefix
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import BadSignature, ConfigError
from headwater_protocol.identifiers import AccountId, DeviceId, Network, Signature, ValidatorId

try:
    from nacl import bindings as sodium
    from nacl.exceptions import CryptoError
except ModuleNotFoundError:  # a device: no PyNaCl in the agent's extra
    sodium = None

if TYPE_CHECKING:
    from Crypto.PublicKey import ECC

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 32


class Verifier(Protocol):
    """Checks signatures; a shell may put a thread pool or a memory of past answers behind it."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is `public_key`'s over `message`."""
        ...


class DirectVerifier:
    """Checks each signature as it comes."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes) is `public_key`'s (32 bytes) over `message`."""
        return is_signature(public_key, message, signature)


class SecretKey:
    """An Ed25519 key pair made from a 32-byte seed."""

    __slots__ = ("_parsed_key", "_public_key", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._seed = seed
        self._public_key: bytes | None = None
        self._parsed_key: ECC.EccKey | None = None
        """The seed as pycryptodome takes it, where that signs."""

    def __repr__(self) -> str:
        return f"SecretKey(public={self.public_key.hex()[:16]}…)"

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for storage only."""
        return self._seed

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that name the holder."""
        known = self._public_key
        if known is None:
            if sodium is not None:
                known = bytes(sodium.crypto_sign_seed_keypair(self._seed)[0])
            else:
                known = bytes(self._pycryptodome_key.public_key().export_key(format="raw"))
            self._public_key = known
        return known

    @property
    def account(self) -> AccountId:
        """The public key as an account."""
        return AccountId(self.public_key)

    @property
    def device(self) -> DeviceId:
        """The public key as a device."""
        return DeviceId(self.public_key)

    @property
    def validator(self) -> ValidatorId:
        """The public key as a validator."""
        return ValidatorId(self.public_key)

    @property
    def _pycryptodome_key(self) -> "ECC.EccKey":
        from Crypto.Signature import eddsa  # noqa: PLC0415  # not needed beside PyNaCl

        if self._parsed_key is None:
            self._parsed_key = eddsa.import_private_key(self._seed)
        return self._parsed_key

    def sign(self, message: bytes) -> Signature:
        """The signature over `message`; deterministic, as RFC 8032 has it."""
        if sodium is not None:
            signed: bytes = sodium.crypto_sign(message, self._seed + self.public_key)
            return Signature(signed[:SIGNATURE_BYTES])
        from Crypto.Signature import eddsa  # noqa: PLC0415

        return Signature(eddsa.new(self._pycryptodome_key, "rfc8032").sign(message))

    def sign_record(self, domain: Domain, network: Network, record: object) -> Signature:
        """The signature over a record in `domain` on `network`."""
        return self.sign(signing_bytes(domain, network, encode_record(record)))


def signing_bytes(domain: Domain, network: Network, payload: bytes) -> bytes:
    """What is signed for `payload`: the domain's prefix, the network's 32 bytes, the payload."""
    return domain_prefix(domain) + network + payload


def is_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is `public_key`'s (32 bytes) over `message`."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    if sodium is not None:
        try:
            sodium.crypto_sign_open(signature + message, public_key)
        except CryptoError:
            return False
        return True
    return is_signature_pycryptodome(public_key, message, signature)


def is_signature_pycryptodome(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """As `is_signature`, by pycryptodome even where PyNaCl is installed."""
    from Crypto.Signature import eddsa  # noqa: PLC0415

    try:
        eddsa.new(eddsa.import_public_key(public_key), "rfc8032").verify(message, signature)
    except ValueError:
        return False
    return True


def verify_record(
    verifier: Verifier,
    public_key: bytes,
    domain: Domain,
    network: Network,
    record: object,
    signature: bytes,
) -> None:
    """Check a record's signature.

    Raises:
        BadSignature: If it does not verify.
    """
    message = signing_bytes(domain, network, encode_record(record))
    if not verifier.verify(public_key, message, signature):
        raise BadSignature(f"no {domain.value} signature of {public_key.hex()[:16]}")


def require_libsodium() -> None:
    """Refuse to run a ledger on anything but libsodium's verdicts.

    Raises:
        ConfigError: If PyNaCl is not installed.
    """
    if sodium is None:
        raise ConfigError(
            "PyNaCl", "ledgers verify with libsodium", fix='pip install "headwater[gateway]"'
        )
