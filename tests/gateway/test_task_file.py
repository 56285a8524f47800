"""`task.toml`: documented defaults, and every mistake by its key."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from headwater_gateway.task_file import (
    TEMPLATE,
    default_task_file,
    format_normalised,
    load_task_file,
)
from headwater_models.program import Program
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.task import Codec, Normalisation, OptimizerKind, Training
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import ConfigError
from headwater_protocol.model.rule import AggregationRule, RuleKind

PROGRAM = Program.load("mlp-64-32-10")
MODEL = blob_digest(b"model")


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(text)
    load_task_file(path).make_task(PROGRAM, MODEL)


def test_template_documents_every_key_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(TEMPLATE)
    assert load_task_file(path) == default_task_file()
    path.write_text("")
    assert load_task_file(path) == default_task_file()
    values = tomllib.loads(TEMPLATE)
    for section, record, renamed in (
        ("training", Training, {}),
        ("codec", Codec, {}),
        ("aggregation", AggregationRule, {"kind": "rule"}),
        ("network", Parameters, {}),
        ("incentives", Incentives, {}),
    ):
        names = {renamed.get(field.name, field.name) for field in fields(record)}
        names.discard("incentives")
        assert set(values[section]) == names
    for line in TEMPLATE.splitlines():
        assert not line or line.startswith("[") or "#" in line, line


def test_defaults_make_a_task_of_the_program() -> None:
    task = default_task_file().make_task(PROGRAM, MODEL)
    assert task.program == PROGRAM.digest
    assert task.num_parameters == PROGRAM.num_parameters
    assert task.initial_model == MODEL


def test_own_values_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'name = "mine"\nrounds = 3\n[training]\noptimizer = "momentum"\n'
        'momentum_thousandths = 900\n[aggregation]\nrule = "multi_krum"\n[codec]\nbits = 2\n'
    )
    task = load_task_file(path).make_task(PROGRAM, MODEL)
    assert (task.task, task.rounds, task.codec.bits) == ("mine", 3, 2)
    assert task.training.optimizer is OptimizerKind.MOMENTUM
    assert task.training.momentum_thousandths == 900
    assert task.rule.kind is RuleKind.MULTI_KRUM


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rouns = 3", "rouns: is no key of this file; use one of name, rounds"),
        ("[training]\nepochs = 3", "training.epochs: is no key of this file"),
        ("rounds = 0", "rounds: is 0, allowed 1 to 1000000"),
        ("rounds = 1.5", "rounds: is 1.5; give a whole number"),
        ("rounds = true", "rounds: is True; give a whole number"),
        ('name = "No Good"', "name: does not match"),
        ('[training]\noptimizer = "lbfgs"', "training.optimizer: is 'lbfgs'; use one of sgd"),
        ("[training]\nbatch_size = 0", "training.batch_size: is 0, allowed 1 to 4096"),
        ("[codec]\nbits = 9", "codec.bits: is 9, allowed 1 to 8"),
        ('[aggregation]\nrule = "max"', "aggregation.rule: is 'max'"),
        ("[aggregation]\ntrim_thousandths = 500", "trim_thousandths"),
        ("[network]\ncheckpoint_interval = 0", "network.checkpoint_interval: is 0"),
        ("training = 3", "training: is 3; write it as [training]"),
        ("fraction_bits = 31", "fraction_bits: is 31"),
    ],
)
def test_mistake_names_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)


def test_normalisation_is_part_of_the_task(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text("[normalisation]\nfraction_bits = 8\noffsets = [-3]\n")
    task = load_task_file(path).make_task(PROGRAM, MODEL)
    assert task.normalisation == Normalisation(fraction_bits=8, offsets=(-3,), scales=(256,))
    assert default_task_file().make_task(PROGRAM, MODEL).normalisation is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("offsets = [1.5]", "normalisation.offsets"),
        ("scales = 3", "normalisation.scales"),
        ("scales = [0]", "normalisation.scales"),
        ("scales = [1, 2]", "2 scales for examples of shape (64,)"),
        ("fraction_bits = 31\nscales = [1]", "normalisation.fraction_bits"),
        ("mean = 1", "normalisation.mean"),
    ],
)
def test_wrong_normalisation_names_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[normalisation]\n{text}\n")
    assert words in str(caught.value)


def test_template_takes_a_measured_normalisation(tmp_path: Path) -> None:
    measured = Normalisation(fraction_bits=3, offsets=(1, -2), scales=(3,))
    path = tmp_path / "task.toml"
    path.write_text(format_normalised(measured))
    assert load_task_file(path).normalisation == measured
