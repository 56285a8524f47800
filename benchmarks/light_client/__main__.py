"""What it costs a device to verify a reward from the genesis: `python -m benchmarks.light_client`.

Builds elections of 21 delegates with a third of them new in every epoch, encodes what a gateway
would publish, and follows it from the bytes. Prints signatures checked, milliseconds and the peak
of memory; `--json` prints them for a program.
"""

import argparse
import json
import time
import tracemalloc

from headwater_protocol.crypto.signing import is_signature, is_signature_pycryptodome
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.light.client import TrustedState, advance, verify_header
from headwater_protocol.light.facts import verify_reward
from headwater_protocol.light.update import decode_epoch_update
from tests.support.light import SHARDS, LightNetwork
from tests.support.network import certify, key


class CountingVerifier:
    """Counts the signatures that it checks, with libsodium or as a device does."""

    def __init__(self, *, is_device: bool) -> None:
        self._check = is_signature_pycryptodome if is_device else is_signature
        self.count = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is `public_key`'s over `message`."""
        self.count += 1
        return self._check(public_key, message, signature)


def follow(
    network: LightNetwork, encoded: list[bytes], verifier: CountingVerifier
) -> tuple[TrustedState, float]:
    """The state after all epochs and one reward, and the milliseconds that it took."""
    device = key("device")
    header, proof, entry, committee = network.rewarded(device, 1_234)
    certificate = certify(header, network.signers(committee))
    started = time.perf_counter()
    trusted = network.trusted
    for data in encoded:
        update = decode_epoch_update(data)
        trusted = advance(trusted, update, update.header.time_ms, verifier)
    verify_header(
        trusted, header, certificate, chain=SHARDS[0], now_ms=header.time_ms, verifier=verifier
    )
    verify_reward(header, proof, account=device.account, entry=entry)
    return trusted, (time.perf_counter() - started) * 1_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--delegates", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    network = LightNetwork(size=options.delegates)
    network.pass_epochs(options.epochs)
    encoded = [encode_record(update) for update in network.updates]
    libsodium = CountingVerifier(is_device=False)
    trusted, libsodium_ms = follow(network, encoded, libsodium)
    device = CountingVerifier(is_device=True)
    _, pycryptodome_ms = follow(network, encoded, device)
    tracemalloc.start()
    follow(network, encoded, CountingVerifier(is_device=False))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    result = {
        "epochs": options.epochs,
        "delegates": options.delegates,
        "signatures_checked": libsodium.count,
        "libsodium_ms": round(libsodium_ms, 1),
        "pycryptodome_ms": round(pycryptodome_ms, 1),
        "peak_memory_bytes": peak_bytes,
        "downloaded_bytes": sum(map(len, encoded)),
        "trusted_state_bytes": len(encode_record(trusted)),
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"a reward verified from genesis over {options.epochs} epochs", end=" ")
    print(f"of {options.delegates} delegates:")
    for name, value in list(result.items())[2:]:
        print(f"  {name:<20} {value}")


if __name__ == "__main__":
    main()
