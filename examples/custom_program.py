"""A training program of your own: a forward pass in Python, a `.tflite` file for every device.

Export it where TensorFlow is installed, then check it anywhere:

    headwater-model export examples.custom_program:build --out gesture.tflite
    headwater-model check gesture.tflite

Or run this file to do both.
"""

import tensorflow as tf

from headwater_models.authoring import layers
from headwater_models.authoring.definition import ParameterSource, ProgramDefinition


def forward(parameters: ParameterSource, x: tf.Tensor) -> tf.Tensor:
    """Map accelerometer windows (batch, 64, 3) to the logits of 4 gestures."""
    x = layers.relu(layers.conv1d(parameters, x, filters=12, width=5))
    x = layers.max_pool1d(x, size=4)
    # A residual block: `layers.add`, because the gradient of `+` between activations of a dynamic
    # batch does not lower to builtins.
    x = layers.add(x, layers.tanh(layers.conv1d(parameters, x, filters=12, width=3)))
    x = layers.mean_pool(x)
    return layers.dense(parameters, x, units=4)


def build() -> ProgramDefinition:
    """Return what the exporter takes."""
    return ProgramDefinition(forward=forward, input_shape=(64, 3), num_classes=4)


if __name__ == "__main__":
    from headwater_models.cli import main

    main(["export", "examples.custom_program:build", "--out", "gesture.tflite"])
    raise SystemExit(main(["check", "gesture.tflite"]))
