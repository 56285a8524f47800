"""What devices and gateways say to each other over MQTT, and on which topics."""
