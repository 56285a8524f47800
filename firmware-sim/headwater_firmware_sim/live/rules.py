"""What a live run cannot do: a scenario that asks for it is refused, not run without it."""

import dataclasses
from typing import Final

from headwater_firmware_sim.scenario.kinds import FaultKind, Placement
from headwater_firmware_sim.scenario.model import Churn, Delegates, DeviceClass, Scenario
from headwater_firmware_sim.scenario.rules import Problem

VIRTUAL: Final = "leave it out, or run without --live"
FAULTS: Final = {
    FaultKind.TORN_WRITE: ("flash is not simulated in a live run", VIRTUAL),
    FaultKind.PARTITION: ("a live run has one gateway process", VIRTUAL),
    FaultKind.LOSS: (
        "a live run loses what its network loses",
        "set up the loss with tc netem, use disconnect, or run without --live",
    ),
}
SIMULATED: Final = (
    "battery_j",
    "awake_s",
    "asleep_s",
    "clock_offset_s",
    "clock_drift_ppm",
    "loss",
    "bandwidth_kbps",
)
"""Of a class of devices; `latency_ms` and `steps_per_s` have no value that means none."""


def find_live_problem(scenario: Scenario, *, owns_broker: bool) -> Problem | None:
    """The first key that a live run cannot follow.

    Args:
        scenario: Checked.
        owns_broker: Whether the run has started the broker, so that it may stop it.
    """
    if scenario.network.gateways is not Placement.SHARD:
        return Problem(
            path=("network", "gateways"), problem="a live run has one gateway process", fix=VIRTUAL
        )
    for index, entry in enumerate(scenario.fleet):
        for name in SIMULATED:
            if getattr(entry, name) != getattr(DeviceClass(), name):
                return _refuse(("fleet", index, name), "devices of a live run have no model of it")
    if scenario.next_task:
        return Problem(path=("next_task", 0), problem="a live run trains one task", fix=VIRTUAL)
    for section, values, plain in (
        ("churn", scenario.churn, Churn()),
        ("delegates", scenario.delegates, Delegates()),
    ):
        for field in dataclasses.fields(values):
            if getattr(values, field.name) != getattr(plain, field.name):
                return _refuse((section, field.name), "has no effect in a live run")
    return _find_fault_problem(scenario, owns_broker=owns_broker)


def _find_fault_problem(scenario: Scenario, *, owns_broker: bool) -> Problem | None:
    for index, fault in enumerate(scenario.faults):
        path = ("faults", index, "kind")
        if fault.kind in FAULTS:
            problem, fix = FAULTS[fault.kind]
            return Problem(path=path, problem=f"{fault.kind}: {problem}", fix=fix)
        if fault.kind is FaultKind.BROKER_LOSS and not owns_broker:
            return Problem(
                path=path,
                problem=f"{fault.kind}: that broker is not this run's to stop",
                fix="use --broker mosquitto, or leave --broker out",
            )
    return None


def _refuse(path: tuple[str | int, ...], problem: str) -> Problem:
    return Problem(path=path, problem=problem, fix=VIRTUAL)
