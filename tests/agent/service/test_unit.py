"""The unit: what systemd says of it, what it hands over; a state moves and never doubles."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_agent.cli import main
from headwater_agent.config import load_config
from headwater_agent.config_sources import load_layers
from headwater_agent.data.config import TopicSource
from headwater_agent.errors import StateInUse
from headwater_agent.exit_codes import ExitCode, exit_code_of
from headwater_agent.keyfile import load_key
from headwater_agent.service import install
from headwater_agent.service.install import install_service, plan_service, uninstall_service
from headwater_agent.service.unit import UNIT_NAME, UnitPlan, format_unit
from headwater_agent.storage.reading import read_stored
from headwater_agent.store import StateStore
from headwater_protocol.errors import ConfigError, StorageError
from tests.support.agent_home import NET, make_home, write_sensor

MAX_EXPOSURE = 2.0
"""Of systemd's scale from 0 to 10, where a plain service has 9.6."""


def make_plan(home: Path) -> UnitPlan:
    config = load_config(home)
    if config.data.path is not None:
        config.data.path.chmod(0o644)
    return plan_service(config, config_path=home, memory_max="256M", cpu_quota="80%")


@pytest.mark.systemd
def test_systemd_finds_nothing_wrong_and_little_exposed(tmp_path: Path) -> None:
    path = tmp_path / UNIT_NAME
    path.write_text(format_unit(make_plan(make_home(tmp_path))))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    exposure = float(rated.stdout.rsplit(": ", 1)[1].split()[0])
    assert exposure <= MAX_EXPOSURE


def test_secrets_are_handed_over_and_state_is_the_services_own(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    unit = format_unit(make_plan(home))
    assert f"LoadCredential=agent.toml:{home}" in unit
    assert f"LoadCredential=device.key:{tmp_path}/device.key" in unit
    assert 'Environment="HEADWATER_AGENT_KEY=%d/device.key"' in unit
    assert 'Environment="HEADWATER_AGENT_STATE=/var/lib/headwater-agent/device.db"' in unit
    assert "RestartPreventExitStatus=2 3\n" in unit
    assert "Type=notify\n" in unit
    assert "DynamicUser=yes\n" in unit


def test_a_sensors_secrets_are_handed_over_and_reach_the_agent(tmp_path: Path) -> None:
    home = write_sensor(make_home(tmp_path))
    with pytest.raises(ConfigError, match=r"sensor\.txt does not exist"):
        make_plan(home)
    (tmp_path / "sensor.txt").write_text("hush")
    (tmp_path / "sensor-ca.pem").write_text("")
    unit = format_unit(make_plan(home))
    assert f"LoadCredential=sensor-password.txt:{tmp_path}/sensor.txt\n" in unit
    assert f"LoadCredential=sensor-ca.pem:{tmp_path}/sensor-ca.pem\n" in unit
    assert "BindReadOnlyPaths" not in unit
    variables = dict(re.findall(r'Environment="(\w+)=(.*)"', unit))
    environment = {name: value.replace("%d", "/run/c") for name, value in variables.items()}
    source = load_layers(home, environment=environment).config.data.source
    assert isinstance(source, TopicSource)
    assert source.broker.password_file == Path("/run/c/sensor-password.txt")
    assert source.broker.ca_file == Path("/run/c/sensor-ca.pem")


def test_a_database_is_seen_with_its_log_and_found(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    folder = tmp_path / "rows"
    folder.mkdir(mode=0o755)
    (folder / "rows.db").write_bytes(b"")
    text = home.read_text().replace(
        'path = "own.npz"',
        'source = "sqlite"\ndatabase = "rows/rows.db"\nquery = "SELECT 1"\nlabel = "x"',
    )
    home.write_text(text)
    unit = format_unit(make_plan(home))
    assert f"BindReadOnlyPaths={folder}\n" in unit
    assert f'Environment="HEADWATER_AGENT_DATA_DATABASE={folder}/rows.db"' in unit


def test_the_guests_priority_and_cores_are_the_service_managers_to_set(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    assert "Nice=10\n" in (unit := format_unit(make_plan(home)))
    assert "CPUAffinity" not in unit
    home.write_text(home.read_text() + "[guest]\nniceness = 15\npinned_cores = [2, 3]\n")
    unit = format_unit(make_plan(home))
    assert "Nice=15\nCPUAffinity=2 3\n" in unit


def test_a_credential_may_show_its_groups_bits_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_home(tmp_path)
    path = tmp_path / "device.key"
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_key(path).device
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)


def test_data_that_nobody_else_may_read_are_told_before_the_service_fails(
    tmp_path: Path,
) -> None:
    home = make_home(tmp_path)
    config = load_config(home)
    data = tmp_path / "own.npz"
    data.chmod(0o600)
    with pytest.raises(ConfigError, match=r"chmod -R g\+rX"):
        plan_service(config, config_path=home, memory_max="256M", cpu_quota="80%")
    data.chmod(0o640)
    plan = plan_service(config, config_path=home, memory_max="256M", cpu_quota="80%")
    assert plan.data_group is not None
    assert f"SupplementaryGroups={plan.data_group}\n" in format_unit(plan)


@pytest.mark.parametrize(
    ("option", "value"), [("memory_max", "lots"), ("cpu_quota", "50"), ("memory_max", "1M\nUser=x")]
)
def test_limits_that_are_none_are_refused(tmp_path: Path, option: str, value: str) -> None:
    home = make_home(tmp_path)
    limits = {"memory_max": "256M", "cpu_quota": "80%", option: value}
    with pytest.raises(ConfigError, match="--"):
        plan_service(load_config(home), config_path=home, **limits)


def test_paths_that_a_unit_cannot_hold_are_refused(tmp_path: Path) -> None:
    plan = make_plan(make_home(tmp_path))
    with pytest.raises(ConfigError, match="unit file"):
        format_unit(replace(plan, data_mount=Path("/a b\nUser=root")))
    assert "Paths=/a%%b\n" in format_unit(replace(plan, data_mount=Path("/a%b")))
    with pytest.raises(ConfigError, match="unit file"):
        format_unit(replace(plan, data=Path("/a b")))


def test_a_dry_run_prints_the_unit_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(tmp_path)
    (tmp_path / "own.npz").chmod(0o644)
    before = sorted(path.name for path in tmp_path.iterdir())
    capsys.readouterr()
    assert main(["install-service", "--config", str(home), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "[Service]" in shown
    assert "# would move" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_installing_moves_the_state_once_and_keeps_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path)
    service, units = tmp_path / "service", tmp_path / "units"
    units.mkdir()
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(install, "_systemctl", lambda *words: commands.append(words))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    plan = replace(
        make_plan(home), state=service / "device.db", command=Path("/opt/headwater-agent")
    )
    device = load_key(tmp_path / "device.key").device
    source = tmp_path / "device.db"
    with StateStore(source, device=device, network=NET.network, creates=False):
        with pytest.raises(StateInUse):
            install_service(plan, unit_folder=units, is_dry_run=False)
        assert not service.exists()
    install_service(plan, unit_folder=units, is_dry_run=False)
    assert not source.exists()
    assert read_stored(plan.state).device == device
    assert load_config(home).state == plan.state
    assert (units / UNIT_NAME).read_text() == format_unit(plan)
    install_service(plan, unit_folder=units, is_dry_run=False)
    assert commands.count(("enable", "--now", UNIT_NAME)) == 2
    uninstall_service(unit_folder=units, is_dry_run=False)
    assert not (units / UNIT_NAME).exists()
    assert plan.state.exists()
    with pytest.raises(ConfigError, match="nothing to remove"):
        uninstall_service(unit_folder=units, is_dry_run=False)


def test_two_states_are_never_chosen_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    other = tmp_path / "service" / "device.db"
    other.parent.mkdir()
    other.write_bytes((tmp_path / "device.db").read_bytes())
    plan = replace(make_plan(home), state=other)
    in_home = replace(plan, command=Path("/home/pi/bin/headwater-agent"), state=plan.config)
    with pytest.raises(ConfigError, match="install-agent"):
        install_service(
            replace(in_home, state=tmp_path / "device.db"), unit_folder=tmp_path, is_dry_run=False
        )
    with pytest.raises(ConfigError, match="keep the one that signed last"):
        install_service(plan, unit_folder=tmp_path, is_dry_run=False)


def test_every_exit_code_is_in_the_table() -> None:
    from headwater_agent import exit_codes

    for code in ExitCode:
        assert f"| {int(code)} | {code.name.lower()} |" in str(exit_codes.__doc__)
    assert exit_code_of(ConfigError("a", "b", fix="c")) is ExitCode.CONFIG
    assert exit_code_of(StorageError("x")) is ExitCode.FAILED
