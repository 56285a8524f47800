"""The TFLite runtime of this machine, behind the few calls that training needs.

tflite-runtime serves Python 3.11 and 32-bit Pis, ai-edge-litert, its successor, everything newer.
Both have the same interpreter. Neither is imported before a trainer is built.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_models.errors import InvalidProgram
from headwater_models.program import Program
from headwater_protocol.errors import ConfigError

RUNTIME_MODULES: Final = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter")
"""Where an `Interpreter` may come from, in order of preference."""

Array = NDArray[np.float32] | NDArray[np.int32]


class Interpreter(Protocol):
    """What is used of a TFLite interpreter; indices are those of the first subgraph."""

    def resize_tensor_input(self, input_index: int, tensor_size: Sequence[int]) -> None:
        """Give an argument another shape."""

    def allocate_tensors(self) -> None:
        """Plan memory, after a shape has changed."""

    def set_tensor(self, tensor_index: int, value: Array) -> None:
        """Copy `value` into an argument."""

    def invoke(self) -> None:
        """Run the first subgraph."""

    def get_tensor(self, tensor_index: int) -> NDArray[np.float32]:
        """Return a copy of a result."""
        ...

    def get_signature_runner(
        self, signature_key: str
    ) -> Callable[..., dict[str, NDArray[np.float32]]]:
        """Return a signature as a function of named arguments."""
        ...


def load_interpreter(program: Program, *, num_threads: int = 1) -> Interpreter:
    """Return a new interpreter for `program`.

    Raises:
        ConfigError: If no TFLite runtime is installed.
        InvalidProgram: If the runtime refuses the program.
    """
    # More than one thread slows small graphs down, twentyfold with tflite-runtime 2.14.
    # The default delegate, XNNPACK, stays although it greets on stderr: without it ai-edge-litert
    # takes 3 to 8 times as long a step.
    try:
        interpreter: Interpreter = _find_runtime()(
            model_content=program.data, num_threads=num_threads
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidProgram(f"the TFLite runtime refuses it: {error}") from error
    return interpreter


def _find_runtime() -> Callable[..., Interpreter]:
    for name in RUNTIME_MODULES:
        try:
            found: Callable[..., Interpreter] = importlib.import_module(name).Interpreter
        except ImportError:
            continue
        return found
    raise ConfigError(
        "TFLite runtime", "none is installed", fix='run pip install "headwater[agent]"'
    )
