"""Records that ledgers, gateways, devices and auditors share: blocks, transactions, rounds."""
