"""Map calls over the machines of a Ray cluster, or make them here: who asks for it does not know which.

P. Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", 2018. A call whose process or machine
is lost is made again elsewhere, so calls are such as may be made twice.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tledge.core.dependencies import require
from tledge.core.errors import RemoteError
from tledge.core.foreign import reason_of
from tledge.core.progress import Steps
from tledge.core.settings import Settings, option

_Out = TypeVar("_Out")
_ANSWERS_WITHIN_S = 10.0
_ENDS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """`ray` is the address of a Ray cluster, `local` for one on this machine's cores, None for this process alone."""

    ray: str | None = option(
        None,
        help="Share the work with a Ray cluster: host:port, auto, or local for one on this machine's cores. Its "
        "machines read the run and the images at the same paths.",
        metavar="ADDRESS",
    )


ALONE: ClusterSettings = ClusterSettings()


class Calls(Protocol):
    """Who makes calls: `workers` of them at the same time, 1 for this process, which makes one after the other."""

    workers: int

    def map(
        self, function: Callable[..., _Out], arguments: Sequence[tuple[Any, ...]], done: Callable[[int, int], None]
    ) -> list[_Out]:
        """Call a function of a module with each of the arguments; results in their order.

        Args:
            function: found by its name where it is called.
            arguments: of each call; they are pickled for other processes.
            done: called with (calls made, calls in all).

        Raises:
            RemoteError: a call is lost again and again.
            Exception: what a call raises.
        """
        ...


class Here:
    """Calls in this process."""

    workers = 1

    def map(self, function: Callable[..., _Out], arguments: Sequence[tuple[Any, ...]], done: Steps) -> list[_Out]:
        """As `Calls`."""
        results = []
        for each in arguments:
            results.append(function(*each))
            done(len(results), len(arguments))
        return results


HERE: Calls = Here()


class _RayCalls:
    """Calls in the processes of a cluster that this one is connected to."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, function: Callable[..., _Out], arguments: Sequence[tuple[Any, ...]], done: Steps) -> list[_Out]:
        """As `Calls`."""
        ray = self._ray
        # Ray makes a call whose process is lost again, three times; what a call raises is final.
        task = ray.remote(function).options(num_cpus=1, scheduling_strategy="SPREAD")
        places = {task.remote(*each): place for place, each in enumerate(arguments)}
        waiting = list(places)
        results: dict[int, Any] = {}
        try:
            while waiting:
                ready, waiting = ray.wait(waiting)
                results |= {places[one]: ray.get(one) for one in ready}
                done(len(results), len(arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise RemoteError(
                f"expected the Ray cluster to make every call, but one was lost again and again ({reason_of(error)}); "
                "look at its machines (memory is the usual cause), then give the same command again"
            ) from error
        finally:
            for one in waiting:
                ray.cancel(one)
        return [results[place] for place in range(len(arguments))]


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[Calls]:
    """Who makes calls while the block runs; a cluster on this machine ends with it.

    A process that is connected to a cluster already keeps that connection.

    Raises:
        MissingDependencyError: Ray is asked for and not installed.
        RemoteError: there is no such cluster, or one of another Ray or Python.
    """
    if settings.ray is None:
        yield HERE
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else a new cluster reports itself to Ray's makers
    ray = require("ray")
    if ray.is_initialized():
        yield _RayCalls(ray)
        return
    handlers = {number: signal.getsignal(number) for number in _ENDS}
    try:
        try:
            _require_listener(settings.ray)
            ray.init(settings.ray, include_dashboard=False, logging_level="error", log_to_driver=False)
        except Exception as error:  # of many kinds, none documented
            raise RemoteError(
                f"expected a Ray cluster at --ray {settings.ray}, but {reason_of(error)}; begin one with `ray start "
                "--head`, or use --ray local"
            ) from error
        finally:
            for number, handler in handlers.items():  # Ray takes SIGTERM for itself
                signal.signal(number, handler)
        yield _RayCalls(ray)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray itself tries for many minutes to reach a machine on which nothing listens."""
    host, _, port = address.rpartition(":")
    if host and "//" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN_S).close()
