"""When a device may train: it shares its machine with what the machine is really for."""
