"""A grid becomes points, each a scenario that was checked."""

import pytest

from headwater_firmware_sim.scenario.reader import parse_scenario
from headwater_firmware_sim.study.grid import MAX_POINTS, load_grid
from headwater_protocol.errors import ConfigError
from tests.conftest import ROOT

SCENARIO = """
name = "small"
devices = 8
rounds = 2
[[attackers]]
kind = "sign_flip"
count = 1
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "small.toml").write_text(SCENARIO)

    def write(grid, *, head='scenario = "small.toml"'):
        path = tmp_path / "grid.toml"
        path.write_text(f"{head}\n{grid}")
        return path

    return write


def test_every_combination_is_a_point_and_the_last_key_varies_fastest(write):
    grid = load_grid(write('[grid]\nseed = [1, 2]\n"task.bits" = [8, 4]\n'))
    assert grid.keys == ("seed", "task.bits")
    assert [point.label for point in grid.points] == [
        "seed=1 task.bits=8",
        "seed=1 task.bits=4",
        "seed=2 task.bits=8",
        "seed=2 task.bits=4",
    ]
    last = parse_scenario(grid.points[-1].scenario)
    assert (last.seed, last.task.bits, last.devices) == (2, 4, 8)


def test_keys_may_be_dotted_without_quotes_and_reach_into_lists(write):
    grid = load_grid(write('[grid]\ntask.bits = [4]\n"attackers.0.count" = [0, 3]\n'))
    counts = [parse_scenario(point.scenario).attackers[0].count for point in grid.points]
    assert counts == [0, 3]


def test_points_keep_their_names_when_the_grid_grows(write):
    few = load_grid(write("[grid]\nseed = [1, 2]\n"))
    more = load_grid(write("[grid]\nseed = [0, 1, 2, 3]\n"))
    assert {point.name for point in few.points} < {point.name for point in more.points}


def test_a_changed_scenario_gives_new_points(write, tmp_path):
    before = load_grid(write("[grid]\nseed = [1]\n"))
    (tmp_path / "small.toml").write_text(SCENARIO.replace("rounds = 2", "rounds = 3"))
    after = load_grid(write("[grid]\nseed = [1]\n"))
    assert before.points[0].name != after.points[0].name


@pytest.mark.parametrize(
    ("grid", "problem"),
    [
        ("", "grid: is missing"),
        ("[grid]\n", "grid: is missing"),
        ("[grid]\nseed = 1\n", "grid.seed: is 1"),
        ("[grid]\nseed = []\n", "grid.seed: is []"),
        ("[grid]\nseed = [1, 1]\n", "a value twice"),
        ("[grid]\nseed = ['x']\n", "seed"),
        ("[grid]\nseeed = [1]\n", "seeed: is no key; write seed"),
        ("[grid]\n'task.bits' = [9]\n", "task.bits"),
        ("[grid]\n'attackers.1.count' = [1]\n", "no entry 1 in attackers"),
        ("[grid]\n'attackers.x.count' = [1]\n", "no entry x in attackers"),
        ("[grid]\n'name.x' = [1]\n", "name is no table"),
        ("[grid]\n'seed.x' = [1]\n", "seed: is a table"),
        ("[grid]\n'attackers.0.count' = [9]\n", "attackers"),
        ("[grid]\nseed = [2024-01-01]\n", "grid.seed: has a date"),
        (f"[grid]\nseed = {list(range(MAX_POINTS + 1))}\n", "10,001 points"),
        ("[grid]\nseed = [1\n", "correct the TOML"),
        ("extra = 1\n[grid]\nseed = [1]\n", "extra: is no key"),
    ],
)
def test_a_wrong_grid_is_one_line_with_the_key(write, grid, problem):
    with pytest.raises(ConfigError) as caught:
        load_grid(write(grid))
    assert problem in str(caught.value)
    assert "grid.toml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert ", line" not in str(caught.value)


@pytest.mark.parametrize("head", ["", "scenario = 1", 'scenario = "gone.toml"'])
def test_a_grid_needs_a_scenario(write, head):
    with pytest.raises(ConfigError, match=r"scenario|gone"):
        load_grid(write("[grid]\nseed = [1]\n", head=head))


def test_a_missing_grid_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_grid(tmp_path / "none.toml")


def test_the_example_is_a_grid_of_six():
    grid = load_grid(ROOT / "examples/sweep.toml")
    assert grid.keys == ("task.rule", "task.bits")
    assert len(grid.points) == 6
