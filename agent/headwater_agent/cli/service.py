"""`install-service` and `uninstall-service`: a hardened systemd unit."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from headwater_agent.cli.common import read_config

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands

UNIT_FOLDER = Path("/etc/systemd/system")


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    install = commands.add_parser(
        "install-service", parents=[common], help="run the device as a systemd service"
    )
    install.add_argument("--memory-max", default="256M", metavar="SIZE", help="default: 256M")
    install.add_argument("--cpu-quota", default="80%", metavar="PERCENT", help="default: 80%%")
    uninstall = commands.add_parser(
        "uninstall-service", parents=[common], help="stop and remove the service; state stays"
    )
    for parser in (install, uninstall):
        parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
        parser.add_argument("--unit-folder", type=Path, default=UNIT_FOLDER, help=argparse.SUPPRESS)
    install.set_defaults(perform=_install)
    uninstall.set_defaults(perform=_uninstall)


def _install(arguments: argparse.Namespace) -> int:
    from headwater_agent.service.install import install_service, plan_service

    plan = plan_service(
        read_config(arguments),
        config_path=arguments.config,
        memory_max=arguments.memory_max,
        cpu_quota=arguments.cpu_quota,
    )
    for line in install_service(
        plan, unit_folder=arguments.unit_folder, is_dry_run=arguments.dry_run
    ):
        print(line)
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from headwater_agent.service.install import uninstall_service

    for line in uninstall_service(unit_folder=arguments.unit_folder, is_dry_run=arguments.dry_run):
        print(line)
    return 0
