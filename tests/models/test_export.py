"""The exporter, in the TensorFlow environment beside the default one."""

import subprocess
from pathlib import Path

import pytest

from headwater_models.program import Program
from headwater_models.trainer import Trainer
from tests.models.test_gradients import draw

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-export" / "bin" / "python"

pytestmark = [
    pytest.mark.export,
]


def run(*arguments):
    return subprocess.run(
        [str(PYTHON), "-m", "headwater_models.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_committed_programs_are_what_the_sources_build():
    done = run("build", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("unchanged") == 3


def test_the_custom_program_of_the_examples_trains(tmp_path):
    out = tmp_path / "gesture.tflite"
    done = run("export", "examples.custom_program:build", "--out", str(out))
    assert done.returncode == 0, done.stderr
    program = Program(out.read_bytes())
    trainer = Trainer(program)
    parameters, features, labels = draw(program, 6)
    found = trainer.gradient(parameters, features, labels)
    # Along its own gradient the loss must fall at the rate that the gradient promises.
    length = float((found.vector.astype("f8") ** 2).sum())
    step = 1e-3 / length**0.5
    moved = [
        trainer.evaluate(parameters + sign * step * found.vector, features, labels).mean_loss
        for sign in (1, -1)
    ]
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(length, rel=2e-2)


def test_a_forward_pass_without_builtins_is_one_line(tmp_path):
    (tmp_path / "hopeless.py").write_text(
        "import tensorflow as tf\n"
        "from headwater_models.authoring.definition import ProgramDefinition\n"
        "def forward(parameters, x):\n"
        "    w = parameters.take((3, 2), fan_in=3)\n"
        "    return tf.nn.relu(x @ w)\n"
        "def build():\n"
        "    return ProgramDefinition(forward=forward, input_shape=(3,), num_classes=2)\n"
    )
    done = subprocess.run(
        [str(PYTHON), "-m", "headwater_models.cli", "export", "hopeless:build", "--out", "x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    assert "no TFLite builtin for ReluGrad; use headwater_models.authoring.layers" in done.stderr
    assert done.stderr.count("\n") == 1
