"""Hashes with a domain and Ed25519 signatures."""
