"""Merkle commitments: lists with proofs of inclusion, maps with proofs of presence and absence."""
