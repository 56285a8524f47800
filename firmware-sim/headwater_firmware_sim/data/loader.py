"""Examples from a function of the user's own: `module:function(devices=, seed=)`."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.data.folder import fit_examples
from headwater_protocol.errors import ConfigError

KEY = "data.loader"


def load_by_function(
    name: str,
    *,
    folder: Path,
    devices: int,
    seed: int,
    shape: tuple[int, ...],
    num_classes: int,
) -> tuple[Examples, ...]:
    """Each device's examples.

    Args:
        name: `module:function`.
        folder: Put on the import path while it is loaded.
        devices: How many it has to give.
        seed: For its own draws.
        shape: Of one example.
        num_classes: Labels are below it.

    Raises:
        ConfigError: If it cannot be imported, raises, or gives something else.
    """
    module, _, function = name.partition(":")
    with _import_path(folder):
        try:
            load = getattr(importlib.import_module(module), function)
            parts = load(devices=devices, seed=seed)
        except (Exception, SystemExit) as error:  # whatever a user's function raises is one line
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(KEY, f"{name} failed: {text}", fix="correct it") from error
    try:
        count = len(parts)
    except TypeError:
        raise ConfigError(
            KEY, f"{name} gave {type(parts).__name__}", fix="return a list of array pairs"
        ) from None
    if count != devices:
        raise ConfigError(KEY, f"{name} gave {count} parts", fix=f"return one of {devices} devices")
    return tuple(
        _fit(part, index, shape=shape, num_classes=num_classes)
        for index, part in enumerate(cast(Sequence[object], parts))
    )


def _fit(part: object, index: int, *, shape: tuple[int, ...], num_classes: int) -> Examples:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise ConfigError(
            KEY, f"device {index} is {type(part).__name__}", fix="return (features, labels)"
        )
    key = f"{KEY}, device {index}"
    return fit_examples(part[0], part[1], shape=shape, num_classes=num_classes, key=key)


@contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    entry, before = str(folder.resolve()), set(sys.modules)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(entry)
        # Another scenario's folder may have modules of the same names, with other functions.
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin is not None and Path(origin).is_relative_to(entry):
                del sys.modules[name]
