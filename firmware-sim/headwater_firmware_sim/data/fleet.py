"""The data of a whole fleet: what each device, each delegate and the evaluation has."""

from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_firmware_sim.data.digits import load_digits
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.data.folder import load_folder
from headwater_firmware_sim.data.loader import load_by_function
from headwater_firmware_sim.data.partition import (
    draw_sizes,
    split_by_quantity,
    split_by_user,
    split_dirichlet,
    split_iid,
)
from headwater_firmware_sim.data.vibration import SensorFault, VibrationSensor
from headwater_firmware_sim.scenario.kinds import PartitionKind, SourceKind
from headwater_firmware_sim.scenario.model import Data, Scenario
from headwater_models.program import Program
from headwater_protocol.errors import ConfigError

TEST_SHARE = 0.2
"""Of a finite source, at most, for the evaluation; as much again for the delegates."""


MAX_DRAWN_BYTES: Final = 8 * 1024 * 1024
"""Of a sensor's examples that are kept, at the mean number of each device."""


class FleetData(Protocol):
    """Who has which examples."""

    @property
    def test(self) -> Examples:
        """Held out from everybody."""
        ...

    def device(self, index: int) -> Examples:
        """A device's own."""
        ...

    def num_examples(self, index: int) -> int:
        """How many those are."""
        ...

    def validation(self, index: int) -> Examples:
        """A delegate's own."""
        ...


def make_fleet_data(scenario: Scenario, program: Program, *, seed: int, folder: Path) -> FleetData:
    """The data of `scenario` drawn from `seed`.

    Raises:
        ConfigError: If a source cannot be read or has too little.
    """
    data = scenario.data
    num_delegates = scenario.network.shards * scenario.network.delegates
    if data.source is SourceKind.VIBRATION:
        return SensorFleet(data, program, devices=scenario.devices, seed=seed)
    rng = np.random.default_rng([seed, 2])
    if data.source is SourceKind.LOADER:
        parts = load_by_function(
            data.loader,
            folder=folder,
            devices=scenario.devices,
            seed=seed,
            shape=program.input_shape,
            num_classes=program.num_classes,
        )
        return _hold_out(parts, data, num_delegates=num_delegates, rng=rng)
    users = None
    if data.source is SourceKind.DIGITS:
        _require_digits(program)
        pool = load_digits()
    else:
        by_user = data.partition.kind is PartitionKind.USER
        pool, users = load_folder(
            folder / data.path,
            shape=program.input_shape,
            num_classes=program.num_classes,
            user_column=data.partition.column,
            by_user=by_user,
        )
    return _split_pool(pool, users, scenario, num_delegates=num_delegates, rng=rng)


class PoolFleet:
    """Examples out of one pool of arrays."""

    def __init__(
        self, pool: Examples, *, devices: list[NDArray[np.int64]], test: Examples,
        validation: list[Examples],
    ) -> None:  # fmt: skip
        self._pool = pool
        self._devices = devices
        self._test = test
        self._validation = validation

    @property
    def test(self) -> Examples:
        """Held out from everybody."""
        return self._test

    def device(self, index: int) -> Examples:
        """A device's own."""
        return self._pool.take(self._devices[index])

    def num_examples(self, index: int) -> int:
        """How many those are."""
        return len(self._devices[index])

    def validation(self, index: int) -> Examples:
        """A delegate's own."""
        return self._validation[index]


class SensorFleet:
    """Examples drawn when they are asked for, so that a fleet of any size takes little memory.

    A small fleet's are kept from round to round: drawing them takes about as long as training.
    """

    def __init__(self, data: Data, program: Program, *, devices: int, seed: int) -> None:
        self._data = data
        self._seed = seed
        self._sensor = VibrationSensor(
            seed=seed,
            shape=program.input_shape,
            num_classes=program.num_classes,
            bias=data.bias,
            noise=data.noise,
        )
        rng = np.random.default_rng([seed, 3])
        self._sizes: NDArray[np.int64] | None = None
        if data.partition.kind is PartitionKind.QUANTITY:
            self._sizes = draw_sizes(
                data.examples * devices, num_devices=devices, alpha=data.partition.alpha, rng=rng
            )
        labels = _even_labels(data.test_examples, program.num_classes)
        self._test = self._sensor.draw(labels, rng, sensor=None)
        self._drawn: dict[int, Examples] = {}
        mean_bytes = 4 * data.examples * (1 + int(np.prod(program.input_shape)))
        self._most_drawn = MAX_DRAWN_BYTES // mean_bytes

    @property
    def test(self) -> Examples:
        """Held out from everybody."""
        return self._test

    def device(self, index: int) -> Examples:
        """A device's own, the same each time."""
        known = self._drawn.get(index)
        if known is None:
            known = self._draw(index)
            if len(self._drawn) < self._most_drawn:
                self._drawn[index] = known
        return known

    def _draw(self, index: int) -> Examples:
        rng = np.random.default_rng([self._seed, 4, index])
        size, classes = self.num_examples(index), self._sensor.num_classes
        if self._data.partition.kind is PartitionKind.DIRICHLET:
            mix = rng.dirichlet(np.full(classes, self._data.partition.alpha))
            labels = rng.choice(classes, size, p=mix)
        else:
            labels = rng.integers(0, classes, size)
        is_faulty = self._data.sensor_faults > 0 and rng.random() < self._data.sensor_faults
        fault = SensorFault(int(rng.integers(1, 4))) if is_faulty else SensorFault.NONE
        return self._sensor.draw(labels.astype(np.int32), rng, sensor=index, fault=fault)

    def num_examples(self, index: int) -> int:
        """How many those are."""
        return self._data.examples if self._sizes is None else int(self._sizes[index])

    def validation(self, index: int) -> Examples:
        """A delegate's own, through an ideal sensor."""
        rng = np.random.default_rng([self._seed, 5, index])
        labels = _even_labels(self._data.validation_examples, self._sensor.num_classes)
        return self._sensor.draw(labels, rng, sensor=None)


def _split_pool(
    pool: Examples,
    users: NDArray[np.int64] | None,
    scenario: Scenario,
    *,
    num_delegates: int,
    rng: np.random.Generator,
) -> PoolFleet:
    data = scenario.data
    order = rng.permutation(len(pool)).astype(np.int64)
    num_test = min(data.test_examples, int(len(pool) * TEST_SHARE))
    num_own = min(data.validation_examples, int(len(pool) * TEST_SHARE) // num_delegates)
    if num_test < 1 or num_own < 1:
        raise ConfigError(
            "data",
            f"{len(pool)} examples are too few for {num_delegates} delegates",
            fix="give more, or fewer delegates",
        )
    num_held = num_test + num_own * num_delegates
    held, rest = order[:num_held], np.sort(order[num_held:])
    kind, alpha, count = data.partition.kind, data.partition.alpha, scenario.devices
    try:
        if kind is PartitionKind.USER and users is not None:
            parts = split_by_user(
                np.unique(users[rest], return_inverse=True)[1], num_devices=count, rng=rng
            )
        elif kind is PartitionKind.DIRICHLET:
            parts = split_dirichlet(pool.labels[rest], num_devices=count, alpha=alpha, rng=rng)
        elif kind is PartitionKind.QUANTITY:
            parts = split_by_quantity(len(rest), num_devices=count, alpha=alpha, rng=rng)
        else:
            parts = split_iid(len(rest), num_devices=count, rng=rng)
    except ValueError as error:
        raise ConfigError(
            "data.partition", str(error), fix="give fewer devices, or another kind"
        ) from None
    own = held[num_test:].reshape(num_delegates, num_own)
    return PoolFleet(
        pool,
        devices=[rest[part] for part in parts],
        test=pool.take(held[:num_test]),
        validation=[pool.take(part) for part in own],
    )


def _hold_out(
    parts: tuple[Examples, ...], data: Data, *, num_delegates: int, rng: np.random.Generator
) -> PoolFleet:
    """Take test and validation examples from everybody's, so that they are like the fleet's."""
    pool = Examples(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
    starts = np.cumsum([0, *(len(part) for part in parts)])
    order = rng.permutation(len(pool)).astype(np.int64)
    num_test = max(1, min(data.test_examples, int(len(pool) * TEST_SHARE)))
    num_own = max(1, min(data.validation_examples, len(pool) // (5 * num_delegates)))
    own = [np.roll(order, -num_test - index * num_own)[:num_own] for index in range(num_delegates)]
    return PoolFleet(
        pool,
        devices=[
            np.arange(starts[index], starts[index + 1], dtype=np.int64)
            for index in range(len(parts))
        ],
        test=pool.take(order[:num_test]),
        validation=[pool.take(part) for part in own],
    )


def _even_labels(count: int, num_classes: int) -> NDArray[np.int32]:
    return (np.arange(count) % num_classes).astype(np.int32)


def _require_digits(program: Program) -> None:
    if int(np.prod(program.input_shape)) != 64 or program.num_classes < 10:
        raise ConfigError(
            "data.source",
            f"digits have 64 values, the program takes {program.input_shape}",
            fix='use "vibration", or the model mlp-64-32-10',
        )
