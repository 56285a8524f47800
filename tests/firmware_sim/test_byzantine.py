"""The main job with a delegate of each shard that cheats: it changes nothing and costs it dear."""

import json

import pytest

from headwater_firmware_sim.cli import main


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("byzantine") / "out"
    code = main(
        [
            "demo",
            *("--out", str(out)),
            *("--devices", "16"),
            *("--rounds", "4"),
            *("--attackers", "2"),
            *("--byzantine-delegates", "1"),
            *("--seed", "3"),
        ]
    )
    assert code == 0
    return json.loads((out / "result.json").read_text())


def test_the_model_is_as_good_and_the_audit_agrees(result):
    assert result["final"]["audit"] == "ok"
    assert result["final"]["accuracy"] > 0.5
    assert result["attackers"]["refused_share"] >= 0.95


def test_each_traitor_is_convicted_of_all_that_it_did_and_nobody_else_is(result):
    evidence = result["economy"]["evidence"]
    by_validator: dict[str, set[str]] = {}
    for entry in evidence:
        by_validator.setdefault(entry["validator"], set()).add(entry["offence"])
    assert len(by_validator) == 2
    for offences in by_validator.values():
        assert offences >= {"double_vote", "refuted_score"}
    assert "wrong_attestation" in set().union(*by_validator.values())
    for entry in evidence:
        assert entry["jailed"]
        assert entry["tombstoned"]
        assert entry["slashed"] == entry["rewarded"] + entry["burned"] > 0


def test_byzantine_delegates_stay_below_a_third(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "out"), "--byzantine-delegates", "2"]) == 2
    assert "byzantine-delegates" in capsys.readouterr().err
