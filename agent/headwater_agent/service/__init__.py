"""The device as a systemd service."""
