"""Who does the work: this process, other processes of this machine, or a Ray cluster; the results are the same."""

from fuseforget.workers.base import Here, Workers, worker_say

__all__ = ["Here", "Workers", "worker_say"]
