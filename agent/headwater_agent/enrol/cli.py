"""`headwater-agent enroll`: join a network with a token."""

import argparse
import sys
from pathlib import Path
from typing import Final

from headwater_agent.enrol.client import RegistrarRefusal, parse_url
from headwater_agent.enrol.folder import EnrolmentFolder
from headwater_agent.enrol.joining import Joining, JoinPlan
from headwater_protocol.errors import BadEncoding, ConfigError
from headwater_protocol.messages.token import MAX_TOKEN_CHARACTERS, Token, parse_token
from headwater_protocol.reasons import ReasonCode

FINGERPRINT_BYTES: Final = 32
TOKEN_REASONS: Final = frozenset(
    {
        ReasonCode.TOKEN_UNKNOWN,
        ReasonCode.TOKEN_SPENT,
        ReasonCode.TOKEN_EXPIRED,
        ReasonCode.TOKEN_REVOKED,
    }
)
MAX_WAIT_S: Final = 7 * 24 * 3_600


def run_enroll(arguments: argparse.Namespace) -> int:
    """Join, or say what is there already; 0 once the ledger has the device, 1 if it takes longer.

    Raises:
        HeadwaterError: As of `Joining.run`.
    """
    parse_url(arguments.url)
    if not 0 <= arguments.wait <= MAX_WAIT_S:
        raise ConfigError("--wait", f"is {arguments.wait}", fix=f"give 0 to {MAX_WAIT_S} seconds")
    plan = JoinPlan(
        url=arguments.url,
        token=_read_token(arguments.token),
        folder=EnrolmentFolder(arguments.out),
        ca_file=arguments.ca,
        fingerprint=_read_fingerprint(arguments.fingerprint),
        data=place_data(arguments.data, arguments.out),
        wait_s=arguments.wait,
    )
    joining = Joining(plan, tell=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        joined = joining.run()
    except RegistrarRefusal as error:
        if error.refusal not in TOKEN_REASONS:
            raise
        raise ConfigError("--token", str(error), fix="ask the operator for another one") from error
    print(joined.key.device.hex())
    if joined.entry is None:
        print(
            f"not on the ledger after {arguments.wait} s; {plan.folder.config} is written, and the "
            "same command looks again",
            file=sys.stderr,
        )
        return 1
    next_step = f"headwater-agent run --config {plan.folder.config}"
    print(f"{plan.folder.config} is written; next: {next_step}", file=sys.stderr)
    return 0


def place_data(text: str, out: Path) -> str:
    """A data path as the configuration in `out` names it: what was typed is relative to here."""
    path = Path(text).expanduser()
    is_elsewhere = out.absolute() != Path.cwd()
    return str(path.absolute()) if is_elsewhere and path.exists() else text


def _read_token(text: str) -> Token:
    if text == "-":
        text = sys.stdin.readline(MAX_TOKEN_CHARACTERS + 2).strip()
    try:
        return parse_token(text)
    except BadEncoding as error:
        raise ConfigError(
            "--token", str(error), fix="copy it whole, as headwater-gateway token create gave it"
        ) from None


def _read_fingerprint(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        data = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        data = b""
    if len(data) != FINGERPRINT_BYTES:
        raise ConfigError(
            "--fingerprint", f"is {text[:100]!r}", fix="give the 64 hexadecimal digits of SHA-256"
        )
    return data
