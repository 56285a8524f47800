"""A sweep's workers on a Ray cluster, for grids that one machine is not enough for.

Points travel to the workers as text and results come back whole, so no disk is shared; each machine
needs this package, and the files that a scenario names under the same paths.
"""

import importlib
import socket
from collections.abc import Generator, Sequence
from typing import Final, Protocol, cast

from headwater_firmware_sim.study.grid import Point
from headwater_firmware_sim.study.work import Outcome, Runner, compute_point, one_line
from headwater_protocol.errors import ConfigError, TransportError

LOCAL: Final = "local"
"""The address that starts a Ray on this machine, for the length of the sweep."""
POINTS_PER_CPU: Final = 2
"""Handed to Ray at a time, so that a worker that ends has its next point there."""
CONNECT_S: Final = 5.0


class _Remote(Protocol):
    def remote(self, point: Point, runner: Runner) -> object: ...


class _Ray(Protocol):
    """What is used of `ray`, which is no dependency."""

    def init(
        self,
        address: str,
        *,
        num_cpus: int | None,
        include_dashboard: bool | None,
        log_to_driver: bool,
        logging_level: str,
    ) -> object: ...
    def remote(self, function: object) -> _Remote: ...
    def wait(self, waiting: list[object]) -> tuple[list[object], list[object]]: ...
    def get(self, reference: object) -> Outcome: ...
    def cancel(self, reference: object, *, force: bool) -> None: ...
    def cluster_resources(self) -> dict[str, float]: ...
    def shutdown(self) -> None: ...


def run_on_ray(
    points: Sequence[Point], runner: Runner, *, address: str, workers: int
) -> Generator[Outcome, None, None]:
    """Run all points; outcomes come as they are ready.

    Args:
        points: What to run.
        runner: Importable on every machine of the cluster.
        address: `local`, `auto`, `HOST:6379` or `ray://HOST:10001`.
        workers: Processes of a local Ray; a cluster has its own number.

    Raises:
        ConfigError: If Ray is not installed or the cluster cannot be reached.
        TransportError: If the cluster is lost on the way.
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
    compute = ray.remote(compute_point)
    names: dict[object, Point] = {}
    waiting = iter(points)
    try:
        at_once = max(1, int(ray.cluster_resources().get("CPU", 1))) * POINTS_PER_CPU
        while True:
            while len(names) < at_once and (point := next(waiting, None)) is not None:
                names[compute.remote(point, runner)] = point
            if not names:
                return
            done, _ = ray.wait(list(names))
            for reference in done:
                yield _get(ray, reference, names.pop(reference))
    except ConnectionError as error:
        raise TransportError(
            f"the Ray cluster at {address} is lost: {one_line(error)}; run the same command again, "
            "finished points are kept"
        ) from error
    finally:
        for reference in names:
            ray.cancel(reference, force=True)
        ray.shutdown()


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


def _get(ray: _Ray, reference: object, point: Point) -> Outcome:
    try:
        return ray.get(reference)
    except ConnectionError:
        raise
    except Exception as error:
        # Ray's own errors: a worker that died, a package that a machine lacks.
        failure = f"{type(error).__name__}: {one_line(error)}"
        return Outcome(point=point.name, result=None, failure=failure)


def _load_ray() -> _Ray:
    try:
        return cast("_Ray", importlib.import_module("ray"))
    except ModuleNotFoundError:
        raise ConfigError(
            "--ray", "Ray is not installed", fix='pip install "headwater[sim,ray]"'
        ) from None
