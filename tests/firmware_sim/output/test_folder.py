"""A run's folder is read back as it was written; a damaged one is named."""

import json
from dataclasses import replace

import pytest

from headwater_firmware_sim.output.folder import load_run, save_run
from headwater_protocol.errors import ConfigError
from tests.support.run_results import make_result


@pytest.fixture
def folder(tmp_path):
    save_run(make_result(), tmp_path)
    return tmp_path


def test_a_run_comes_back_as_it_was(folder):
    assert load_run(folder) == make_result()


def test_result_json_has_one_line_a_row_and_the_final_digest(folder):
    text = (folder / "result.json").read_text()
    result = make_result()
    assert json.loads(text)["final"]["main_chain_digest"] == result.final.main_chain_digest
    rows = len(result.rounds) + len(result.fleet) + len(result.faults) + len(result.globals)
    rows += len(result.elections) + len(result.seats) + len(result.penalties)
    assert rows < len(text.splitlines()) < rows + 40


def test_a_run_without_devices_by_round_comes_back(tmp_path):
    result = replace(make_result(), device_rounds=())
    save_run(result, tmp_path)
    assert load_run(tmp_path) == result


def test_a_loss_that_is_no_number_becomes_null(tmp_path):
    result = make_result()
    rounds = (replace(result.rounds[0], loss=float("nan")), *result.rounds[1:])
    save_run(replace(result, rounds=rounds), tmp_path)
    assert load_run(tmp_path).rounds[0].loss is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[:-100], "is not JSON"),
        (lambda text: "[]", "is no object"),
        (lambda text: text.replace('"seed": 1,', '"seed": "1",', 1), 'seed: is "1"'),
        (lambda text: text.replace('"seed": 1,', '"seed": true,', 1), "seed: is true"),
        (lambda text: text.replace('"cohort"', '"kohort"', 1), "rounds[0]: has no cohort"),
        (lambda text: text.replace('"supply": ', '"supply": 1.5e0, "x": ', 1), "supply: is 1.5"),
        (lambda text: "[" * 100_000, "is not JSON"),
        (lambda text: '{"scenario": "demo"}', "has no attackers"),
    ],
)
def test_a_damaged_result_is_one_line_with_the_place(folder, damage, problem):
    path = folder / "result.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError) as caught:
        load_run(folder)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_devices_by_round_name_the_line(folder):
    path = folder / "device_rounds.csv"
    path.write_text(path.read_text().replace(",ok,", ",ok,x", 1))
    with pytest.raises(ConfigError, match=r"device_rounds.csv: line \d+ is damaged"):
        load_run(folder)


def test_a_folder_without_a_run_says_what_it_should_hold(tmp_path):
    with pytest.raises(ConfigError, match=r"result\.json"):
        load_run(tmp_path)
