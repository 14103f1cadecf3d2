"""Checkpoints on disk: open lazily, compare by header, write atomically."""

from fuseforget.checkpoint.adapter import Adapter, LowRank, open_model
from fuseforget.checkpoint.compare import Difference, check, compare, require_same
from fuseforget.checkpoint.header import DTYPES, TensorInfo
from fuseforget.checkpoint.publish import atomic_directory, refuse_place
from fuseforget.checkpoint.reader import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST_NAME, Checkpoint, file_sha256, open_checkpoint
from fuseforget.checkpoint.writer import OutputFiles, TensorSpec, parse_size

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "DTYPES",
    "MANIFEST_NAME",
    "Adapter",
    "Checkpoint",
    "Difference",
    "LowRank",
    "OutputFiles",
    "TensorInfo",
    "TensorSpec",
    "atomic_directory",
    "check",
    "compare",
    "file_sha256",
    "open_checkpoint",
    "open_model",
    "parse_size",
    "refuse_place",
    "require_same",
]
