"""Scenarios: what a simulated network consists of and what happens to it, from one TOML file."""
