"""The commands of docs/economy.md run, in their order, against a network that they found."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from headwater_protocol.chain.transaction import decode_transaction
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_shard.layout import DataFolder
from headwater_shard.tools.reading import read_chain, read_genesis
from headwater_shard.transition import NONCES

PAGE = Path(__file__).parents[2] / "docs" / "economy.md"
TIMEOUT_S = 60.0
VARIABLES = "ALICE FIRST SECOND DEVICE MODEL NETWORK"
"""Of the shell, carried from one command to the next."""


def read_commands(text: str) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def run(command: str, folder: Path) -> str:
    script = (
        f"set -euo pipefail; touch .variables; . ./.variables; {command}\n"
        f"for name in {VARIABLES}; do declare -p $name 2>/dev/null || true; done > .variables"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    child = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert child.returncode == 0, f"{command}\n{child.stdout}{child.stderr}"
    return child.stdout


@contextmanager
def background(command: str, folder: Path) -> Iterator[Path]:
    """A command that ends with `&`; the log is what it says."""
    words = command.removesuffix("&").split()
    log = folder / "gateway.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [str(Path(sys.executable).parent / words[0]), *words[1:]],
            cwd=folder,
            stdout=stream,
            stderr=stream,
        )
    try:
        wait(lambda: "event=started" in log.read_text(), log)
        yield log
    finally:
        child.terminate()
        assert child.wait(timeout=TIMEOUT_S) == 0, log.read_text()


def wait(is_done, log: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + TIMEOUT_S
    while not is_done():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def is_executed(data: DataFolder, transaction: bytes) -> bool:
    sent = decode_transaction(transaction).transaction
    state = read_chain(data, read_genesis(data), MAIN_CHAIN).state
    entry = state.get(NONCES, sent.sender)
    return entry is not None and entry.nonce >= sent.nonce


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(
        tmp_path / "validation.npz",
        features=rng.normal(size=(40, 64)).astype(np.float32),
        labels=np.arange(40, dtype=np.int32) % 10,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found, serve, *others = read_commands(PAGE.read_text())
    run(f"{found} --port {port}", tmp_path)
    data = DataFolder(tmp_path / "net" / "data")
    verified = ""
    submitted = []
    with background(serve, tmp_path) as log:
        for command in others:
            printed = run(command, tmp_path)
            verified += printed if "verify" in command else ""
            if "--submit" not in command:
                continue
            file = tmp_path / printed.strip()
            wait(lambda file=file: not file.exists(), log)
            kind = command.split()[2]
            submitted.append(kind)
            # Nobody has trained here, so nobody owns the model that is to be bought.
            reason = "not_for_sale" if kind == "buy" else "queued"
            answer = file.with_suffix(f".{reason}")
            assert answer.exists(), log.read_text()
            if reason == "queued":
                wait(lambda answer=answer: is_executed(data, answer.read_bytes()), log)
    assert {"delegate", "bond", "close-task", "lock-deposit", "set-price", "buy"} <= set(submitted)
    assert "holds at accounts" in verified
