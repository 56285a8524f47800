"""`headwater-model` as an operator meets it."""

import json
import subprocess
import sys

import pytest

from headwater_models.cli import main
from headwater_models.program import Program
from tests.support.tflite_writer import operator_code, program_tree, write_flatbuffer


@pytest.fixture
def program_file(tmp_path):
    path = tmp_path / "mlp.tflite"
    path.write_bytes(Program.load("mlp-64-32-10").data)
    return path


def test_check_describes_a_program(program_file, capsys):
    assert main(["check", str(program_file)]) == 0
    printed = capsys.readouterr().out
    assert "infer(w: float32 (2410,), x: float32 (batch, 64)) -> logits: float32" in printed
    assert "2410 parameters" in printed
    assert "64 x 32, fan-in 64" in printed


def test_check_speaks_json(program_file, capsys):
    assert main(["check", str(program_file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["num_parameters"] == 2410
    assert found["layout"][0] == {"shape": [64, 32], "fan_in": 64}
    assert found["signatures"]["grad"]["inputs"]["x"] == {"dtype": "float32", "shape": [-1, 64]}
    assert found["digest"] == Program.load("mlp-64-32-10").digest.hex()


def test_check_names_flex_operations(tmp_path, capsys):
    path = tmp_path / "flex.tflite"
    tree = program_tree(codes=[operator_code(32, custom="FlexReluGrad")])
    path.write_bytes(write_flatbuffer(tree))
    assert main(["check", str(path)]) == 1
    assert "problem: FlexReluGrad: a TensorFlow (Flex) operation" in capsys.readouterr().out
    assert main(["check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["ops"][0]["num_calls"] == 2


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_check_of_garbage_is_a_verdict(tmp_path, capsys, options):
    path = tmp_path / "garbage.tflite"
    path.write_bytes(b"not a model")
    assert main(["check", str(path), *options]) == 1
    assert "file identifier" in capsys.readouterr().out


def test_a_missing_file_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["check", str(tmp_path / "absent.tflite")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_traceback_comes_with_debug_only(tmp_path):
    with pytest.raises(OSError, match="absent"):
        main(["--debug", "check", str(tmp_path / "absent.tflite")])


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["check"], ["export", "a:b"]])
def test_a_wrong_command_line_is_one_line_and_exit_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "--help" in printed


@pytest.mark.parametrize("command", [["export", "a:b", "--out", "x"], ["build"]])
def test_commands_that_need_tensorflow_say_what_to_install(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert 'pip install "headwater[export]"' in printed
    assert printed.count("\n") == 1


def test_a_builder_in_another_form_is_one_line_and_exit_2(capsys):
    assert main(["export", "examples.custom_program", "--out", "x"]) == 2
    assert "MODULE:BUILDER" in capsys.readouterr().err


def test_help_imports_neither_numpy_nor_a_runtime():
    code = (
        "import sys\n"
        "from headwater_models.cli import main\n"
        "try:\n    main(['check', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'tensorflow', 'tflite_runtime', 'ai_edge_litert'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
