"""HTTP between gateways, to members, to devices that join, and to those who watch."""
