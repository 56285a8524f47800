"""What a data scientist hands to the exporter: a forward pass and the sizes around it.

A forward pass takes its parameters from a `ParameterSource` in the order in which it needs them.
The same function runs twice: once on a `ShapeRecorder` to learn the layout of the flat vector, and
once on `SplitParameters`, the pieces of that vector, to be traced. So nobody counts offsets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

from headwater_models.layout import ParameterLayout, ParameterTensor
from headwater_protocol.errors import ConfigError


class ParameterSource(Protocol):
    """Where a layer takes its trainable tensors from."""

    def take(self, shape: Sequence[int], *, fan_in: int) -> tf.Tensor:
        """Return the next float32 tensor of the model.

        Args:
            shape: Its static shape.
            fan_in: Number of inputs summed into one output, for He initialisation; 0 starts the
                tensor at zero, as biases do.
        """
        ...


ForwardPass = Callable[[ParameterSource, tf.Tensor], tf.Tensor]
"""Maps parameters and float32 features (batch, *input_shape) to logits (batch, num_classes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramDefinition:
    """A program before export."""

    forward: ForwardPass
    """The forward pass; called once per trace, so it holds no state."""

    input_shape: tuple[int, ...]
    """Shape of one example, without the batch."""

    num_classes: int
    """Length of the logits; labels are 0 to `num_classes - 1`."""


class ShapeRecorder:
    """Hands out zeros and remembers what was asked for."""

    def __init__(self) -> None:
        self._tensors: list[ParameterTensor] = []

    def take(self, shape: Sequence[int], *, fan_in: int) -> tf.Tensor:
        """Return zeros of `shape` and record the request."""
        self._tensors.append(ParameterTensor(shape=tuple(shape), fan_in=fan_in))
        return tf.zeros(shape, tf.float32)

    def layout(self) -> ParameterLayout:
        """Return what has been taken so far, in order."""
        return ParameterLayout(tensors=tuple(self._tensors))


class SplitParameters:
    """Hands out the pieces of a flat vector, in the order of its layout."""

    def __init__(self, flat: tf.Tensor, layout: ParameterLayout) -> None:
        # `w[a:b]` has a gradient that does not lower to builtins; a split has.
        pieces = tf.split(flat, list(layout.tensor_sizes))
        self._pieces: list[tf.Tensor] = [
            tf.reshape(piece, tensor.shape)
            for piece, tensor in zip(pieces, layout.tensors, strict=True)
        ]
        self._num_taken = 0

    @property
    def pieces(self) -> Sequence[tf.Tensor]:
        """Every tensor of the model, in order."""
        return self._pieces

    def take(self, shape: Sequence[int], *, fan_in: int) -> tf.Tensor:
        """Return the next piece.

        Raises:
            ConfigError: If the forward pass asks for other tensors than when it was recorded.
        """
        index, self._num_taken = self._num_taken, self._num_taken + 1
        if index >= len(self._pieces) or tuple(self._pieces[index].shape) != tuple(shape):
            raise ConfigError(
                "forward",
                f"parameter tensor {index} differs between two calls",
                fix="take the same tensors in the same order every time",
            )
        return self._pieces[index]


def record_layout(definition: ProgramDefinition) -> ParameterLayout:
    """Run the forward pass once on zeros to learn its parameters.

    Raises:
        ConfigError: If the logits do not have shape (batch, num_classes), or there is nothing to
            train.
    """
    recorder = ShapeRecorder()
    logits = definition.forward(recorder, tf.zeros((1, *definition.input_shape), tf.float32))
    if tuple(logits.shape) != (1, definition.num_classes):
        raise ConfigError(
            "forward",
            f"it returns shape {tuple(logits.shape)} for one example",
            fix=f"return logits of shape (batch, {definition.num_classes})",
        )
    layout = recorder.layout()
    if not layout.tensors:
        raise ConfigError("forward", "it takes no parameters", fix="add a layer that trains")
    return layout
