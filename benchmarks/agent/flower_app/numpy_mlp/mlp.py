"""A network of 64, 32 and 10 units with its gradient and Adam, in nothing but numpy."""

import numpy as np

SHAPES = ((64, 32), (32,), (32, 10), (10,))
LEARNING_RATE, EPOCHS, BATCH_SIZE = 0.01, 5, 16


def make_arrays():
    """He's initialization; the biases are zero."""
    rng = np.random.default_rng(1)
    return [
        (rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(np.float32)
        if len(shape) == 2
        else np.zeros(shape, np.float32)
        for shape in SHAPES
    ]


def compute_gradient(arrays, x, y):
    """Of the mean cross-entropy; and that loss."""
    w1, b1, w2, b2 = arrays
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y] + 1e-9).mean()
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    back = (p @ w2.T) * (hidden > 0)
    return [x.T @ back, back.sum(axis=0), hidden.T @ p, p.sum(axis=0)], float(loss)


def train(arrays, x, y, seed):
    """Adam over shuffled batches; returns the trained arrays and the last loss."""
    arrays = [array.copy() for array in arrays]
    first = [np.zeros_like(array) for array in arrays]
    second = [np.zeros_like(array) for array in arrays]
    rng = np.random.default_rng(seed)
    step, loss = 0, 0.0
    for _ in range(EPOCHS):
        order = rng.permutation(len(y))
        for start in range(0, len(y), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            gradient, loss = compute_gradient(arrays, x[batch], y[batch])
            step += 1
            for index, g in enumerate(gradient):
                first[index] += 0.1 * (g - first[index])
                second[index] += 0.001 * (g * g - second[index])
                root = np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8
                arrays[index] -= LEARNING_RATE * (first[index] / (1 - 0.9**step)) / root
    return arrays, loss
