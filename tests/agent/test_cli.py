"""The command line: set up, ask, run, stop, and be told what to do in one line."""

import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from headwater_agent.cli import main
from headwater_agent.config import load_config
from headwater_agent.keyfile import load_key
from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.errors import ConfigError
from tests.support.agent_support import Net

NET = Net(num_delegates=1)
RUN_TIMEOUT_S = 30.0


def run_process(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def make_home(path: Path) -> Path:
    """A configured device whose broker does not exist."""
    (path / "genesis.cbor").write_bytes(encode_genesis(NET.genesis))
    np.savez(path / "own.npz", features=np.ones((4, 64)), labels=np.arange(4))
    config = path / "agent.toml"
    arguments = ["init", "--config", str(config), "--broker", "mqtt://127.0.0.1:9"]
    assert main([*arguments, "--network", NET.network.hex(), "--data", "own.npz"]) == 0
    return config


def test_help_loads_neither_numpy_nor_a_broker_client() -> None:
    script = (
        "import sys\n"
        "from headwater_agent.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'paho', 'cbor2', 'Crypto', 'sqlite3', 'tflite_runtime'}"
        " & set(sys.modules)))\n"
    )
    done = run_process("-c", script)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "init" in done.stdout


def child_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_instant() -> None:
    # Of the processor: how long it takes on the wall is as much the other tests' doing.
    durations = []
    for _ in range(3):
        start_s = child_s()
        assert run_process("-m", "headwater_agent.cli", "--help").returncode == 0
        durations.append(child_s() - start_s)
    assert min(durations) < 0.3


def test_init_makes_a_private_key_and_tells_the_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_home(tmp_path)
    device = capsys.readouterr().out.strip()
    assert re.fullmatch("[0-9a-f]{64}", device)
    key_file = tmp_path / "device.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert load_key(key_file).device.hex() == device
    assert main(["id", "--config", str(config)]) == 0
    assert capsys.readouterr().out.strip() == device


def test_init_names_what_is_here_as_its_folder_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "genesis.cbor").write_bytes(encode_genesis(NET.genesis))
    (tmp_path / "data").mkdir()
    (tmp_path / "device" / "own").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = Path("device/agent.toml")
    arguments = ["init", "--config", str(config), "--network", NET.network.hex()]
    assert main([*arguments, "--genesis", "genesis.cbor", "--data", "data"]) == 0
    loaded = load_config(config)
    assert loaded.genesis.resolve() == tmp_path / "genesis.cbor"
    assert 'path = "../data"' in config.read_text()
    other = ["init", "--config", "device/other.toml", "--key", "b.key", "--state", "b.db"]
    assert main([*other, "--data", "own"]) == 0
    assert 'path = "own"' in Path("device/other.toml").read_text()


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_home(tmp_path)
    before = (tmp_path / "device.key").read_text(), config.read_text()
    for name in ("agent.toml", "other.toml", "third.toml"):
        assert main(["init", "--config", str(tmp_path / name)]) == 2
        (tmp_path / "device.db").unlink(missing_ok=True)
    assert (tmp_path / "device.key").read_text() == before[0]
    assert config.read_text() == before[1]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("headwater-agent: ") for line in lines)


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    make_home(tmp_path)
    path = tmp_path / "device.key"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        load_key(path)


def spoil(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"device.key"', '"none.key"', "none.key does not exist"),
        ('"genesis.cbor"', '"none.cbor"', "none.cbor"),
        ('"genesis.cbor"', '"own.npz"', "genesis"),
        ('"own.npz"', '"none.npz"', "none.npz does not exist"),
        ('"device.db"', '"lost.db"', "--new-state"),
        ('"shard-1"', '"shard-9"', "shard-9 is not in the genesis"),
        (NET.network.hex(), "00" * 32, "network"),
        ("weight = 1", "weight = 9999999", "weight"),
        ("weight = 1", "wait = 1", "wait"),
    ],
)
def test_run_says_in_one_line_what_to_correct(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    config = make_home(tmp_path)
    spoil(config, old, new)
    capsys.readouterr()
    assert main(["run", "--config", str(config), "--log-level", "error"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        main(["id", "--debug", "--config", str(tmp_path / "none.toml")])


def test_missing_extra_names_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_home(tmp_path)
    capsys.readouterr()
    for module in ("paho", "tflite_runtime"):
        with monkeypatch.context() as patch:
            patch.setattr(
                "importlib.util.find_spec",
                lambda name, hidden=module: None if name in {hidden, "ai_edge_litert"} else name,
            )
            assert main(["run", "--config", str(config)]) == 2
        assert 'pip install "headwater[agent]"' in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_retries_an_absent_broker_and_stops_cleanly_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    config = make_home(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "headwater_agent.cli", "run", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline(), process.stderr.readline()]
    os.kill(process.pid, number)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=10) == 0
    assert "event=started" in lines[0]
    assert "event=disconnected" in lines[1]
    assert rest.splitlines()[-1].endswith(lines[0].split("device=")[1].split()[0])
    assert "Traceback" not in rest


def test_stream_survives_a_restart_of_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_home(tmp_path)
    spoil(
        config,
        'path = "own.npz"',
        'source = "python"\ncallable = "my_sensor:read"\nmax_examples = 8\n'
        '[guest]\nniceness = 5\nhours = ["00:00-24:00"]',
    )
    first = run_until(
        config,
        "import threading\n"
        "def read():\n"
        "    for number in range(20):\n"
        "        yield [number, -number], number % 2\n"
        "    yield [1.0], 0\n"
        "    threading.Event().wait()\n",
        word="bad-data",
    )
    problem = "my_sensor:read line 21: an example of shape (1,), not (2,)"
    assert problem in first
    capsys.readouterr()
    assert main(["status", "--config", str(config)]) == 0
    assert problem in capsys.readouterr().out
    second = run_until(
        config,
        "import threading\ndef read():\n    threading.Event().wait()\n    yield\n",
        word="started",
    )
    assert "examples=8" in second.split()
    assert main(["status", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "python my_sensor:read: 8 examples kept of 20 seen" in shown
    assert "not asked yet" in shown
    with closing(sqlite3.connect(tmp_path / "device.db")) as database:
        assert database.execute("SELECT count(*) FROM example").fetchone() == (8,)


def run_until(config: Path, module: str, *, word: str) -> str:
    """Run the device until it logs an event; the line that it does so in."""
    (config.parent / "my_sensor.py").write_text(module)
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "headwater_agent.cli", "run", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    timer = threading.Timer(RUN_TIMEOUT_S, process.kill)
    timer.start()
    with process.stderr:
        # Whichever comes first: both have to be there before the device is told to stop.
        lines: list[str] = []
        while not all(any(f"event={w}" in line for line in lines) for w in {word, "started"}):
            line = process.stderr.readline()
            assert line, lines
            lines.append(line)
        # It gives way, and never takes back what its starter gave up already.
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == max(5, own)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.wait(timeout=10) == 0
    timer.cancel()
    return next(line for line in lines if f"event={word}" in line)
