"""The ledger of a shard: devices, rounds, updates, scores, attestations, rewards, checkpoints."""
