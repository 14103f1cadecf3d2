"""Who does the work: this process, other processes of this machine, or a Ray cluster; the results are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuseforget.errors import InputError
from fuseforget.workers.base import Here, Workers
from fuseforget.workers.inside import say

__all__ = ["Here", "Workers", "open_workers", "say"]


def open_workers(
    workers: int | None = None,
    ray: str | None = None,
    *,
    shared: Path | None = None,
    loud: bool = False,
    code: Callable[[], str] | None = None,
) -> Workers:
    """The workers that the options ask for; used in a ``with``.

    Args:
        workers: how many; one where None, or as many as a cluster has room for.
        ray: a cluster's address (``host:port``), or ``auto`` for the one that runs here or that RAY_ADDRESS names.
        shared: a directory that all workers must see: a cluster's node that does not is refused.
        loud: workers print what functions :func:`say`, on stderr.
        code: a function that says which code runs; a node whose answer is another one is refused.

    Raises:
        InputError: fewer than one worker; ray is not installed, or no such cluster runs.
    """
    if workers is not None and workers < 1:
        raise InputError("workers", expected="at least 1", found=str(workers))
    if ray is not None:
        from fuseforget.workers.on_ray import OnRay

        return OnRay(ray, workers, shared=shared, loud=loud, code=code)
    if workers is None or workers == 1:
        return Here(loud=loud)
    from fuseforget.workers.processes import Processes

    return Processes(workers, loud=loud)
