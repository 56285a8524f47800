"""A network of processes: founded through the commands that an operator types, and run.

Nothing here knows how a gateway works inside. Folders come from `headwater-gateway init`, devices
join with tokens, and what happened is read from the ledgers, from CometBFT and from the devices.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from headwater_firmware_sim.data.digits import load_digits
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.machines.child import Child
from headwater_firmware_sim.machines.hosts import (
    LOOPBACK,
    Hosts,
    LoopbackHosts,
    NamespaceHosts,
    why_no_namespaces,
)
from headwater_firmware_sim.machines.plan import NetworkKind, NetworkPlan
from headwater_gateway.config import DEFAULT_ENROLMENT_PORT, load_config
from headwater_gateway.gateway_folders import NUM_BROKERS
from headwater_protocol.chain.genesis import Genesis, decode_genesis
from headwater_protocol.errors import ConfigError, TransportError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.engine.cometbft.shell.node import find_binary
from headwater_shard.layout import GENESIS_NAME, DataFolder

START_S: Final = 90.0
ENROL_WAIT_S: Final = 90
COMMAND_S: Final = 120.0
PROBE_S: Final = 0.2
"""Between two looks at what other processes wrote; they tell nobody when they do."""
NUM_ENROLLING: Final = 5
PORT_RANGE: Final = (20_000, 32_000)
"""Below the ports that systems give to outgoing connections."""
NUM_VALIDATION: Final = 300
NUM_TEST: Final = 300
MARK: Final = "network.json"
"""Says that a folder is a run's of this kind, which another run may replace."""
DEVICE_HOST: Final = "devices"
SPARE_HOST: Final = "spare"
"""Where nothing runs to begin with."""


class CommandFailed(TransportError):
    """A command of the network ended with an error."""


class ProcessNetwork:
    """Gateways with their engines, brokers and agents, all processes of this machine."""

    def __init__(
        self, plan: NetworkPlan, *, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """Make hosts and found the network; `start` runs it.

        Args:
            plan: What is asked for.
            say: Told each step.

        Raises:
            ConfigError: If the plan cannot be carried out here.
        """
        plan.require_consistent()
        plan = replace(plan, out=plan.out.absolute())
        find_binary()
        if shutil.which("mosquitto") is None:
            raise ConfigError("mosquitto", "is not installed", fix="apt-get install mosquitto")
        self.plan = plan
        self.net = plan.out / "net"
        self.mounts: list[Path] = []
        """Disks in memory that are taken away at the end."""
        self._say = say
        _make_folder(plan.out)
        self.hosts = _make_hosts(plan)
        try:
            self._found()
        except BaseException:
            self.hosts.close()
            raise
        self.genesis: Genesis = decode_genesis((self.net / "gateway-0" / GENESIS_NAME).read_bytes())
        self.brokers = [
            self.child(
                f"broker-{index}",
                ["mosquitto", "-c", str(self.net / f"broker-{index}" / "mosquitto.conf")],
            )
            for index in range(NUM_BROKERS)
        ]
        self.gateways = [
            self.child(f"gateway-{index}", self.gateway_command(index))
            for index in range(plan.num_gateways)
        ]
        self.agents = [
            self.child(
                f"device-{index}",
                [
                    program("headwater-agent"),
                    "run",
                    *("--config", str(plan.out / f"device-{index}" / "agent.toml")),
                ],
                host=DEVICE_HOST,
            )
            for index in range(plan.num_devices)
        ]

    @property
    def chains(self) -> tuple[ChainId, ...]:
        """All of them, the main chain first."""
        return (MAIN_CHAIN, *self.genesis.shards)

    def data(self, index: int) -> DataFolder:
        """The data folder of a gateway."""
        return DataFolder(self.net / f"gateway-{index}" / "data")

    def gateway_command(self, index: int) -> list[str]:
        """What runs a gateway."""
        return [program("headwater-gateway"), "run", str(self.net / f"gateway-{index}")]

    def command(self, host: str, *command: str, timeout_s: float = COMMAND_S) -> str:
        """Run one of the project's commands on a host; what it printed.

        Raises:
            CommandFailed: If it ended with another code than 0.
        """
        done = subprocess.run(
            self.hosts.command(host, [program(command[0]), *command[1:]]),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if done.returncode:
            raise CommandFailed(
                f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-500:]}"
            )
        return done.stdout

    def start(self) -> None:
        """Run brokers and gateways until all are connected, then let the devices join and run.

        Raises:
            TransportError: If something does not start.
        """
        for broker in self.brokers:
            broker.start()
        for gateway in self.gateways:
            gateway.start()
        self._say(
            f"{len(self.gateways)} gateways with {len(self.gateways) * len(self.chains)} nodes of "
            f"CometBFT, {len(self.brokers)} brokers"
        )
        for gateway in self.gateways:
            self.wait(
                partial(_says, gateway, "broker_connected"),
                what=f"{gateway.name} to connect",
                timeout_s=START_S,
            )
        self.wait(
            partial(_says, self.gateways[0], "event=registrar_started"),
            what="the registrar",
            timeout_s=START_S,
        )
        self._enrol()

    def wait(
        self, is_true: Callable[[], bool], *, what: str, timeout_s: float, every_s: float = PROBE_S
    ) -> float:
        """Look until `is_true`; the seconds that it took.

        Raises:
            TransportError: If it takes too long.
        """
        started_s = time.monotonic()
        while not is_true():
            if time.monotonic() - started_s > timeout_s:
                raise TransportError(
                    f"waited {timeout_s:.0f} s for {what}; logs in {self.plan.out}"
                )
            time.sleep(every_s)
        return time.monotonic() - started_s

    def require_alive(self) -> None:
        """Check that every process runs.

        Raises:
            TransportError: Names the first that ended, with its last line.
        """
        for child in (*self.brokers, *self.gateways, *self.agents):
            if child.pid is None:
                raise TransportError(
                    f"{child.name} ended with code {child.code}: {_last_line(child)}"
                )

    def stop(self) -> None:
        """Stop everything in order: devices, gateways, brokers."""
        for group in (self.agents, self.gateways, self.brokers):
            for child in group:
                child.resume()
                child.ask_to_stop()
            for child in group:
                child.wait()

    def close(self) -> None:
        """Stop everything and remove the hosts."""
        self.stop()
        self.hosts.heal()
        self.hosts.close()
        for folder in self.mounts:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
        self.mounts.clear()

    def __enter__(self) -> "ProcessNetwork":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def child(self, name: str, command: Sequence[str], *, host: str | None = None) -> Child:
        """A process of the network, on the host of its name if no other is given."""
        return Child(
            name,
            self.hosts.command(host or name, command),
            log=self.plan.out / f"{name}.log",
            # The models are too small to gain from a thread a core.
            environment={"OPENBLAS_NUM_THREADS": "1"},
        )

    def _found(self) -> None:
        plan, out = self.plan, self.plan.out
        digits = _shuffled(load_digits())
        parts = iter(_split(digits, NUM_VALIDATION, NUM_TEST, plan.num_devices))
        _save(out / "validation.npz", next(parts))
        _save(out / "test.npz", next(parts))
        for index, part in enumerate(parts):
            _save(out / f"device-{index}.npz", part)
        (out / "task.toml").write_text(plan.task)
        (out / MARK).write_text(json.dumps({"devices": plan.num_devices}) + "\n")
        arguments = ["--validators", str(plan.num_validators), "--shards", str(plan.num_shards)]
        arguments += ["--task", str(out / "task.toml"), "--validation", str(out / "validation.npz")]
        if self.hosts.can_cut:
            for index in range(plan.num_gateways):
                arguments += ["--host", self.hosts.address(f"gateway-{index}")]
            for index in range(NUM_BROKERS):
                arguments += ["--broker-host", self.hosts.address(f"broker-{index}")]
        else:
            arguments += [
                "--first-port",
                str(_find_ports(1 + NUM_BROKERS + plan.num_gateways * (2 + plan.num_shards))),
            ]
        name = "gateway-0"
        self.command(name, "headwater-gateway", "init", "--out", str(self.net), *arguments)
        for index in range(plan.num_gateways):
            _replace(
                self.net / f"gateway-{index}" / "gateway.toml",
                "snapshot_interval_blocks = 1000",
                f"snapshot_interval_blocks = {plan.snapshot_interval_blocks}",
            )
        if os.geteuid() == 0:
            for index in range(NUM_BROKERS):
                # It would give its rights up, and could not read the folder any more.
                config = self.net / f"broker-{index}" / "mosquitto.conf"
                config.write_text("user root\n" + config.read_text())

    def _enrol(self) -> None:
        count = self.plan.num_devices
        registrar = ["--config", str(self.net / "gateway-0" / "gateway.toml")]
        printed = self.command(
            "gateway-0", "headwater-gateway", "token", "create", "--count", str(count), *registrar
        )
        tokens = printed.split()
        enrolment = load_config(self.net / "gateway-0").enrolment
        port = DEFAULT_ENROLMENT_PORT if enrolment is None else enrolment.port
        url = f"https://{self.hosts.address('gateway-0')}:{port}"
        self._say(f"{count} devices join with tokens")

        def join(index: int) -> None:
            self.command(
                DEVICE_HOST,
                "headwater-agent",
                "enroll",
                url,
                *("--token", tokens[index]),
                *("--out", str(self.plan.out / f"device-{index}")),
                *("--data", str(self.plan.out / f"device-{index}.npz")),
                *("--wait", str(ENROL_WAIT_S)),
            )
            self.agents[index].start()

        with ThreadPoolExecutor(NUM_ENROLLING) as pool:
            list(pool.map(join, range(count)))


def program(name: str) -> str:
    """A program of this project, beside the running Python; another one from the PATH."""
    own = Path(sys.executable).with_name(name)
    return str(own) if own.is_file() else name


def _says(child: Child, text: str) -> bool:
    if child.pid is None:
        raise TransportError(f"{child.name} ended with code {child.code}: {_last_line(child)}")
    return text in child.read_log()


def _last_line(child: Child) -> str:
    return (child.read_log().strip().splitlines()[-1:] or ["it printed nothing"])[0]


def _find_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on now.

    Raises:
        ConfigError: If there are none.
    """
    for first in range(*PORT_RANGE, count):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    probe = stack.enter_context(socket.socket())
                    probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return first
    raise ConfigError("--network", "no free ports on the loopback", fix="stop other networks")


def _make_hosts(plan: NetworkPlan) -> Hosts:
    names = [f"gateway-{index}" for index in range(plan.num_gateways)]
    names += [f"broker-{index}" for index in range(NUM_BROKERS)]
    names += [DEVICE_HOST, SPARE_HOST]
    if plan.kind is NetworkKind.LOOPBACK:
        return LoopbackHosts()
    if plan.kind is NetworkKind.AUTO and why_no_namespaces() is not None:
        return LoopbackHosts()
    return NamespaceHosts(names, prefix=f"hw{os.getpid()}")


def _make_folder(out: Path) -> None:
    try:
        if out.exists() and any(out.iterdir()):
            if not (out / MARK).is_file():
                raise ConfigError("--out", f"{out} is not empty", fix="choose a new folder")
            for disk in find_mounts(out):  # Of a run that was killed.
                subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", f"{out}: {error}", fix="choose a folder of yours") from error


def find_mounts(folder: Path, *, table: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """What is mounted in a folder, the later ones last (see proc_pid_mountinfo(5))."""
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    # Spaces are written as octal escapes.
    places = [Path(line.split()[4].replace("\\040", " ")) for line in lines]
    return [place for place in places if place.is_relative_to(folder.resolve())]


def _shuffled(examples: Examples) -> Examples:
    order = np.random.default_rng(1).permutation(len(examples.labels))
    return Examples(features=examples.features[order], labels=examples.labels[order])


def _split(
    examples: Examples, num_validation: int, num_test: int, num_devices: int
) -> Iterator[Examples]:
    """The committee's part, the test's, then one for each device."""
    ends = [0, num_validation, num_validation + num_test]
    rest = len(examples.labels) - ends[-1]
    ends += [ends[2] + rest * (index + 1) // num_devices for index in range(num_devices)]
    for start, end in pairwise(ends):
        yield Examples(features=examples.features[start:end], labels=examples.labels[start:end])


def _save(path: Path, examples: Examples) -> None:
    np.savez(path, features=examples.features, labels=examples.labels)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise ConfigError(str(path), f"has no {old!r}", fix="this is a bug: report it")
    path.write_text(text.replace(old, new))
