"""Bytes and back: canonical CBOR and the records built on it."""
