"""A Ray cluster: how to reach one, and the few of its calls that are used here.

Ray is no dependency; `headwater[ray]` brings it.
"""

import importlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, cast

from headwater_protocol.errors import ConfigError

LOCAL: Final = "local"
"""The address that starts a Ray on this machine, until it is closed."""
CONNECT_S: Final = 5.0


class Remote(Protocol):
    """A function that runs on the cluster."""

    def remote(self, *arguments: object) -> object:
        """Start it; what is given back stands for its result."""
        ...


class Ray(Protocol):
    """The module, as far as it is used."""

    def init(
        self,
        address: str,
        *,
        num_cpus: int | None,
        include_dashboard: bool | None,
        log_to_driver: bool,
        logging_level: str,
    ) -> object:
        """Connect."""

    def remote(self, **options: object) -> "Decorator":
        """Make functions remote ones."""
        ...

    def put(self, value: object) -> object:
        """Store a value for several calls."""
        ...

    def wait(
        self, waiting: list[object], *, num_returns: int = 1
    ) -> tuple[list[object], list[object]]:
        """Wait for the next results."""
        ...

    def get(self, reference: object) -> object:
        """A result."""
        ...

    def cancel(self, reference: object, *, force: bool) -> None:
        """Stop a call."""

    def cluster_resources(self) -> dict[str, float]:
        """What there is."""
        ...

    def shutdown(self) -> None:
        """Disconnect."""


class Decorator(Protocol):
    """What `ray.remote(...)` gives."""

    def __call__(self, function: object) -> Remote:
        """The remote form of `function`."""
        ...


@contextmanager
def open_cluster(address: str, *, workers: int) -> Iterator[Ray]:
    """Connect to a cluster, or start one here.

    Args:
        address: `local`, `auto`, `HOST:6379` or `ray://HOST:10001`.
        workers: Processes of a local Ray; a cluster has its own number.

    Raises:
        ConfigError: If Ray is not installed or the cluster cannot be reached.
    """
    ray = _load_ray()
    is_local = address == LOCAL
    try:
        _knock(address)
        ray.init(
            address,
            num_cpus=workers if is_local else None,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ConfigError(
            "--ray", f"{address}: {one_line(error)}", fix="start Ray there, or use --ray local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def count_cpus(ray: Ray) -> int:
    """Processors of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def one_line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _knock(address: str) -> None:
    """Connect once, because Ray itself tries for many minutes.

    Raises:
        OSError: If nobody listens.
        ValueError: If the address is none.
    """
    if address in {LOCAL, "auto"}:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("is no address")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
        pass


def _load_ray() -> Ray:
    try:
        return cast("Ray", importlib.import_module("ray"))
    except ModuleNotFoundError:
        raise ConfigError(
            "--ray", "Ray is not installed", fix='pip install "headwater[sim,ray]"'
        ) from None
