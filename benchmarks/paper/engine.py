"""Makes runs one after the other, or by Ray (the extra ``ray``) in processes of one thread each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.paper.grid import Run
from benchmarks.paper.measure import Place, row_of
from benchmarks.rows import Row
from graphprune.errors import OptionError, UserError


def one_by_one(runs: Sequence[Run], place: Place) -> Iterator[Row]:
    """Makes the runs and yields their rows, in the order of the runs."""
    for run in runs:
        yield row_of(run, place)


def by_ray(runs: Sequence[Run], place: Place, at_once: int) -> Iterator[Row]:
    """Makes runs in parallel and yields their rows as they are ready; the runs begin in their order.

    Ray's processes are on this machine, or on those of the cluster that ``RAY_ADDRESS`` names. There the repository and
    the data must be at the same paths. If the process or the machine of a run dies, the row of the run has that error.

    Args:
        runs: Runs to make.
        place: Data and device of the runs.
        at_once: Number of runs at a time, each on one core, and on one GPU if the device is CUDA.

    Raises:
        OptionError: Ray is missing.
        InputError: the data does not exist on one of the machines.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise OptionError("--ray needs Ray; `pip install 'graphprune[ray]'`") from error
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd())}
    here: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": at_once, "include_dashboard": False}
    ray.init(runtime_env={"env_vars": environment}, log_to_driver=False, **here)
    try:
        remote = ray.remote(num_cpus=1, num_gpus=int(place.device.startswith("cuda")), max_retries=0)(row_of)
        waiting: list[Run] = list(runs)
        under_way: dict[Any, Run] = {}
        while waiting or under_way:
            while waiting and len(under_way) < at_once:
                under_way[remote.remote(waiting[0], place)] = waiting.pop(0)
            (ready,), _ = ray.wait(list(under_way), num_returns=1)
            run = under_way.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, UserError):  # the run raises this itself, so the method did not fail
                    raise cause from None
                yield _crashed(run, place, error)
    finally:
        ray.shutdown()


def _crashed(run: Run, place: Place, error: Exception) -> Row:
    return vars(run) | {"scale": place.scale, "device": place.device, "error": f"{type(error).__name__}: {error}"}
