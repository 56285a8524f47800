"""Writing training programs: layers, the exporter, and the programs that are shipped.

This part needs TensorFlow (the `export` extra) and runs on a workstation. Devices and gateways
never import it; they read the `.tflite` files that it writes.
"""
