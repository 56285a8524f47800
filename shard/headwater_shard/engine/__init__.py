"""Engines order transactions and decide finality; the border to a ledger is that of ABCI."""
