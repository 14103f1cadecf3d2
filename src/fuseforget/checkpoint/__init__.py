"""Checkpoints on disk: open lazily, compare by header, write atomically."""

from fuseforget.checkpoint.compare import Difference, check, compare, require_same
from fuseforget.checkpoint.header import DTYPES, TensorInfo
from fuseforget.checkpoint.publish import atomic_directory, refuse_place
from fuseforget.checkpoint.reader import MANIFEST_NAME, Checkpoint, file_sha256, open_checkpoint
from fuseforget.checkpoint.writer import TensorSpec, parse_size, write_checkpoint

__all__ = [
    "DTYPES",
    "MANIFEST_NAME",
    "Checkpoint",
    "Difference",
    "TensorInfo",
    "TensorSpec",
    "atomic_directory",
    "check",
    "compare",
    "file_sha256",
    "open_checkpoint",
    "parse_size",
    "refuse_place",
    "require_same",
    "write_checkpoint",
]
