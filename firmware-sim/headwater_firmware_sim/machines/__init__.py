"""A whole network as separate processes on this machine: gateways, engines, brokers and agents.

Where the machine allows it, each gateway and broker has a network namespace of its own, so that
links can be cut and made lossy between real sockets.
"""
