"""How a device joins a network with a token, and renews what a broker knows it by."""
