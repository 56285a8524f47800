"""Why a broker cannot be reached, and what to do about it, in one line each."""

import errno
import socket
import ssl
from datetime import UTC, datetime
from typing import Final

from headwater_agent.config import BrokerAddress

SETS_CLOCK: Final = "set the clock: timedatectl set-ntp true"
CERTIFICATE_NOT_YET_VALID: Final = 9
CERTIFICATE_EXPIRED: Final = 10
"""Of OpenSSL's X509_V_ERR numbers."""


def explain_connection(address: BrokerAddress, error: BaseException, *, now_ms: int) -> str:
    """One line: what is wrong with the way to `address`, and the fix."""
    now = datetime.fromtimestamp(now_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")
    match error:
        case ssl.SSLCertVerificationError() if error.verify_code in {
            CERTIFICATE_NOT_YET_VALID,
            CERTIFICATE_EXPIRED,
        }:
            problem = f"the certificate is not valid at {now}, this machine's time"
            fix = f"{SETS_CLOCK}, or have the broker's certificate renewed"
        case ssl.SSLCertVerificationError():
            problem = f"the peer is not who it should be ({error.verify_message})"
            fix = (
                "log in to the network if it has a login page, or name the broker's authority "
                "with [tls] ca_file"
            )
        case ssl.SSLError():
            problem = f"TLS failed ({error.reason or error})"
            fix = "check the port, and that no login page of the network answers in its place"
        case socket.gaierror():
            problem = f"the name {address.host} cannot be resolved"
            fix = "check the network and its name server, or give an address in brokers"
        case ConnectionRefusedError():
            problem = "nothing listens there"
            fix = "check that the broker runs, and the port"
        case TimeoutError():
            problem = "no answer"
            fix = "check the network, the firewall and the address"
        case OSError() if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}:
            problem = "there is no way to it"
            fix = "check cable or WLAN, and the default route"
        case _:
            problem = str(error) or type(error).__name__
            fix = "check the address and the network"
    return f"{address}: {problem}; {fix}"


def explain_stranger(first: bytes) -> str:
    """One line for a peer that speaks something else than MQTT."""
    if first.startswith((b"HTTP", b"<")):
        return (
            "a web server answers in the broker's place; log in to the network if it has a login "
            "page, or check the port"
        )
    return f"the peer speaks no MQTT (it begins with {first.hex()}); check the port"
