"""What crosses a wire or is hashed: encoding, signing, proofs, codec, aggregation, topics.

Every other package imports this one; it imports nothing of theirs. It holds no clock, no entropy,
no socket and no file.
"""
