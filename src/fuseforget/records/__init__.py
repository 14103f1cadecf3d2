"""A run: a directory whose facts are written once, to disk, and survive a crash.

``run.json`` says what the run is (command, settings, hashes of inputs and code, versions), so that it can be repeated;
``records.jsonl`` holds one fact a line, appended and synced. Each line carries a checksum: a line that a crash tore is
dropped when the run is opened again, and a line that was damaged later is refused. No clock decides anything.
"""

from fuseforget.records.code import changed_code, code_sha256, versions
from fuseforget.records.description import read_run
from fuseforget.records.facts import add_timing, facts
from fuseforget.records.run import MemoryRun, Record, Run, read_records, run_or_memory
from fuseforget.records.values import decode_values, encode_values

__all__ = [
    "MemoryRun",
    "Record",
    "Run",
    "add_timing",
    "changed_code",
    "code_sha256",
    "decode_values",
    "encode_values",
    "facts",
    "read_records",
    "read_run",
    "run_or_memory",
    "versions",
]
