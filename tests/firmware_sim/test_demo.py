"""The main job, small: a real broker, real training, both ledgers, the audit."""

import json

import pytest

from headwater_firmware_sim.cli import main
from headwater_shard.cli import main as shard_main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    code = main(
        [
            "demo",
            *("--out", str(out)),
            *("--devices", "16"),
            *("--rounds", "4"),
            *("--attackers", "2"),
            *("--bits", "4"),
            *("--seed", "3"),
        ]
    )
    assert code == 0
    return out


def test_result_json_has_what_the_run_came_to(folder):
    result = json.loads((folder / "result.json").read_text())
    assert result["devices"] == 16
    assert result["shards"] == 2
    assert result["final"]["audit"] == "ok"
    assert len(result["final"]["global_model_digest"]) == 64
    assert result["final"]["main_chain_height"] > 0
    assert result["final"]["accuracy"] > 0.5
    assert set(result["checkpoints"].values()) == {1}
    assert len(result["rounds"]) == 8
    # On a machine that is busy with other things, a round in real time may end without an update.
    busy = [entry for entry in result["rounds"] if entry["received"]]
    assert len(busy) >= 4
    assert all(entry["received"] >= entry["accepted"] for entry in busy)
    assert sum(entry["accepted"] for entry in busy) > 16
    assert all(300 < entry["bytes_up_per_update"] < 1_400 for entry in busy)
    assert all(entry["wall_ms"] > 0 for entry in result["rounds"])


def test_sign_flips_are_refused_and_paid_nothing(folder):
    result = json.loads((folder / "result.json").read_text())
    assert result["attackers"]["refused_share"] >= 0.95
    assert result["attackers"]["rewards"] == 0
    assert result["honest"]["rewards"] > 0


def test_the_auditor_agrees_and_names_a_flipped_byte(folder, capsys):
    assert shard_main(["audit", str(folder)]) == 0
    segment = next((folder / "blobs").glob("segment-*.blobs"))
    data = bytearray(segment.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    segment.write_bytes(data)
    capsys.readouterr()
    assert shard_main(["audit", str(folder), "--json"]) == 1
    failure = json.loads(capsys.readouterr().out)["failure"]
    assert segment.name in failure["item"]
    data[middle] ^= 1
    segment.write_bytes(data)


def test_a_folder_of_someone_else_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("keep me")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "choose another" in capsys.readouterr().err
    assert (tmp_path / "letter.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--bits", "9"], "bits"),
        (["--bits", "0"], "bits"),
        (["--devices", "0"], "devices"),
        (["--attackers", "61"], "attackers"),
        (["--broker", "http://example"], "broker"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_fix(arguments, key, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "new"), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert key in lines[0]
