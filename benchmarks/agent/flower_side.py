"""A Flower node: SuperNode and ClientApp with a numpy trainer, in front of a SuperLink.

Flower gets an environment of its own, `.venv-flower` beside this file, made at the first call.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from measure import MB, Side, Watch, answers, disk_mb, free_port, running, wait_for

HERE = Path(__file__).parent
FLOWER = HERE / ".venv-flower"
CONNECTION = """\
[superlink]
default = "benchmark"

[superlink.benchmark]
address = "127.0.0.1:{port}"
insecure = true
"""


def install() -> Path:
    """The environment, made if it is not there."""
    if not (FLOWER / "bin/flwr").exists():
        print(f"making {FLOWER}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(FLOWER)], check=True)
        pip = [str(FLOWER / "bin/python"), "-m", "pip", "install", "-q", "flwr>=1.13,<2"]
        subprocess.run(pip, check=True)
    return FLOWER


def measure(work: Path, *, data: Path, rounds: int) -> Side:
    """Take part in `rounds` rounds as the only node of a federation."""
    folder = install()
    home, result, port = work / "flwr", work / "result.json", free_port()
    home.mkdir()
    (home / "config.toml").write_text(CONNECTION.format(port=port))
    app = shutil.copytree(HERE / "flower_app", work / "flower_app")
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "OPENBLAS_NUM_THREADS": "1",
    }
    link = [str(folder / "bin/flower-superlink"), "--insecure", "--port", str(port)]
    link.append("--disable-runtime-dependency-installation")
    node = [str(folder / "bin/flower-supernode"), "--insecure", "--port", str(free_port())]
    node += ["--superlink", f"127.0.0.1:{port}", "--node-config", f'data="{data}"']
    start = [str(folder / "bin/flwr"), "run", str(app), "benchmark", "--stream"]
    start += ["--run-config", f'rounds={rounds} result="{result}"']
    with running(link, work / "superlink.log", env=environment) as server:
        wait_for(lambda: answers(port), what="SuperLink", timeout_s=60, child=server)
        with (
            running(node, work / "supernode.log", env=environment) as child,
            Watch(child.pid) as watch,
            running(start, work / "flwr-run.log", env=environment),
        ):
            wait_for(result.exists, what="Flower's run", timeout_s=400, child=child)
    version = _run(str(folder / "bin/python"), "-c", "import flwr; print(flwr.__version__)")
    return Side(
        name="Flower SuperNode",
        installed_mb=disk_mb(folder),
        peak_mb=watch.peak_bytes / MB,
        proportional_mb=watch.proportional_bytes / MB,
        rounds=len(json.loads(result.read_text())),
        processes=sorted(watch.names),
        note=f"flwr {version.strip()}",
    )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
