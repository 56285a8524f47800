"""Questions that take more than one run: what differs between two, and sweeps over a grid."""
