"""The files of `deploy/` name only what exists: options, paths, ports, services, versions."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from headwater_gateway import cli as gateway_cli
from headwater_gateway.config import load_config
from headwater_shard import cli as shard_cli
from headwater_shard.engine.cometbft.shell.node import INSTALL
from tests.support.units import BIN, DEPLOY, STATE, read_unit

ROOT = Path(__file__).parents[2]
UNITS = ("headwater-gateway", "headwater-broker")
MAX_EXPOSURE = 2.0
"""Of systemd's scale from 0 to 10, where a plain service has 9.6."""
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
GATEWAYS = sorted(name for name in SERVICES if name.startswith("gateway-"))
BROKERS = sorted(name for name in SERVICES if name.startswith("broker-"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def list_commands(program: str) -> set[str]:
    """The sub-commands, and those of these, as people write them."""
    app = {"headwater-gateway": gateway_cli, "headwater-shard": shard_cli}[program]._build_app()
    found = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found.add(name)
        found |= {f"{name} {other}" for other in getattr(command, "commands", {})}
    return found


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the service `found` writes."""
    net = tmp_path_factory.mktemp("compose") / "net"
    arguments = [word.replace(STATE, str(net)) for word in SERVICES["found"]["command"]]
    assert gateway_cli.main(arguments) == 0
    return net


@pytest.mark.systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_and_little_exposed(tmp_path: Path, name: str) -> None:
    text = (DEPLOY / f"{name}@.service").read_text()
    # Only whether the programs are installed here is left out.
    text = text.replace(BIN, f"{Path(sys.executable).parent}/")
    text = text.replace("/usr/sbin/mosquitto", shutil.which("mosquitto") or "/bin/true")
    (tmp_path / f"{name}@.service").write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"{tmp_path}/{name}@one.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"{name}@.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert float(rated.stdout.rsplit(": ", 1)[1].split()[0]) <= MAX_EXPOSURE


def test_units_start_commands_that_exist_on_folders_that_init_writes(net: Path) -> None:
    program, command, folder = read_unit("headwater-gateway")["ExecStart"].split()
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert program.removeprefix(BIN) in tomllib.load(file)["project"]["scripts"]
    assert command in list_commands("headwater-gateway")
    assert (net / Path(folder.replace("%i", "gateway-0")).name / "gateway.toml").is_file()
    _, option, config = read_unit("headwater-broker")["ExecStart"].split()
    assert option == "-c"
    assert (net / config.replace("%i", "broker-0").removeprefix(f"{STATE}/")).is_file()
    settings = read_unit("headwater-gateway")
    for path in settings["ReadOnlyPaths"].split():
        assert (net / path.replace("%i", "gateway-0").removeprefix(f"{STATE}/")).exists(), path
    for name in UNITS:
        assert read_unit(name)["StateDirectory"] == "headwater/%i"
        assert read_unit(name)["User"] == "headwater", "a registrar signals the broker beside it"


def test_a_gateway_that_an_operator_has_to_correct_is_left_alone(tmp_path: Path) -> None:
    settings = read_unit("headwater-gateway")
    assert settings["Restart"] == "on-failure"
    code = gateway_cli.main(["run", str(tmp_path)])
    assert settings["RestartPreventExitStatus"] == str(code)


def test_services_are_the_hosts_of_the_network(net: Path) -> None:
    names = {path.name for path in net.iterdir() if path.name != "keys"}
    assert names == {*GATEWAYS, *BROKERS}
    arguments = SERVICES["found"]["command"]
    hosts = [word.partition("=")[2] for word in arguments if word.startswith("--host=")]
    brokers = [word.partition("=")[2] for word in arguments if word.startswith("--broker-host=")]
    assert (hosts, brokers) == (GATEWAYS, BROKERS)
    config = load_config(net / "gateway-0")
    assert {url.split("/")[2].partition(":")[0] for url in config.brokers} == set(BROKERS)
    assert {url.split("/")[2].partition(":")[0] for url in config.peers.values()} == {
        "gateway-1",
        "gateway-2",
        "gateway-3",
    }


@pytest.mark.parametrize("name", [*GATEWAYS, *BROKERS])
def test_a_service_sees_its_folder_where_the_network_was_founded(name: str) -> None:
    service = SERVICES[name]
    assert SERVICES["found"]["volumes"] == ["${NET:-../net}:" + STATE]
    assert service["volumes"] == [f"${{NET:-../net}}/{name}:{STATE}/{name}"]
    if name in GATEWAYS:
        assert service["command"] == ["run", f"{STATE}/{name}"]
        *program, folder = service["healthcheck"]["test"]
        assert folder == f"{STATE}/{name}"
        assert f"COPY deploy/healthcheck.py {program[-1]}\n" in DOCKERFILE
    else:
        assert service["command"] == [f"{STATE}/{name}/mosquitto.conf"]
        assert 'ENTRYPOINT ["mosquitto", "-c"]\n' in DOCKERFILE
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_published_ports_are_those_that_something_listens_on(net: Path) -> None:
    enrolment = load_config(net / "gateway-0").enrolment
    assert enrolment is not None
    assert SERVICES["gateway-0"]["ports"] == [f"{enrolment.port}:{enrolment.port}"]
    assert enrolment.host == "0.0.0.0"
    for broker in BROKERS:
        (port,) = re.findall(
            r"^listener (\d+)$", (net / broker / "mosquitto.conf").read_text(), re.M
        )
        assert SERVICES[broker]["ports"] == [f"{port}:{port}"]


def test_images_are_built_of_what_is_there() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)
    assert len(stages) == DOCKERFILE.count("FROM ")
    assert all(":" in image and not image.endswith("latest") for image, _ in stages)
    names = {name for _, name in stages}
    for service in SERVICES.values():
        build = service["build"]
        assert build["target"] in names
        assert (DEPLOY / build["context"] / build["dockerfile"]) == DEPLOY / "../deploy/Dockerfile"
    for name in ("broker", "gateway"):
        stage = DOCKERFILE[DOCKERFILE.index(f" AS {name}\n") :].split("\nFROM ")[0]
        assert "\nUSER headwater\n" in stage, "nothing runs as root"
    assert len(set(re.findall(r"useradd --uid (\d+)", DOCKERFILE))) == 1
    ignored = [
        line
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    kept = {line.strip("!/") for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    for path in kept:
        assert (ROOT / path).exists(), path
    for source in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M):
        assert source == "." or source in kept, source
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).parts[0] for package in wheel} <= kept, "the wheel is whole"
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= kept
    assert "gateway" in project["project"]["optional-dependencies"]


def test_cometbft_is_the_version_that_is_tested() -> None:
    package = INSTALL.split()[-1]
    assert package in DOCKERFILE
    assert INSTALL in (ROOT / "docs/operate.md").read_text()


def test_pages_and_compose_file_name_commands_that_exist() -> None:
    texts = [(ROOT / "docs/operate.md").read_text(), (DEPLOY / "compose.yaml").read_text()]
    named = {
        match
        for text in texts
        for match in re.findall(r"(headwater-(?:gateway|shard)) ([a-z-]+)(?: ([a-z]+))?", text)
    }
    assert len(named) > 10
    for program, command, other in named:
        commands = list_commands(program)
        assert command in commands, (program, command)
        if any(name.startswith(f"{command} ") for name in commands):
            assert f"{command} {other}" in commands, (program, command, other)
