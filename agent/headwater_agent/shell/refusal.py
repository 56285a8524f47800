"""Why a broker did not let the device in, in words that say what to do."""

from dataclasses import dataclass
from typing import Final

from headwater_agent.config import Tls
from headwater_agent.enrol.certificate import read_validity_ms
from headwater_protocol.errors import BadEncoding
from headwater_protocol.tls import OWN_CERTIFICATE, explain_tls

MAX_PEM_BYTES: Final = 32 * 1024
CLOSED_WORDS: Final = ("EOF occurred", "Connection reset", "UNEXPECTED_EOF", "Broken pipe")
"""What is left of an alert that was overtaken by the end of its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is known of it."""

    text: str
    is_own_certificate: bool | None
    """Whether the device's certificate is why: certainly, perhaps (False), or not at all."""


def explain_refusal(problem: str, tls: Tls, *, now_ms: int) -> Refusal:
    """What a failed attempt to connect was about.

    A broker that refuses a certificate may close the connection before its alert arrives, so the
    device looks at its certificate itself.

    Args:
        problem: The library's words.
        tls: The device's certificate, if it has one.
        now_ms: UTC.
    """
    meaning = explain_tls(problem)
    is_own: bool | None = True if meaning in {entry for _, entry in OWN_CERTIFICATE} else None
    if tls.cert_file is not None and (is_own or meaning is None):
        try:
            with tls.cert_file.open("rb") as file:
                begin_ms, end_ms = read_validity_ms(file.read(MAX_PEM_BYTES))
        except (OSError, BadEncoding) as error:
            return Refusal(text=f"{tls.cert_file}: {error}", is_own_certificate=True)
        if not begin_ms <= now_ms < end_ms:
            what = "has expired" if now_ms >= end_ms else "is of the future"
            return Refusal(
                text=f"the certificate {tls.cert_file} {what} by this clock; it is renewed where "
                "agent.toml names an enrolment, else enrol again",
                is_own_certificate=True,
            )
        if any(word in problem for word in CLOSED_WORDS):
            meaning = "the broker ended the handshake; it may have revoked our certificate"
            is_own = False
    return Refusal(
        text=problem if meaning is None else f"{meaning} ({problem})", is_own_certificate=is_own
    )
