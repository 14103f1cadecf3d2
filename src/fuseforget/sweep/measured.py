"""Measurements as records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fuseforget.knowledge import Measurement
from fuseforget.records import Record, Run, encode_values
from fuseforget.sweep.resident import Resident

__all__ = ["label_of", "measurement_fields", "record_missing", "record_one"]

Say = Callable[[str], None]


def label_of(where: Mapping[str, Any]) -> str:
    """What the user calls a point that records call this."""
    if "path" in where:
        return "{path} at {weights}".format(**where)
    return str(where.get("model") or ", ".join(f"{name} {value}" for name, value in where.items()))


def record_missing(run: Run, resident: Resident, probes: Sequence[str], *, say: Say, **where: Any) -> None:
    """Measure and record, at the resident weights, the probes that the run does not have yet for ``where``."""
    if any(run.find("measurement", probe=name, **where) is None for name in probes):
        for name, logits in resident.logits_of(probes).items():
            record_one(run, where, resident.judge(name, logits), resident.cut(name), resident.describe_cut(name), say=say)


def record_one(run: Run, where: Mapping[str, Any], measurement: Measurement, cut: int, note: str, *, say: Say) -> None:
    """Record a measurement that the run does not have yet for ``where``.

    Args:
        cut: how many texts were longer than the model can read, and ``note``, the same in words.
    """
    if run.find("measurement", probe=measurement.probe, **where) is None:
        run.add("measurement", **where, **measurement_fields(measurement), cut=cut)
        say(f"{label_of(where)}: {measurement.probe} {measurement.interval.value:.3f}{note and f', {note}'}")


def measurement_fields(measurement: Measurement) -> Record:
    """The fields of a measurement's record."""
    interval = measurement.interval
    return {
        "probe": measurement.probe,
        "metric": measurement.metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "values": encode_values(measurement.values),
        **({"answers": list(measurement.answers)} if measurement.answers else {}),
        **({"confidences": encode_values(measurement.confidences)} if measurement.confidences is not None else {}),
        **({"attribute": measurement.attribute} if measurement.attribute else {}),
    }
