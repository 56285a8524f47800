"""The parts of the device's state machine: no clock, no entropy, no I/O."""
