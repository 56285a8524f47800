import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_firmware_sim.data.digits import load_digits
from headwater_firmware_sim.data.partition import split_dirichlet


@given(
    num_examples=st.integers(30, 300),
    num_devices=st.integers(1, 30),
    alpha=st.sampled_from([0.05, 0.5, 5.0, 1_000.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_every_example_goes_to_exactly_one_device(num_examples, num_devices, alpha, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, num_examples).astype(np.int32)
    parts = split_dirichlet(labels, num_devices=num_devices, alpha=alpha, rng=rng)
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_examples))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_small_alpha_gives_devices_few_classes():
    labels = load_digits().labels
    few = split_dirichlet(labels, num_devices=60, alpha=0.1, rng=np.random.default_rng(1))
    many = split_dirichlet(labels, num_devices=60, alpha=100.0, rng=np.random.default_rng(1))

    def mean_largest_share(parts):
        return np.mean([np.bincount(labels[part]).max() / len(part) for part in parts])

    assert mean_largest_share(few) > 2 * mean_largest_share(many)


def test_more_devices_than_examples_is_refused():
    with pytest.raises(ValueError, match="3 examples for 4 devices"):
        split_dirichlet(
            np.zeros(3, np.int32), num_devices=4, alpha=1.0, rng=np.random.default_rng(1)
        )
