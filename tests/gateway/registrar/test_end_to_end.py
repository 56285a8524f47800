"""From `init --tls` to rounds that real agents took part in, over real brokers, as processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headwater_firmware_sim.data.digits import load_digits
from headwater_gateway.cli import main as gateway_main
from headwater_shard.layout import DataFolder
from headwater_shard.store import LedgerStore
from tests.support.gateway_process import TASK
from tests.support.mosquitto import Mosquitto, free_port

TIMEOUT_S = 40.0
ROUNDS = 400


class Network:
    """A network in a folder, and the processes that belong to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = folder / "net"
        self.config = self.net / "gateway.toml"
        self.registrar_port = free_port()
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.brokers: list[Mosquitto] = []
        digits = load_digits()
        np.savez(folder / "own.npz", features=digits.features[:120], labels=digits.labels[:120])
        for number in range(2):
            part = slice(200 + 60 * number, 260 + 60 * number)
            np.savez(
                folder / f"data-{number}.npz",
                features=digits.features[part],
                labels=digits.labels[part],
            )
        (folder / "task.toml").write_text(TASK.format(rounds=ROUNDS).replace("1500", "700"))

    def found(self) -> None:
        arguments = ["init", "--out", str(self.net), "--tls", "--host", "localhost"]
        arguments += ["--task", str(self.folder / "task.toml")]
        arguments += ["--validation", str(self.folder / "own.npz")]
        assert gateway_main(arguments) == 0
        for number in range(2):
            port = free_port()
            out = self.folder / f"broker-{number}"
            command = ["broker-config", "--config", str(self.config), "--out", str(out)]
            assert gateway_main([*command, "--port", str(port)]) == 0
            self.brokers.append(Mosquitto(out / "mosquitto.conf", port).start())
        urls = ", ".join(f'"{broker.url}"' for broker in self.brokers)
        pids = " ".join(str(broker.pid) for broker in self.brokers)
        text = self.config.read_text()
        text = re.sub(r"brokers = \[.*?\]", f"brokers = [{urls}]", text, flags=re.DOTALL)
        text = text.replace("port = 8443", f"port = {self.registrar_port}")
        # A broker that was killed is not there to be told.
        text = re.sub(
            r"reload = \[.*?\]",
            f'reload = ["sh", "-c", "kill -HUP {pids} || true"]',
            text,
            flags=re.DOTALL,
        )
        self.config.write_text(text)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.registrar_port}"

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log
            )

    def start_gateway(self) -> None:
        count = self.log("gateway").count("event=registrar_started")
        self.start("gateway", "headwater_gateway.cli", "run", "--config", str(self.config))
        self.wait(lambda: self.log("gateway").count("event=registrar_started") > count)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def gateway(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "headwater_gateway.cli", *arguments]
        done = subprocess.run(
            [*command, "--config", str(self.config)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def enroll(self, number: int, token: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headwater_agent.cli", "enroll", self.url]
        command += ["--token", token, "--out", str(self.folder / f"device-{number}")]
        command += ["--data", str(self.folder / f"data-{number}.npz"), "--wait", "30", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def start_agent(self, number: int) -> None:
        config = self.folder / f"device-{number}" / "agent.toml"
        self.start(f"agent-{number}", "headwater_agent.cli", "run", "--config", str(config))

    def wait(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_true():
            for name, child in self.children.items():
                assert child.poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.everything()
            time.sleep(0.05)

    def count_verdicts(self, number: int) -> int:
        return self.log(f"agent-{number}").count("event=verdict")

    def everything(self) -> str:
        return "\n".join(f"== {name}\n{self.log(name)[-3000:]}" for name in self.children)

    def stop(self) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        for child in self.children.values():
            child.wait(20)
        for broker in self.brokers:
            broker.stop()


@pytest.fixture
def network(tmp_path):
    network = Network(tmp_path)
    yield network
    network.stop()


@pytest.mark.broker
def test_devices_join_take_part_fail_over_and_are_revoked(network, capsys):
    network.found()
    network.start_gateway()
    tokens = network.gateway("token", "create", "--count", "2", "--label", "rack 7").split()
    ids = []
    for number in range(2):
        done = network.enroll(number, tokens[number])
        assert done.returncode == 0, done.stderr
        assert "proven from the genesis" in done.stderr
        ids.append(done.stdout.strip())
        network.start_agent(number)
    refused = network.enroll(2, tokens[0])
    assert refused.returncode == 2
    assert "token_spent" in refused.stderr
    states = {row["state"] for row in json.loads(network.gateway("token", "list", "--json"))}
    assert states == {"spent"}

    # Real updates over TLS, judged by the committee.
    network.wait(lambda: min(network.count_verdicts(number) for number in range(2)) >= 2)

    # A broker dies: the devices go to the other one, where the gateway listens as well.
    before = [network.count_verdicts(number) for number in range(2)]
    os.kill(network.brokers[0].pid, signal.SIGKILL)
    network.wait(lambda: all(network.count_verdicts(n) >= before[n] + 2 for n in range(2)))
    assert network.log("agent-0").count("event=connected") >= 2

    # Revoked while the gateway runs: the session ends, and the ledger says so.
    network.gateway("device", "revoke", ids[0])
    network.wait(lambda: "revoked: The registrar took" in network.log("agent-0"))
    before_1 = network.count_verdicts(1)
    network.wait(lambda: network.count_verdicts(1) >= before_1 + 1)
    assert network.enroll(0, tokens[0]).returncode == 1

    # The gateway is killed and goes on: what was promised is in its store.
    network.children["gateway"].kill()
    network.children.pop("gateway").wait()
    network.start_gateway()
    again = network.enroll(1, tokens[1])
    assert again.returncode == 0, again.stderr
    assert "joined already" in again.stderr
    before_1 = network.count_verdicts(1)
    network.wait(lambda: network.count_verdicts(1) >= before_1 + 1)

    network.stop()
    with LedgerStore.open_read_only(DataFolder(network.net / "data").ledger("shard-1")) as store:
        kinds = re.findall(
            rb"(enrol-device|revoke-device)/1",
            b"".join(data for final in store.iter_blocks(1) for data in final.block.transactions),
        )
    assert kinds.count(b"enrol-device") == 2
    assert kinds.count(b"revoke-device") == 1
    audit = subprocess.run(
        [sys.executable, "-m", "headwater_shard.cli", "audit", str(network.net / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert audit.returncode == 0, audit.stdout + audit.stderr
