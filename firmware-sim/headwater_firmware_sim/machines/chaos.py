"""Faults one after the other on a running network, and what has to hold after each.

Within a limit after a fault's end every chain goes on at every gateway, all agree on every block,
no update with a receipt is missing, the ledgers replay, and nobody is punished but who deserves it.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_firmware_sim.machines.evidence import (
    Updates,
    copy_blobs,
    copy_for_audit,
    find_disagreement,
    list_jailed,
    read_app_hashes,
    read_heights,
    read_promises,
    read_roots,
    read_updates,
)
from headwater_firmware_sim.machines.faults import Fault
from headwater_firmware_sim.machines.network import PROBE_S, ProcessNetwork
from headwater_firmware_sim.machines.run import audit
from headwater_gateway.keyfile import load_key
from headwater_protocol.errors import HeadwaterError, TransportError
from headwater_protocol.identifiers import ChainId, ValidatorId
from headwater_shard.layout import DataFolder

RECOVERY_S: Final = 20.0
"""From a fault's end until every chain has gone on at every gateway."""
GIVE_UP_S: Final = 120.0
"""After which a network that does not recover, or serves no device, is called dead."""
WARM_UP_S: Final = 120.0
"""For the first rounds, before the first fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosRow:
    """What became of one fault."""

    fault: str
    text: str
    seconds: float
    """From its end until every chain had gone on at every gateway."""
    sent: int
    """Updates that devices signed since the fault began."""
    receipts: int
    """Promises that devices got since then."""
    lost: int
    """Promised updates of the whole run that are on no ledger."""
    problems: tuple[str, ...]
    """What does not hold; empty where all does."""
    skipped: str | None = None
    """Why it was not tried on this machine."""

    @property
    def is_good(self) -> bool:
        """Whether all holds."""
        return not self.problems


class Chaos:
    """A running network that suffers one fault after the other."""

    def __init__(self, network: ProcessNetwork) -> None:
        self._network = network
        self._convicted: set[ValidatorId] = set()

    def warm_up(self) -> None:
        """Wait until every gateway has seen a round end and a checkpoint settle.

        Raises:
            TransportError: If that takes too long.
        """
        before = read_heights(self._network)
        network = self._network
        network.wait(
            lambda: all(
                height >= before[place] + 5 for place, height in read_heights(self._network).items()
            ),
            what="the first rounds",
            timeout_s=WARM_UP_S,
        )

    def why_not(self, fault: Fault) -> str | None:
        """Why a fault cannot be tried on this machine; None where it can."""
        if fault.needs_cut and not self._network.hosts.can_cut:
            return "needs network namespaces"
        if fault.needs_root and not self._network.hosts.can_cut:
            return "needs root"
        return None

    def suffer(self, fault: Fault) -> ChaosRow:
        """Let a fault happen, and look at what is left."""
        skipped = self.why_not(fault)
        if skipped is not None:
            return ChaosRow(
                fault=fault.name,
                text=fault.text,
                seconds=0.0,
                sent=0,
                receipts=0,
                lost=0,
                problems=(),
                skipped=skipped,
            )
        before = read_updates(self._network)
        problems: list[str] = []
        if fault.convicts is not None:
            self._convicted.add(self._validator(fault.convicts))
        try:
            fault.begin_and_end(self._network)
        except HeadwaterError as error:
            problems.append(str(error))
            self._network.hosts.heal()
        seconds = self._wait_for_progress(fault, problems)
        self._wait_for_receipt(before.receipts, problems)
        problems += self._look()
        after = self._read_updates()
        if after.lost:
            first = after.lost[0]
            problems.append(f"lost: round {first.round} of {first.device.hex()[:16]}")
        return ChaosRow(
            fault=fault.name,
            text=fault.text,
            seconds=round(seconds, 1),
            sent=after.sent - before.sent,
            receipts=after.receipts - before.receipts,
            lost=len(after.lost),
            problems=tuple(problems),
        )

    def _wait_for_progress(self, fault: Fault, problems: list[str]) -> float:
        """Seconds until every chain went on at every gateway."""
        restarted = None if fault.restarts is None else self._network.gateways[fault.restarts]
        started_s = time.monotonic()
        highest = self._highest()
        while True:
            if restarted is not None and restarted.pid is None:
                restarted.start()
            with contextlib.suppress(TransportError):
                self._network.require_alive()
                if all(
                    height > highest[chain]
                    for (_, chain), height in read_heights(self._network).items()
                ):
                    break
            if time.monotonic() - started_s > GIVE_UP_S:
                behind = [
                    f"{name} {chain}"
                    for (name, chain), height in read_heights(self._network).items()
                    if height <= highest[chain]
                ]
                problems.append(f"not recovered in {GIVE_UP_S:.0f} s: {', '.join(behind)}")
                break
            time.sleep(PROBE_S)
        seconds = time.monotonic() - started_s
        if seconds > RECOVERY_S:
            problems.append(f"took {seconds:.1f} s, the limit is {RECOVERY_S:.0f} s")
        try:
            self._network.require_alive()
        except TransportError as error:
            problems.append(str(error))
        return seconds

    def _wait_for_receipt(self, receipts: int, problems: list[str]) -> None:
        """Until devices have more than `receipts` promises: chains that advance also serve."""
        try:
            self._network.wait(
                lambda: len(read_promises(self._network)) > receipts,
                what="a receipt after the fault",
                timeout_s=GIVE_UP_S,
            )
        except TransportError as error:
            problems.append(str(error))

    def _read_updates(self) -> Updates:
        """As `read_updates`, once the ledger that is read has come to what others promised."""
        deadline_s = time.monotonic() + RECOVERY_S
        found = read_updates(self._network)
        while found.lost and time.monotonic() < deadline_s:
            time.sleep(PROBE_S)
            found = read_updates(self._network)
        return found

    def _look(self) -> list[str]:
        """What does not hold on disk."""
        network, problems = self._network, list[str]()
        gateways = list(enumerate(network.gateways))
        for chain in network.chains:
            roots = {gw.name: read_roots(network.data(index), chain) for index, gw in gateways}
            found = find_disagreement(roots)
            if found is not None:
                problems.append(f"{chain} forks: {found}")
            with contextlib.suppress(TransportError):  # A node that restarts has no say just now.
                hashes = {
                    gw.name: read_app_hashes(network.data(index), chain) for index, gw in gateways
                }
                found = find_disagreement(hashes)
                if found is not None:
                    problems.append(f"{chain} application hashes: {found}")
        jailed = set(list_jailed(network, 0))
        if jailed != self._convicted:
            names = [self._name(validator) for validator in sorted(jailed ^ self._convicted)]
            problems.append(f"punished wrongly, or not at all: {', '.join(names)}")
        with tempfile.TemporaryDirectory(prefix="headwater-audit-") as place:
            copies = [DataFolder(Path(place) / gw.name) for _, gw in gateways]
            copy_for_audit(network.data(0), copies[0])
            for index, copy in enumerate(copies[1:], start=1):
                copy_blobs(network.data(index), copy)
            outcome = audit(network, [copy.path for copy in copies])
        if outcome != "ok":
            problems.append(f"audit: {outcome}")
        return problems

    def _highest(self) -> dict[ChainId, int]:
        """The last block of each chain on any gateway."""
        highest: dict[ChainId, int] = {}
        for (_, chain), height in read_heights(self._network).items():
            highest[chain] = max(height, highest.get(chain, 0))
        return highest

    def _validator(self, index: int) -> ValidatorId:
        name = self._network.gateways[index].name
        return load_key(self._network.net / name / "keys" / "delegate.key", key="keys").validator

    def _name(self, validator: ValidatorId) -> str:
        for index, gateway in enumerate(self._network.gateways):
            if self._validator(index) == validator:
                return gateway.name
        return validator.hex()[:16]


def run_chaos(
    network: ProcessNetwork,
    faults: Sequence[Fault],
    *,
    say: Callable[[str], None],
    tell: Callable[[ChaosRow], None],
) -> list[ChaosRow]:
    """Start a network, let it suffer `faults` in their order, and tell each row as it comes.

    Raises:
        TransportError: If the network does not start.
    """
    network.start()
    chaos = Chaos(network)
    chaos.warm_up()
    say("running; the faults begin")
    rows: list[ChaosRow] = []
    for fault in faults:
        rows.append(chaos.suffer(fault))
        tell(rows[-1])
    return rows
