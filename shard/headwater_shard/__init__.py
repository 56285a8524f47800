"""The ledgers: shard and main chain as pure transitions, the engines that order them, the audit."""
