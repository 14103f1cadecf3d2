"""Fuse checkpoints: plan from headers, then stream block by block into a new checkpoint.

The plan knows every byte that will be read and written before the work starts. The work holds a few blocks of each model at
a time, so memory grows neither with the model nor with its largest tensor.
"""

from fuseforget.fuse.inplace import InPlace, require_no_statistics
from fuseforget.fuse.manifest import Fused
from fuseforget.fuse.memory import memory_needed
from fuseforget.fuse.plan import Plan
from fuseforget.fuse.planning import plan_recipe
from fuseforget.fuse.recipe import Recipe, make_recipe, read_recipe
from fuseforget.fuse.run import execute, fuse, require_ready
from fuseforget.fuse.tensors import check_weights

__all__ = [
    "Fused",
    "InPlace",
    "Plan",
    "Recipe",
    "check_weights",
    "execute",
    "fuse",
    "make_recipe",
    "memory_needed",
    "plan_recipe",
    "read_recipe",
    "require_no_statistics",
    "require_ready",
]
