"""A device: trains on its own data, signs a quantized update a round, keeps it until it counts.

`device.Device` is the whole behaviour as a state machine without I/O; `machine` holds its parts.
`shell` drives it on a Raspberry Pi, a simulator drives thousands in one process.
"""
