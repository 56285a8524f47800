"""What people are told about a device: status, checks, proofs, a support archive."""
