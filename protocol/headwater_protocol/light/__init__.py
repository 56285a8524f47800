"""The light client: from a pinned genesis over all elections to any fact of the ledgers, by proof.

It needs the protocol and cryptography and nothing else; a device has it without the ledgers.
"""
