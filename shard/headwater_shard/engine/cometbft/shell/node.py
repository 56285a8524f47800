"""The child process `cometbft`: found, started, started again when it ends, stopped.

CometBFT ends itself when one of its connections to the application breaks, so application and node
live and die together. When its consensus panics, on a full disk for one, it says so and stays a
process that decides nothing any more; so it is killed then, and started again like any that ended.
What it prints goes to a file of bounded size.
"""

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from headwater_protocol.errors import ConfigError

logger = logging.getLogger(__name__)

VERSION: Final = "v0.38.25"
INSTALL: Final = f"go install github.com/cometbft/cometbft/cmd/cometbft@{VERSION}"

FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 8.0
HEALTHY_S: Final = 30.0
"""A run of this length starts the backoff anew."""

STOP_S: Final = 10.0
"""For a node to end by itself before it is killed."""

MAX_LOG_BYTES: Final = 16 * 1024 * 1024
"""Of the log; one older file of the same size is kept."""

MAX_LINE_BYTES: Final = 64 * 1024

CONSENSUS_FAILED: Final = b"CONSENSUS FAILURE!!!"
"""What a node prints when its consensus has panicked."""


def find_binary(configured: Path | None = None) -> Path:
    """The program to run.

    Raises:
        ConfigError: If there is none; says how to install it.
    """
    if configured is not None:
        if os.access(configured, os.X_OK):
            return configured
        raise ConfigError("cometbft", f"{configured} cannot be run", fix=INSTALL)
    found = shutil.which("cometbft") or shutil.which("cometbft", path=str(Path.home() / "go/bin"))
    if found is None:
        raise ConfigError("cometbft", "is neither on the PATH nor in ~/go/bin", fix=INSTALL)
    return Path(found)


class NodeProcess:
    """One node, kept running."""

    def __init__(
        self,
        *,
        binary: Path,
        home: Path,
        log_file: Path,
        sockets: Sequence[Path] = (),
        on_exit: Callable[[int], None] = lambda code: None,
    ) -> None:
        """Prepare; `run` starts.

        Args:
            binary: The program.
            home: A folder that `write_home` wrote.
            log_file: For what it prints.
            sockets: On which it listens; what a crash left of them is removed before a start.
            on_exit: Told each time it ended by itself.
        """
        self._binary = binary
        self._home = home
        self._log_file = log_file
        self._sockets = tuple(sockets)
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self.num_restarts = 0
        """How often it ended by itself."""

    @property
    def pid(self) -> int | None:
        """Of the child; None while there is none."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def run(self) -> None:
        """Keep the node running until cancelled; it has ended when this returns."""
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            started = loop.time()
            code = await self._run_once()
            self.num_restarts += 1
            self._on_exit(code)
            if loop.time() - started > HEALTHY_S:
                backoff_s = FIRST_BACKOFF_S
            logger.warning(
                "cometbft ended with code %d, see %s; again in %.1f s",
                code,
                self._log_file,
                backoff_s,
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    async def _run_once(self) -> int:
        for path in self._sockets:
            path.unlink(missing_ok=True)
        process = self._process = await asyncio.create_subprocess_exec(
            str(self._binary),
            "start",
            "--home",
            str(self._home),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=MAX_LINE_BYTES,
            # A Ctrl-C at the terminal is for us; the node is stopped in order, by us.
            start_new_session=True,
        )
        copy = asyncio.create_task(self._copy_log(process))
        try:
            code = await process.wait()
            await copy
        except asyncio.CancelledError:
            await self._stop(process)
            raise
        finally:
            copy.cancel()
        return code

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _copy_log(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        seen = b""
        with _BoundedLog(self._log_file) as log:
            while data := await process.stdout.read(MAX_LINE_BYTES):
                log.write(data)
                seen = seen[1 - len(CONSENSUS_FAILED) :] + data
                if CONSENSUS_FAILED in seen and process.returncode is None:
                    logger.error("the consensus of a node has failed, see %s", self._log_file)
                    process.kill()


class _BoundedLog:
    """A file of bounded size; a disk that refuses costs lines, and holds nobody up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._size = 0
        self._is_refused = False

    def __enter__(self) -> "_BoundedLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, data: bytes) -> None:
        try:
            if self._file is not None and self._size + len(data) > MAX_LOG_BYTES:
                self._close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            if self._file is None:
                # Unbuffered: what is refused now must not be written, nor fail, later.
                self._file = self._path.open("ab", buffering=0)
                self._size = self._path.stat().st_size
            self._file.write(data)
            self._size += len(data)
            self._is_refused = False
        except OSError as error:
            if not self._is_refused:
                logger.warning("%s: %s; lines are lost", self._path, error)
            self._is_refused = True

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
