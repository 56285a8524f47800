"""A training program: verified bytes, and what a trainer has to know of them."""

from importlib import resources

from headwater_models.inspection import ProgramReport, inspect_program
from headwater_models.layout import ParameterLayout
from headwater_protocol.errors import ConfigError


class Program:
    """A `.tflite` file in the form that `headwater_models.inspection` describes.

    Programs are compared, stored and named by the digest of their bytes.
    """

    def __init__(self, data: bytes) -> None:
        """Verify `data`.

        Raises:
            TooLarge: If it exceeds the limit of a program.
            InvalidProgram: If it is not a program that every device can run.
        """
        report = inspect_program(data)
        report.refuse_problems()
        if report.layout is None:
            raise AssertionError("a program without problems has a layout")
        self._data = bytes(data)
        self._report = report
        self._layout = report.layout

    @classmethod
    def load(cls, name: str) -> "Program":
        """Return a program that comes with the package, such as `mlp-64-32-10`.

        Raises:
            ConfigError: If there is none of that name.
        """
        names = list_programs()
        if name not in names:
            raise ConfigError(
                "program", f"{name!r} is not shipped", fix=f"use one of {', '.join(names)}"
            )
        return cls((_FOLDER / f"{name}.tflite").read_bytes())

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self._data

    @property
    def digest(self) -> bytes:
        """SHA-256 of the bytes, 32 bytes."""
        return self._report.digest

    @property
    def report(self) -> ProgramReport:
        """Operations and signatures in detail."""
        return self._report

    @property
    def parameter_layout(self) -> ParameterLayout:
        """The trainable tensors with their fan-in."""
        return self._layout

    @property
    def layout(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every trainable tensor, in the order of the flat vector."""
        return self._layout.shapes

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """Number of values of every trainable tensor."""
        return self._layout.tensor_sizes

    @property
    def num_parameters(self) -> int:
        """Length of the flat vector."""
        return self._layout.num_parameters

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch."""
        return self._report.input_shape

    @property
    def num_classes(self) -> int:
        """Length of the logits; labels are 0 to `num_classes - 1`."""
        return self._report.num_classes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Program({self.digest.hex()[:12]}, {self.num_parameters} parameters)"


_FOLDER = resources.files("headwater_models") / "programs"


def is_shipped(data: bytes) -> bool:
    """Whether `data` is, byte for byte, a program that comes with the package."""
    files = (entry for entry in _FOLDER.iterdir() if entry.name.endswith(".tflite"))
    return any(entry.read_bytes() == data for entry in files)


def list_programs() -> tuple[str, ...]:
    """Return the names of the programs that come with the package, sorted."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".tflite") for name in names if name.endswith(".tflite")))
