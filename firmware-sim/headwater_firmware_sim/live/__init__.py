"""Simulated devices over a real broker: the device's own machine behind aiomqtt."""
