"""From a definition to the bytes of a program: trace, differentiate, convert, canonicalise.

The converter gets `TFLITE_BUILTINS` only. Flex operations would need TensorFlow's kernels on the
device, so an operation without a builtin is an error here and not a surprise there.
"""

import re
import tempfile
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from headwater_models.authoring.canonical import canonicalize
from headwater_models.authoring.definition import (
    ProgramDefinition,
    SplitParameters,
    record_layout,
)
from headwater_models.authoring.layers import softmax_cross_entropy
from headwater_models.inspection import inspect_program
from headwater_models.layout import ParameterLayout
from headwater_protocol.errors import ConfigError

SIGNATURES: Final[Sequence[str]] = ("grad", "infer")


class _Functions(tf.Module):  # type: ignore[misc]
    """The two functions of a program, traced for any batch size."""

    def __init__(self, definition: ProgramDefinition, layout: ParameterLayout) -> None:
        super().__init__()

        def infer(w: tf.Tensor, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"logits": definition.forward(SplitParameters(w, layout), x)}

        def grad(
            w: tf.Tensor, x: tf.Tensor, y: tf.Tensor, sample_weights: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            parameters = SplitParameters(w, layout)
            with tf.GradientTape() as tape:
                tape.watch(parameters.pieces)
                logits = definition.forward(parameters, x)
                loss = softmax_cross_entropy(logits, y, sample_weights)
            gradients = tape.gradient(
                loss, parameters.pieces, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return {"g": tf.concat([tf.reshape(g, [-1]) for g in gradients], 0), "loss": loss}

        w = tf.TensorSpec((layout.num_parameters,), tf.float32, name="w")
        x = tf.TensorSpec((None, *definition.input_shape), tf.float32, name="x")
        y = tf.TensorSpec((None,), tf.int32, name="y")
        sample_weights = tf.TensorSpec((None,), tf.float32, name="sample_weights")
        self.infer = tf.function(infer, input_signature=[w, x])
        self.grad = tf.function(grad, input_signature=[w, x, y, sample_weights])


def export_program(definition: ProgramDefinition) -> bytes:
    """Return the program of `definition`; the same definition always gives the same bytes.

    Raises:
        ConfigError: If the forward pass is inconsistent or has no builtin form.
        InvalidProgram: If what came out is not a program; `headwater-model check` says why.
    """
    layout = record_layout(definition)
    functions = _Functions(definition, layout)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            functions,
            folder,
            signatures={name: getattr(functions, name) for name in SIGNATURES},
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(SIGNATURES)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            converted = converter.convert()
        except Exception as error:
            # The converter raises an internal class of its own, with pages of text.
            lacking = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
            reason = ", ".join(lacking) or str(error).strip().splitlines()[0]
            raise ConfigError(
                "forward",
                f"no TFLite builtin for {reason}",
                fix="use headwater_models.authoring.layers or give the layer a custom gradient",
            ) from error
    data = canonicalize(converted, layout)
    inspect_program(data).refuse_problems()
    return data
