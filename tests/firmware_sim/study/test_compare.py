"""What differs between two runs: the table, the JSON, the page."""

import json
from dataclasses import replace

import pytest

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.output.folder import save_run
from headwater_firmware_sim.study.compare import compare_runs
from tests.support.run_results import make_result


@pytest.fixture
def folders(tmp_path):
    a = make_result()
    other = replace(a.final, main_chain_digest="00" * 32)
    b = replace(make_result(seed=2, rounds=7), final=other, config={**a.config, "seed": 2})
    save_run(a, tmp_path / "first")
    save_run(b, tmp_path / "second")
    return str(tmp_path / "first"), str(tmp_path / "second")


def test_a_run_differs_in_nothing_from_itself():
    comparison = compare_runs(make_result(), make_result())
    assert comparison.is_same_ledger
    assert comparison.differing == comparison.counts == comparison.config == ()


def test_the_table_names_what_differs(folders, capsys):
    assert main(["compare", *folders]) == 0
    text = capsys.readouterr().out
    assert "rounds" in text
    assert "audit" not in text
    assert "different blocks" in text


def test_json_has_both_values_and_the_difference(folders, capsys):
    assert main(["compare", *folders, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["metrics"]["rounds"] == {"a": 10, "b": 14, "delta": 4}
    assert value["config"] == {"seed": {"a": "1", "b": "2"}}
    assert value["same_ledger"] is False


def test_the_page_has_both_curves(folders, tmp_path, capsys):
    page = tmp_path / "compare.html"
    assert main(["compare", *folders, "--html", str(page)]) == 0
    text = page.read_text()
    assert "A · first" in text
    assert "B · second" in text
    assert 'class="line c-blue"' in text
    assert 'class="line c-orange dashed"' in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_folder_without_a_run_is_one_line(folders, tmp_path, capsys):
    assert main(["compare", folders[0], str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "result.json" in lines[0]
