"""Delegated stake: pools behind candidates, unbonding, slashing, and the election of delegates."""
