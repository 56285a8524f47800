"""A client of plain torch, in front of a plain socket that sends the model and takes it back.

PyPI's torch for Linux on x86-64 loads the CUDA libraries at import, gigabytes of them, whether or
not there is a GPU: without them torch 2.15.0 takes 1.4 GB and ends in "libcublasLt.so not found".
Its builds for processors alone are on an index of its own. Debian's python3-torch is such a build.
Its packages are unpacked into `.venv-torch` beside this file and nothing is installed: what this
machine has already is not counted.
"""

import contextlib
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from measure import MB, Side, Watch, disk_mb, running

HERE = Path(__file__).parent
TORCH = HERE / ".venv-torch"
PYTHON = Path("/usr/bin/python3")
START_TIMEOUT_S = 120.0
NUM_PARAMETERS = 64 * 32 + 32 + 32 * 10 + 10


def why_not() -> str | None:
    """What this machine lacks for it."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or not shutil.which("apt-get") or not PYTHON.exists():
        return "torch is taken from Debian's packages; this is no Debian with python3"
    return None


def install() -> Path:
    """Debian's packages, unpacked if they are not there."""
    done = TORCH / ".unpacked"
    if not done.exists():
        print(f"making {TORCH}", file=sys.stderr)
        archives = TORCH / "archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "-qq", "--yes", "--no-install-recommends", "--download-only"]
        command += ["-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1"]
        subprocess.run(
            [*command, "install", "python3-torch"], check=True, stdout=subprocess.DEVNULL
        )
        for package in sorted(archives.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(TORCH)], check=True)
        shutil.rmtree(archives)
        done.touch()
    return TORCH


def measure(work: Path, *, data: Path, rounds: int) -> Side:
    """Train `rounds` times in a process that a server sends the model."""
    folder = install()
    libraries = folder / "usr/lib"
    multiarch = next(path for path in libraries.glob("*-linux-gnu*") if path.is_dir())
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(
            str(path)
            for path in (
                *(libraries, multiarch, multiarch / "blas", multiarch / "lapack"),
                folder / "lib" / multiarch.name,
            )
        ),
        "PYTHONPATH": str(libraries / "python3/dist-packages"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    log = work / "torch.log"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = str(server.getsockname()[1])
        client = [str(PYTHON), str(HERE / "torch_client.py"), port, str(data)]
        with (
            running(client, log, env=environment) as child,
            Watch(child.pid) as watch,
            _accept(server, child, log) as connection,
            connection.makefile("rwb") as stream,
        ):
            model, losses = bytes(4 * NUM_PARAMETERS), []
            version = stream.readline().decode().strip()
            for _ in range(rounds):
                stream.write(model)
                stream.flush()
                answer = stream.read(4 + len(model))
                losses.append(struct.unpack("<f", answer[:4])[0])
                model = answer[4:]
    if not losses[-1] < losses[0]:
        raise SystemExit(f"torch has learned nothing: {losses}")
    return Side(
        name="torch client",
        installed_mb=disk_mb(folder),
        peak_mb=watch.peak_bytes / MB,
        proportional_mb=watch.proportional_bytes / MB,
        rounds=len(losses),
        processes=sorted(watch.names),
        note=f"torch {version}, Debian's build for processors",
    )


def _accept(server: socket.socket, child: "subprocess.Popen", log: Path) -> socket.socket:
    end_s = time.monotonic() + START_TIMEOUT_S
    while child.poll() is None and time.monotonic() < end_s:
        with contextlib.suppress(TimeoutError):
            connection, _ = server.accept()
            connection.settimeout(START_TIMEOUT_S)
            return connection
    raise SystemExit(f"torch: {log.read_text()[-500:] or 'did not connect'}")
