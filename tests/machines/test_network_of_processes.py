"""A network of real processes: some rounds, and every fault, one test each."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.machines.chaos import Chaos
from headwater_firmware_sim.machines.faults import FAULTS, Fault
from headwater_firmware_sim.machines.network import ProcessNetwork
from headwater_firmware_sim.machines.plan import NetworkKind, chaos_plan

pytestmark = pytest.mark.machines


@pytest.fixture(scope="module")
def short_path() -> Iterator[Path]:
    """Unix sockets have short names, and the folders of pytest long ones."""
    with tempfile.TemporaryDirectory(prefix="hw") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def chaos(short_path: Path) -> Iterator[Chaos]:
    plan = chaos_plan(short_path / "chaos", devices=8, kind=NetworkKind.NAMESPACES)
    with ProcessNetwork(plan) as network:
        network.start()
        made = Chaos(network)
        made.warm_up()
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_nothing_is_lost_and_all_agree_after(fault: Fault, chaos: Chaos) -> None:
    row = chaos.suffer(fault)
    assert row.skipped is None
    assert row.problems == ()
    assert row.receipts > 0


def test_two_shards_on_the_loopback_close_their_rounds(short_path: Path) -> None:
    out = short_path / "cluster"
    arguments = ["cluster", "--out", str(out), "--network", "loopback", "--shards", "2"]
    assert main([*arguments, "--validators", "2", "--devices", "6", "--rounds", "2"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["final"]["audit"] == "ok"
    assert [row["round"] for row in result["rounds"]] == [1, 2, 1, 2]
    assert set(result["checkpoints"].values()) == {2}
    assert all(row["disagreement"] is None for row in result["chains"])
