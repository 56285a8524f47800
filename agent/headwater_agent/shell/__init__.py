"""What connects the state machine to a broker: sockets, a clock, a disk, and no rules."""
