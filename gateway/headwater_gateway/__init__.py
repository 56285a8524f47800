"""A gateway: takes updates in, serves a shard's delegates, settles with the main chain."""
