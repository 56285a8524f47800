"""The gateway's I/O: chains on threads, MQTT through aiomqtt, the embedded broker."""
