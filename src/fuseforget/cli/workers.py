"""The options that say who does the work."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["RayOption", "ThreadsOption", "WorkersOption"]

WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Processes of this machine that share the work; the results are the same.")
]
RayOption = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS|auto", help="A Ray cluster that does the work; --workers: how many there.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="That each training computes with; its last bits depend on them.")
]
