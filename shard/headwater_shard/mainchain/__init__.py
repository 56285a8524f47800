"""The main chain: accounts, candidates, escrow, the shards' checkpoints, merges of their models."""
