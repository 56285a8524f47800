"""What the types of a scenario cannot say: sums, files, and keys that need each other."""

import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_firmware_sim.scenario.kinds import FaultKind, PartitionKind, Placement, SourceKind
from headwater_firmware_sim.scenario.lines import Path as KeyPath
from headwater_firmware_sim.scenario.model import Attackers, Scenario
from headwater_models.program import list_programs
from headwater_protocol.chain.genesis import MAX_GENESIS_ACCOUNTS

CHANCES: Final = frozenset(
    {
        FaultKind.TORN_WRITE,
        FaultKind.WATCHDOG,
        FaultKind.LOSS,
        FaultKind.REPLAY,
        FaultKind.DUPLICATE,
        FaultKind.REORDER,
    }
)
"""Faults whose rate is the chance of each message, write or training."""
EVENTS: Final = frozenset({FaultKind.PARTITION, FaultKind.BROKER_LOSS, FaultKind.GATEWAY_CRASH})
"""Faults that happen once where they have a time and no rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Which key cannot be as it is, why, and what to do."""

    path: KeyPath
    problem: str
    fix: str


def find_problem(scenario: Scenario, folder: Path) -> Problem | None:
    """The first thing that is wrong with a scenario whose fields are each in range."""
    checks = (
        _check_name,
        _check_fleet,
        _check_faults,
        _check_attackers,
        _check_delegates,
        _check_economy,
    )
    for check in checks:
        problem = check(scenario)
        if problem is not None:
            return problem
    return _check_program(scenario, folder) or _check_data(scenario, folder)


def count_attackers(entry: Attackers, devices: int) -> int:
    """How many devices one entry of `attackers` makes hostile."""
    if entry.count is not None:
        return entry.count
    return math.floor((entry.share or 0.0) * devices + 0.5)


def _check_name(scenario: Scenario) -> Problem | None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", scenario.name):
        return Problem(
            path=("name",),
            problem=f"is {scenario.name!r}",
            fix="use small letters, digits and hyphens, 32 at the most",
        )
    if scenario.devices < scenario.network.shards:
        return Problem(
            path=("devices",),
            problem=f"is {scenario.devices} for {scenario.network.shards} shards",
            fix="give at least one a shard",
        )
    return None


def _check_fleet(scenario: Scenario) -> Problem | None:
    if not scenario.fleet:
        return Problem(path=("fleet",), problem="is empty", fix="add a [[fleet]] or leave it out")
    total = sum(entry.share for entry in scenario.fleet)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        return Problem(
            path=("fleet",), problem=f"has shares of {total:g} in all", fix="make them sum to 1"
        )
    names = [entry.name for entry in scenario.fleet]
    for index, entry in enumerate(scenario.fleet):
        if names.count(entry.name) > 1 or not entry.name:
            return Problem(
                path=("fleet", index, "name"),
                problem=f"{entry.name!r} comes twice or is empty",
                fix="give each class a name of its own",
            )
        if entry.asleep_s > 0 and entry.awake_s == 0:
            return Problem(
                path=("fleet", index, "asleep_s"),
                problem="has no awake_s beside it",
                fix="say how long a device is awake",
            )
    return None


def _check_faults(scenario: Scenario) -> Problem | None:
    for index, entry in enumerate(scenario.faults):
        path = ("faults", index, "rate")
        if entry.kind in CHANCES and entry.rate > 1:
            return Problem(
                path=path,
                problem=f"is {entry.rate:g}, and for {entry.kind} it is a chance",
                fix="write a number from 0 to 1",
            )
        if entry.rate == 0 and (entry.kind not in EVENTS or entry.at_s is None):
            other = ", or at_s for one at that time" if entry.kind in EVENTS else ""
            return Problem(
                path=path,
                problem=f"is 0, so that no {entry.kind} ever happens",
                fix=f"add rate = …{other}",
            )
    return None


def _check_attackers(scenario: Scenario) -> Problem | None:
    total = 0
    for index, entry in enumerate(scenario.attackers):
        if (entry.share is None) == (entry.count is None):
            return Problem(
                path=("attackers", index),
                problem="has both share and count, or neither",
                fix="give one of them",
            )
        total += count_attackers(entry, scenario.devices)
        if total > scenario.devices:
            key = "count" if entry.share is None else "share"
            return Problem(
                path=("attackers", index, key),
                problem=f"makes {total} attackers of {scenario.devices} devices",
                fix="give fewer attackers or more devices",
            )
    return None


def _check_delegates(scenario: Scenario) -> Problem | None:
    bad, network = scenario.delegates, scenario.network
    for key, value in (("crashing", bad.crashing), ("byzantine", bad.byzantine)):
        if value > network.delegates:
            return Problem(
                path=("delegates", key),
                problem=f"is {value} of {network.delegates} delegates",
                fix="give fewer, or raise network.delegates",
            )
    if bad.crashing + bad.byzantine > network.delegates:
        return Problem(
            path=("delegates", "byzantine"),
            problem=f"makes {bad.byzantine} liars beside {bad.crashing} that crash, "
            f"of {network.delegates} delegates",
            fix="give fewer, or raise network.delegates",
        )
    if bad.crashing and network.gateways is not Placement.DELEGATE:
        return Problem(
            path=("delegates", "crashing"),
            problem="needs a gateway a delegate",
            fix='set network.gateways = "delegate"',
        )
    return None


def _check_economy(scenario: Scenario) -> Problem | None:
    economy = scenario.economy
    if economy.penalty and not economy.quarantine_strikes:
        return Problem(
            path=("economy", "penalty"),
            problem="costs nobody anything without quarantine_strikes",
            fix="say how many strikes a device has",
        )
    holders = (scenario.devices if economy.device_deposit else 0) + economy.delegators + 1
    if holders > MAX_GENESIS_ACCOUNTS:
        return Problem(
            path=("economy", "device_deposit"),
            problem=f"gives {holders} accounts units at the start",
            fix=f"a genesis holds {MAX_GENESIS_ACCOUNTS}: fewer devices, or no deposit",
        )
    return None


def _check_program(scenario: Scenario, folder: Path) -> Problem | None:
    models: list[tuple[KeyPath, str | None]] = [(("task", "model"), scenario.task.model)]
    models += [
        (("next_task", index, "model"), entry.model)
        for index, entry in enumerate(scenario.next_task)
    ]
    for path, name in models:
        if name is not None and name not in list_programs() and not (folder / name).is_file():
            return Problem(
                path=path,
                problem=f"{name!r} is neither shipped nor a file",
                fix=f"use one of {', '.join(list_programs())} or a path",
            )
    if scenario.next_task and scenario.task.budget == 0:
        return Problem(
            path=("task", "budget"),
            problem="is 0, and nobody can open a next task that pays nothing",
            fix="pay something, or leave out [[next_task]]",
        )
    return None


def _check_data(scenario: Scenario, folder: Path) -> Problem | None:
    data = scenario.data
    kind = data.partition.kind
    if data.source is SourceKind.FOLDER and not (data.path and (folder / data.path).exists()):
        return Problem(
            path=("data", "path"),
            problem=f"{data.path!r} does not exist",
            fix="give a folder of *.csv or an .npz file",
        )
    if data.source is SourceKind.LOADER and not re.fullmatch(r"[\w.]+:\w+", data.loader):
        return Problem(
            path=("data", "loader"),
            problem=f"is {data.loader!r}",
            fix='write "module:function"',
        )
    if kind is PartitionKind.USER and data.source is not SourceKind.FOLDER:
        return Problem(
            path=("data", "partition", "kind"),
            problem=f"user has no column in {data.source}",
            fix='use data.source = "folder", or another partition',
        )
    if data.source is SourceKind.DIGITS and importlib.util.find_spec("sklearn") is None:
        return Problem(
            path=("data", "source"),
            problem="digits come with scikit-learn",
            fix='pip install "headwater[sim]"',
        )
    return None
