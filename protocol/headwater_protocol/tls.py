"""What a failed TLS connection means, in words that say what to do.

OpenSSL's own words name the alert and the line of its source; whoever reads a log wants to know
whose certificate it is and who can mend it.
"""

from typing import Final

OWN_CERTIFICATE: Final = (
    (
        ("alert certificate expired", "ALERT_CERTIFICATE_EXPIRED"),
        "our certificate has expired; renew it",
    ),
    (
        ("alert certificate revoked", "ALERT_CERTIFICATE_REVOKED"),
        "our certificate was revoked; ask the operator",
    ),
    (
        ("CERTIFICATE_REQUIRED", "alert certificate required"),
        "the other side asks for a certificate; set tls.cert_file and tls.key_file",
    ),
    (
        ("ALERT_UNKNOWN_CA", "alert unknown ca"),
        "the other side does not know the authority of our certificate; enrol again",
    ),
    (
        ("ALERT_BAD_CERTIFICATE", "alert bad certificate", "ALERT_HANDSHAKE_FAILURE"),
        "the other side refuses our certificate; check tls.cert_file, or enrol again",
    ),
)
THEIR_CERTIFICATE: Final = (
    (
        ("certificate has expired",),
        "their certificate has expired, or our clock is ahead; its operator renews it",
    ),
    (("certificate is not yet valid",), "their certificate is of the future; set our clock"),
    (
        ("Hostname mismatch", "IP address mismatch", "not valid for"),
        "their certificate is for other names; use one of those, or have it made for this one",
    ),
    (
        ("unable to get local issuer certificate", "self-signed certificate", "unknown ca"),
        "their certificate is by an authority that we do not know; set tls.ca_file",
    ),
)


def explain_tls(text: str) -> str | None:
    """What the words of a TLS library's error mean; None if they are about something else."""
    for words, meaning in (*OWN_CERTIFICATE, *THEIR_CERTIFICATE):
        if any(word in text for word in words):
            return meaning
    return None
