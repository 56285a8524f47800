"""What is read from a network's folders, and how two of them are compared."""

from pathlib import Path

import pytest
from rich.console import Console

from headwater_firmware_sim.machines.chaos import ChaosRow
from headwater_firmware_sim.machines.chaos_table import ChaosTable
from headwater_firmware_sim.machines.evidence import (
    copy_blobs,
    copy_for_audit,
    find_disagreement,
    read_height,
    read_roots,
)
from headwater_firmware_sim.machines.faults import FAULTS, choose_faults
from headwater_firmware_sim.machines.hosts import LoopbackHosts
from headwater_firmware_sim.machines.plan import NetworkPlan
from headwater_gateway.task_file import load_task_file
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_shard.cli import main as shard_command
from headwater_shard.layout import DataFolder
from tests.shard.audit.builders import make_network, train_network


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return train_network(make_network()).write(tmp_path / "data")


def test_the_copy_of_a_folder_in_use_can_be_audited(folder: DataFolder, tmp_path: Path) -> None:
    copy = DataFolder(tmp_path / "copy")
    copy_for_audit(folder, copy)
    assert shard_command(["audit", str(copy.path)]) == 0
    assert read_height(copy, MAIN_CHAIN) == read_height(folder, MAIN_CHAIN) > 0
    assert read_roots(copy, MAIN_CHAIN) == read_roots(folder, MAIN_CHAIN)
    other = DataFolder(tmp_path / "other")
    copy_blobs(folder, other)
    assert list(other.blobs.iterdir())


def test_a_folder_without_a_ledger_has_height_0(tmp_path: Path) -> None:
    assert read_height(DataFolder(tmp_path), MAIN_CHAIN) == 0


def test_the_first_difference_is_named() -> None:
    one, two = {1: "aa", 2: "bb", 3: "cc"}, {2: "bb", 3: "dd", 4: "ee"}
    assert find_disagreement({"one": one, "two": {2: "bb", 4: "x"}}) is None
    assert find_disagreement({"one": one, "two": two}) == "height 3: one has cc, two has dd"


def test_faults_are_chosen_by_name_in_their_own_order() -> None:
    assert choose_faults(None) == list(FAULTS)
    names = [fault.name for fault in choose_faults(["wipe", "pause"])]
    assert names == ["pause", "wipe"]
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    with pytest.raises(ConfigError, match="--only: is 'flood'; use one of kill-gateway"):
        choose_faults(["flood"])


def test_the_loopback_cannot_be_cut() -> None:
    with pytest.raises(ConfigError, match="use namespaces"):
        LoopbackHosts().cut([["a"], ["b"]])


@pytest.mark.parametrize(
    ("option", "value"), [("num_devices", 0), ("num_rounds", 0), ("num_validators", 51)]
)
def test_an_impossible_plan_is_refused(tmp_path: Path, option: str, value: int) -> None:
    plan = NetworkPlan(out=tmp_path, **{option: value})
    with pytest.raises(ConfigError, match="give 1 to"):
        plan.require_consistent()


def test_the_task_of_a_plan_is_one(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(NetworkPlan(out=tmp_path, num_rounds=7).task)
    task = load_task_file(tmp_path / "task.toml")
    assert (task.rounds, task.min_updates) == (7, 15)


def make_row(**changes: object) -> ChaosRow:
    values: dict[str, object] = {
        "fault": "pause",
        "text": "a gateway frozen",
        "seconds": 1.25,
        "sent": 8,
        "receipts": 7,
        "lost": 0,
        "problems": (),
    }
    return ChaosRow(**{**values, **changes})  # type: ignore[arg-type]


def test_each_fault_is_a_line_and_each_problem_one_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = ChaosTable(Console(width=80))
    table.tell(make_row())
    table.tell(make_row(problems=("main forks: height 3",)))
    table.tell(make_row(skipped="needs root"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["fault", "recovered", "sent", "receipts", "lost", "result"]
    assert lines[1].endswith("ok")
    assert lines[2].endswith("FAILED")
    assert lines[3].strip() == "main forks: height 3"
    assert lines[4].endswith("needs root")
