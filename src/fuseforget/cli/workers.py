"""The options that say who does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fuseforget.workers import Workers

__all__ = ["RayOption", "ThreadsOption", "WorkersEachCoreOption", "WorkersOption", "crew"]

SHARED = "Processes of this machine that share the work; the results are the same."
WorkersOption = Annotated[int | None, typer.Option("--workers", help=SHARED)]
WorkersEachCoreOption = Annotated[int | None, typer.Option("--workers", help=f"{SHARED} Default: one a core.")]
RayOption = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS|auto", help="A Ray cluster that does the work; --workers: how many there.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="That each training computes with; its last bits depend on them.")
]


def crew(workers: int | None, ray: str | None, run: Path | None) -> Workers:
    """The workers that the options ask for, who print their progress and must see the run."""
    from fuseforget.records import code_sha256
    from fuseforget.workers import open_workers

    # The run itself may not be there yet, and must hold nothing else when it is opened.
    beside = None if run is None else next(place for place in run.absolute().parents if place.is_dir())
    return open_workers(workers, ray, shared=beside, loud=True, code=code_sha256)
