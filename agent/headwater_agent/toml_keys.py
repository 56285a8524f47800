"""A TOML table of which every key has to be taken, so that a misspelt one is refused.

`[data]` and `[guest]` of `agent.toml` are read with it. Paths are relative to the file's folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headwater_protocol.errors import ConfigError

MAX_LIST_ITEMS: Final = 4_096
"""Of one list in a table, such as feature columns or class names."""


class TomlKeys:
    """One table; each call takes a key out, `require_empty` refuses what is left."""

    def __init__(self, name: str, values: dict[str, object], folder: Path) -> None:
        self._name = name
        self._values = dict(values)
        self._folder = folder

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return self._folder

    def key(self, key: str) -> str:
        """A key's full name."""
        return f"{self._name}.{key}"

    def has(self, key: str) -> bool:
        """Whether the key is there and was not taken."""
        return key in self._values

    def raw(self, key: str) -> object:
        """Whatever stands there; None where nothing does."""
        return self._values.pop(key, None)

    def refuse(self, key: str, problem: str, *, fix: str) -> ConfigError:
        """The error about `key`, to be raised."""
        return ConfigError(self.key(key), problem, fix=fix)

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty.

        Raises:
            ConfigError: If it is something else, or is missing without a default.
        """
        value = self.raw(key)
        if value is None:
            if default is None:
                raise self.refuse(key, "is missing", fix="add it; see docs/data-sources.md")
            return default
        if not isinstance(value, str) or not value:
            raise self.refuse(key, f"is {value!r}", fix="give a text in quotes")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text, or None where it is missing."""
        return self.text(key) if self.has(key) else None

    def choice(self, key: str, names: Sequence[str], default: str) -> str:
        """One of `names`.

        Raises:
            ConfigError: If it is none of them.
        """
        value = self.text(key, default)
        if value not in names:
            raise self.refuse(key, f"is {value!r}", fix="use one of " + ", ".join(names))
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of different texts that is not empty, or None where it is missing.

        Raises:
            ConfigError: If it is something else.
        """
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LIST_ITEMS:
            raise self.refuse(key, "is no list", fix='write it as ["one", "two"]')
        for item in value:
            if not isinstance(item, str) or not item:
                raise self.refuse(key, f"holds {item!r}", fix="give texts in quotes")
        if len(set(value)) < len(value):
            raise self.refuse(key, "names something twice", fix="name each once")
        return tuple(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            ConfigError: If it is something else.
        """
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(key, f"is {value!r}", fix="give true or false")
        return value

    def integer(self, key: str, default: int, *, low: int, high: int) -> int:
        """A whole number from `low` to `high`.

        Raises:
            ConfigError: If it is something else.
        """
        value = self.raw(key)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(key, f"is {value!r}", fix=f"give a whole number, {low} to {high}")
        return value

    def number(self, key: str, default: float, *, low: float, high: float) -> float:
        """A number from `low` to `high`.

        Raises:
            ConfigError: If it is something else.
        """
        value = self.raw(key)
        if value is None:
            return default
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not low <= value <= high
        ):
            raise self.refuse(key, f"is {value!r}", fix=f"give a number, {low} to {high}")
        return float(value)

    def path(self, key: str) -> Path:
        """A path; errors as `text`."""
        return self._folder / Path(self.text(key)).expanduser()

    def optional_path(self, key: str) -> Path | None:
        """A path, or None where it is missing."""
        return self.path(key) if self.has(key) else None

    def table(self, key: str) -> "TomlKeys | None":
        """A table, or None where it is missing.

        Raises:
            ConfigError: If it is something else.
        """
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(key, f"is {value!r}", fix='write it as { topic = "…" }')
        return TomlKeys(self.key(key), value, self._folder)

    def tables(self, key: str) -> tuple["TomlKeys", ...]:
        """A list of tables; empty where it is missing.

        Raises:
            ConfigError: If it is something else.
        """
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LIST_ITEMS:
            raise self.refuse(key, "is no list", fix='write it as [{ topic = "…" }, …]')
        tables: list[TomlKeys] = []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.refuse(key, f"holds {item!r}", fix='write each as { topic = "…" }')
            tables.append(TomlKeys(f"{self.key(key)}[{index + 1}]", item, self._folder))
        return tuple(tables)

    def require_empty(self, known: Sequence[str]) -> None:
        """Refuse a key that was not taken.

        Raises:
            ConfigError: Names it and the keys that there are.
        """
        for key in sorted(self._values):
            raise self.refuse(key, "is no key here", fix="use one of " + ", ".join(known))
