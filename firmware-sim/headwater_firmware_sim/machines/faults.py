"""What can happen to a network of machines, done to its processes for real.

Each fault begins, lasts and ends inside one call; what has to hold afterwards is `chaos.py`'s.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_firmware_sim.machines.child import Child
from headwater_firmware_sim.machines.evidence import list_jailed, read_height, read_heights
from headwater_firmware_sim.machines.network import SPARE_HOST, ProcessNetwork, program
from headwater_gateway.gateway_folders import NODE_NAME
from headwater_gateway.keyfile import load_key
from headwater_gateway.registrar.authority import DAY_MS, SERIAL_BYTES, Authority
from headwater_protocol.errors import ConfigError, TransportError
from headwater_protocol.identifiers import ChainId

RESTART_S: Final = 2.0
"""After which whatever supervises a gateway starts it again."""
BROKER_AWAY_S: Final = 8.0
PAUSE_S: Final = 20.0
CUT_S: Final = 15.0
LOSSY_S: Final = 20.0
LOSS_PERCENT: Final = 5
FULL_S: Final = 12.0
WRONG_CLOCK_S: Final = 15.0
CLOCK_OFFSET_MS: Final = 3_600_000
EXPIRED_S: Final = 8.0
SETTLE_S: Final = 30.0
"""For what a fault needs before it begins."""
CONVICT_S: Final = 120.0
"""For the twin to catch up, to sign twice, and for the evidence to be judged."""
SPARE_BYTES: Final = 24 * 1024 * 1024
"""Of a small disk, beside what is on it."""
STOPPED_HEIGHTS: Final = 2
"""Blocks that may still come when a committee falls apart: one under way on each chain."""


class FaultFailed(TransportError):
    """The network did not do what the fault expects while it lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that happens."""

    name: str
    """For a table and for `--only`."""
    text: str
    """For people."""
    begin_and_end: Callable[[ProcessNetwork], None]
    needs_cut: bool = False
    """Whether links have to be cut or made lossy."""
    needs_root: bool = False
    convicts: int | None = None
    """The gateway whose delegate is punished."""
    restarts: int | None = None
    """The gateway that may still end, and that a service manager would start again."""


def kill_gateway(network: ProcessNetwork) -> None:
    """SIGKILL; its engines end by themselves."""
    victim = network.gateways[1]
    victim.kill()
    time.sleep(RESTART_S)
    victim.start()


def kill_engine(network: ProcessNetwork) -> None:
    """SIGKILL of the nodes of one gateway, which starts them again."""
    for pid in network.gateways[2].children():
        os.kill(pid, signal.SIGKILL)


def kill_broker(network: ProcessNetwork) -> None:
    """SIGKILL of the broker that devices use first; they go to the other one."""
    network.brokers[0].kill()
    time.sleep(BROKER_AWAY_S)
    network.brokers[0].start()


def pause_gateway(network: ProcessNetwork) -> None:
    """SIGSTOP of a gateway and its engines, as when a virtual machine is frozen."""
    victim = network.gateways[2]
    engines = victim.children()
    victim.pause()
    for pid in engines:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    for pid in engines:
        os.kill(pid, signal.SIGCONT)
    victim.resume()


def cut_one(network: ProcessNetwork) -> None:
    """One gateway hears no other one, though brokers and devices hear it."""
    names = [gateway.name for gateway in network.gateways]
    network.hosts.cut([names[:-1], names[-1:]])
    time.sleep(CUT_S)
    network.hosts.heal()


def cut_halves(network: ProcessNetwork) -> None:
    """Two against two: no side may go on, and neither does.

    Raises:
        FaultFailed: If one does.
    """
    names = [gateway.name for gateway in network.gateways]
    half = len(names) // 2
    network.hosts.cut([names[:half], names[half:]])
    before = read_heights(network)
    time.sleep(CUT_S)
    after = read_heights(network)
    network.hosts.heal()
    for (name, chain), height in after.items():
        start = before[name, chain]
        if height > start + STOPPED_HEIGHTS:
            raise FaultFailed(f"{name} {chain} went from {start} to {height} without a quorum")


def lose_packets(network: ProcessNetwork) -> None:
    """All gateways lose a share of what they send and of what they are sent."""
    for gateway in network.gateways:
        network.hosts.lose(gateway.name, percent=LOSS_PERCENT)
    time.sleep(LOSSY_S)
    network.hosts.heal()


def fill_disk(network: ProcessNetwork) -> None:
    """The disk of one gateway is full: it says so, and comes back when there is space.

    Raises:
        FaultFailed: If it says nothing.
    """
    victim, index = network.gateways[2], 2
    folder = network.data(index).path
    victim.stop()
    _mount_small_disk(network, folder)
    victim.start()
    _wait_level(network, index)
    filler = folder / "filler"
    said = len(victim.read_log())
    with filler.open("wb", buffering=0) as file:
        deadline_s = time.monotonic() + FULL_S
        while time.monotonic() < deadline_s:
            try:
                file.write(b"\0" * 65_536)
            except OSError:
                time.sleep(0.2)
            if victim.pid is None:
                time.sleep(RESTART_S)
                victim.start()
    filler.unlink()
    if victim.pid is None:
        victim.start()
    if not any(words in victim.read_log()[said:] for words in ("No space left", "is full")):
        raise FaultFailed(f"{victim.name} says nothing of its full disk")


def wipe_gateway(network: ProcessNetwork) -> None:
    """A gateway loses its data folder, and starts from a snapshot of the others.

    Raises:
        FaultFailed: If it does not.
    """
    index = len(network.gateways) - 1
    victim = network.gateways[index]
    network.wait(
        lambda: all(
            any((network.data(0).chain(chain) / "cometbft" / "snapshots").glob("*/manifest.cbor"))
            for chain in network.chains
        ),
        what="snapshots",
        timeout_s=CONVICT_S,
    )
    victim.kill()
    for path in network.data(index).path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    count = victim.read_log().count("event=state_sync")
    victim.start()
    network.wait(
        lambda: victim.read_log().count("event=state_sync") > count,
        what=f"{victim.name} to find a snapshot",
        timeout_s=SETTLE_S,
    )


def shift_clock(network: ProcessNetwork) -> None:
    """The clock of one gateway is an hour ahead."""
    victim = network.gateways[1]
    victim.stop()
    victim.start(
        network.hosts.command(
            victim.name,
            [
                program("python"),
                "-m",
                "headwater_firmware_sim.machines.shifted_clock",
                str(CLOCK_OFFSET_MS),
                *network.gateway_command(1)[1:],
            ],
        )
    )
    time.sleep(WRONG_CLOCK_S)
    victim.stop()
    victim.start()


def expire_certificate(network: ProcessNetwork) -> None:
    """The certificate of one gateway has expired: it says so and what to type, and that helps.

    Raises:
        FaultFailed: If it starts all the same.
    """
    victim, index = network.gateways[2], 2
    tls = network.net / victim.name / "tls"
    authority_folder = network.net / "gateway-0" / "tls"
    authority = Authority.load(
        (authority_folder / "ca.key").read_bytes(),
        (authority_folder / "ca.pem").read_bytes(),
        key="enrolment.ca_file",
    )
    expired = authority.issue_pair(
        victim.name,
        [network.hosts.address(victim.name)],
        now_ms=time.time_ns() // 1_000_000 - 2 * DAY_MS,
        serial=os.urandom(SERIAL_BYTES),
        life_ms=DAY_MS,
    )
    victim.stop()
    (tls / f"{victim.name}.pem").write_text(expired.certificate_pem)
    (tls / f"{victim.name}.key").write_text(expired.key_pem)
    victim.start()
    time.sleep(EXPIRED_S)
    if victim.code != 2 or "expired" not in victim.read_log():
        raise FaultFailed(f"{victim.name} runs with a certificate that has expired")
    network.command(
        "gateway-0",
        "headwater-gateway",
        "certificate",
        victim.name,
        *("--config", str(network.net / "gateway-0" / "gateway.toml")),
        *("--out", str(tls), "--host", network.hosts.address(victim.name)),
    )
    network.gateways[index].start()


def sign_twice(network: ProcessNetwork) -> None:
    """A second machine runs with the key of a delegate, until the ledger convicts it.

    Raises:
        TransportError: If nobody notices.
    """
    index = len(network.gateways) - 1
    original = network.net / f"gateway-{index}"
    twin = _make_twin(network, original)
    key = load_key(original / "keys" / "delegate.key", key="keys")
    twin.start()
    try:
        network.wait(
            lambda: key.validator in list_jailed(network, 0),
            what="the evidence to be judged",
            timeout_s=CONVICT_S,
            every_s=1.0,
        )
    finally:
        twin.stop()


FAULTS: Final[Sequence[Fault]] = (
    Fault(name="kill-gateway", text="kill -9 of a gateway", begin_and_end=kill_gateway),
    Fault(name="kill-engine", text="kill -9 of its engines", begin_and_end=kill_engine),
    Fault(name="kill-broker", text="kill -9 of a broker", begin_and_end=kill_broker),
    Fault(name="pause", text="a gateway frozen for 20 s", begin_and_end=pause_gateway),
    Fault(name="cut-one", text="one of four cut off", begin_and_end=cut_one, needs_cut=True),
    Fault(name="cut-halves", text="two against two", begin_and_end=cut_halves, needs_cut=True),
    Fault(
        name="loss", text="5 % of packets lost each way", begin_and_end=lose_packets, needs_cut=True
    ),
    Fault(
        name="full-disk", text="a full disk", begin_and_end=fill_disk, needs_root=True, restarts=2
    ),
    Fault(name="wipe", text="a wiped data folder", begin_and_end=wipe_gateway),
    Fault(name="clock", text="a clock one hour ahead", begin_and_end=shift_clock),
    Fault(name="certificate", text="an expired certificate", begin_and_end=expire_certificate),
    Fault(
        name="sign-twice",
        text="one key on two machines",
        begin_and_end=sign_twice,
        needs_cut=True,  # the second machine needs an address of its own
        convicts=-1,
    ),
)
"""In this order: the last one costs the network a delegate."""


def choose_faults(names: Sequence[str] | None) -> list[Fault]:
    """The faults of these names, in the order of `FAULTS`; all where none are given.

    Raises:
        ConfigError: If there is no fault of a name.
    """
    known = [fault.name for fault in FAULTS]
    for name in names or ():
        if name not in known:
            raise ConfigError("--only", f"is {name!r}", fix=f"use one of {', '.join(known)}")
    return [fault for fault in FAULTS if not names or fault.name in names]


def _wait_level(network: ProcessNetwork, index: int) -> None:
    """Wait until a gateway has what the first one has now."""
    for chain in network.chains:
        height = read_height(network.data(0), chain)

        def is_there(chain: ChainId = chain, height: int = height) -> bool:
            return read_height(network.data(index), chain) >= height

        network.wait(is_there, what=f"gateway-{index} to catch up", timeout_s=SETTLE_S)


def _mount_small_disk(network: ProcessNetwork, folder: Path) -> None:
    """Move a data folder to a disk in memory that has hardly more room than it needs."""
    aside = folder.with_name("data-before")
    folder.rename(aside)
    folder.mkdir()
    used = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={used + SPARE_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        folder.rmdir()
        aside.rename(folder)
        raise FaultFailed(f"no small disk: {done.stderr.strip()}")
    network.mounts.append(folder)
    shutil.copytree(aside, folder, dirs_exist_ok=True, ignore=_ignore_sockets)
    shutil.rmtree(aside)


def _ignore_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]


def _make_twin(network: ProcessNetwork, original: Path) -> Child:
    """A copy of a gateway's folder for another host, with a node key and a memory of its own."""
    folder = original.with_name("twin")
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("data"))
    (folder / "keys" / NODE_NAME).unlink()
    config = folder / "gateway.toml"
    text = config.read_text()
    host = network.hosts.address(original.name)
    if network.hosts.can_cut:
        text = text.replace(
            f"tcp://{host}:", f"tcp://{network.hosts.address(SPARE_HOST)}:"
        ).replace(f'host = "{host}"', f'host = "{network.hosts.address(SPARE_HOST)}"')
    config.write_text(text)
    return network.child(
        "twin", [program("headwater-gateway"), "run", str(folder)], host=SPARE_HOST
    )
