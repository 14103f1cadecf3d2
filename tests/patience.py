"""How long tests wait for what other processes do."""

from __future__ import annotations

__all__ = ["LONG"]

LONG = 300  # seconds after which what was to come is missing: a busy machine takes a minute to start some processes
