"""Data for simulated devices: sources and partitions."""
