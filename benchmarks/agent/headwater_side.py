"""A device of ours: the agent from a wheel of this tree, in front of a real gateway."""

import json
import subprocess
import sys
from pathlib import Path

from measure import MB, Side, Watch, disk_mb, free_port, running, wait_for

ROOT = Path(__file__).parents[2]
TASK = """\
name = "digits"
rounds = {rounds}
min_updates = 1
collect_ms = 20000

[training]
optimizer = "adam"
learning_rate_millionths = 10000
local_epochs = 5
batch_size = 16

[network]
checkpoint_interval = 5
merge_wait_ms = 300
epoch_timeout_ms = 20000
"""


def install(work: Path) -> Path:
    """A new environment with the agent and nothing else; its folder."""
    folder = work / "venv-headwater"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(work), str(ROOT)], check=True)
    (wheel,) = work.glob("headwater-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    subprocess.run([python, *pip[1:], "install", f"{wheel}[agent]"], check=True)
    return folder


def measure(work: Path, *, data: Path, validation: Path, rounds: int) -> Side:
    """Take part in `rounds` rounds as the only device of a network."""
    folder = install(work)
    agent = str(folder / "bin/headwater-agent")
    gateway = str(Path(sys.executable).with_name("headwater-gateway"))
    (work / "task.toml").write_text(TASK.format(rounds=rounds))
    net, port = work / "net", free_port()
    founded = _run(
        *(gateway, "init", "--out", str(net), "--task", str(work / "task.toml")),
        *("--validation", str(validation), "--port", str(port)),
    )
    config = str(work / "agent.toml")
    device = _run(
        *(agent, "init", "--config", config, "--genesis", str(net / "genesis.cbor")),
        *("--network", founded.split()[1], "--shard", "shard-1"),
        *("--broker", f"mqtt://127.0.0.1:{port}", "--data", str(data)),
    )
    with (net / "devices-shard-1.txt").open("a") as devices:
        devices.write(device)
    log = work / "gateway.log"
    with running([gateway, "run", "--config", str(net / "gateway.toml")], log) as serving:
        wait_for(lambda: "event=started" in log.read_text(), what="gateway", timeout_s=60)
        said = work / "agent.log"
        with running([agent, "run", "--config", config], said) as child, Watch(child.pid) as watch:
            wait_for(
                lambda: said.read_text().count("event=verdict") >= rounds,
                what="agent",
                timeout_s=120,
                child=serving,
            )
    verdicts = [line for line in said.read_text().splitlines() if "event=verdict" in line]
    accepted = sum(" reason=ok " in line for line in verdicts)
    status = _run(gateway, "status", "--json", "--config", str(net / "gateway.toml"))
    if json.loads(status)["shards"][0]["round"] != rounds:
        raise SystemExit(f"the gateway is elsewhere: {status}")
    return Side(
        name="headwater-agent",
        installed_mb=disk_mb(folder),
        peak_mb=watch.peak_bytes / MB,
        proportional_mb=watch.proportional_bytes / MB,
        rounds=accepted,
        processes=sorted(watch.names),
    )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
