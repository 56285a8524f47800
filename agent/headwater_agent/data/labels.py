"""From what a source calls a class to the number that the program counts it by."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from headwater_models.dataset import MAX_LABEL
from headwater_protocol.errors import OutOfBounds


class UnknownLabel(OutOfBounds):
    """A label that no class has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class names with their numbers; without names a label is the number itself."""

    numbers: Mapping[str, int] | None = None

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; None where nothing names them."""
        return None if self.numbers is None else max(self.numbers.values()) + 1

    def number(self, label: object) -> int:
        """The class number of `label`: a text, a truth value or a number.

        Raises:
            UnknownLabel: If there is no such class.
        """
        if self.numbers is not None:
            name = _name(label)
            if name not in self.numbers:
                raise UnknownLabel(f"the label {name[:40]!r} is no class")
            return self.numbers[name]
        value = _whole(label)
        if value is None:
            raise UnknownLabel(f"the label {str(label)[:40]!r} is no whole number")
        if not 0 <= value <= MAX_LABEL:
            raise UnknownLabel(f"the label {str(label)[:40]} is not 0 to {MAX_LABEL}")
        return value


def name_classes(names: tuple[str, ...]) -> Labels:
    """Classes numbered by their place in a list."""
    return Labels(numbers=MappingProxyType({name: index for index, name in enumerate(names)}))


def _name(label: object) -> str:
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()


def _whole(label: object) -> int | None:
    if isinstance(label, str):
        text = label.strip()
        # int() and float() also take underscores, which no sensor writes.
        if "_" in text:
            return None
        digits = text[1:] if text[:1] in {"-", "+"} else text
        if digits.isascii() and digits.isdigit() and len(digits) <= 18:
            return int(text)
        try:
            label = float(text)
        except ValueError:
            return None
    if isinstance(label, float):
        return int(label) if math.isfinite(label) and label.is_integer() else None
    return int(label) if isinstance(label, int) else None
