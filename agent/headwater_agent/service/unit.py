"""The unit file: who runs, what it may touch, how much it may take, when it is started again.

The service has a user of its own that exists only while it runs (`DynamicUser`). What it writes
lies in its `StateDirectory`; key, configuration, genesis, password and certificates stay root's
files in `/etc` and are handed over as credentials, which live in memory and end with the service.
So nothing on disk that the network's peers could ever make the agent read or write is a secret.

Left out on purpose: `MemoryDenyWriteExecute` and `ProcSubset=pid`, because TFLite's kernels read
`/proc/cpuinfo` and may map code; `network-online.target`, because a device starts offline.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_agent.exit_codes import NOT_RESTARTED
from headwater_protocol.errors import ConfigError

UNIT_NAME: Final = "headwater-agent.service"
STATE_FOLDER: Final = Path("/var/lib/headwater-agent")
"""What `StateDirectory` makes; systemd keeps it behind a folder that only root may enter."""
WATCHDOG_S: Final = 180
"""Longer than a name server that does not answer, and than a slow card."""
START_TIMEOUT_S: Final = 300
"""A Pi Zero takes a minute to load numpy and the runtime."""
RESTART_S: Final = 10

_TEMPLATE: Final = """\
# Written by headwater-agent install-service; edits belong in a drop-in: systemctl edit {name}
[Unit]
Description=Headwater device: learns together with others, on its own data
After=network.target time-sync.target
# Months without anybody near: there is no number of failures after which it gives up.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command} run --config {config}
{environment}
{credentials}

Restart=on-failure
RestartSec={restart_s}
RestartPreventExitStatus={not_restarted}
TimeoutStartSec={start_timeout_s}
TimeoutStopSec=20
WatchdogSec={watchdog_s}

DynamicUser=yes
StateDirectory=headwater-agent
StateDirectoryMode=0700
UMask=0077
{access}

MemoryMax={memory_max}
MemorySwapMax=0
CPUQuota={cpu_quota}
TasksMax=32
Nice={niceness}
{affinity}
IOSchedulingClass=best-effort
IOSchedulingPriority=7
OOMScoreAdjust=500

ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
KeyringMode=private
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @mount
SystemCallErrorNumber=EPERM
SocketBindDeny=any

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """What a unit file is made of."""

    command: Path
    """The `headwater-agent` script."""
    config: Path
    """`agent.toml`."""
    files: tuple[tuple[str, str, Path], ...]
    """Handed over as credentials: key of the configuration, name, file."""
    renewed: tuple[tuple[str, Path, Path], ...]
    """What the device writes anew: key of the configuration, file, and where it is kept in
    `STATE_FOLDER`; a credential could not be written."""
    state: Path
    """In `STATE_FOLDER`."""
    data: Path | None
    """The examples. None where they come over the network."""
    data_mount: Path | None
    """What holds them, and is bound into the service's view, only to be read."""
    data_variable: str | None
    """Tells the agent where they are; None where the path in the configuration holds."""
    data_group: str | None
    """A group that may read them, if others may not."""
    niceness: int
    pinned_cores: tuple[int, ...]
    """The service manager sets both, because the service itself may not."""
    memory_max: str
    cpu_quota: str


def format_unit(plan: UnitPlan) -> str:
    """The unit file.

    Raises:
        ConfigError: If a path cannot stand in a unit file.
    """
    credentials = [("agent.toml", plan.config), *((name, path) for _, name, path in plan.files)]
    variables = [
        *((variable, f"%d/{name}") for variable, name, _ in plan.files),
        *((variable, _quote(kept)) for variable, _, kept in plan.renewed),
        ("HEADWATER_AGENT_STATE", _quote(plan.state)),
    ]
    if plan.data is not None and plan.data_variable is not None:
        variables.append((plan.data_variable, _quote(plan.data)))
    access = [] if plan.data_mount is None else [f"BindReadOnlyPaths={_quote(plan.data_mount)}"]
    if plan.data_group is not None:
        access.append(f"SupplementaryGroups={plan.data_group}")
    is_in_home = any(
        str(plan.data_mount).startswith(home) for home in ("/home/", "/root/", "/run/user/")
    )
    cores = [f"CPUAffinity={' '.join(str(core) for core in plan.pinned_cores)}"]
    return _TEMPLATE.format(
        name=UNIT_NAME,
        command=_quote(plan.command),
        config="%d/agent.toml",
        environment="\n".join(f'Environment="{name}={value}"' for name, value in variables),
        credentials="\n".join(
            f"LoadCredential={name}:{_quote(path)}" for name, path in credentials
        ),
        access="\n".join(access),
        restart_s=RESTART_S,
        not_restarted=" ".join(str(int(code)) for code in NOT_RESTARTED),
        start_timeout_s=START_TIMEOUT_S,
        watchdog_s=WATCHDOG_S,
        niceness=plan.niceness,
        affinity="\n".join(cores if plan.pinned_cores else []),
        memory_max=plan.memory_max,
        cpu_quota=plan.cpu_quota,
        protect_home="tmpfs" if is_in_home else "yes",
    )


def find_command() -> Path:
    """The `headwater-agent` script of this installation."""
    return Path(sys.executable).parent / "headwater-agent"


def _quote(path: Path) -> str:
    text = str(path)
    if not text.isprintable() or any(char in text for char in " \"'\\:"):
        raise ConfigError(
            text, "cannot stand in a unit file", fix="use a path without spaces, quotes and colons"
        )
    return text.replace("%", "%%")
