"""Processes of this machine to be killed, and a Ray cluster whose nodes can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Processes that come from one, those that do the system's or Ray's own work included."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found - {root})


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a cluster of two nodes with a core each, and what kills the one that no driver is on."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = made.add_node(num_cpus=1)
        yield made.address, lambda: made.remove_node(second, allow_graceful=False)
    finally:
        made.shutdown()
