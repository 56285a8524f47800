"""HTTP between gateways, to members, and to those who watch."""
