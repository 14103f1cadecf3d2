"""Draw the idea of spectral consensus in one picture, from the method itself: ``python examples/draw_consensus.py OUT.png``.

Left: what two models' changes of a matrix hold of one direction that both have and of one that each has alone, and what the
average and spectral consensus hold of them. Right: what one side's filter leaves of a direction, by the scatter in it.
"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from fuseforget.methods import METHODS, fuse_in_memory

SIDE, NOISE = 64, 2e-3
COLOURS = ("#1b6ca8", "#d1495b", "#edae49")


def parts() -> dict[str, list[float]]:
    """Of each change: the inner products with the common direction, the first model's own, and the second's."""
    draw = torch.Generator().manual_seed(0)

    def random(columns: int) -> torch.Tensor:
        return torch.randn(SIDE, columns, generator=draw, dtype=torch.float64)

    left, right = (torch.linalg.qr(random(3))[0] for _ in range(2))
    common, *own = [left[:, i : i + 1] @ right[:, i : i + 1].T for i in range(3)]
    base = random(SIDE)
    models = [base + common + mine + NOISE * random(SIDE) for mine in own]
    made = {
        "model 1": models[0],
        "model 2": models[1],
        "average": fuse_in_memory(METHODS["average"], models),
        "spectral\nconsensus": fuse_in_memory(METHODS["spectral_consensus"], models, base=base),
    }
    return {name: [float(((m - base) * d).sum()) for d in (common, *own)] for name, m in made.items()}


def main(out: str) -> None:
    found = parts()
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(1.25, 1), layout="constrained")
    for number, (label, colour) in enumerate(zip(("both know", "model 1 knows", "model 2 knows"), COLOURS, strict=True)):
        places = np.arange(len(found)) + (number - 1) * 0.26
        bars.bar(places, [values[number] for values in found.values()], 0.24, label=label, color=colour)
    bars.set_xticks(np.arange(len(found)), list(found))
    bars.set_ylabel("size of the change in a direction")
    bars.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    share = np.linspace(0, 1, 400)
    for forget, style in ((0.0, ":"), (0.5, "-."), (0.9, "--"), (0.97, "-")):
        odds = forget / (1 - forget)
        curves.plot(share, 1 / (1 + odds * share), style, color="#333333")
        curves.annotate(f"forget {forget:g}", (1.02, 1 / (1 + odds)), va="center")
    curves.set_xlim(0, 1.3)
    curves.set_xticks(np.linspace(0, 1, 5))
    curves.set_xlabel("scatter / mean², at 1 one of two models' alone", loc="left")
    curves.set_ylabel("what a filter leaves")
    for axes in (bars, curves):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
