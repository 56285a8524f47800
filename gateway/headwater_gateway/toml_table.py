"""A TOML file of which every key has to be taken, so that a misspelt one is refused.

Paths are relative to the folder of the file that names them.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headwater_protocol.errors import ConfigError

MAX_TOML_BYTES: Final = 1024 * 1024
MAX_LIST_ITEMS: Final = 100_000
"""Of one list in a file, such as devices to enrol."""


class TomlTable:
    """One table; each call takes a key out, `require_empty` refuses what is left."""

    def __init__(self, name: str, values: dict[str, object], folder: Path) -> None:
        self._name = name
        self._values = dict(values)
        self._folder = folder

    @classmethod
    def read(cls, path: Path, *, fix: str) -> "TomlTable":
        """The root table of the file at `path`.

        Args:
            path: The file.
            fix: What to do where there is none.

        Raises:
            ConfigError: If it cannot be read or is no TOML.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_TOML_BYTES + 1)
        except FileNotFoundError:
            raise ConfigError(str(path), "does not exist", fix=fix) from None
        except OSError as error:
            raise ConfigError(str(path), str(error), fix="check its permissions") from None
        if len(data) > MAX_TOML_BYTES:
            raise ConfigError(str(path), "is too long", fix=f"stay under {MAX_TOML_BYTES} bytes")
        try:
            values = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                str(path), f"is not TOML: {error}", fix="correct that place"
            ) from None
        return cls("", values, path.parent)

    def key(self, key: str) -> str:
        """A key's full name."""
        return f"{self._name}.{key}" if self._name else key

    def has(self, key: str) -> bool:
        """Whether the key is there and was not taken."""
        return key in self._values

    def names(self) -> tuple[str, ...]:
        """The keys that were not taken, sorted: of a table whose keys are the user's own."""
        return tuple(sorted(self._values))

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty.

        Raises:
            ConfigError: If it is something else, or is missing without a default.
        """
        value = self._take(key)
        if value is None:
            if default is None:
                raise ConfigError(self.key(key), "is missing", fix="add it")
            return default
        if not isinstance(value, str) or not value:
            raise ConfigError(self.key(key), f"is {value!r}", fix="give a text in quotes")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; whether it is in range is the caller's question.

        Raises:
            ConfigError: If it is something else, or is missing without a default.
        """
        value = self._take(key)
        if value is None:
            if default is None:
                raise ConfigError(self.key(key), "is missing", fix="add it")
            return default
        if type(value) is not int:
            raise ConfigError(self.key(key), f"is {value!r}", fix="give a whole number")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """`true` or `false`.

        Raises:
            ConfigError: If it is something else.
        """
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(self.key(key), f"is {value!r}", fix="give true or false")
        return value

    def path(self, key: str) -> Path:
        """A path, relative to the file's folder; errors as `text`."""
        return self._path(self.text(key))

    def paths(self, key: str) -> tuple[Path, ...]:
        """A list of paths; errors as `texts`."""
        return tuple(self._path(text) for text in self.texts(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, which may be empty.

        Raises:
            ConfigError: If it is something else or missing.
        """
        value = self._take(key)
        if value is None:
            raise ConfigError(self.key(key), "is missing", fix="add it")
        if not isinstance(value, list) or len(value) > MAX_LIST_ITEMS:
            raise ConfigError(self.key(key), "is no list", fix='write it as ["one", "two"]')
        for item in value:
            if not isinstance(item, str) or not item:
                raise ConfigError(self.key(key), f"holds {item!r}", fix="give texts in quotes")
        return tuple(str(item) for item in value)

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers, which may be empty.

        Raises:
            ConfigError: If it is something else.
        """
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise ConfigError(
                self.key(key), "is no list of whole numbers", fix="write it as [1, 2]"
            )
        return tuple(value)

    def is_list(self, key: str) -> bool:
        """Whether the key holds a list."""
        return isinstance(self._values.get(key), list)

    def table(self, key: str) -> "TomlTable":
        """A table; an empty one where it is missing.

        Raises:
            ConfigError: If it is something else.
        """
        value = self._take(key)
        if value is None:
            return TomlTable(self.key(key), {}, self._folder)
        if not isinstance(value, dict):
            raise ConfigError(self.key(key), f"is {value!r}", fix=f"write it as [{self.key(key)}]")
        return TomlTable(self.key(key), value, self._folder)

    def tables(self, key: str) -> tuple["TomlTable", ...]:
        """The tables of an array, at least one.

        Raises:
            ConfigError: If it is something else, missing or empty.
        """
        value = self._take(key)
        name = self.key(key)
        if not isinstance(value, list) or not value:
            problem = "is missing" if value is None else f"is {value!r}"
            raise ConfigError(name, problem, fix=f"write each one as [[{name}]]")
        tables: list[TomlTable] = []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise ConfigError(name, f"holds {item!r}", fix=f"write each one as [[{name}]]")
            tables.append(TomlTable(f"{name}[{index + 1}]", item, self._folder))
        return tuple(tables)

    def require_empty(self, known: Sequence[str]) -> None:
        """Refuse a key that was not taken.

        Raises:
            ConfigError: Names it and the keys that there are.
        """
        for key in sorted(self._values):
            raise ConfigError(
                self.key(key), "is no key of this file", fix="use one of " + ", ".join(known)
            )

    def _path(self, text: str) -> Path:
        return self._folder / Path(text).expanduser()

    def _take(self, key: str) -> object:
        return self._values.pop(key, None)


def quote(text: str) -> str:
    """`text` as TOML writes it.

    Raises:
        ConfigError: If it holds a control character.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        raise ConfigError("init", f"{text!r} holds a control character", fix="leave it out")
    return f'"{escaped}"'


def quote_list(texts: Sequence[str]) -> str:
    """`texts` as a TOML list, a line each; an empty one on one line."""
    if not texts:
        return "[]"
    return "[" + "".join(f"\n    {quote(text)}," for text in texts) + "\n]"
