"""Training programs, and the trainer that runs them in a plain TFLite runtime.

A program is a stateless `.tflite` file: a gradient and a forward pass over one flat float32 vector.
Devices train with it and gateways compute their reference with it, so both import this package;
neither needs TensorFlow, which only `headwater_models.authoring` uses, to write programs.

It imports nothing at the top, so that `headwater-model --help` answers at once.
"""
