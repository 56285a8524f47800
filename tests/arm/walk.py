"""The walk through the page: its blocks in its order, on both sides, and what they took."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from headwater_firmware_sim.data.digits import load_digits
from headwater_gateway.shell.broker import find_free_port
from tests.arm.machine import ROOT, Machine, MachineError
from tests.arm.page import PAGE, Block, read_blocks, split_copies, substitute
from tests.arm.processes import disk_mb, find_descendants, read_peak_bytes, stop

BLOCK_TIMEOUT_S: Final = 1_200
"""For the apt and pip of an emulated machine on a slow network."""
START_TIMEOUT_S: Final = 60
ROUND_TIMEOUT_S: Final = 300
POLL_S: Final = 0.05
NUM_ROUNDS: Final = 6
NUM_DEVICES: Final = 2
NUM_VALIDATION, NUM_EXAMPLES = 120, 60
LEFT_OUT: Final = (".venv*", ".arm-root", ".git", "__pycache__", ".*_cache", "dist", "net", "build")
"""Of the copy of the tree that stands for the reader's clone."""
ENVIRONMENT: Final = "opt/headwater"
"""Where the page's script puts it."""
PI: Final = "pi@raspberrypi.local:"
TRAINING: Final = re.compile(r"^(\S+)Z .*event=training round=(\d+) ", re.MULTILINE)
SIGNED: Final = re.compile(r"^(\S+)Z .*event=signed round=(\d+) .* (\d+) steps", re.MULTILINE)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the walk took and what came of it."""

    machine: str
    install_s: float
    """Of the page's commands on the Pi until the agent is installed, emulated."""
    packages_mb: float
    """What apt has put on the disk."""
    environment_mb: float
    """The agent's venv."""
    peak_mb: float
    """VmHWM of the agent's process, which is the emulator's."""
    step_ms: float
    """Between `training` and `signed` in the log, a step; emulated."""
    num_steps: int
    receipt: str
    """The log line of the gateway's promise."""
    verdict: str
    """The log line of the score and reward."""
    closed: str
    """The gateway's line for the first round that took the Pi's update."""
    accepted: int
    """Updates of the Pi."""
    verdicts: int
    """Updates of the Pi that were judged."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def follow_page(machine: Machine, work: Path, *, logs: Path, says: Say) -> Figures:
    """Follow the page from its first block to a closed round.

    Args:
        machine: Booted.
        work: An empty folder, for the clone and the second device.
        logs: Where the logs go.
        says: Takes a line at each step.

    Raises:
        MachineError: If a block fails or nothing comes of it in time.
    """
    with ExitStack() as stack:
        return _Walk(machine, work, logs, says, stack).run()


class _Walk:
    def __init__(
        self, machine: Machine, work: Path, logs: Path, says: Say, stack: ExitStack
    ) -> None:
        self._machine = machine
        self._clone = work / "clone"
        self._gateway_log, self._agent_log = logs / "gateway.log", logs / "agent.log"
        self._second_log = logs / "second.log"
        self._work = work
        self._says = says
        self._stack = stack
        self._port = find_free_port("127.0.0.1")
        self._replacements = {
            "gateway.local:1883": f"127.0.0.1:{self._port}",
            "0.0.0.0": "127.0.0.1",  # the page's, which is replaced
        }
        self._install_s = self._packages_mb = self._peak_bytes = 0.0
        self._agent: subprocess.Popen[bytes] | None = None

    def run(self) -> Figures:
        ignore = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(ROOT, self._clone, ignore=ignore, dirs_exist_ok=True)
        blocks = read_blocks(PAGE.read_text())
        for block in blocks:
            self._says(f"{PAGE.name}:{block.line}: {block.place} {block.kind}".rstrip())
            self._follow(block)
        if self._agent is None:
            raise MachineError(f"{PAGE.name} never starts the agent")
        self._wait_for_rounds()
        return self._take_figures()

    def _follow(self, block: Block) -> None:
        script = substitute(block.script, self._replacements)
        if block.place == "device":
            self._on_device(block, script)
            return
        if block.kind == "serve":
            self._start_gateway(script)
            return
        for part in split_copies(script):
            if part.startswith("scp "):
                self._copy_to_pi(part)
                continue
            command = ["sh", "-euc", part]
            said = self._run(command, block, cwd=self._clone, env=self._environment())
            if found := re.search(r"^network ([0-9a-f]{64})$", said, re.MULTILINE):
                self._on_founded(found.group(1))

    def _on_device(self, block: Block, script: str) -> None:
        if block.kind == "serve":
            log = self._stack.enter_context(self._agent_log.open("wb"))
            self._agent = self._start(self._machine.command(script), log)
            self._stack.enter_context(self._watching(self._agent.pid))
            return
        before_mb, began_s = self._disk_mb(), time.monotonic()
        said = self._run(self._machine.command(script), block)
        if block.kind == "install":
            self._install_s = time.monotonic() - began_s
            environment_mb = disk_mb(self._machine.root / ENVIRONMENT)
            self._packages_mb = self._disk_mb() - before_mb - environment_mb
        if found := re.search(r"^([0-9a-f]{64})$", said, re.MULTILINE):
            self._replacements["DEVICE"] = found.group(1)
            self._copy_examples()

    def _on_founded(self, network: str) -> None:
        """What stands in prose on the page: the digest, and examples in `validation`."""
        self._replacements["DIGEST"] = network
        config = self._clone / "net/gateway.toml"
        text = re.sub(r"^port = .*", f"port = {self._port}", config.read_text(), flags=re.MULTILINE)
        config.write_text(text)
        validation = self._clone / "net/validation"
        validation.mkdir(exist_ok=True)
        _save_digits(validation / "digits.csv", start=0, num=NUM_VALIDATION)

    def _copy_examples(self) -> None:
        """The Pi's `readings/`, and a second device on this machine with its own."""
        readings = self._machine.home / "readings"
        _save_digits(readings / "digits.csv", start=NUM_VALIDATION, num=NUM_EXAMPLES)
        second = self._work / "second"
        (second / "readings").mkdir(parents=True)
        start = NUM_VALIDATION + NUM_EXAMPLES
        _save_digits(second / "readings/digits.csv", start=start, num=NUM_EXAMPLES)
        command = ["headwater-agent", "init", "--config", str(second / "agent.toml")]
        command += ["--genesis", str(self._clone / "net/genesis.cbor"), "--data", "readings"]
        command += ["--network", self._replacements["DIGEST"], "--shard", "shard-1"]
        command += ["--broker", f"mqtt://127.0.0.1:{self._port}"]
        device = self._run(command, None, env=self._environment()).strip()
        with (self._clone / "net/devices-shard-1.txt").open("a") as devices:
            devices.write(f"{device}\n")

    def _copy_to_pi(self, line: str) -> None:
        """Do what a line of scp says."""
        words = shlex.split(line)
        if words[-1] != PI:
            raise MachineError(f"{line!r} copies to somewhere else than {PI}")
        for pattern in words[1:-1]:
            found = sorted(self._clone.glob(pattern))
            if not found:
                raise MachineError(f"{line!r}: there is no {pattern}")
            for path in found:
                shutil.copy(path, self._machine.home)

    def _start_gateway(self, script: str) -> None:
        log = self._stack.enter_context(self._gateway_log.open("wb"))
        # In the machine's namespace as well, so that it cannot outlive this process.
        inside = self._machine.namespace.command("sh", "-euc", f"cd {self._clone}\n{script}")
        child = self._start(inside, log, env=self._environment())
        self._wait(
            lambda: "event=started" in self._gateway_log.read_text(),
            *("the gateway's start", START_TIMEOUT_S, child, self._gateway_log),
        )
        log = self._stack.enter_context(self._second_log.open("wb"))
        second = ["headwater-agent", "run", "--config", str(self._work / "second/agent.toml")]
        self._start(self._machine.namespace.command(*second), log, env=self._environment())

    def _wait_for_rounds(self) -> None:
        """The first contains the loading of the program, the others are for the time of a step."""
        assert self._agent is not None
        self._wait(
            lambda: self._agent_log.read_text().count("event=verdict") >= NUM_ROUNDS,
            *(f"{NUM_ROUNDS} verdicts on the Pi", ROUND_TIMEOUT_S, self._agent, self._agent_log),
        )

    def _take_figures(self) -> Figures:
        said, gateway = self._agent_log.read_text(), self._gateway_log.read_text()
        held = _lines(said, "event=held")
        verdicts = _lines(said, "event=verdict")
        accepted = [line for line in verdicts if " reason=ok " in line]
        if not held or not accepted:
            raise MachineError("no update of the Pi was accepted:\n" + "\n".join(verdicts[-3:]))
        number = _field(accepted[0], "round")
        closed = [line for line in _lines(gateway, "event=round") if f" round={number} " in line]
        if not closed or int(_field(closed[0], "accepted")) < NUM_DEVICES:
            raise MachineError(f"round {number} was not closed with both updates: {closed}")
        step_ms, num_steps = _time_steps(said)
        return Figures(
            machine=self._describe(),
            install_s=self._install_s,
            packages_mb=self._packages_mb,
            environment_mb=disk_mb(self._machine.root / ENVIRONMENT),
            peak_mb=self._peak_bytes / 1e6,
            step_ms=step_ms,
            num_steps=num_steps,
            receipt=held[0],
            verdict=accepted[0],
            closed=closed[0],
            accepted=len(accepted),
            verdicts=len(verdicts),
        )

    def _describe(self) -> str:
        script = '. /etc/os-release; echo "$(uname -m), $PRETTY_NAME, $(python3 --version)"'
        return self._run(self._machine.command(script), None).strip()

    def _disk_mb(self) -> float:
        """Of the machine; its caches are mounted where `du` does not see them."""
        return disk_mb(self._machine.root)

    def _environment(self) -> dict[str, str]:
        folder = Path(sys.executable).parent
        return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}

    def _run(
        self,
        command: list[str],
        block: Block | None,
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> str:
        where = command[0] if block is None else f"{PAGE.name}:{block.line}"
        child = subprocess.Popen(
            *(command,),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = child.communicate(timeout=BLOCK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise MachineError(f"{where}: not done within {BLOCK_TIMEOUT_S} s") from None
        finally:
            child.kill()
        if child.returncode:
            last = "\n".join(said.strip().splitlines()[-8:])
            raise MachineError(f"{where}: exit code {child.returncode}\n{last}")
        return said

    def _start(
        self, command: list[str], log: object, env: dict[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        self._stack.callback(stop, child)
        return child

    def _wait(
        self,
        condition: Callable[[], bool],
        what: str,
        timeout_s: float,
        child: "subprocess.Popen[bytes]",
        log: Path,
    ) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            problem = ""
            if child.poll() is not None:
                problem = f"the process ended with {child.returncode}"
            elif time.monotonic() > end_s:
                problem = f"nothing within {timeout_s:.0f} s"
            if problem:
                last = "\n".join(log.read_text().splitlines()[-8:])
                raise MachineError(f"{what}: {problem}\n{last}")
            time.sleep(POLL_S)

    @contextmanager
    def _watching(self, pid: int) -> Iterator[None]:
        """Keep the largest VmHWM of the processes that `pid` started."""
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(POLL_S):
                self._peak_bytes = max(
                    self._peak_bytes, *map(read_peak_bytes, find_descendants(pid))
                )

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _save_digits(path: Path, *, start: int, num: int) -> None:
    digits = load_digits()
    rows = np.column_stack([digits.features, digits.labels])[start : start + num]
    np.savetxt(path, rows, delimiter=",", fmt=[*["%.4f"] * digits.features.shape[1], "%d"])


def _time_steps(said: str) -> tuple[float, int]:
    """Milliseconds a step, and the steps, of the rounds after the first one."""
    began = {number: datetime.fromisoformat(at) for at, number in TRAINING.findall(said)}
    times, steps = 0.0, 0
    for at, number, count in SIGNED.findall(said)[1:]:
        times += (datetime.fromisoformat(at) - began[number]).total_seconds()
        steps += int(count)
    if steps == 0:
        raise MachineError("the agent's log tells no training after the first round")
    return 1_000 * times / steps, steps


def _lines(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if f"{word} " in line]


def _field(line: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", line)
    if found is None:
        raise MachineError(f"{line!r} names no {name}")
    return found.group(1)
