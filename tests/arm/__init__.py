"""The page for a Raspberry Pi, followed in an emulated one."""
