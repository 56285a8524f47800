"""The hosts of a network on one machine: network namespaces, or the loopback where there are none.

A namespace is a host with an address of its own on a bridge that leads nowhere else. Links are cut
and made lossy with packet filters inside the namespaces.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from headwater_protocol.errors import ConfigError, TransportError

LOOPBACK: Final = "127.0.0.1"
SUBNET: Final = "10.77.0"
"""Of the bridge; nothing outside of the namespaces can reach it, nor is reached from it."""
FIRST_ADDRESS: Final = 10
MAX_HOSTS: Final = 200
COMMAND_TIMEOUT_S: Final = 20.0


class Hosts(Protocol):
    """Where the processes of a network run."""

    can_cut: bool
    """Whether links can be cut and made lossy."""

    def address(self, host: str) -> str:
        """Of a host, as others reach it."""
        ...

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """What runs `command` on `host`."""
        ...

    def cut(self, groups: Sequence[Sequence[str]]) -> None:
        """Let hosts hear those of their own group, and hosts of no group everybody."""

    def lose(self, host: str, *, percent: int) -> None:
        """Drop a share of the packets that `host` sends and receives."""

    def heal(self) -> None:
        """Undo `cut` and `lose`."""

    def close(self) -> None:
        """Remove the hosts; their processes have ended."""


class LoopbackHosts:
    """All hosts are this machine."""

    can_cut = False

    def address(self, host: str) -> str:
        """The loopback."""
        return LOOPBACK

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """The command itself."""
        return list(command)

    def cut(self, groups: Sequence[Sequence[str]]) -> None:
        """Refused.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("--network", "the loopback cannot be cut", fix="use namespaces, as root")

    def lose(self, host: str, *, percent: int) -> None:
        """Refused, as `cut`."""
        self.cut([])

    def heal(self) -> None:
        """Nothing is ever broken."""

    def close(self) -> None:
        """Nothing is left behind."""


class NamespaceHosts:
    """One network namespace a host, and one for the bridge between them."""

    can_cut = True

    def __init__(self, names: Sequence[str], *, prefix: str) -> None:
        """Make the namespaces.

        Args:
            names: Of the hosts.
            prefix: In front of the namespaces' names, so that two networks do not meet.

        Raises:
            ConfigError: If there are too many, or this machine does not allow namespaces.
        """
        if len(names) > MAX_HOSTS:
            raise ConfigError("hosts", f"are {len(names)}", fix=f"{MAX_HOSTS} at most")
        self._prefix = prefix
        self._addresses: Mapping[str, str] = {
            name: f"{SUBNET}.{FIRST_ADDRESS + index}" for index, name in enumerate(names)
        }
        self._made: list[str] = []
        hub = f"{prefix}-hub"
        try:
            self._add(hub)
            _ip(hub, "link", "add", "bridge0", "type", "bridge")
            _ip(hub, "link", "set", "bridge0", "up")
            for index, name in enumerate(names):
                self._join(hub, name, port=f"port{index}")
        except TransportError as error:
            self.close()
            raise ConfigError(
                "--network", f"no namespaces here: {error}", fix="use --network loopback"
            ) from error

    def address(self, host: str) -> str:
        """On the bridge."""
        return self._addresses[host]

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """`command` in the namespace; `ip` becomes the command, so its process is the command's."""
        return ["ip", "netns", "exec", self._name(host), *command]

    def cut(self, groups: Sequence[Sequence[str]]) -> None:
        """Drop packets between hosts of different groups, in both directions."""
        for group in groups:
            others = [
                self._addresses[host] for other in groups if other is not group for host in other
            ]
            if others:
                addresses = ", ".join(others)
                for host in group:
                    self._filter(
                        host,
                        [
                            f"add rule inet links in ip saddr {{ {addresses} }} drop",
                            f"add rule inet links out ip daddr {{ {addresses} }} drop",
                        ],
                    )

    def lose(self, host: str, *, percent: int) -> None:
        """Drop that share of packets, drawn one by one, each way."""
        self._filter(
            host,
            [
                f"add rule inet links {way} numgen random mod 100 < {percent} drop"
                for way in ("in", "out")
            ],
        )

    def heal(self) -> None:
        """Drop all filters."""
        for host in self._addresses:
            _run(["ip", "netns", "exec", self._name(host), "nft", "flush", "ruleset"])

    def close(self) -> None:
        """Remove the namespaces; the links go with them."""
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        self._made.clear()

    def _name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _add(self, name: str) -> None:
        _run(["ip", "netns", "add", name])
        self._made.append(name)
        _ip(name, "link", "set", "lo", "up")

    def _join(self, hub: str, host: str, *, port: str) -> None:
        name = self._name(host)
        self._add(name)
        _ip(
            hub,
            *("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name),
        )
        _ip(hub, "link", "set", port, "master", "bridge0")
        _ip(hub, "link", "set", port, "up")
        _ip(name, "address", "add", f"{self._addresses[host]}/24", "dev", "eth0")
        _ip(name, "link", "set", "eth0", "up")

    def _filter(self, host: str, rules: Sequence[str]) -> None:
        script = "\n".join(
            [
                "add table inet links",
                "add chain inet links in { type filter hook input priority 0; }",
                "add chain inet links out { type filter hook output priority 0; }",
                *rules,
            ]
        )
        _run(["ip", "netns", "exec", self._name(host), "nft", "-f", "-"], script)


def why_no_namespaces() -> str | None:
    """What this machine lacks for `NamespaceHosts`; None where it has all."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if missing:
        return f"network namespaces need {' and '.join(missing)}: apt-get install iproute2 nftables"
    try:
        hosts = NamespaceHosts(["probe"], prefix=f"hw{os.getpid()}p")
    except ConfigError as error:
        return error.problem
    try:
        hosts.lose("probe", percent=1)
    except TransportError as error:
        return str(error)
    finally:
        hosts.close()
    return None


def _ip(namespace: str, *arguments: str) -> None:
    _run(["ip", "-n", namespace, *arguments])


def _run(command: Sequence[str], script: str | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise TransportError(f"{' '.join(command)}: {done.stderr.strip()}")
