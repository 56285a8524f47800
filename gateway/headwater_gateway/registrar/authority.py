"""The network's certificate authority: who a broker and a device take for whom.

It certifies brokers and gateways by name, and devices by their id over a transport key that the
device made. A device proves that it holds the key with a signature of its own, so there is no
certificate request to parse. The authority itself and what serves are ECDSA on P-256, which every
TLS library takes; devices use Ed25519, like everything else that they sign.

What the authority says counts for connections alone. No ledger believes a certificate: an update
is the device key's, whatever carried it.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headwater_protocol.errors import ConfigError

DAY_MS: Final = 24 * 3_600_000
AUTHORITY_LIFE_MS: Final = 20 * 365 * DAY_MS
SERVER_LIFE_MS: Final = 825 * DAY_MS
"""Of brokers' and gateways' certificates: the longest that all TLS stacks take of a server."""
DEVICE_LIFE_MS: Final = 90 * DAY_MS
BACKDATE_MS: Final = DAY_MS
"""So that a machine whose clock is behind does not take a new certificate for a future one."""
CRL_BACKDATE_MS: Final = 3_600_000
MAX_NAME_CHARACTERS: Final = 64
"""Of a common name, by X.520; a device's id has exactly as many."""
SERIAL_BYTES: Final = 16
MAX_HOSTS: Final = 32
MAX_REVOKED: Final = 100_000
"""In one revocation list, about 40 bytes each; certificates leave it when they expire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate and what a registrar keeps of it."""

    pem: str
    serial: bytes
    """16 bytes, the certificate's serial number."""
    not_before_ms: int
    not_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A secret key of a broker or gateway, and its certificate."""

    key_pem: str
    certificate_pem: str


class Authority:
    """Signs certificates and revocation lists; time and serial numbers are arguments."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, name: str, *, now_ms: int, serial: bytes) -> "Authority":
        """A new authority that certifies itself.

        Args:
            name: Of the network, shown to people.
            now_ms: UTC.
            serial: 16 random bytes.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} authority"[:MAX_NAME_CHARACTERS])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(_serial_number(serial))
            .not_valid_before(_moment(now_ms - BACKDATE_MS))
            .not_valid_after(_moment(now_ms + AUTHORITY_LIFE_MS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_authority=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def load(cls, key_pem: bytes, certificate_pem: bytes, *, key: str) -> "Authority":
        """The authority in two PEM files.

        Args:
            key_pem: Its secret key, unencrypted.
            certificate_pem: Its certificate.
            key: Of the configuration, for errors.

        Raises:
            ConfigError: If they do not parse, or do not belong together.
        """
        fix = "name the files that headwater-gateway init --tls made"
        try:
            secret = serialization.load_pem_private_key(key_pem, None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except (ValueError, TypeError) as error:
            raise ConfigError(key, f"is no PEM file of an authority: {error}", fix=fix) from None
        if not isinstance(secret, ec.EllipticCurvePrivateKey):
            raise ConfigError(key, "is no ECDSA key", fix=fix)
        if secret.public_key() != certificate.public_key():
            raise ConfigError(key, "is not the key of the authority's certificate", fix=fix)
        return cls(secret, certificate)

    @property
    def certificate_pem(self) -> str:
        """Its own certificate, public."""
        return _pem(self._certificate)

    @property
    def key_pem(self) -> str:
        """Its secret key, for storage only."""
        return _key_pem(self._key)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its certificate's DER: what a token carries."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).digest()

    @property
    def not_after_ms(self) -> int:
        """When it expires."""
        return _milliseconds(self._certificate.not_valid_after_utc)

    def issue_client(
        self,
        name: str,
        public_key: bytes,
        *,
        now_ms: int,
        serial: bytes,
        life_ms: int = DEVICE_LIFE_MS,
    ) -> IssuedCertificate:
        """Certify who holds an Ed25519 transport key.

        Args:
            name: The common name, which a broker takes for the user: a device's id in hexadecimal.
            public_key: 32 bytes; that the holder has the secret is checked by the caller.
            now_ms: UTC.
            serial: 16 random bytes.
            life_ms: Cut at the authority's own end.
        """
        public = ed25519.Ed25519PublicKey.from_public_bytes(public_key)
        return self._issue(name, public, (), now_ms=now_ms, serial=serial, life_ms=life_ms)

    def issue_pair(
        self,
        name: str,
        hosts: Sequence[str],
        *,
        now_ms: int,
        serial: bytes,
        life_ms: int = SERVER_LIFE_MS,
    ) -> KeyPair:
        """A new key with its certificate, for a broker or a gateway.

        Args:
            name: The common name; the user name where it connects to a broker.
            hosts: Names and addresses at which it serves; none makes a client's alone.
            now_ms: UTC.
            serial: 16 random bytes.
            life_ms: Cut at the authority's own end.

        Raises:
            ConfigError: If there are too many hosts, or a name is no host's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._issue(
            name, key.public_key(), hosts, now_ms=now_ms, serial=serial, life_ms=life_ms
        )
        return KeyPair(key_pem=_key_pem(key), certificate_pem=issued.pem)

    def make_revocation_list(
        self, revoked: Iterable[tuple[bytes, int]], *, time_ms: int, number: int
    ) -> str:
        """The signed list of serial numbers that no broker takes, in PEM.

        Args:
            revoked: Serial number and time of each.
            time_ms: Of the list; OpenSSL keeps the newest, to the second, of all it was given.
            number: Greater than that of the list before.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(_moment(time_ms))
            # A list that runs out would lock everybody out while the registrar is away.
            .next_update(_moment(self.not_after_ms))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, revoked_ms in revoked:
            entry = x509.RevokedCertificateBuilder(
                _serial_number(serial), _moment(revoked_ms)
            ).build()
            builder = builder.add_revoked_certificate(entry)
        listed = builder.sign(self._key, hashes.SHA256())
        return listed.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def is_signer_of(self, certificate_pem: str) -> bool:
        """Whether a certificate in PEM is one of its own."""
        try:
            x509.load_pem_x509_certificate(certificate_pem.encode()).verify_directly_issued_by(
                self._certificate
            )
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _issue(
        self,
        name: str,
        public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
        hosts: Sequence[str],
        *,
        now_ms: int,
        serial: bytes,
        life_ms: int,
    ) -> IssuedCertificate:
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isascii():
            raise ConfigError(
                "name", f"{name[:80]!r} is no name", fix=f"use 1 to {MAX_NAME_CHARACTERS} letters"
            )
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        end_ms = min(now_ms + life_ms, self.not_after_ms)
        begin_ms = min(now_ms, end_ms) - BACKDATE_MS
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(_serial_number(serial))
            .not_valid_before(_moment(begin_ms))
            .not_valid_after(_moment(end_ms))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            names = x509.SubjectAlternativeName(_host_names(hosts))
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return IssuedCertificate(
            pem=_pem(certificate), serial=serial, not_before_ms=begin_ms, not_after_ms=end_ms
        )


def read_common_name(certificate_pem: bytes, *, key: str) -> str:
    """The name that a broker takes the holder of a certificate for.

    Raises:
        ConfigError: If there is no certificate, or it has no name; `key` names the file.
    """
    fix = "name the certificate that headwater-gateway init --tls made"
    try:
        subject = x509.load_pem_x509_certificate(certificate_pem).subject
    except ValueError as error:
        raise ConfigError(key, f"is no certificate: {error}", fix=fix) from None
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        raise ConfigError(key, "has no common name", fix=fix)
    return str(names[0].value)


def read_first_host(certificate_pem: bytes, *, key: str) -> str:
    """The first name or address at which the holder of a certificate serves.

    Raises:
        ConfigError: If there is no certificate, or it names none; `key` names the file.
    """
    fix = "name the certificate that headwater-gateway init made"
    try:
        extensions = x509.load_pem_x509_certificate(certificate_pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(key, f"names no host: {error}", fix=fix) from None
    for name in names:
        if isinstance(name, x509.DNSName | x509.IPAddress):
            return str(name.value)
    raise ConfigError(key, "names no host", fix=fix)


def read_end_ms(certificate_pem: bytes, *, key: str) -> int:
    """When a certificate in PEM expires.

    Raises:
        ConfigError: If it is none; `key` names the file.
    """
    try:
        return _milliseconds(x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc)
    except ValueError as error:
        raise ConfigError(key, f"is no certificate: {error}", fix="name a PEM file") from None


def _host_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    if len(hosts) > MAX_HOSTS:
        raise ConfigError("--host", f"comes {len(hosts)} times", fix=f"give at most {MAX_HOSTS}")
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            try:
                names.append(x509.DNSName(host))
            except ValueError:
                raise ConfigError(
                    "--host", f"{host[:80]!r} is no host", fix="give a name or an address"
                ) from None
    return names


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _serial_number(serial: bytes) -> int:
    # Positive and not zero, whatever was drawn.
    return int.from_bytes(serial, "big") | 1 << (8 * SERIAL_BYTES - 2)


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=time_ms // 1_000)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")
