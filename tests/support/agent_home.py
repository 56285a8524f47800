"""A configured device in a folder, and its command line as a process."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from headwater_agent.cli import main
from headwater_protocol.chain.genesis import encode_genesis
from tests.support.agent_support import Net

NET = Net(num_delegates=1)


def make_home(path: Path, *, broker: str = "mqtt://127.0.0.1:9") -> Path:
    """A configured device; its broker does not exist unless one is named."""
    (path / "genesis.cbor").write_bytes(encode_genesis(NET.genesis))
    np.savez(path / "own.npz", features=np.ones((4, 64)), labels=np.arange(4))
    config = path / "agent.toml"
    arguments = ["init", "--config", str(config), "--broker", broker]
    assert main([*arguments, "--network", NET.network.hex(), "--data", "own.npz"]) == 0
    return config


def write_sensor(config: Path, *, broker: str = "mqtt://127.0.0.1:9") -> Path:
    """Give the device a sensor for its data, with a login of its own."""
    text = config.read_text()
    assert 'path = "own.npz"' in text
    sensor = (
        f'source = "mqtt"\nbroker = "{broker}"\nusername = "sensor"\n'
        'password_file = "sensor.txt"\nca_file = "sensor-ca.pem"\n'
        'topic = "machine/1"\nfields = ["power"]\nlabel = { field = "state" }'
    )
    config.write_text(text.replace('path = "own.npz"', sensor))
    return config


@contextlib.contextmanager
def running_agent(
    config: Path, *, environment: Mapping[str, str] | None = None, wait_for: str = "event=started"
) -> Iterator["subprocess.Popen[str]"]:
    """The agent as a process, once it said `wait_for`; stopped by SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headwater_agent.cli", "run", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if wait_for in line:
                break
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.stderr.close()
        process.wait(timeout=10)
