"""Handwritten digits, 8x8 pixels, from scikit-learn: 1,797 examples that come with the package.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

import numpy as np

from headwater_firmware_sim.data.examples import Examples


def load_digits() -> Examples:
    """All digits, features of shape (1797, 64) from 0 to 1."""
    from sklearn import datasets  # noqa: PLC0415  # takes a second to import

    features, labels = datasets.load_digits(return_X_y=True)
    return Examples(
        features=(np.asarray(features) / 16.0).astype(np.float32),
        labels=np.asarray(labels).astype(np.int32),
    )
