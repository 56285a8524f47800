"""The power goes at any write, sync, rename or removal: before it, in the middle, after it."""

from collections import Counter
from pathlib import Path

import pytest

from headwater_protocol.errors import StorageError
from tests.support.power_disk import PowerDisk
from tests.support.power_life import KINDS, Fleet, Life

CUTS_A_LIFE = 25


def count_operations_of_a_life() -> int:
    """Of a first boot and two rounds without any cut."""
    life = Life(Fleet(), seed=0)
    life._boot_and_work(rounds=2)
    return life.disk.operations


def summarize(lives: list[Life]) -> str:
    cuts: Counter[tuple[str, str]] = Counter()
    for life in lives:
        cuts += life.cuts
    kinds = ", ".join(f"{what} {where} {count}" for (what, where), count in sorted(cuts.items()))
    return (
        f"{cuts.total()} cuts, {sum(life.reboots for life in lives)} boots, "
        f"{sum(len(life.published) for life in lives)} rounds published, "
        f"{sum(life.recovered_ahead for life in lives)} unpromised changes kept; {kinds}"
    )


def run_lives(number: int, *, first_seed: int) -> list[Life]:
    fleet = Fleet()
    return [Life(fleet, seed=first_seed + index).live(CUTS_A_LIFE) for index in range(number)]


def test_cuts_at_random_places_of_lives_of_many_cuts() -> None:
    lives = run_lives(12, first_seed=0)
    print(summarize(lives))
    cuts = Counter[tuple[str, str]]()
    for life in lives:
        cuts += life.cuts
    assert cuts.total() == 12 * CUTS_A_LIFE
    assert {what for what, _ in cuts} >= {"write", "sync"}
    assert sum(len(life.published) for life in lives) > 12


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_every_third_operation_of_the_first_two_rounds(kind: str) -> None:
    fleet = Fleet()
    whole = count_operations_of_a_life()
    assert whole > 100
    for operations in range(1 + KINDS.index(kind), whole + 1, 3):
        life = Life(fleet, seed=operations, first_operations=operations, first_kind=kind)
        life.live(1)
        assert life.cuts.total() == 1


@pytest.mark.crash
def test_ten_thousand_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet()
    whole = count_operations_of_a_life()
    lives = [
        Life(fleet, seed=seed, first_operations=operations, first_kind=kind).live(1)
        for seed in range(3)
        for kind in KINDS
        for operations in range(1, whole + 1)
    ]
    systematic = len(lives)
    remaining = max(0, 10_000 - systematic)
    lives += run_lives(-(-remaining // CUTS_A_LIFE), first_seed=1_000)
    with capsys.disabled():
        print(f"\n{systematic} of them at every operation of two rounds, each way\n")
        print(summarize(lives))
    assert sum(life.cuts.total() for life in lives) >= 10_000


def test_the_simulated_disk_loses_what_was_not_synced() -> None:
    lost = kept = 0
    for seed in range(40):
        disk = PowerDisk(seed)
        path = Path("/a")
        disk.write(path, b"first", 0o600)
        disk.sync_folder(path.parent)
        disk.write_at(disk.names["/a"], 0, b"other")
        disk.restart()
        assert disk.read(path) is not None
        lost += disk.read(path) == b"first"
        kept += disk.read(path) == b"other"
    assert lost
    assert kept


def test_a_store_that_syncs_too_little_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness can fail: without syncs, a promise is broken within a few cuts."""
    monkeypatch.setattr("tests.support.power_disk.PowerFile.xSync", lambda self, flags: None)
    with pytest.raises((AssertionError, StorageError)):
        run_lives(6, first_seed=0)
