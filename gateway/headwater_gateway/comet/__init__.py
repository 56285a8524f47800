"""Chains that run on CometBFT: their configuration, their host, and how a new node catches up."""
