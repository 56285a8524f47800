"""A gateway as a child process, and a fleet of real machines with real training beside it."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiomqtt
import numpy as np

from headwater_agent.device import Device
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.state import DeviceState
from headwater_firmware_sim.attack import Attack
from headwater_firmware_sim.data.digits import load_digits
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.live.device import LiveDevice
from headwater_firmware_sim.live.fleet import SharedTrainer, run_fleet
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_gateway.cli import main
from headwater_gateway.shell.mqtt import ignore_lost_connections, parse_broker_url
from headwater_protocol.chain.genesis import Genesis, decode_genesis, genesis_network
from headwater_protocol.chain.transaction import CommitUpdates, decode_transaction
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import ChainId, DeviceId, Digest, Height, RoundNumber
from headwater_protocol.messages.receipt import Receipt, Stage, decode_receipt, verify_receipt
from headwater_protocol.messages.topics import Topics
from headwater_protocol.reasons import ReasonCode
from headwater_shard.layout import DataFolder
from headwater_shard.store import LedgerStore

START_TIMEOUT_S = 90.0
TASK = """\
name = "digits"
rounds = {rounds}
cohort_size = 100
min_updates = 2
collect_ms = 1500
score_ms = 2000
attest_ms = 2000

[training]
optimizer = "adam"
learning_rate_millionths = 20000
local_epochs = 2
batch_size = 8

[network]
checkpoint_interval = 2
merge_wait_ms = 300
epoch_timeout_ms = 4000
"""


def found(folder: Path, *, rounds: int, num_shards: int, num_devices: int, url: str) -> Genesis:
    """Found a network through the command line, for `num_devices` devices dealt to its shards."""
    digits = load_digits()
    np.savez(folder / "validation.npz", features=digits.features[:120], labels=digits.labels[:120])
    (folder / "task.toml").write_text(TASK.format(rounds=rounds))
    net = folder / "net"
    (folder / "seed").write_text("5e" * 32)
    (folder / "seed").chmod(0o600)
    arguments = ["init", "--out", str(net), "--task", str(folder / "task.toml")]
    arguments += ["--shards", str(num_shards), "--seed-file", str(folder / "seed")]
    arguments += ["--validation", str(folder / "validation.npz")]
    assert main(arguments) == 0
    config = net / "gateway.toml"
    config.write_text(config.read_text().replace("[broker]\n", f'[broker]\nurl = "{url}"\n'))
    genesis = decode_genesis((net / "genesis.cbor").read_bytes())
    for index, shard in enumerate(genesis.shards):
        ids = [device_key(number).device.hex() for number in range(index, num_devices, num_shards)]
        (net / f"devices-{shard}.txt").write_text("\n".join(ids) + "\n")
    return genesis


def device_key(number: int) -> SecretKey:
    return SecretKey(hash_bytes(Domain.SEED, b"crash", number.to_bytes(4, "big")))


class GatewayProcess:
    """A child that is started again and again on the same folder."""

    def __init__(self, net: Path) -> None:
        self.net = net
        self.log = net / "gateway.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.num_starts = 0

    def start(self) -> None:
        """Start it, and wait until it has read its stores."""
        before = self.count("event=started")
        command = [sys.executable, "-m", "headwater_gateway.cli", "run", "--until-complete"]
        command += ["--config", str(self.net / "gateway.toml")]
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(command, stderr=log, stdout=log)
        self.num_starts += 1
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.count("event=started") == before:
            assert self._child.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def count(self, words: str) -> int:
        return self.log.read_text().count(words) if self.log.exists() else 0

    def kill(self) -> None:
        """As a power cut would end it, but for the machine's own caches."""
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGKILL)
        assert self._child.wait() == -signal.SIGKILL, self.log.read_text()

    def terminate(self) -> int:
        assert self._child is not None
        self._child.terminate()
        return self._child.wait(START_TIMEOUT_S)

    def wait(self, timeout_s: float) -> int:
        """Its exit code, once all rounds are merged."""
        assert self._child is not None
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log.read_text()) from None

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()


@dataclass
class Fleet:
    """Devices on a thread of their own, and every receipt that a gateway sent."""

    genesis: Genesis
    url: str
    num_devices: int
    receipts: list[Receipt] = field(default_factory=list)

    def __enter__(self) -> "Fleet":
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(START_TIMEOUT_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)

    def promises(self) -> list[Receipt]:
        """The receipts that promise an update to be on the ledger."""
        return [
            receipt
            for receipt in self.receipts
            if receipt.stage is Stage.INTAKE and receipt.reason is ReasonCode.OK
        ]

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(ignore_lost_connections)
        self._trainer = SharedTrainer()
        digits, verifier = load_digits(), RememberingVerifier()
        rng = np.random.default_rng(1)
        order = rng.permutation(np.arange(120, len(digits)))
        devices = [
            self._make_device(number, digits.take(order[number * 40 :][:40]), verifier)
            for number in range(self.num_devices)
        ]
        listening = asyncio.create_task(self._listen())
        fleet = asyncio.create_task(run_fleet(devices))
        await self._stop.wait()
        for task in (fleet, listening):
            task.cancel()
        await asyncio.gather(fleet, listening, return_exceptions=True)
        self._trainer.close()

    async def _listen(self) -> None:
        broker = parse_broker_url(self.url)
        network = genesis_network(self.genesis)
        async with aiomqtt.Client(hostname=broker.host, port=broker.port) as client:
            for shard in self.genesis.shards:
                await client.subscribe(f"{Topics(network, shard).root}/devices/+/receipt", qos=1)
            self._ready.set()
            async for message in client.messages:
                signed = decode_receipt(message.payload)
                verify_receipt(signed, network=network, verifier=DirectVerifier())
                self.receipts.append(signed.receipt)

    def _make_device(
        self, number: int, examples: Examples, verifier: RememberingVerifier
    ) -> LiveDevice:
        key, shards = device_key(number), self.genesis.shards
        device = Device(
            key=key,
            genesis=self.genesis,
            network=genesis_network(self.genesis),
            shard=shards[number % len(shards)],
            entropy=hash_bytes(Domain.SEED, b"entropy", key.seed),
            state=DeviceState(),
            limits=DeviceLimits(
                first_resend_ms=300, max_resend_ms=600, first_refetch_ms=500, resume_jitter_ms=50
            ),
            verifier=verifier,
        )
        return LiveDevice(
            device,
            name=f"device-{number}",
            broker=parse_broker_url(self.url),
            train=partial(self._trainer.train, examples=examples, attack=Attack.NONE),
        )


def commits_on(
    folder: Path, shard: ChainId
) -> dict[tuple[RoundNumber, DeviceId], tuple[Digest, Height]]:
    """What the blocks of a shard's ledger took, and at which height."""
    found: dict[tuple[RoundNumber, DeviceId], tuple[Digest, Height]] = {}
    with LedgerStore.open_read_only(DataFolder(folder).ledger(shard)) as store:
        for final in store.iter_blocks(Height(1)):
            for data in final.block.transactions:
                body = decode_transaction(data).transaction.body
                for commit in body.commits if isinstance(body, CommitUpdates) else ():
                    key = (body.round, commit.device)
                    assert key not in found, "one update a device a round"
                    found[key] = (commit.payload, final.block.header.height)
    return found


def pause(rng: random.Random, *, longest_s: float) -> None:
    time.sleep(rng.uniform(0.05, longest_s))
