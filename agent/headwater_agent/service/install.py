"""Putting the unit in place: files are checked first, the state moves, nothing is copied.

A copied state would be a second one that signs with the same key, so it is moved into the service's
folder, and the configuration is told its new place.
"""

import grp
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from headwater_agent.config import AgentConfig
from headwater_agent.data.config import (
    FileSource,
    PythonSource,
    QuerySource,
    Source,
    TopicSource,
)
from headwater_agent.errors import StateInUse
from headwater_agent.keyfile import load_key
from headwater_agent.service.unit import (
    STATE_FOLDER,
    UNIT_NAME,
    UnitPlan,
    find_command,
    format_unit,
)
from headwater_agent.storage.disk import companions
from headwater_agent.storage.files import SystemCalls, write_durably
from headwater_agent.storage.reading import is_in_use
from headwater_protocol.errors import ConfigError

SYSTEMCTL_TIMEOUT_S: Final = 120
AS_ROOT: Final = "run it with sudo"
DATA_VARIABLES: Final[dict[type[Source], str | None]] = {
    FileSource: "HEADWATER_AGENT_DATA_PATH",
    QuerySource: "HEADWATER_AGENT_DATA_DATABASE",
    PythonSource: "PYTHONPATH",
    TopicSource: None,
}
"""The service reads a copy of the configuration elsewhere, so relative paths are told to it."""


def plan_service(
    config: AgentConfig, *, config_path: Path, memory_max: str, cpu_quota: str
) -> UnitPlan:
    """What the unit will be made of.

    Raises:
        ConfigError: If a file that the service needs is missing, or a limit is none.
    """
    if not re.fullmatch(r"[1-9][0-9]*[KMG]?", memory_max):
        raise ConfigError("--memory-max", f"is {memory_max!r}", fix="give a size such as 256M")
    if not re.fullmatch(r"[1-9][0-9]*%", cpu_quota):
        raise ConfigError("--cpu-quota", f"is {cpu_quota!r}", fix="give a share such as 80%")
    load_key(config.key)
    source = config.data.source
    sensor = source.broker if isinstance(source, TopicSource) else None
    named = (
        ("HEADWATER_AGENT_KEY", "device.key", config.key),
        ("HEADWATER_AGENT_GENESIS", "genesis.cbor", config.genesis),
        (
            "HEADWATER_AGENT_LOGIN_PASSWORD_FILE",
            "password.txt",
            config.login.password_file if config.login else None,
        ),
        ("HEADWATER_AGENT_TLS_CA_FILE", "ca.pem", config.tls.ca_file),
        *([] if config.enrolment is not None else _name_certificate(config)),
        (
            "HEADWATER_AGENT_DATA_PASSWORD_FILE",
            "sensor-password.txt",
            sensor.password_file if sensor else None,
        ),
        ("HEADWATER_AGENT_DATA_CA_FILE", "sensor-ca.pem", sensor.ca_file if sensor else None),
    )
    files = tuple((key, name, path.absolute()) for key, name, path in named if path is not None)
    renewed: tuple[tuple[str, Path, Path], ...] = ()
    if config.enrolment is not None:
        written = (
            *_name_certificate(config),
            ("HEADWATER_AGENT_ENROLMENT", "enrolment.json", config.enrolment),
        )
        renewed = tuple(
            (key, path.absolute(), STATE_FOLDER / path.name)
            for key, _, path in written
            if path is not None
        )
    for key, path in (*((key, path) for key, _, path in files), *((r[0], r[1]) for r in renewed)):
        if not path.is_file():
            raise ConfigError(key, f"{path} does not exist", fix="correct it in agent.toml")
    data = config.data.path
    if data is not None and not data.exists():
        raise ConfigError("data", f"{data} does not exist", fix="make it or correct it")
    return UnitPlan(
        command=find_command(),
        config=config_path.absolute(),
        files=files,
        renewed=renewed,
        state=STATE_FOLDER / config.state.name,
        data=None if data is None else data.absolute(),
        data_mount=None if data is None else _find_mount(config),
        data_variable=DATA_VARIABLES[type(source)],
        data_group=None if data is None else _find_group(data),
        niceness=config.guest.niceness,
        pinned_cores=config.guest.pinned_cores,
        memory_max=memory_max,
        cpu_quota=cpu_quota,
    )


def _name_certificate(config: AgentConfig) -> tuple[tuple[str, str, Path | None], ...]:
    return (
        ("HEADWATER_AGENT_TLS_CERT_FILE", "device.pem", config.tls.cert_file),
        ("HEADWATER_AGENT_TLS_KEY_FILE", "device-tls.key", config.tls.key_file),
    )


def install_service(plan: UnitPlan, *, unit_folder: Path, is_dry_run: bool) -> list[str]:
    """Write the unit, move the state, enable and start; returns what was done, a line each.

    Raises:
        ConfigError: If it may not, or the state is in use.
    """
    unit, path = format_unit(plan), unit_folder / UNIT_NAME
    source = _find_state(plan)
    if is_dry_run:
        moves = [f"# would move {source} to {plan.state}"] if source else []
        return [unit.rstrip(), f"# would write {path}", *moves, *_systemctl_plan("# would run ")]
    if os.geteuid() != 0:
        raise ConfigError("install-service", "needs root", fix=AS_ROOT)
    if plan.command.is_relative_to("/home") or plan.command.is_relative_to("/root"):
        raise ConfigError(
            str(plan.command),
            "lies in somebody's home, which a service does not see",
            fix="install for all with deploy/install-agent.sh, into /opt/headwater",
        )
    done = []
    if source is not None:
        _move_state(source, plan.state)
        done.append(f"moved {source} to {plan.state}")
    for _, path, kept in plan.renewed:
        if not kept.exists():
            try:
                write_durably(kept, path.read_bytes(), mode=0o600)
            except OSError as error:
                raise ConfigError(str(kept), str(error.strerror), fix=AS_ROOT) from None
            done.append(f"copied {path} to {kept}")
    if _name_state(plan.config, plan.state):
        done.append(f"set state in {plan.config}")
    try:
        write_durably(path, unit.encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(str(path), str(error.strerror), fix=AS_ROOT) from None
    done.append(f"wrote {path}")
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT_NAME)
    return [*done, f"started; see systemctl status {UNIT_NAME}"]


def uninstall_service(*, unit_folder: Path, is_dry_run: bool) -> list[str]:
    """Stop and remove the unit; key, configuration and state stay.

    Raises:
        ConfigError: If it may not, or there is none.
    """
    path = unit_folder / UNIT_NAME
    if not path.exists():
        raise ConfigError(str(path), "does not exist", fix="there is nothing to remove")
    if is_dry_run:
        return [f"# would run systemctl disable --now {UNIT_NAME}", f"# would remove {path}"]
    if os.geteuid() != 0:
        raise ConfigError("uninstall-service", "needs root", fix=AS_ROOT)
    _systemctl("disable", "--now", UNIT_NAME)
    path.unlink()
    _systemctl("daemon-reload")
    return [f"removed {path}", f"the state stays in {STATE_FOLDER}"]


def _find_mount(config: AgentConfig) -> Path | None:
    """What the service has to see, to read the data.

    A database in write-ahead mode is more than its file: the log beside it holds the newest rows.
    """
    path = config.data.path
    if path is None:
        return None
    return (path.parent if isinstance(config.data.source, QuerySource) else path).absolute()


def _find_group(path: Path) -> str | None:
    """The group to read `path` with, if others may not.

    Raises:
        ConfigError: If nobody but the owner may.
    """
    status = path.stat()
    needed = 0o5 if path.is_dir() else 0o4
    if status.st_mode & needed == needed:
        return None
    if (status.st_mode >> 3) & needed == needed:
        try:
            return grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            return str(status.st_gid)
    raise ConfigError(
        "data.path", f"{path} can be read by its owner alone", fix=f"chmod -R g+rX {path}"
    )


def _find_state(plan: UnitPlan) -> Path | None:
    """The state that is to move; None if it is in place.

    Raises:
        ConfigError: If there is none, or there are two.
    """
    named = _read_state_name(plan.config)
    source = (plan.config.parent / named).absolute() if named else plan.state
    if source == plan.state:
        return None
    if not source.exists():
        if plan.state.exists():
            return None
        raise ConfigError(
            "state", f"{source} does not exist", fix="make one with headwater-agent init"
        )
    if plan.state.exists():
        raise ConfigError(
            "state",
            f"there are {source} and {plan.state}",
            fix="keep the one that signed last, as headwater-agent status tells, and remove the "
            "other",
        )
    return source


STATE_LINE: Final = re.compile(r'^state\s*=\s*(["\'])(?P<path>.*)\1', re.MULTILINE)


def _read_state_name(config: Path) -> str | None:
    found = STATE_LINE.search(config.read_text(encoding="utf-8"))
    return None if found is None else found["path"]


def _name_state(config: Path, state: Path) -> bool:
    """Write the state's place into the configuration; whether it was another one."""
    text = config.read_text(encoding="utf-8")
    found = STATE_LINE.search(text)
    if found is None or found["path"] == str(state):
        return False
    changed = text[: found.start()] + f'state = "{state}"' + text[found.end() :]
    write_durably(config, changed.encode(), mode=config.stat().st_mode & 0o777)
    return True


def _move_state(source: Path, target: Path) -> None:
    if is_in_use(source):
        raise StateInUse(source)
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        # The log first: without its log the file is an older state, with it alone there is none.
        for path in (*companions(source), source):
            if path.exists():
                moved = Path(str(target) + str(path)[len(str(source)) :])
                write_durably(moved, path.read_bytes(), mode=0o600)
        for path in (source, *companions(source)):
            path.unlink(missing_ok=True)
        SystemCalls().sync_folder(source.parent)
    except OSError as error:
        raise ConfigError("state", f"cannot move {source}: {error}", fix=AS_ROOT) from None


def _systemctl_plan(prefix: str) -> list[str]:
    return [f"{prefix}systemctl daemon-reload", f"{prefix}systemctl enable --now {UNIT_NAME}"]


def _systemctl(*arguments: str) -> None:
    """Run systemctl.

    Raises:
        ConfigError: If there is none, or it fails.
    """
    command = ["systemctl", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError("systemctl", str(error), fix="this needs systemd") from None
    if done.returncode != 0:
        problem = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ConfigError(" ".join(command), problem, fix=f"see journalctl -u {UNIT_NAME}")
