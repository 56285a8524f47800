"""The whole system in one thread, on a virtual clock, from one seed.

Nothing here sleeps, reads a clock or draws entropy: time is the next event's, chance is the seed's.
The machines of device, gateway and consensus are those that run on a Pi and on a fog server; only
wires, disks and clocks are simulated.
"""
