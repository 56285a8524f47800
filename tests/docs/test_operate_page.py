"""The commands of docs/operate.md run, in their order, on gateways and brokers that they start."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headwater_gateway.config import load_config
from headwater_gateway.status import read_status
from headwater_protocol.chain.transaction import decode_transaction
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_shard.layout import DataFolder
from headwater_shard.tools.reading import read_chain, read_genesis
from headwater_shard.transition import NONCES
from tests.support.units import DEPLOY, STATE, Units, wait

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operate.md"
TIMEOUT_S = 90.0
DEFAULT_WEB_PORT = "26600"
NUM_PORTS = 40
"""Of the founders and of one that joins."""
METRIC = re.compile(r"headwater_[a-z_]+")


def read_commands(text: str) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def read_table(text: str) -> set[str]:
    """The metrics that the page explains."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `headwater_")]
    return {name for row in rows for name in METRIC.findall(row)}


def find_ports() -> int:
    """The first of a row of ports that nobody listens on."""
    for first in range(28_000, 32_000, NUM_PORTS):
        try:
            for port in range(first, first + NUM_PORTS):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return first
    raise AssertionError("no ports")


class Operator:
    """Whoever follows the page, on one machine instead of five."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "headwater"
        self.units = Units(self.root)
        self.first = find_ports()
        self.printed: dict[str, str] = {}

    def localize(self, command: str) -> str:
        for index in range(5):
            command = command.replace(f"gateway-{index}.example", f"127.0.1.{index + 1}")
        command = command.replace(STATE, str(self.root))
        command = command.replace(f":{DEFAULT_WEB_PORT}/", f":{self.first + 3}/")
        if command.startswith("headwater-gateway init"):
            command += f" --first-port {self.first}"
        if command.startswith("headwater-gateway invite"):
            command += f" --first-port {self.first + 30}"
        return command

    def follow(self, command: str) -> None:
        if command.startswith("systemctl"):
            self.units.call(command)
        else:
            self.printed[command] = printed = self.run(self.localize(command))
            if "--submit" in command:
                self.wait_until_executed(self.folder / printed.strip())

    def run(self, command: str) -> str:
        script = (
            f"set -euo pipefail; touch .variables; . ./.variables; {command}\n"
            "declare -p NEW 2>/dev/null > .variables || true"
        )
        child = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert child.returncode == 0, f"{command}\n{child.stdout}{child.stderr}\n{self.logs()}"
        return child.stdout

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2_000:] for path in self.folder.glob("*.log"))

    def running(self) -> list[Path]:
        return [
            self.root / f"gateway-{index}"
            for index in range(5)
            if self.units.is_running(f"headwater-gateway@gateway-{index}")
        ]

    def heights(self) -> list[int]:
        return [read_status(load_config(folder)).main_height for folder in self.running()]

    def wait_until_executed(self, file: Path) -> None:
        answer = file.with_suffix(".queued")
        wait(answer.exists, lambda: f"{sorted(file.parent.iterdir())}\n{self.logs()}")
        sent = decode_transaction(answer.read_bytes()).transaction

        def is_executed() -> bool:
            for folder in self.running():
                data = DataFolder(folder / "data")
                state = read_chain(data, read_genesis(data), MAIN_CHAIN).state
                entry = state.get(NONCES, sent.sender)
                if entry is None or entry.nonce < sent.nonce:
                    return False
            return True

        wait(is_executed, self.logs)

    def is_level(self) -> bool:
        """Whether all are there but for the last block, whose certificate comes with the next."""
        heights = self.heights()
        return min(heights) > 0 and max(heights) - min(heights) <= 1


@pytest.fixture
def operator() -> Iterator[Operator]:
    rng = np.random.default_rng(1)
    # Not in pytest's own folder: the path of a unix socket has to be short.
    with tempfile.TemporaryDirectory(prefix="hw-") as name:
        np.savez(
            Path(name) / "examples.npz",
            features=rng.normal(size=(80, 64)).astype(np.float32),
            labels=np.arange(80, dtype=np.int32) % 10,
        )
        operator = Operator(Path(name))
        try:
            yield operator
        finally:
            operator.units.kill_all()


@pytest.mark.broker
@pytest.mark.cometbft
def test_every_command_of_the_page_works(operator: Operator) -> None:
    text = PAGE.read_text()
    for command in read_commands(text):
        operator.follow(command)
        if "start" in command.split()[:2] or "enable --now headwater-gateway@gateway-3" in command:
            # Whoever was restored has what the others have.
            wait(operator.is_level, operator.logs)
    transfer = next(command for command in operator.printed if "tx transfer" in command)
    # It is executed everywhere, so whoever was restored goes on with the others.
    operator.follow(transfer.replace("--amount 900000", "--amount 1").replace("-0/data", "-1/data"))
    printed = operator.printed
    (metrics,) = (value for name, value in printed.items() if name.endswith("/metrics"))
    shown = set(METRIC.findall(re.sub(r"\{.*\}", "", metrics)))
    assert {"headwater_node_connections", "headwater_broker_connected"} <= shown
    assert shown <= read_table(text), "every metric of a running gateway is explained"
    (status,) = (value for name, value in printed.items() if name.endswith("/status"))
    assert set(json.loads(status)["brokers"].values()) == {True}
    candidates = next(value for name, value in printed.items() if "show candidates" in name)
    assert candidates.count(" 900000 ") == 2, "bonded, and all of it its own"
    operator.run(f"{sys.executable} {DEPLOY / 'healthcheck.py'} {operator.root / 'gateway-0'}")
    lost, restored = operator.root / "gateway-0.lost", operator.root / "gateway-0"
    assert (lost / "keys/delegate.key").read_bytes() == (
        restored / "keys/delegate.key"
    ).read_bytes()
    assert (restored / "data/registrar.sqlite").stat().st_mode & 0o777 == 0o600
    token = next(value for name, value in printed.items() if "token create" in name)
    assert token.startswith("hw1.")
    listed = operator.run(f"headwater-gateway token list --config {restored}/gateway.toml --json")
    assert [row["label"] for row in json.loads(listed)] == ["kitchen"]
    audit = operator.run(f"headwater-shard audit {restored}/data --chain main")
    assert "audit: ok" in audit


def test_a_service_that_cannot_start_is_not_started_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headwater_gateway.cli", "run", str(tmp_path / "gateway-9")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 2
    assert child.stderr.count("\n") == 1


def test_the_reload_of_brokers_elsewhere_copies_the_list_and_tells_them(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    command = tomllib.loads(block)["reload"]
    for name in ("scp", "ssh"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> {tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(command, check=True, env={"PATH": path}, cwd=tmp_path)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "scp -q tls/revoked.crl headwater@gateway-0.example:broker-0/",
        "ssh headwater@gateway-0.example kill -HUP $(cat broker-0/mosquitto.pid)",
        "scp -q tls/revoked.crl headwater@gateway-1.example:broker-1/",
        "ssh headwater@gateway-1.example kill -HUP $(cat broker-1/mosquitto.pid)",
    ]
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    failed = subprocess.run(command, check=False, env={"PATH": path}, cwd=tmp_path)
    assert failed.returncode != 0, "a broker that does not know is no success"


def test_the_page_explains_exactly_the_metrics_that_there_are() -> None:
    sources = ("web/status.py", "shell/exchange.py")
    texts = [(ROOT / "gateway/headwater_gateway" / name).read_text() for name in sources]
    emitted = {name for text in texts for name in re.findall(r'"(headwater_[a-z_]+)"', text)}
    assert len(emitted) > 25
    assert emitted == read_table(PAGE.read_text())


def test_the_pages_links_lead_somewhere() -> None:
    text = PAGE.read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert (PAGE.parent / path).exists(), target
        assert not anchor or anchor in anchors, target
    for path in re.findall(r"deploy/[a-z@.-]+[a-z]", text):
        assert (ROOT / path).is_file(), path
