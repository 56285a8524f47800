"""What is wrong with a scenario is one line that names the key, its line and the fix."""

import subprocess
import sys
from pathlib import Path

import pytest

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.output.folder import REPORT_NAME, RESULT_NAME
from headwater_firmware_sim.running import require_free
from headwater_firmware_sim.scenario.kinds import AttackKind
from headwater_firmware_sim.scenario.lines import find_lines
from headwater_firmware_sim.scenario.reader import ScenarioError, load_scenario, parse_scenario
from headwater_firmware_sim.stage import make_stage
from headwater_protocol.errors import ConfigError
from headwater_shard.layout import GENESIS_NAME

GOOD = """\
name = "good"
devices = 10
rounds = 2

[task]
bits = 4

[[fleet]]
name = "a"
share = 0.5

[[fleet]]
name = "b"
share = 0.5

[[attackers]]
kind = "sign_flip"
count = 2
"""


def test_a_good_scenario_is_read() -> None:
    scenario = parse_scenario(GOOD)
    assert scenario.task.bits == 4
    assert [entry.name for entry in scenario.fleet] == ["a", "b"]
    assert scenario.attackers[0].kind is AttackKind.SIGN_FLIP


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("bits = 4", "bitz = 4", 6, ["task.bitz", "is no key", "bits"]),
        ("bits = 4", "bits = 9", 6, ["task.bits", "is 9", "1 to 8"]),
        ("bits = 4", 'bits = "4"', 6, ["task.bits", "a text", "whole number"]),
        ("bits = 4", "bits = 4.5", 6, ["task.bits", "4.5", "whole number"]),
        ("bits = 4", "learning_rate = nan", 6, ["task.learning_rate", "nan"]),
        ("bits = 4", 'model = "gone.tflite"', 6, ["task.model", "neither shipped nor a file"]),
        ("devices = 10", "devices = 0", 2, ["devices", "is 0"]),
        ("devices = 10", "devices = true", 2, ["devices", "is true"]),
        ("devices = 10\n", "", None, ["devices", "is missing"]),
        ("devices = 10", "devices = 1", 2, ["devices", "for 2 shards"]),
        ('name = "good"', 'name = "Not good"', 1, ["name", "small letters"]),
        ("share = 0.5\n\n[[att", "share = 0.4\n\n[[att", 8, ["fleet", "0.9", "sum to 1"]),
        ('name = "b"', 'name = "a"', 9, ["fleet[1].name", "twice"]),
        ("count = 2", "count = 11", 18, ["attackers[1].count", "11"]),
        ("count = 2", "count = 2\nshare = 0.1", 16, ["attackers[1]", "both"]),
        ('kind = "sign_flip"', 'kind = "rude"', 17, ["attackers[1].kind", "sign_flip"]),
        ("[task]", "[[task]]", 5, ["task", "an array"]),
        ("[task]\nbits = 4", "task = 3", 5, ["task", "is 3"]),
        ("[task]", '[data]\nsource = "folder"\npath = "nowhere"\n[task]', 7, ["data.path"]),
        ("[task]", '[data]\nsource = "loader"\nloader = "x"\n[task]', 7, ["data.loader"]),
        ("[task]", "[delegates]\nbyzantine = 9\n[task]", 6, ["delegates.byzantine", "9 of 4"]),
        ("[task]", "[delegates]\ncrashing = 1\n[task]", 6, ["network.gateways"]),
        ("[task]", "[delegates]\ncrashing = 3\nbyzantine = 2\n[task]", 7, ["2 liars beside 3"]),
        ("[task]", '[[faults]]\nkind = "loss"\nrate = 2\n[task]', 7, ["faults[1].rate", "0 to 1"]),
        ("[task]", '[[faults]]\nkind = "reboot"\nat_s = 1\n[task]', 5, ["faults[1].rate", "add"]),
        ("[task]", '[[faults]]\nkind = "partition"\n[task]', 5, ["faults[1].rate", "at_s"]),
        ("bits = 4", "bits = = 4", 6, ["correct the TOML"]),
    ],
)
def test_a_problem_names_the_key_the_line_and_the_fix(
    old: str, new: str, line: int | None, words: list[str]
) -> None:
    assert old in GOOD
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(GOOD.replace(old, new), file="x.toml")
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.line == line
    assert line is None or f"x.toml, line {line}" in text
    for word in words:
        assert word in text


def test_lines_are_found_in_dotted_quoted_and_nested_tables() -> None:
    text = (
        'a.b = 1\n# [no]\n"c d" = """\n[x]\ny = 1\n"""\n'
        "[t.u]\nv = [\n  1,\n]\nw = {p = 1, q = 2}\n[[t.z]]\nk=1\n"
    )
    lines = find_lines(text)
    assert lines[("a", "b")] == 1
    assert lines[("c d",)] == 3
    assert ("x",) not in lines
    assert lines[("t", "u", "v")] == 8
    assert lines[("t", "u", "w", "q")] == 11
    assert lines[("t", "z", 0, "k")] == 13


def test_the_command_line_says_one_line_with_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace("bits = 4", "bits = 99"))
    out = tmp_path / "out"
    assert main(["run", str(path), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "line 6: task.bits" in message
    assert not out.exists()
    assert main(["run", str(tmp_path / "none.toml")]) == 2


@pytest.mark.parametrize("other", [GENESIS_NAME, REPORT_NAME])
def test_a_folder_of_an_earlier_run_is_free(tmp_path: Path, other: str) -> None:
    for name in (RESULT_NAME, other):
        (tmp_path / name).write_text("")
    require_free(tmp_path)
    (tmp_path / other).unlink()
    with pytest.raises(ConfigError, match="no run's"):
        require_free(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match="--out: /proc cannot be written to"):
        require_free(Path("/proc/none"))


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    path, out = tmp_path / "good.toml", tmp_path / "out"
    path.write_text(GOOD)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert main(["run", str(path), "--out", str(out)]) == 2
    assert [entry.name for entry in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('no sensor')", "no sensor"),
        ("return 3", "list of array pairs"),
        ("return []", "gave 0 parts"),
        ("return [1] * devices", "(features, labels)"),
        ("return [(np.zeros((3, 63)), np.zeros(3))] * devices", "(3, 64)"),
        ("return [(np.zeros((3, 64)), np.full(3, 10))] * devices", "0 to 9"),
        ("return [(np.zeros((3, 64)), np.zeros(2))] * devices", "2 labels"),
        ("return [(np.full((3, 64), np.nan), np.zeros(3))] * devices", "NaN"),
        ("return [(['x'], [0])] * devices", "no arrays"),
        ("return [(np.zeros((3, 64), complex), np.zeros(3))] * devices", "complex"),
        ("return [(np.full((3, 64), 1e300), np.zeros(3))] * devices", "infinity"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_loader_that_fails_or_gives_other_shapes_is_one_line(
    tmp_path: Path, body: str, words: str
) -> None:
    module = "my_loader"
    (tmp_path / f"{module}.py").write_text(
        f"import numpy as np\ndef make(*, devices, seed):\n    {body}\n"
    )
    scenario = parse_scenario(
        f'name="x"\ndevices=4\nrounds=1\n[data]\nsource="loader"\nloader="{module}:make"\n',
        folder=tmp_path,
    )
    with pytest.raises(ConfigError) as caught:
        make_stage(scenario, folder=tmp_path)
    assert "data.loader" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scenario_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="UTF-8"):
        load_scenario(path)


def test_the_page_of_scenarios_is_that_of_the_sections() -> None:
    page = Path(__file__).parents[2] / "docs" / "scenarios.md"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.make_scenarios_page", "--print"],
        check=True,
        capture_output=True,
        text=True,
        cwd=page.parents[1],
    )
    assert page.read_text(encoding="utf-8") == done.stdout
