"""The programs that come with the package; `headwater-model build` writes their files."""

from collections.abc import Callable
from typing import Final

import tensorflow as tf

from headwater_models.authoring import layers
from headwater_models.authoring.definition import ParameterSource, ProgramDefinition


def mlp_64_32_10() -> ProgramDefinition:
    """Return a perceptron for 8 by 8 digits, 2,410 parameters."""

    def forward(parameters: ParameterSource, x: tf.Tensor) -> tf.Tensor:
        hidden = layers.relu(layers.dense(parameters, x, units=32))
        return layers.dense(parameters, hidden, units=10)

    return ProgramDefinition(forward=forward, input_shape=(64,), num_classes=10)


def har_cnn() -> ProgramDefinition:
    """Return a network for motion windows of 128 steps by 9 channels, 3,718 parameters."""

    def forward(parameters: ParameterSource, x: tf.Tensor) -> tf.Tensor:
        # ReLU after the pool gives the same result as before it, on fewer values.
        x = layers.conv1d(parameters, x, filters=16, width=5)
        x = layers.relu(layers.max_pool1d(x, size=4))
        x = layers.conv1d(parameters, x, filters=32, width=5)
        x = layers.relu(layers.max_pool1d(x, size=16))
        return layers.dense(parameters, layers.flatten(x), units=6)

    return ProgramDefinition(forward=forward, input_shape=(128, 9), num_classes=6)


def cnn_28x28() -> ProgramDefinition:
    """Return a network for grey images of 28 by 28 pixels, 9,098 parameters."""

    def forward(parameters: ParameterSource, x: tf.Tensor) -> tf.Tensor:
        x = layers.conv2d(parameters, x, filters=8, size=3)
        x = layers.relu(layers.max_pool2d(x, size=2))
        x = layers.conv2d(parameters, x, filters=16, size=3)
        x = layers.relu(layers.max_pool2d(x, size=2))
        return layers.dense(parameters, layers.flatten(x), units=10)

    return ProgramDefinition(forward=forward, input_shape=(28, 28, 1), num_classes=10)


SHIPPED: Final[dict[str, Callable[[], ProgramDefinition]]] = {
    "mlp-64-32-10": mlp_64_32_10,
    "har-cnn": har_cnn,
    "cnn-28x28": cnn_28x28,
}
"""Builders by program name, which is the file's stem."""

BUILT_WITH: Final = "2.21.0"
"""The TensorFlow version behind the committed files; another one may write other bytes."""
