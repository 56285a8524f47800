"""Simulated devices, networks and attackers, driven by the device's own code; the demo."""
