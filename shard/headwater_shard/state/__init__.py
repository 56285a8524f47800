"""The state of a ledger: immutable namespaces, and drafts in which a block is executed."""
