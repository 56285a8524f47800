"""The part of CometBFT's JSON-RPC that an engine needs, over one kept connection."""

import base64
import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater_protocol.errors import TransportError
from headwater_protocol.reasons import ReasonCode

MAX_RESPONSE_BYTES: Final = 48 * 1024 * 1024
"""A block in base64; most answers have less than 1 kB."""

TIMEOUT_S: Final = 10.0

_IN_CACHE: Final = "already exists in cache"
_IS_FULL: Final = "mempool is full"
_IS_LARGE: Final = "Tx too large"


class RpcRefused(TransportError):
    """The node answers with an error."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What a node says of itself."""

    node_id: str
    height: int
    is_catching_up: bool


class CometRpc:
    """A client of one node; for one thread at a time."""

    def __init__(self, address: Path | tuple[str, int], *, timeout_s: float = TIMEOUT_S) -> None:
        """Prepare; the first call connects.

        Args:
            address: A unix socket, or host and port.
            timeout_s: For each call.
        """
        self._connection: http.client.HTTPConnection = (
            _UnixConnection(str(address), timeout_s)
            if isinstance(address, Path)
            else http.client.HTTPConnection(*address, timeout=timeout_s)
        )

    def submit(self, transaction: bytes) -> ReasonCode:
        """Queue a transaction at the node: what `CheckTx` says, or why it did not come to that.

        Raises:
            TransportError: If the node cannot be reached.
        """
        try:
            result = self.call("broadcast_tx_sync", tx=base64.b64encode(transaction).decode())
        except RpcRefused as error:
            text = str(error)
            if _IN_CACHE in text:
                return ReasonCode.DUPLICATE
            if _IS_FULL in text:
                return ReasonCode.BUSY
            if _IS_LARGE in text:
                return ReasonCode.TOO_LARGE
            raise
        if result.get("code", 0) == 0:
            return ReasonCode.OK
        try:
            return ReasonCode(str(result.get("log")))
        except ValueError:
            return ReasonCode.NOT_PERMITTED

    def status(self) -> NodeStatus:
        """What the node says of itself.

        Raises:
            TransportError: If the node cannot be reached.
        """
        result = self.call("status")
        try:
            return NodeStatus(
                node_id=str(result["node_info"]["id"]),
                height=int(result["sync_info"]["latest_block_height"]),
                is_catching_up=bool(result["sync_info"]["catching_up"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TransportError(f"a status without {error}") from error

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """The result of one call.

        Raises:
            RpcRefused: If the node answers with an error.
            TransportError: If it cannot be reached, or answers with something else.
        """
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters})
        try:
            self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            data = response.read(MAX_RESPONSE_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise TransportError(f"no answer of CometBFT to {method}: {error!r}") from error
        if len(data) > MAX_RESPONSE_BYTES:
            self.close()
            raise TransportError(f"CometBFT's answer to {method} exceeds {MAX_RESPONSE_BYTES}")
        try:
            answer = json.loads(data)
        except ValueError as error:
            raise TransportError(f"CometBFT's answer to {method} is no JSON") from error
        if not isinstance(answer, dict):
            raise TransportError(f"CometBFT's answer to {method} is no object")
        if answer.get("error"):
            error_part = answer["error"]
            text = error_part.get("data") or error_part.get("message")
            raise RpcRefused(f"{method}: {text}")
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def close(self) -> None:
        """Drop the connection; the next call opens another."""
        self._connection.close()
