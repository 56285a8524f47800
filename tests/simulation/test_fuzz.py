"""The search finds what is planted, and finds nothing where nothing is."""

import pytest

from headwater_firmware_sim.fuzz.draw import PARTS, draw_scenario
from headwater_firmware_sim.fuzz.search import shrink, try_seed
from headwater_firmware_sim.scenario.describe import to_json
from tests.simulation.plants import PLANTS, Plant

MAX_SEEDS = 200


def test_the_first_seeds_hold() -> None:
    outcomes = [try_seed(seed) for seed in range(6)]
    assert [outcome.detail for outcome in outcomes if outcome.invariant] == []
    assert sum(outcome.virtual_ms for outcome in outcomes) > 60 * 60 * 1_000


def find(name: str, plant: Plant) -> int:
    for seed in range(MAX_SEEDS):
        if try_seed(seed).invariant == name:
            return seed
    raise AssertionError(f"{name} was not found in {MAX_SEEDS} seeds")


@pytest.mark.parametrize("name", [name for name in PLANTS if name not in {"I10", "I11"}])
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS[name](monkeypatch)
    assert find(name, PLANTS[name]) < MAX_SEEDS


@pytest.mark.crash
@pytest.mark.parametrize("name", ["I10", "I11"])
def test_a_bug_that_needs_a_crash_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS[name](monkeypatch)
    assert find(name, PLANTS[name]) < MAX_SEEDS


@pytest.mark.crash
def test_a_thousand_seeds_hold() -> None:
    for seed in range(1_000):
        outcome = try_seed(seed)
        assert outcome.invariant is None, f"{outcome.detail}; {outcome.command}"


def test_a_failing_seed_is_shrunk_to_what_still_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS["I3"](monkeypatch)
    smallest = shrink(try_seed(0))
    assert smallest.invariant == "I3"
    assert set(smallest.without) == set(PARTS)
    assert smallest.command.startswith("headwater-sim fuzz --first 0 --seeds 1 --without ")


def test_leaving_a_part_out_leaves_the_others_as_they_are() -> None:
    for seed in range(20):
        whole = to_json(draw_scenario(seed))
        less = to_json(draw_scenario(seed, without=frozenset({"loss", "attackers"})))
        for key in ("devices", "rounds", "task", "network", "fleet", "churn", "delegates"):
            assert whole[key] == less[key]


def test_a_run_ends_where_an_election_seats_liars_on_a_third_of_a_committee() -> None:
    outcome = try_seed(94)
    assert outcome.is_beyond
    assert outcome.invariant is None
