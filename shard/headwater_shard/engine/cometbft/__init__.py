"""The ledgers on CometBFT: its ABCI 2.0 application, its signer, and the child process itself.

`replica.py` holds the rules and does no I/O; `server.py`, `signer.py`, `node.py` and `rpc.py` are
the shell around it. `docs/adr/0013` says how a block of CometBFT becomes one of ours.
"""
