"""A sweep's workers on a Ray cluster, for grids that one machine is not enough for.

Points travel to the workers as text and results come back whole, so no disk is shared; each machine
needs this package, and the files that a scenario names under the same paths.
"""

from collections.abc import Generator, Sequence
from typing import Final, cast

from headwater_firmware_sim.cluster import Ray, count_cpus, one_line, open_cluster
from headwater_firmware_sim.study.grid import Point
from headwater_firmware_sim.study.work import Outcome, Runner, compute_point
from headwater_protocol.errors import TransportError

POINTS_PER_CPU: Final = 2
"""Handed to Ray at a time, so that a worker that ends has its next point there."""
WORKER_DEATHS: Final = 3
"""That a point survives; each time it starts anew on another worker."""


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
    with open_cluster(address, workers=workers) as ray:
        compute = ray.remote(max_retries=WORKER_DEATHS)(compute_point)
        names: dict[object, Point] = {}
        waiting = iter(points)
        try:
            at_once = count_cpus(ray) * POINTS_PER_CPU
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
                f"the Ray cluster at {address} is lost: {one_line(error)}; run the same command "
                "again, finished points are kept"
            ) from error
        finally:
            for reference in names:
                ray.cancel(reference, force=True)


def _get(ray: Ray, reference: object, point: Point) -> Outcome:
    try:
        return cast("Outcome", ray.get(reference))
    except ConnectionError:
        raise
    except Exception as error:
        # Ray's own errors: a worker that died, a package that a machine lacks.
        failure = f"{type(error).__name__}: {one_line(error)}"
        return Outcome(point=point.name, result=None, failure=failure)
