"""Signed receipts as JSON: readable fields, and the bytes that anybody can verify."""

from headwater_protocol.encoding.record import encode_record
from headwater_protocol.messages.receipt import SignedReceipt


def describe_proof(signed: SignedReceipt) -> dict[str, object]:
    """A receipt's fields; `encoded` is the signed record in hexadecimal, the proof itself."""
    receipt = signed.receipt
    return {
        "round": receipt.round,
        "stage": receipt.stage.value,
        "shard": receipt.shard,
        "device": receipt.device.hex(),
        "payload": receipt.payload.hex(),
        "reason": receipt.reason.value,
        "height": receipt.height,
        "score": receipt.score,
        "reward": receipt.reward,
        "time_ms": receipt.time_ms,
        "gateway": receipt.gateway.hex(),
        "encoded": encode_record(signed).hex(),
    }
