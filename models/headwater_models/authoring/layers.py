"""Layers whose gradients lower to TFLite builtins, for any batch size.

TensorFlow's own gradients of ReLU, convolution, pooling and slicing become operations that a plain
TFLite runtime lacks, and with a dynamic batch so does the gradient of adding two activations. Each
layer here therefore brings its own backward pass, made of matrix products, reshapes, padding,
concatenation and comparisons. Every one is compared with a float64 numpy backward pass in the
tests.

Activations are float32 with the batch first: (batch, features), (batch, steps, channels) or
(batch, rows, columns, channels). The batch is never a number in the graph: a program with a static
batch gives wrong gradients for a shorter one and raises nothing.

A layer of your own is a function like these: take tensors from the `ParameterSource`, and use
`tf.custom_gradient` where `headwater-model check` names an operation that the runtime lacks.
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from headwater_models.authoring.definition import ParameterSource
from headwater_protocol.errors import ConfigError

Backward = Callable[[tf.Tensor], tf.Tensor]


def reshape(x: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Give every example the static `shape`; the batch stays as it is."""
    before, after = [-1, *x.shape[1:]], [-1, *shape]

    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Backward]:
        return tf.reshape(x, after), lambda dy: tf.reshape(dy, before)

    return tf.custom_gradient(forward)(x)


def flatten(x: tf.Tensor) -> tf.Tensor:
    """Return shape (batch, everything else)."""
    return reshape(x, [math.prod(x.shape[1:])])


def dense(parameters: ParameterSource, x: tf.Tensor, *, units: int) -> tf.Tensor:
    """Map (batch, features) to (batch, units) with a kernel (features, units) and a bias."""
    fan_in = int(x.shape[-1])
    kernel = parameters.take((fan_in, units), fan_in=fan_in)
    bias = parameters.take((units,), fan_in=0)

    def forward(
        x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def backward(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return (
                tf.matmul(dy, kernel, transpose_b=True),
                tf.matmul(x, dy, transpose_a=True),
                tf.reduce_sum(dy, axis=0),
            )

        return tf.matmul(x, kernel) + bias, backward

    return tf.custom_gradient(forward)(x, kernel, bias)


def conv1d(
    parameters: ParameterSource, x: tf.Tensor, *, filters: int, width: int, padding: str = "same"
) -> tf.Tensor:
    """Convolve (batch, steps, channels) along the steps, stride 1.

    Args:
        parameters: Gives a kernel (width, channels, filters) and a bias (filters,).
        x: Shape (batch, steps, channels).
        filters: Channels of the result.
        width: Steps under the kernel.
        padding: "same" keeps the number of steps, "valid" loses `width - 1`.
    """
    steps, channels = x.shape[1:]
    kernel = parameters.take((width, channels, filters), fan_in=width * channels)
    bias = parameters.take((filters,), fan_in=0)
    image = reshape(x, [1, steps, channels])
    result = _convolve(image, kernel, bias, size=(1, width), padding=padding)
    return reshape(result, result.shape[2:])


def conv2d(
    parameters: ParameterSource, x: tf.Tensor, *, filters: int, size: int, padding: str = "same"
) -> tf.Tensor:
    """Convolve (batch, rows, columns, channels) with a square kernel, stride 1.

    Args:
        parameters: Gives a kernel (size, size, channels, filters) and a bias (filters,).
        x: Shape (batch, rows, columns, channels).
        filters: Channels of the result.
        size: Rows and columns under the kernel.
        padding: "same" keeps rows and columns, "valid" loses `size - 1` of each.
    """
    channels = int(x.shape[-1])
    kernel = parameters.take((size, size, channels, filters), fan_in=size * size * channels)
    bias = parameters.take((filters,), fan_in=0)
    return _convolve(x, kernel, bias, size=(size, size), padding=padding)


def _convolve(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, *, size: tuple[int, int], padding: str
) -> tf.Tensor:
    """Convolve images, stride 1, `kernel` being any reshape of (*size, channels, filters).

    The patches under the kernel are laid out as rows, so that the result and the gradient of the
    kernel are one matrix product each (im2col). The gradient of the input is a transposed
    convolution, which is a builtin; that of the kernel is not.
    """
    if padding not in {"same", "valid"}:
        raise ConfigError("padding", f"{padding!r} is unknown", fix='use "same" or "valid"')
    channels, filters = int(x.shape[-1]), int(bias.shape[0])
    margins = [((extent - 1) // 2, extent // 2) if padding == "same" else (0, 0) for extent in size]
    outer = [
        int(length) + sum(margin) - extent + 1
        for length, margin, extent in zip(x.shape[1:3], margins, size, strict=True)
    ]
    if min(outer) < 1:
        raise ConfigError(
            "size", f"a kernel of {size} exceeds an input of {tuple(x.shape[1:3])}", fix="shrink it"
        )
    num_taps = math.prod(size)

    def forward(
        x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        padded = tf.pad(x, [(0, 0), *margins, (0, 0)])
        windows = [
            tf.slice(padded, [0, row, column, 0], [-1, *outer, channels])
            for row in range(size[0])
            for column in range(size[1])
        ]
        patches = tf.reshape(tf.concat(windows, axis=3), [-1, num_taps * channels])
        rows = tf.matmul(patches, tf.reshape(kernel, [-1, filters])) + bias

        def backward(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            dy_rows = tf.reshape(dy, [-1, filters])
            dpadded = tf.nn.conv2d_transpose(
                dy,
                tf.reshape(kernel, [*size, channels, filters]),
                tf.shape(padded),
                strides=1,
                padding="VALID",
            )
            start = [0, margins[0][0], margins[1][0], 0]
            dx = tf.slice(dpadded, start, [-1, *x.shape[1:]])
            dkernel = tf.matmul(patches, dy_rows, transpose_a=True)
            return dx, tf.reshape(dkernel, kernel.shape), tf.reduce_sum(dy_rows, axis=0)

        return tf.reshape(rows, [-1, *outer, filters]), backward

    return tf.custom_gradient(forward)(x, kernel, bias)


def max_pool1d(x: tf.Tensor, *, size: int) -> tf.Tensor:
    """Take the maximum of every `size` steps of (batch, steps, channels), without overlap."""
    steps, channels = x.shape[1:]
    _refuse_remainder(steps, size)
    return _maximum_of(reshape(x, [steps // size, size * channels]), count=size)


def max_pool2d(x: tf.Tensor, *, size: int) -> tf.Tensor:
    """Take the maximum of every `size` by `size` square, without overlap."""
    for length in x.shape[1:3]:
        _refuse_remainder(length, size)
    # Moving a square's pixels into the channels and comparing slices is 2.6 times faster than a
    # maximum over reshaped axes.
    return _maximum_of(tf.nn.space_to_depth(x, size), count=size * size)


def _refuse_remainder(length: int, size: int) -> None:
    if length % size:
        raise ConfigError(
            "size", f"{length} is no multiple of {size}", fix="pad the input or pool another size"
        )


def _maximum_of(x: tf.Tensor, *, count: int) -> tf.Tensor:
    """Return the maximum of `count` equal slices of the last axis; on a tie the first one wins."""
    if count == 1:
        return x
    winners = tf.split(x, count, axis=-1)
    while len(winners) > 1:
        pairs = [_maximum(a, b) for a, b in zip(winners[0::2], winners[1::2], strict=False)]
        winners = pairs + winners[2 * len(pairs) :]
    return winners[0]


def _maximum(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    def forward(
        a: tf.Tensor, b: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def backward(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            to_a = dy * tf.cast(a >= b, tf.float32)
            return to_a, dy - to_a

        return tf.maximum(a, b), backward

    return tf.custom_gradient(forward)(a, b)


def mean_pool(x: tf.Tensor) -> tf.Tensor:
    """Return the mean over all steps or pixels: (batch, ..., channels) to (batch, channels)."""
    axes = list(range(1, len(x.shape) - 1))
    inner = [int(length) for length in x.shape[1:-1]]

    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Backward]:
        def backward(dy: tf.Tensor) -> tf.Tensor:
            spread = tf.fill([1, *inner, 1], 1.0 / math.prod(inner))
            return tf.reshape(dy, [-1, *([1] * len(inner)), x.shape[-1]]) * spread

        return tf.reduce_mean(x, axis=axes), backward

    return tf.custom_gradient(forward)(x)


def relu(x: tf.Tensor) -> tf.Tensor:
    """Return the positive part; the gradient at zero is zero."""

    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Backward]:
        y = tf.maximum(x, 0.0)
        return y, lambda dy: dy * tf.cast(y > 0.0, tf.float32)

    return tf.custom_gradient(forward)(x)


def tanh(x: tf.Tensor) -> tf.Tensor:
    """Return the hyperbolic tangent."""

    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Backward]:
        y = tf.tanh(x)
        return y, lambda dy: dy * (1.0 - y * y)

    return tf.custom_gradient(forward)(x)


def add(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Add two activations of one shape, as a residual connection does."""

    def forward(
        a: tf.Tensor, b: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        return a + b, lambda dy: (dy, dy)

    return tf.custom_gradient(forward)(a, b)


def softmax_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, sample_weights: tf.Tensor
) -> tf.Tensor:
    """Return the weighted sum of the examples' losses, float32 of shape (1,).

    It is a sum, not a mean: weights of 1/n give the mean, a weight of 0 removes an example, and
    nothing is divided by a total that could be zero.

    Args:
        logits: Shape (batch, num_classes).
        labels: int32, shape (batch,), 0 to num_classes - 1.
        sample_weights: float32, shape (batch,).
    """
    num_classes = int(logits.shape[-1])

    def forward(logits: tf.Tensor) -> tuple[tf.Tensor, Backward]:
        target = tf.one_hot(labels, num_classes)
        losses = -tf.reduce_sum(target * tf.nn.log_softmax(logits), axis=1)

        def backward(dloss: tf.Tensor) -> tf.Tensor:
            scale = tf.reshape(sample_weights, [-1, 1]) * dloss
            return (tf.nn.softmax(logits) - target) * scale

        return tf.reduce_sum(losses * sample_weights, axis=0, keepdims=True), backward

    return tf.custom_gradient(forward)(logits)
