"""Float64 forward and backward passes in plain numpy, to compare programs with.

Written from the definitions, with loops over the taps of a kernel and nothing shared with the
layers: convolutions are sums over shifted inputs, pools are maxima over reshaped axes whose
gradient goes to the first maximum.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Tape:
    """Parameters in order, their gradients, and the backward steps to run in reverse."""

    pieces: list[Array]
    gradients: list[Array] = field(default_factory=list)
    backward: list[Callable[[Array], Array]] = field(default_factory=list)
    taken: int = 0

    def take(self) -> tuple[int, Array]:
        index, self.taken = self.taken, self.taken + 1
        self.gradients.append(np.zeros_like(self.pieces[index]))
        return index, self.pieces[index]


def dense(tape: Tape, x: Array) -> Array:
    (k, kernel), (b, bias) = tape.take(), tape.take()

    def backward(dy: Array) -> Array:
        tape.gradients[k] = np.einsum("ni,no->io", x, dy)
        tape.gradients[b] = dy.sum(0)
        return np.einsum("no,io->ni", dy, kernel)

    tape.backward.append(backward)
    return np.einsum("ni,io->no", x, kernel) + bias


def relu(tape: Tape, x: Array) -> Array:
    tape.backward.append(lambda dy: np.where(x > 0, dy, 0.0))
    return np.where(x > 0, x, 0.0)


def flatten(tape: Tape, x: Array) -> Array:
    tape.backward.append(lambda dy: dy.reshape(x.shape))
    return x.reshape(len(x), -1)


def conv2d(tape: Tape, x: Array) -> Array:
    """Same padding, stride 1; kernel (rows, columns, channels, filters), odd sizes."""
    (k, kernel), (b, bias) = tape.take(), tape.take()
    rows, columns = kernel.shape[:2]
    top, left = rows // 2, columns // 2
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    y = np.zeros((*x.shape[:3], kernel.shape[3])) + bias
    for i in range(rows):
        for j in range(columns):
            y += padded[:, i : i + height, j : j + width] @ kernel[i, j]

    def backward(dy: Array) -> Array:
        dpadded = np.zeros_like(padded)
        for i in range(rows):
            for j in range(columns):
                window = padded[:, i : i + height, j : j + width]
                tape.gradients[k][i, j] = np.einsum("nhwc,nhwf->cf", window, dy)
                dpadded[:, i : i + height, j : j + width] += dy @ kernel[i, j].T
        tape.gradients[b] = dy.sum((0, 1, 2))
        return dpadded[:, top : top + height, left : left + width]

    tape.backward.append(backward)
    return y


def conv1d(tape: Tape, x: Array) -> Array:
    """As `conv2d` with one row; the kernel is (width, channels, filters)."""
    start = tape.taken
    tape.pieces[start] = tape.pieces[start][None]
    tape.backward.append(lambda dy: dy[:, 0])
    y = conv2d(tape, x[:, None])
    tape.backward.append(lambda dy: dy[:, None])
    return y[:, 0]


def max_pool(tape: Tape, x: Array, size: int) -> Array:
    """Over every spatial axis of (batch, ..., channels)."""
    if x.ndim == 3:
        windows = x.reshape(len(x), x.shape[1] // size, size, x.shape[2])
        moved = np.moveaxis(windows, 2, -1)
    else:
        windows = x.reshape(
            len(x), x.shape[1] // size, size, x.shape[2] // size, size, x.shape[3]
        ).transpose(0, 1, 3, 5, 2, 4)
        moved = windows.reshape(*windows.shape[:4], size * size)
    winner = moved.argmax(-1)

    def backward(dy: Array) -> Array:
        spread = np.zeros_like(moved)
        np.put_along_axis(spread, winner[..., None], dy[..., None], -1)
        if x.ndim == 3:
            return np.moveaxis(spread, -1, 2).reshape(x.shape)
        shaped = spread.reshape(*spread.shape[:4], size, size)
        return shaped.transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)

    tape.backward.append(backward)
    return moved.max(-1)


def _mlp(tape: Tape, x: Array) -> Array:
    return dense(tape, relu(tape, dense(tape, x)))


def _har(tape: Tape, x: Array) -> Array:
    x = relu(tape, max_pool(tape, conv1d(tape, x), 4))
    x = relu(tape, max_pool(tape, conv1d(tape, x), 16))
    return dense(tape, flatten(tape, x))


def _cnn(tape: Tape, x: Array) -> Array:
    x = relu(tape, max_pool(tape, conv2d(tape, x), 2))
    x = relu(tape, max_pool(tape, conv2d(tape, x), 2))
    return dense(tape, flatten(tape, x))


FORWARD: dict[str, Callable[[Tape, Array], Array]] = {
    "mlp-64-32-10": _mlp,
    "har-cnn": _har,
    "cnn-28x28": _cnn,
}


def compute_gradient(
    name: str,
    shapes: tuple[tuple[int, ...], ...],
    parameters: NDArray[np.float32],
    features: NDArray[np.float32],
    labels: NDArray[np.int32],
    sample_weights: NDArray[np.float32],
) -> tuple[Array, float, Array]:
    """Return gradient, weighted loss and logits of a shipped program."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = np.split(parameters.astype(np.float64), np.cumsum(sizes)[:-1])
    tape = Tape([piece.reshape(shape) for piece, shape in zip(flat, shapes, strict=True)])
    logits = FORWARD[name](tape, features.astype(np.float64))
    scores = logits - logits.max(1, keepdims=True)
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    picked = chances[np.arange(len(labels)), labels]
    weights = sample_weights.astype(np.float64)
    d = chances.copy()
    d[np.arange(len(labels)), labels] -= 1
    d *= weights[:, None]
    for backward in reversed(tape.backward):
        d = backward(d)
    gradient = np.concatenate([g.ravel() for g in tape.gradients])
    return gradient, float(-(weights * np.log(picked)).sum()), logits
