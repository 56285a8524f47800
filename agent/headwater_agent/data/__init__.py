"""Where a device's examples come from: files, a database, a sensor's topic, a Python function."""
