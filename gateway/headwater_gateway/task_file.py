"""`task.toml`: what a network trains, how updates are written, judged, combined and paid.

Whole numbers only, with their unit in the name, because a ledger holds no others. Every key may be
left out; the commented template below is also where the defaults stand. The ranges are those of the
protocol's records.
"""

import re
import tomllib
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from headwater_gateway.toml_table import TomlTable
from headwater_models.normalisation import normalise
from headwater_models.program import Program
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.task import Codec, Normalisation, OptimizerKind, Task, Training
from headwater_protocol.encoding.record import require_valid
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import Digest, NumExamples, Score, TaskId, Units
from headwater_protocol.model.norms import compute_noise_cosine
from headwater_protocol.model.rule import AggregationRule, RuleKind

TEMPLATE: Final = """\
# A Headwater task. Whole numbers only; the unit stands in the name. Every key may be left out, and
# the values below are the defaults. Once the genesis is written, all of this is fixed.

name = "task"                     # small letters, digits and dashes
rounds = 20                       # of each shard
cohort_size = 1000                # devices drawn a round and shard; all, if there are fewer
min_updates = 2                   # with fewer accepted, a round closes on its base
collect_ms = 60000                # from a round's opening to the last update that it takes
score_ms = 60000                  # for the delegates to score, at the most
attest_ms = 60000                 # for the delegates to attest the model, at the most
max_examples = 1000               # the cap on a device's weight in the mean
score_threshold = 0               # least standing accepted, in ten-thousandths, -10000 to 10000
reputation_thousandths = 500      # share of a device's history in its standing
fraction_bits = 20                # a parameter is a multiple of 2**-fraction_bits
round_budget = 10000              # units paid out a round and shard
delegate_thousandths = 100        # the delegates' share of that

[training]                        # on a device, and for a delegate's reference
optimizer = "adam"                # sgd, momentum or adam
learning_rate_millionths = 10000  # 10000 is 0.01
momentum_thousandths = 0          # for "momentum"
local_epochs = 5                  # passes over the device's own data
max_steps = 1000                  # optimizer steps at the most
batch_size = 16                   # examples a step
proximal_millionths = 0           # FedProx's mu; 0 for none
clip_norm_thousandths = 0         # L2 norm to which each gradient is clipped; 0 for none

[normalisation]                   # of every example: (x - offset) * scale; [] leaves it as it is
fraction_bits = 16                # the entries are multiples of 2**-fraction_bits
offsets = []                      # one for all, one for each of the last axis, or one a value
scales = []                       # likewise; headwater-gateway task --normalise DATA finds both

[codec]                           # how an update is written
bits = 8                          # of each value, 1 to 8
keep_thousandths = 1000           # share of the largest entries that is sent; 1000 is dense

[aggregation]
rule = "mean"                     # mean, trimmed_mean, median, multi_krum or centered_clipping
clip_ratio_thousandths = 2000     # norms are clipped to this multiple of the median norm; 0 is off
trim_thousandths = 100            # dropped at each end by trimmed_mean
byzantine_thousandths = 200       # devices that multi_krum assumes hostile
radius_thousandths = 1000         # of centered_clipping, in median distances
iterations = 3                    # of centered_clipping

[network]                         # the same for all shards
checkpoint_interval = 4           # rounds from one checkpoint on the main chain to the next
checkpoints_per_epoch = 1         # checkpoints of each shard after which their models are merged
merge_wait_ms = 10000             # how long a shard holds its next round back for a merge
epoch_timeout_ms = 600000         # how long the main chain waits for a shard's checkpoint
retention_rounds = 8              # rounds whose updates stay in the state; all stay in the blocks
clock_drift_ms = 5000             # how far a proposer's clock may be ahead
max_delegates = 128               # candidates elected for an epoch
min_self_bond = 1                 # units of its own without which nobody is a candidate
unbonding_blocks = 100000         # of the main chain, for which stake that left can be slashed
trust_period_ms = 1209600000      # how long signatures of a committee are believed; under unbonding
jail_blocks = 1000                # of the main chain, for which a jailed validator is not elected
downtime_window_blocks = 1000     # over which the certificates that a delegate missed are counted
max_missed_blocks = 600           # of such a window; one more jails
genesis_commission_thousandths = 100  # what the first delegates keep of their delegators' rewards

[incentives]                      # what is asked of devices; the defaults ask for nothing
device_deposit = 0                # least units with which a device is enrolled
deposit_per_weight = 0            # units an owner needs for each unit of weight; 0 caps nothing
quarantine_strikes = 0            # strikes at which a device is left out; 0 leaves nobody out
quarantine_rounds = 1             # for how many rounds
penalty_thousandths = 0           # of its deposit, what each quarantine after the first one costs
"""

_PARTS: Final = {
    "Training": "training.",
    "Codec": "codec.",
    "Normalisation": "normalisation.",
    "AggregationRule": "aggregation.",
    "Parameters": "network.",
    "Incentives": "incentives.",
    "Task": "",
}
"""Which section of the file becomes which record."""
_RENAMED: Final = {"task": "name", "aggregation.kind": "aggregation.rule"}

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """A checked `task.toml`."""

    name: TaskId
    rounds: int
    cohort_size: int
    min_updates: int
    collect_ms: int
    score_ms: int
    attest_ms: int
    max_examples: int
    score_threshold: int
    reputation_thousandths: int
    fraction_bits: int
    round_budget: int
    delegate_thousandths: int
    training: Training
    normalisation: Normalisation | None
    codec: Codec
    rule: AggregationRule
    parameters: Parameters

    def make_task(self, program: Program, initial_model: Digest) -> Task:
        """The task that trains `program` from `initial_model`.

        Raises:
            ConfigError: If a value is outside its range; names the key.
        """
        task = Task(
            task=self.name,
            program=Digest(program.digest),
            tensor_sizes=program.tensor_sizes,
            fraction_bits=self.fraction_bits,
            initial_model=initial_model,
            training=self.training,
            codec=self.codec,
            rule=self.rule,
            max_examples=NumExamples(self.max_examples),
            score_threshold=Score(self.score_threshold),
            reputation_thousandths=self.reputation_thousandths,
            rounds=self.rounds,
            cohort_size=self.cohort_size,
            min_updates=self.min_updates,
            collect_ms=self.collect_ms,
            score_ms=self.score_ms,
            attest_ms=self.attest_ms,
            round_budget=Units(self.round_budget),
            delegate_thousandths=self.delegate_thousandths,
            reward_floor=compute_noise_cosine(program.num_parameters),
            normalisation=self.normalisation,
        )
        try:
            require_valid(task)
            require_valid(self.parameters)
        except InvalidMessage as error:
            raise _named(error) from error
        try:
            normalise(np.zeros((1, *program.input_shape), np.float32), self.normalisation)
        except InvalidMessage as error:
            raise ConfigError(
                "normalisation", str(error), fix=f"the program takes {program.input_shape}"
            ) from error
        return task


def load_task_file(path: Path) -> TaskFile:
    """Read and check the file at `path`.

    Raises:
        ConfigError: Names the key and the fix.
    """
    return parse_task_file(
        TomlTable.read(path, fix="write one with headwater-gateway task --out FILE")
    )


def format_normalised(normalisation: Normalisation) -> str:
    """The template with a normalisation in it."""
    lines = {
        "fraction_bits = 16 ": f"fraction_bits = {normalisation.fraction_bits}",
        "offsets = [] ": f"offsets = {list(normalisation.offsets)}",
        "scales = [] ": f"scales = {list(normalisation.scales)}",
    }
    text, section, end = TEMPLATE.partition("[normalisation]")
    for empty, full in lines.items():
        end = end.replace(empty, full + " ", 1)
    return text + section + end


def default_task_file() -> TaskFile:
    """The template's own values."""
    return parse_task_file(TomlTable("", {}, Path()))


def parse_task_file(root: TomlTable) -> TaskFile:
    """The task in a TOML document; what is missing is the template's.

    Raises:
        ConfigError: If a key is unknown or of another type; ranges are checked by `make_task`,
            except where a record checks them itself.
    """
    defaults = TomlTable("", tomllib.loads(TEMPLATE), Path())
    own = {name: defaults.integer(name) for name in _own_names()}
    numbers = {name: root.integer(name, own[name]) for name in own}
    name = root.text("name", defaults.text("name"))
    table, template = root.table("training"), defaults.table("training")
    training = Training(
        optimizer=_choice(table, template, "optimizer", OptimizerKind),
        **_integers(table, template, Training, beside=("optimizer",)),
    )
    normalisation = _parse_normalisation(root.table("normalisation"), defaults)
    codec = Codec(**_integers(root.table("codec"), defaults.table("codec"), Codec))
    table, template = root.table("aggregation"), defaults.table("aggregation")
    kind = _choice(table, template, "rule", RuleKind)
    integers = _integers(table, template, AggregationRule, beside=("kind", "rule"))
    try:
        rule = AggregationRule(kind=kind, **integers)
    except InvalidMessage as error:
        raise ConfigError("aggregation", str(error), fix="correct it") from error
    table, template = root.table("network"), defaults.table("network")
    numbers_of_network = _integers(table, template, Parameters, beside=("incentives",))
    table, template = root.table("incentives"), defaults.table("incentives")
    asked = _integers(table, template, Incentives)
    incentives = Incentives(
        device_deposit=Units(asked.pop("device_deposit")),
        deposit_per_weight=Units(asked.pop("deposit_per_weight")),
        **asked,
    )
    parameters = Parameters(incentives=incentives, **numbers_of_network)
    sections = ("training", "normalisation", "codec", "aggregation", "network", "incentives")
    root.require_empty(("name", *own, *sections))
    return TaskFile(
        name=TaskId(name),
        training=training,
        normalisation=normalisation,
        codec=codec,
        rule=rule,
        parameters=parameters,
        **numbers,
    )


def _parse_normalisation(table: TomlTable, defaults: TomlTable) -> Normalisation | None:
    template = defaults.table("normalisation")
    fraction_bits = table.integer("fraction_bits", template.integer("fraction_bits"))
    offsets = table.integers("offsets", ())
    scales = table.integers("scales", ())
    table.require_empty(("fraction_bits", "offsets", "scales"))
    if not offsets and not scales:
        return None
    return Normalisation(
        fraction_bits=fraction_bits,
        offsets=offsets or (0,),
        scales=scales or (1 << max(0, fraction_bits),),
    )


def _own_names() -> tuple[str, ...]:
    """The whole numbers at the top of the file."""
    return tuple(field.name for field in fields(TaskFile) if field.type in {int, "int"})


def _integers(
    table: TomlTable, template: TomlTable, record: type, *, beside: tuple[str, ...] = ()
) -> dict[str, int]:
    """The whole numbers of a record; `beside` names what else its section holds."""
    names = [field.name for field in fields(record) if field.name not in beside]
    values = {name: table.integer(name, template.integer(name)) for name in names}
    table.require_empty((*beside[-1:], *names))
    return values


def _choice(table: TomlTable, template: TomlTable, key: str, kind: type[E]) -> E:
    text = table.text(key, template.text(key))
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(
            table.key(key), f"is {text!r}", fix=f"use one of {', '.join(kind)}"
        ) from None


def _named(error: InvalidMessage) -> ConfigError:
    """A record's complaint about one of its fields, in the words of the file."""
    found = re.match(r"(?P<record>\w+)\.(?P<field>\w+) (?P<problem>.+)", str(error))
    if found is None or found["record"] not in _PARTS:
        return ConfigError("task.toml", str(error), fix="correct it")
    key = _PARTS[found["record"]] + found["field"]
    return ConfigError(_RENAMED.get(key, key), found["problem"], fix="correct it in task.toml")
