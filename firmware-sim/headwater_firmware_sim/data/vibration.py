"""A synthetic vibration sensor: as many examples as anybody wants, from a seed.

Each class is a condition of the machine, a row of harmonics that all machines share. Each device
hears it through a sensor of its own, with a gain and an offset that differ by `bias`, plus noise. A
faulty sensor sticks, drops out or clips.
"""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_firmware_sim.data.examples import Examples

NUM_HARMONICS: Final = 4
CLIP_LEVEL: Final = 0.5
DROPOUT_SHARE: Final = 0.5


class SensorFault(IntEnum):
    """What is wrong with a sensor."""

    NONE = 0
    STUCK = 1
    """It repeats its first value in the second half of a window."""
    DROPOUT = 2
    """Half of its values are zero."""
    CLIPPED = 3
    """It ends at `CLIP_LEVEL`."""


class VibrationSensor:
    """Draws examples of one kind of machine."""

    def __init__(
        self, *, seed: int, shape: tuple[int, ...], num_classes: int, bias: float, noise: float
    ) -> None:
        """Draw the machine.

        Args:
            seed: Of everything.
            shape: Of one example.
            num_classes: Conditions of the machine.
            bias: Spread of the sensors' gains and offsets.
            noise: Of each value.
        """
        self._seed = seed
        self._shape = shape
        self._bias = bias
        self._noise = noise
        size = int(np.prod(shape))
        rng = np.random.default_rng([seed, 0])
        times = np.linspace(0.0, 1.0, size, endpoint=False)
        waves = np.zeros((num_classes, size))
        for label in range(num_classes):
            orders = rng.choice(np.arange(1, max(3 * NUM_HARMONICS, size // 4)), NUM_HARMONICS)
            for order in orders:
                phase = rng.uniform(0.0, 2 * np.pi)
                waves[label] += rng.uniform(0.3, 1.0) * np.sin(2 * np.pi * order * times + phase)
        self._waves = waves.astype(np.float32)

    @property
    def num_classes(self) -> int:
        """Conditions of the machine."""
        return len(self._waves)

    def draw(
        self,
        labels: NDArray[np.int32],
        rng: np.random.Generator,
        *,
        sensor: int | None,
        fault: SensorFault = SensorFault.NONE,
    ) -> Examples:
        """Examples of `labels`, shape (n,), as heard by one sensor; None is an ideal one."""
        signal = self._waves[labels] * rng.uniform(0.8, 1.2, (len(labels), 1)).astype(np.float32)
        if sensor is not None:
            own = np.random.default_rng([self._seed, 1, sensor])
            gain, offset = own.normal(1.0, self._bias), own.normal(0.0, self._bias)
            signal = signal * np.float32(gain) + np.float32(offset)
        signal = signal + self._noise * rng.standard_normal(signal.shape, dtype=np.float32)
        signal = _break(signal.astype(np.float32), fault, rng)
        return Examples(features=signal.reshape(len(labels), *self._shape), labels=labels)


def _break(
    signal: NDArray[np.float32], fault: SensorFault, rng: np.random.Generator
) -> NDArray[np.float32]:
    if fault is SensorFault.STUCK:
        half = signal.shape[1] // 2
        signal[:, half:] = signal[:, :1]
    elif fault is SensorFault.DROPOUT:
        signal[rng.random(signal.shape) < DROPOUT_SHARE] = 0.0
    elif fault is SensorFault.CLIPPED:
        np.clip(signal, -CLIP_LEVEL, CLIP_LEVEL, out=signal)
    return signal
