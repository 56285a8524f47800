"""Tables: a namespace of the state with the type of its records."""

from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Table(Generic[R]):
    """Names a namespace and says what kind of record it holds."""

    namespace: str
    record: type[R]
