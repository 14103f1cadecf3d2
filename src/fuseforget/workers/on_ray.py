"""Actors on a Ray cluster, each with its share of a node's cores or one of its GPUs."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from fuseforget.errors import InputError
from fuseforget.workers.parcels import Recent, Work
from fuseforget.workers.resident import ARITHMETIC, Resident, Setup, facts
from fuseforget.workers.team import Died, Seat, Team

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OnRay"]

PATIENCE = 300.0  # seconds: a node's first worker loads torch, from a disk and on cores that many may share
CONNECTING = 5.0  # seconds; Ray itself tries for two minutes, and then ends the process
Code = Callable[[], str]


class OnRay(Team):
    """Actors on a cluster that runs already.

    A worker or node that dies has its items done again; another worker is asked for, and used when there is room for it.

    Args:
        address: ``host:port`` of the cluster's head, or ``auto``: the one that RAY_ADDRESS names, or that runs here.
        workers: how many actors; where None, one a GPU, or without GPUs as many as there are CPUs for.
        cores: CPUs of each; where None, one, or where ``workers`` is given as many as there are for so many of them.
        patience: how long to wait for a worker while there is none, in seconds.
        shared, loud, code: as :func:`fuseforget.workers.open_workers` says.

    Raises:
        InputError: ray is not installed, there is no such cluster, or a node sees other directories or runs other code.
        WorkerError: no worker was there within ``patience``.
    """

    def __init__(
        self,
        address: str,
        workers: int | None = None,
        *,
        cores: int | None = None,
        shared: Path | None = None,
        loud: bool = False,
        code: Code | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._cluster = _Cluster(_ray(), address, loud=loud)
        try:
            nodes = self._cluster.nodes()
            self._cluster.gpus = int(any(gpus for _, gpus in nodes))
            cores = cores or _share(nodes, workers)
            count = workers or max(1, _room(nodes, cores))
            self._cluster.settle(Setup.here(cores=cores, loud=loud, mark=_marked(shared), code=code))
        except BaseException:
            self._cluster.leave()
            raise
        super().__init__([_Post(self._cluster) for _ in range(count)], patience=patience)

    @property
    def device(self) -> str:
        return "cuda" if self._cluster.gpus else "cpu"

    def nobody(self) -> str:
        return self._cluster.resources()

    def __enter__(self) -> Self:
        for seat in self.seats:
            seat.ask()  # they come while the driver prepares
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for seat in self.seats:
            seat.drop()
        self._cluster.leave()


class _Cluster:
    """The connection, and what all actors have in common."""

    def __init__(self, ray: ModuleType, address: str, *, loud: bool) -> None:
        self.ray = ray
        self.gpus = 0
        self._arithmetic = ""  # the first node's
        self.setup: Setup | None = None
        self._parcels: Recent[Any] = Recent()
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(ray, address, loud)

    def nodes(self) -> list[tuple[int, int]]:
        """CPUs and GPUs of each node that is alive."""
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive]

    def resources(self) -> str:
        """What the cluster has and what of that is free, in words."""
        free, total = self.ray.available_resources(), self.ray.cluster_resources()
        said = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        assert self.setup is not None
        wanted = f"{self.setup.cores} CPUs" + (", 1 GPU" if self.gpus else "")
        return f"none with {wanted}; the cluster has {said} free"

    def settle(self, setup: Setup) -> None:
        """Keep what actors are told, and what they must see."""
        self.setup, self.seen = setup, facts(setup)

    def hire(self) -> tuple[Any, Future[Any]]:
        """A new actor's handle, and what it will say when it is there."""
        actor = self.ray.remote(
            num_cpus=self.setup.cores if self.setup else 1,
            num_gpus=self.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"aside": 1},
        )(Resident).remote()
        return actor, actor.arrive.remote(self.setup).future()

    def compare(self, node: str, seen: dict[str, str]) -> None:
        """Raise InputError where a node would not compute the same."""
        self.seen[ARITHMETIC] = self._arithmetic = self._arithmetic or seen.get(ARITHMETIC, "")
        where = {ARITHMETIC: "on the first node"}
        for thing, here in self.seen.items():
            if seen.get(thing) != here:
                raise InputError(
                    f"node {node}",
                    expected=f"{thing}: {here}, as {where.get(thing, 'where the command was given')}",
                    found=str(seen.get(thing, "nothing")),
                    action="All nodes need the same versions and code, and the same directories at the same paths.",
                )

    def parcel(self, work: Work) -> Any:
        """A reference to the function's bytes, which are put into the cluster once."""
        return self._parcels.use(work.digest, lambda: self.ray.put(work.parcel))

    def leave(self) -> None:
        if self.setup is not None and self.setup.mark is not None:
            self.setup.mark.unlink(missing_ok=True)
        self._parcels = Recent()
        if self._joined:
            self.ray.shutdown()


class _Post(Seat):
    """An actor's place."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._actor: Any = None

    def ask(self) -> None:
        if self._actor is None:
            self._actor, self.coming = self._cluster.hire()

    def arrived(self) -> None:
        assert self.coming is not None
        coming, self.coming = self.coming, None
        errors = self._cluster.ray.exceptions
        try:
            node, seen = coming.result()
        except errors.RayTaskError as error:
            raise InputError("a node", expected="what the command itself runs with", found=str(error.cause or error)) from error
        except errors.RayError as error:
            raise Died(_first(error)) from error
        self._cluster.compare(node, seen)

    def give(self, work: Work, item: bytes) -> Future[bytes]:
        future: Future[bytes] = self._actor.work.remote(work.digest, [self._cluster.parcel(work)], item).future()
        return future

    def tell(self) -> None:
        actor = self._actor
        if actor is not None and self.coming is None:
            # Not in a signal's handler itself: what it interrupted may be inside Ray.
            threading.Thread(target=lambda: actor.stop.options(concurrency_group="aside").remote()).start()

    def drop(self) -> None:
        actor, self._actor, self.coming = self._actor, None, None
        if actor is not None and self._cluster.ray.is_initialized():
            self._cluster.ray.kill(actor)


def _ray() -> ModuleType:
    """Ray, without its reports to its makers, and without merging lines that several workers say."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise InputError(
            "--ray", expected="ray, an optional dependency", found="none", action="pip install 'fuseforget[ray]'"
        ) from error


def _join(ray: ModuleType, address: str, loud: bool) -> None:
    """Connect to a cluster; quietly, but for what workers say where they are loud."""
    place = _reached(address)
    # Ray prints on stdout, which is for results, and in colours; what cluster and workers say goes through this function.
    ray._private.worker.print_to_stdstream = _print if loud else _nothing
    try:
        with _own_terminate():
            ray.init(address=place, log_to_driver=loud, logging_level="ERROR")
    except (ConnectionError, RuntimeError) as error:  # it went, or has another version of Ray or Python
        raise _no_cluster(address, _first(error)) from error


def _marked(shared: Path | None) -> Path | None:
    """Write a mark into a directory; its name is its own, since others may use the directory, too."""
    if shared is None:
        return None
    if not shared.is_dir():
        raise InputError(str(shared), expected="a directory that all workers see", found="no directory")
    word = secrets.token_hex(8)
    mark = shared.resolve() / f".seen-by-all-{word}"
    mark.write_text(word, encoding="utf-8")
    return mark


def _print(said: dict[str, Any], *, ignore_prefix: bool) -> None:
    """Lines of a worker as they are, and of what Ray says itself the first one, unless it says that all is well."""
    own = said["pid"] in ("raylet", "autoscaler")
    for line in said["lines"][:1] if own else said["lines"]:
        if own and "\tINFO " in line:
            continue
        sys.stderr.write(f"{line.splitlines()[0] if line else line}\n")
    sys.stderr.flush()


def _nothing(said: dict[str, Any], *, ignore_prefix: bool) -> None:
    """Nobody asked for progress."""


def _reached(address: str) -> str:
    """The address as host:port, where somebody answers."""
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        raise _no_cluster(address, "a client's address")
    try:
        place = canonicalize_bootstrap_address(address) or ""
        host, _, port = place.rpartition(":")
        number = int(port)
    except (ConnectionError, ValueError) as error:
        found = "none on this machine" if isinstance(error, ConnectionError) else "no host and port"
        raise _no_cluster(address, found) from error
    try:
        socket.create_connection((host.strip("[]"), number), timeout=CONNECTING).close()
    except OSError as error:
        raise _no_cluster(address, f"nobody who answers at {place} ({error.strerror or error})") from error
    return place


def _no_cluster(address: str, found: str) -> InputError:
    action = "Start one with `ray start --head`, or name its head's host:port."
    return InputError(f"--ray {address}", expected="a Ray cluster that runs", found=found, action=action)


@contextmanager
def _own_terminate() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in place; what the command does then stays."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, where Ray leaves the handler alone, too
            signal.signal(signal.SIGTERM, before)


def _first(error: BaseException) -> str:
    """The first line of an error: Ray's go on with logs."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _room(nodes: list[tuple[int, int]], cores: int) -> int:
    """How many actors of so many cores there is room for; each takes a GPU, too, where there are any."""
    if any(gpus for _, gpus in nodes):
        return sum(min(cpus // cores, gpus) for cpus, gpus in nodes)
    return sum(cpus // cores for cpus, _ in nodes)


def _share(nodes: list[tuple[int, int]], workers: int | None) -> int:
    """How many cores each gets: as many as so many workers can have; without a number one, or a GPU's part of its node."""
    if workers is None:
        return max(1, min((cpus // gpus for cpus, gpus in nodes if gpus), default=1))
    most = max((cpus for cpus, _ in nodes), default=1)
    return next((cores for cores in range(most, 1, -1) if _room(nodes, cores) >= workers), 1)
