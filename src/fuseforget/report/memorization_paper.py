"""What the paper printed of memorization: Tables 2, 5, 6 and 7 (arXiv 2311.07682, section 6 and appendix E)."""

from __future__ import annotations

__all__ = ["EPOCHS", "MASKED", "TABLE_5", "published"]

# By role and number of models: ALR on own rows (mean over the models), on others', on shared ones, and perplexity.
Row = tuple[float | None, float | None, float | None, float]
TABLE_5: dict[tuple[str, int], Row] = {
    ("base", 0): (1.0, None, 1.0, 23.48), ("single", 1): (0.218, 1.483, 0.218, 35.53),
    ("fused", 2): (0.485, None, 0.233, 31.60), ("fused", 3): (0.655, None, 0.238, 30.63),
    ("fused", 4): (0.757, None, 0.240, 30.15),
    ("full", 2): (0.274, None, 0.275, 30.15), ("full", 3): (0.319, None, 0.321, 27.45), ("full", 4): (0.354, None, 0.356, 25.79),
}  # fmt: skip
MASKED: dict[tuple[str, int], Row] = {
    ("base", 0): (1.0, None, 1.0, 26.20), ("single", 1): (0.150, 0.247, 0.150, 5.98),
    ("fused", 2): (0.193, None, 0.158, 6.17), ("fused", 3): (0.211, None, 0.162, 6.22), ("fused", 4): (0.234, None, 0.174, 6.68),
    ("full", 2): (0.154, None, 0.155, 5.67), ("full", 3): (0.158, None, 0.157, 5.49), ("full", 4): (0.160, None, 0.161, 5.36),
}  # fmt: skip
# Of three models, by role and epochs; those of 10 epochs are in Table 5.
EPOCHS: dict[tuple[str, int], Row] = {
    ("single", 5): (0.395, 1.026, 0.396, 25.00), ("fused", 5): (0.684, None, 0.396, 23.12),
    ("full", 5): (0.461, None, 0.464, 22.76),
    ("single", 10): TABLE_5["single", 1], ("fused", 10): TABLE_5["fused", 3], ("full", 10): TABLE_5["full", 3],
    ("single", 15): (0.138, 2.260, 0.138, 54.03), ("fused", 15): (0.669, None, 0.168, 42.52),
    ("full", 15): (0.243, None, 0.244, 33.12),
    ("single", 20): (0.100, 3.260, 0.100, 77.00), ("fused", 20): (0.702, None, 0.134, 56.33),
    ("full", 20): (0.197, None, 0.198, 39.33),
}  # fmt: skip


def published(row: Row | None) -> str:
    """A printed row as a cell: own, others', shared, perplexity; a dash where the paper has no number."""
    if row is None:
        return ""
    *ratios, perplexity = row
    return ", ".join([*("-" if value is None else f"{value:.3f}" for value in ratios), f"{perplexity:.2f}"])
