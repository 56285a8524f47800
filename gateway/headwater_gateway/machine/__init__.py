"""The gateway's rules without I/O: messages and finalized blocks in, effects out."""
