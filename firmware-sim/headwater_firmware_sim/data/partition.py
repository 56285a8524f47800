"""Splitting examples over devices.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, for the Dirichlet split.
"""

import numpy as np
from numpy.typing import NDArray


def split_dirichlet(
    labels: NDArray[np.int32], *, num_devices: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give each device its own mix of classes, drawn from Dirichlet(alpha).

    Every device gets the same number of examples, give or take one, and at least one; the smaller
    `alpha`, the fewer classes it sees.

    Args:
        labels: Shape (n,), n at least `num_devices`.
        num_devices: At least 1.
        alpha: Concentration, positive.
        rng: Draws the mixes and the order.

    Returns:
        For each device the indices of its examples; together they are all indices, each once.

    Raises:
        ValueError: If there are fewer examples than devices.
    """
    if len(labels) < num_devices:
        raise ValueError(f"{len(labels)} examples for {num_devices} devices")
    classes = np.unique(labels)
    pools = {
        int(label): list(rng.permutation(np.flatnonzero(labels == label))) for label in classes
    }
    sizes = np.full(num_devices, len(labels) // num_devices)
    sizes[: len(labels) % num_devices] += 1
    parts: list[NDArray[np.int64]] = []
    for size in sizes:
        mix = rng.dirichlet(np.full(len(classes), alpha))
        chosen: list[int] = []
        while len(chosen) < size:
            left = np.array([len(pools[int(label)]) > 0 for label in classes])
            weights = np.where(left, mix + 1e-9, 0.0)
            label = int(rng.choice(classes, p=weights / weights.sum()))
            chosen.append(int(pools[label].pop()))
        parts.append(np.array(sorted(chosen), dtype=np.int64))
    return parts


def split_iid(
    num_examples: int, *, num_devices: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Deal shuffled examples out in equal parts.

    With fewer examples than devices, each device gets one, and some get the same.
    """
    order = rng.permutation(num_examples).astype(np.int64)
    if num_examples < num_devices:
        return [order[index % num_examples][None] for index in range(num_devices)]
    return [np.sort(part) for part in np.array_split(order, num_devices)]


def split_by_quantity(
    num_examples: int, *, num_devices: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Parts whose sizes are drawn from Dirichlet(alpha), at least one example each."""
    if num_examples < num_devices:
        return split_iid(num_examples, num_devices=num_devices, rng=rng)
    sizes = draw_sizes(num_examples, num_devices=num_devices, alpha=alpha, rng=rng)
    order = rng.permutation(num_examples).astype(np.int64)
    return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def draw_sizes(
    num_examples: int, *, num_devices: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Sizes, shape (num_devices,), at least 1 each, that sum to `num_examples`."""
    shares = rng.dirichlet(np.full(num_devices, alpha))
    sizes: NDArray[np.int64] = 1 + np.floor(shares * (num_examples - num_devices)).astype(np.int64)
    for index in np.argsort(-shares, kind="stable")[: num_examples - int(sizes.sum())]:
        sizes[index] += 1
    return sizes


def split_by_user(
    users: NDArray[np.int64], *, num_devices: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give each device the examples of whole users, dealt out at random.

    Raises:
        ValueError: If there are fewer users than devices.
    """
    num_users = int(users.max()) + 1
    if num_users < num_devices:
        raise ValueError(f"{num_users} users for {num_devices} devices")
    dealt = rng.permutation(num_users)
    owner = np.empty(num_users, np.int64)
    owner[dealt] = np.arange(num_users) % num_devices
    owners = owner[users]
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, num_devices))
    return [np.sort(part).astype(np.int64) for part in np.split(order, ends)]
