"""Mergekit as an oracle: the same checkpoints, the same settings, every tensor compared; and where mergekit is wrong, by hand.

mergekit lives in an environment of its own; MERGEKIT_PYTHON names its interpreter. ``python tests/test_oracle.py --table``
prints the largest differences as Markdown.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fuseforget.fuse import execute, plan_recipe, read_recipe
from fuseforget.methods import METHODS, fuse_in_memory

pytestmark = pytest.mark.oracle

WORKER = Path(__file__).with_name("mergekit_worker.py")
EPSILON = 2.0**-23  # of float32, in which mergekit computes and both write
TOLERANCE = 8 * EPSILON  # of the largest value of the tensor's inputs: some eight roundings of float32
MODELS = ("bert", "gpt2", "llama")
THREE = (0.2, 0.3, 0.5)
FREE = (0.6, -0.3, 0.8)
DENSITIES = (0.5, 0.7, 0.9)
R = math.sqrt(0.5)


@dataclass(frozen=True)
class Run:
    """One setting of a method, in our words and, where they differ, in mergekit's."""

    label: str
    method: str
    theirs: str = ""
    weight: tuple[float, ...] = ()
    shared: dict[str, Any] = field(default_factory=dict)
    each: dict[str, tuple[float, ...]] = field(default_factory=dict)
    renamed: dict[str, Any] | None = None  # mergekit's shared parameters, where they are called or set otherwise
    base: bool = False
    count: int = 3

    def config(self, checkpoints: Path) -> dict[str, Any]:
        per_model = {"weight": self.weight, **self.each} if self.weight and self.method != "slerp" else self.each
        models = [
            {
                "model": str(checkpoints / f"model{i}"),
                **({"parameters": {name: values[i] for name, values in per_model.items()}} if per_model else {}),
            }
            for i in range(self.count)
        ]
        config: dict[str, Any] = {
            "merge_method": self.theirs or self.method,
            "models": models,
            "dtype": "float32",
            "parameters": self.shared if self.renamed is None else self.renamed,
        }
        if self.base:
            config["base_model"] = str(checkpoints / "base")
        if self.method == "slerp":
            config["base_model"] = models[0]["model"]
        return config


RUNS = [
    Run("average", "average", "linear", weight=THREE),
    Run("slerp", "slerp", weight=(0.7, 0.3), renamed={"t": 0.3}, count=2),
    Run("nuslerp", "nuslerp", weight=(0.6, 0.2), count=2),
    Run("nuslerp of task vectors", "nuslerp", weight=(0.6, 0.2), base=True, count=2),
    Run("nuslerp by rows", "nuslerp", weight=(0.6, 0.2), base=True, count=2,
        shared={"flatten": False}, renamed={"nuslerp_flatten": False}),
    Run("nuslerp by columns", "nuslerp", weight=(0.6, 0.2), count=2,
        shared={"flatten": False, "row_wise": True}, renamed={"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    Run("multislerp", "multislerp", weight=THREE),
    Run("multislerp of task vectors", "multislerp", weight=(0.4, 0.6, 1.0), base=True),
    Run("multislerp, plain weights", "multislerp", weight=(0.4, 0.6, 0.5), base=True,
        shared={"normalize": False}, renamed={"normalize_weights": False}),
    # mergekit's own tolerance stops it short: see below
    Run("karcher", "karcher", shared={"max_iter": 100}, renamed={"max_iter": 100, "tol": 1e-7}),
    Run("task_arithmetic", "task_arithmetic", weight=FREE, base=True, shared={"lambda": 0.7}),
    Run("task_arithmetic, normalised", "task_arithmetic", weight=FREE, base=True, shared={"normalize": True}),
    Run("ties", "ties", weight=THREE, base=True, each={"density": DENSITIES}),
    Run("ties, free weights", "ties", weight=FREE, base=True, each={"density": (0.2,) * 3},
        shared={"normalize": False, "lambda": 1.3}),
    Run("ties, rescaled", "ties", weight=THREE, base=True, each={"density": DENSITIES}, shared={"rescale": True}),
    Run("dare_linear, density 1", "dare_linear", weight=FREE, base=True),
    Run("dare_ties, density 1", "dare_ties", weight=FREE, base=True),
    Run("della, density 1", "della", weight=FREE, base=True),
    Run("della_linear, density 1", "della_linear", weight=FREE, base=True),
    Run("breadcrumbs", "breadcrumbs", weight=FREE, base=True, each={"density": DENSITIES, "gamma": (0.01, 0.05, 0.2)}),
    Run("breadcrumbs, density .9", "breadcrumbs", weight=THREE, base=True, each={"density": (0.9,) * 3}),
    Run("breadcrumbs, rescaled", "breadcrumbs", weight=THREE, base=True,
        each={"density": DENSITIES, "gamma": (0.01, 0.05, 0.2)}, shared={"rescale": True, "normalize": True}),
    Run("breadcrumbs_ties", "breadcrumbs_ties", weight=FREE, base=True,
        each={"density": DENSITIES, "gamma": (0.01, 0.05, 0.2)}),
    Run("sce", "sce", base=True),
    Run("sce, top 0.3", "sce", base=True, shared={"select_topk": 0.3}),
    Run("model_stock", "model_stock", base=True),
    Run("model_stock by filters", "model_stock", base=True, shared={"filter_wise": True}),
    Run("nearswap", "nearswap", base=True, shared={"t": 0.01}, count=1),
    Run("arcee_fusion", "arcee_fusion", base=True, count=1),
    Run("ram", "ram", base=True, shared={"epsilon": 0.03}),
    Run("ram+", "ram", "ramplus_tl", base=True, shared={"epsilon": 0.06, "r": 0.1, "alpha": 0.7}),
    Run("passthrough", "passthrough", each={"scale": (1.5,)}, count=1),
]  # fmt: skip
LABELS = [run.label for run in RUNS]

# Single tensors: name -> (base or None, models, mergekit's method, its parameters).
Case = tuple[Any, list[Any], str, dict[str, Any]]
SINGLE: dict[str, Case] = {
    "sce, energies below 1e-6": ([0, 0], [[2e-4, 2e-4], [1e-4, 1e-4]], "sce", {}),
    "sce, a share below 1e-6": ([0, 0], [[1000, 0], [0, 0.5]], "sce", {}),
    "model_stock, lengths below 1e-3": ([0, 0], [[2e-4, 0], [1e-4, math.sqrt(3) * 1e-4]], "model_stock", {}),
    "nearswap, t below 1e-6": ([0, 0], [[5e-8, 3e-7]], "nearswap", {"t": 1e-7}),
    "karcher, lengths below 1e-5": (None, [[1e-6, 0], [0, 1e-6]], "karcher", {}),
    "multislerp, lengths near 1e-8": ([0, 0], [[1e-8, 0], [0, 3e-8]], "multislerp", {"weight": [1.0, 1.0]}),
    "nuslerp, lengths below 1e-7": ([0, 0], [[1e-8, 0], [R * 1e-8, R * 1e-8]], "nuslerp", {"weight": [1.0, 1.0]}),
    "nuslerp, one zero": ([0, 0], [[1, 2], [0, 0]], "nuslerp", {"weight": [1.0, 1.0]}),
    "ties, sums below 1e-7": ([0, 0], [[2e-8, 1e-8]], "ties", {"weight": [1.0], "density": 0.5, "rescale": True}),
    "breadcrumbs, density 0.9": ([0] * 10, [list(range(10))], "breadcrumbs", {"weight": [1.0], "density": 0.9, "gamma": 0.1}),
    "breadcrumbs, less than one value": ([0] * 4, [[1, 2, 3, 4]], "breadcrumbs", {"weight": [1.0], "density": 0.2, "gamma": 0.0}),
    "della, rows of one": ([[0], [0]], [[[1], [2]]], "della", {"weight": [1.0], "density": 0.5}),
    "arcee_fusion, small changes": ([0] * 5, [[1e-10, -2e-10, 3e-10, 4e-10, 1e-8]], "arcee_fusion", {}),
}
ANGLE = 0.02
SEEDS = 40
DRAWN = 4000


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def singles() -> dict[str, tuple[list[torch.Tensor], int | None, str, dict[str, Any], int]]:
    """All merges of single tensors: inputs (base first), index of the base, mergekit's method, parameters and seed."""
    found: dict[str, tuple[list[torch.Tensor], int | None, str, dict[str, Any], int]] = {}
    for name, (base, models, method, parameters) in SINGLE.items():
        inputs = [*([] if base is None else [tensor(base)]), *map(tensor, models)]
        found[name] = (inputs, None if base is None else 0, method, parameters, 0)
    near = [tensor([1, 0]), tensor([math.cos(ANGLE), math.sin(ANGLE)])]
    found["slerp, small angle"] = (near, 0, "slerp", {"t": 0.5}, 0)
    found["karcher, wide"] = ([d.float() for d in wide_directions()], None, "karcher", {}, 0)
    for seed in range(SEEDS):
        found[f"dare {seed}"] = ([tensor([0, 0]), tensor([3, 1])], 0, "dare_linear", {"weight": [1.0], "density": 0.5}, seed)
    base, model = drawn()
    masked = {"weight": [1.0], "density": 0.6, "rescale": False}
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        found[f"masks of {method}"] = ([base, model], 0, method, {**masked, "normalize": False}, 1)
    large = torch.randn(1001, 1000, generator=torch.Generator().manual_seed(1))
    changed = large + 0.1 * torch.randn(1001, 1000, generator=torch.Generator().manual_seed(2))
    for seed in (0, 1):
        found[f"arcee_fusion, a million values, seed {seed}"] = ([large, changed], 0, "arcee_fusion", {}, seed)
    return found


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """A base of zeros and a model without zeros, in rows of forty."""
    model = torch.rand(DRAWN // 40, 40, generator=torch.Generator().manual_seed(3)) + 0.5
    return torch.zeros_like(model), model


def wide_directions() -> list[torch.Tensor]:
    """Three directions just above the equator, and not symmetric."""
    angles = ((0.0, 0.1), (2.9, 0.1), (4.1, 0.1))
    return [
        torch.tensor([math.cos(a) * math.cos(b), math.sin(a) * math.cos(b), math.sin(b)], dtype=torch.float64) for a, b in angles
    ]


def write_checkpoints(directory: Path, architecture: str) -> None:
    """A base and three models of one architecture, all parameters random and the models far from the base.

    Far, so that the angles between tensors are wide: mergekit takes the chord for cosines above 0.9995. And twelve labels and
    sixteen token types: columns of two or three values may be nearly opposite, where mergekit's float32 angles lose digits.
    """
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )  # fmt: skip

    model: Any
    if architecture == "bert":
        model = BertForSequenceClassification(BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=20, num_labels=12, type_vocab_size=16,
        ))  # fmt: skip
    elif architecture == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=20, n_embd=16, n_layer=2, n_head=2))
    else:
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        ))  # fmt: skip
    generator = torch.Generator().manual_seed(MODELS.index(architecture))
    # Layer norms' weights are around one, all else around zero.
    centres = [1.0 if "norm" in name.lower() or ".ln_" in name else 0.0 for name, _ in model.named_parameters()]
    centres = [c if name.endswith("weight") else 0.0 for c, (name, _) in zip(centres, model.named_parameters(), strict=True)]
    base = [c + 0.05 * torch.randn(p.shape, generator=generator) for c, p in zip(centres, model.parameters(), strict=True)]
    for name in ("base", "model0", "model1", "model2"):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), base, strict=True):
                noise = 0 if name == "base" else 0.05 * torch.randn(value.shape, generator=generator)
                parameter.copy_(value + noise)
        model.save_pretrained(directory / name)


def run_mergekit(root: Path) -> None:
    """Write all inputs under a directory and let mergekit fuse them, in one process."""
    jobs: list[dict[str, Any]] = []
    for architecture in MODELS:
        write_checkpoints(root / architecture, architecture)
        jobs += [{"config": run.config(root / architecture), "out": str(root / architecture / run.label)} for run in RUNS]
    (root / "single").mkdir()
    for name, (inputs, base, method, parameters, seed) in singles().items():
        path = root / "single" / name
        save_file({str(i): t for i, t in enumerate(inputs)}, f"{path}.in")
        jobs.append(
            {
                "tensors": f"{path}.in",
                "method": method,
                "parameters": parameters,
                "base": base,
                "seed": seed,
                "out": f"{path}.out",
            }
        )
    jobs.append({"defaults": sorted({run.theirs or run.method for run in RUNS}), "out": str(root / "defaults.json")})
    (root / "jobs.json").write_text(json.dumps(jobs))
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [os.environ["MERGEKIT_PYTHON"], WORKER, root / "jobs.json"],
        env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"mergekit failed: {done.stderr[-3000:]}")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(os.environ.get("MERGEKIT_PYTHON", "")) is None:
        pytest.skip("needs mergekit: set MERGEKIT_PYTHON to the interpreter of an environment that has it")
    root = tmp_path_factory.mktemp("mergekit")
    run_mergekit(root)
    return root


def states(checkpoints: Path, run: Run) -> tuple[dict[str, torch.Tensor] | None, list[dict[str, torch.Tensor]]]:
    def load(name: str) -> dict[str, torch.Tensor]:
        return load_file(checkpoints / name / "model.safetensors")

    return load("base") if run.base else None, [load(f"model{i}") for i in range(run.count)]


def ours(run: Run, models: list[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
    each = {k: v[0] if run.method == "passthrough" else v for k, v in run.each.items()}
    return fuse_in_memory(METHODS[run.method], models, run.weight or None, base=base, **run.shared, **each).float()


def differences(checkpoints: Path, run: Run) -> dict[str, torch.Tensor]:
    """For each tensor, how far the two results lie apart, in shares of its inputs' largest value."""
    base, models = states(checkpoints, run)
    theirs = load_file(next((checkpoints / run.label).glob("*.safetensors")))
    assert set(theirs) == set(models[0])
    found = {}
    for name, result in theirs.items():
        inputs = [m[name] for m in models]
        origin = None if base is None else base[name]
        scale = torch.stack([*inputs, *([] if origin is None else [origin])]).abs().max()
        found[name] = (ours(run, inputs, origin) - result).abs() / scale
    return found


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("run", [run for run in RUNS if run.method != "arcee_fusion"], ids=lambda run: run.label)
def test_every_tensor_agrees_with_mergekit(merged, run, architecture):
    far = {name: float(d.max()) for name, d in differences(merged / architecture, run).items() if not d.max() <= TOLERANCE}
    assert not far


@pytest.mark.parametrize("architecture", MODELS)
def test_arcee_fusion_takes_what_mergekit_takes(merged, architecture):
    """But for values whose importance lies at the threshold: mergekit's divergences are float32, to some four digits here."""
    run = next(run for run in RUNS if run.method == "arcee_fusion")
    far = torch.cat([d.reshape(-1) > TOLERANCE for d in differences(merged / architecture, run).values()])
    assert len(far) > 3000
    assert float(far.double().mean()) < 1e-3


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.label)
def test_the_comparison_would_notice_another_result(merged, run, architecture):
    """The methods' results differ from the base, or from the plain mean, by far more than the tolerance."""
    base, models = states(merged / architecture, run)
    moved = 0.0
    for name in models[0]:
        inputs = [m[name] for m in models]
        plain = base[name] if base is not None else sum(inputs[1:], start=inputs[0]) / run.count
        moved = max(moved, float((ours(run, inputs, None if base is None else base[name]) - plain).abs().max()))
    assert moved > 1000 * TOLERANCE


def test_every_shared_method_is_compared():
    of_ours_alone = {"geometric_mean", "fisher", "regmean", "tsv_m", "iso_c", "negmerge"}
    of_ours_alone |= {"consensus", "spectral_consensus", "fisher_consensus"}
    assert {run.method for run in RUNS} | of_ours_alone == set(METHODS)


# Names of mergekit's parameters in ours, and the defaults that differ, with the reason.
NAMES = {"nuslerp_flatten": "flatten", "nuslerp_row_wise": "row_wise", "normalize_weights": "normalize"}
LEFT_OUT = {
    "int8_mask": "saves memory that blocks do not use",
    "weight": "weights are an argument of their own",
    "eps": "tolerances are relative",
    "t": "slerp's is the second weight; nearswap's is required in mergekit",
}
OTHER_DEFAULTS = {
    ("linear", "normalize"): "weights are convex, or normalised on request",
    ("karcher", "max_iter"): "a step costs nothing on the matrix of inner products",
    ("karcher", "tol"): "to double precision",
    ("ramplus_tl", "r"): "one method: 0 is RAM",
    ("passthrough", "scale"): "1 says the same as none",
    ("task_arithmetic", "density"): "has no effect in mergekit",
    ("task_arithmetic", "rescale"): "has no effect in mergekit",
}


def test_defaults_are_mergekits_but_for_the_listed(merged):
    theirs = json.loads((merged / "defaults.json").read_text())
    methods = {run.theirs or run.method: run.method for run in RUNS}
    assert set(theirs) == set(methods)
    compared, other = 0, set()
    for name, parameters in theirs.items():
        own = {p.name: p.default for p in METHODS[methods[name]].parameters}
        for parameter, default in parameters.items():
            if parameter in LEFT_OUT:
                continue
            compared += 1
            if own.get(NAMES.get(parameter, parameter)) != default:
                other.add((name, parameter))
    assert other == set(OTHER_DEFAULTS)
    assert compared > 40


# Where mergekit 0.1.5 is wrong, or differs: what it gives, and what is right, worked by hand.


def single(root: Path, name: str) -> torch.Tensor:
    return load_file(root / "single" / f"{name}.out")["result"]


def own(name: str, method: str, **parameters: Any) -> torch.Tensor:
    base, models, _, _ = SINGLE[name]
    rest = {} if base is None else {"base": tensor(base)}
    return fuse_in_memory(METHODS[method], [tensor(m) for m in models], **rest, **parameters)


HALF_ARC = math.sin(math.pi / 8) / math.sin(math.pi / 4)  # sin (w / 2) / sin w
WIDE_ARC = 1 / math.sqrt(2 * (1 + R / 100))  # the same of an angle whose cosine is R / 100
EQUAL = [1.0, 1.0]
# name, our method and parameters, what mergekit gives, what is right
WRONG: list[tuple[str, str, dict[str, Any], Any, Any]] = [
    # Mean squares 4e-8 and 1e-8 sum to less than 1e-6, so mergekit weighs the models alike; right is 0.8 and 0.2.
    ("sce, energies below 1e-6", "sce", {}, [1.5e-4] * 2, [1.8e-4] * 2),
    # The second value is the second model's alone, whose share is s = 0.25 / 1000000.25; mergekit divides s / 2 by 1e-6.
    ("sce, a share below 1e-6", "sce", {}, [1000, 0.125], [1000, 0.5]),
    # The cosine is 1/2, so t = 2/3; mergekit divides the inner product 2e-8 by 1e-6: cosine 0.02, t = 0.04 / 1.02.
    (
        "model_stock, lengths below 1e-3", "model_stock", {},
        [1.5e-4 * 0.04 / 1.02, math.sqrt(0.75) * 1e-4 * 0.04 / 1.02], [1e-4, math.sqrt(3) / 3 * 1e-4],
    ),
    # Differences below t are taken whole, larger ones by t; mergekit's weight is t / 1e-6 = 0.1 for both.
    ("nearswap, t below 1e-6", "nearswap", {"t": 1e-7}, [5e-9, 3e-8], [5e-8, 1e-7]),
    # Tensors shorter than tol have no direction in mergekit, and nothing is left.
    ("karcher, lengths below 1e-5", "karcher", {}, [0, 0], [R * 1e-6] * 2),
    # Unit vectors are divided by length + 1e-8, so mergekit's have lengths 1/2 and 3/4.
    (
        "multislerp, lengths near 1e-8", "multislerp", {"weight": EQUAL},
        [2e-8 * 2 / math.sqrt(13), 2e-8 * 3 / math.sqrt(13)], [R * 2e-8] * 2,
    ),
    # The angle is 45 degrees; mergekit's unit vectors have length 1/10, so that it sees nearly 90.
    (
        "nuslerp, lengths below 1e-7", "nuslerp", {"weight": EQUAL},
        [WIDE_ARC * (1 + R) * 1e-8, WIDE_ARC * R * 1e-8], [HALF_ARC * (1 + R) * 1e-8, HALF_ARC * R * 1e-8],
    ),
    # A zero task vector has no direction: half of the other remains. mergekit takes it as orthogonal: sin 45 of the other.
    ("nuslerp, one zero", "nuslerp", {"weight": EQUAL}, [R, 2 * R], [0.5, 1]),
    # Half of the values, with the sum of magnitudes restored; mergekit does not restore sums below 1e-7.
    ("ties, sums below 1e-7", "ties", {"weight": [1.0], "density": 0.5, "rescale": True}, [2e-8, 0], [3e-8, 0]),
    # A positive density keeps at least one value, as in TIES, of which Breadcrumbs without outliers is the same; mergekit: none.
    (
        "breadcrumbs, less than one value", "breadcrumbs", {"weight": [1.0], "density": 0.2, "gamma": 0.0},
        [0, 0, 0, 0], [0, 0, 0, 4],
    ),
    # Importances 1 : 2 : 3 : 4 : 100 pass 3 + 1.5 (4 - 2) = 6; mergekit's divergence is zero in float32, and so is its threshold.
    ("arcee_fusion, small changes", "arcee_fusion", {}, [1e-10, -2e-10, 3e-10, 4e-10, 1e-8], [0, 0, 0, 0, 1e-8]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "method", "parameters", "theirs", "right"), WRONG, ids=[case[0] for case in WRONG])
def test_where_mergekit_is_wrong(merged, name, method, parameters, theirs, right):
    found, result = own(name, method, **parameters), single(merged, name)
    torch.testing.assert_close(found, torch.tensor(right, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(result, tensor(theirs), rtol=1e-5, atol=0)
    assert bool(((result - found).abs() > 0.1 * found.abs()).any())


def test_breadcrumbs_at_density_point_nine_is_right_in_mergekit_too(merged):
    """Of ten values the largest goes, and nothing at the lower end: a slice that must not be written ``[:-0]``."""
    name = "breadcrumbs, density 0.9"
    found = own(name, "breadcrumbs", weight=[1.0], density=0.9, gamma=0.1)
    assert found.tolist() == single(merged, name).tolist() == [*range(9), 0]


def test_slerp_keeps_the_length_at_small_angles_where_mergekit_takes_the_chord(merged):
    """Fine-tunes lie at such angles: cosines above 0.9995 are common."""
    theirs = single(merged, "slerp, small angle").double()
    found = fuse_in_memory(METHODS["slerp"], singles()["slerp, small angle"][0], [0.5, 0.5])
    torch.testing.assert_close(
        found, torch.tensor([math.cos(ANGLE / 2), math.sin(ANGLE / 2)], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert float(found.norm()) == pytest.approx(1, rel=1e-7)
    assert float(theirs.norm()) == pytest.approx(math.cos(ANGLE / 2), rel=1e-6)  # 5e-5 short


def test_karcher_goes_on_where_mergekit_stops(merged):
    """At the centre of mass the mean tangent is zero; ten steps leave mergekit well before it."""

    def mean_tangent(result: torch.Tensor) -> float:
        mean = result.double().numpy() / np.linalg.norm(result.double().numpy())
        total = np.zeros(3)
        for direction in wide_directions():
            cosine = mean @ direction.numpy()
            across = direction.numpy() - cosine * mean
            total += math.atan2(np.linalg.norm(across), cosine) * across / np.linalg.norm(across) / 3
        return float(np.linalg.norm(total))

    found = fuse_in_memory(METHODS["karcher"], wide_directions())
    assert mean_tangent(found) < 1e-9
    assert mean_tangent(single(merged, "karcher, wide")) > 1e-3


def test_dare_rescales_by_the_density_where_mergekit_restores_the_sum(merged):
    """Of (3, 1) at density 1/2: each value is doubled or gone, on average (3, 1).

    mergekit scales what is left to the sum 4: (3, 1), (4, 0), (0, 4) or (0, 0), on average (7/4, 5/4).
    """
    theirs = {tuple(single(merged, f"dare {seed}").tolist()) for seed in range(SEEDS)}
    assert theirs == {(3, 1), (4, 0), (0, 4), (0, 0)}
    base, model = tensor([0, 0]), tensor([3, 1])
    found = [
        tuple(fuse_in_memory(METHODS["dare_linear"], [model], [1.0], base=base, density=0.5, seed=seed).tolist())
        for seed in range(SEEDS)
    ]
    assert set(found) == set(itertools.product((6, 0), (2, 0)))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_methods_keep_the_same_share_at_every_rank(merged, method):
    """Unscaled, a kept value is the model's. Kept shares of ten classes of rank, both within five standard errors of p."""
    base, model = drawn()
    theirs = single(merged, f"masks of {method}")
    found = fuse_in_memory(
        METHODS[method], [model], [1.0], base=base, density=0.6, rescale=False, normalize=False, seed=1
    ).float()  # fmt: skip
    ranks = model.argsort(dim=1).argsort(dim=1)
    for result in (theirs, found):
        assert bool(((result == 0) | ((result - model).abs() <= EPSILON * model)).all())
        for part in range(10):
            kept = (result != 0)[ranks // 4 == part].double()
            middle = 0.6 if method.startswith("dare") else 0.45 + 0.3 * (4 * part + 1.5) / 39
            assert abs(float(kept.mean()) - middle) < 5 * math.sqrt(0.25 / len(kept)), part


def test_della_of_rows_of_one_value(merged):
    """There is no rank within one value: it is kept with the density's probability. mergekit divides zero by zero."""
    with safe_open(merged / "single" / "della, rows of one.out", "pt") as file:
        assert not list(file.keys())
        assert "RuntimeError" in file.metadata()["error"]
    results = {
        tuple(own("della, rows of one", "della", weight=[1.0], density=0.5, seed=seed).reshape(-1).tolist()) for seed in range(40)
    }
    assert results == {(2, 4), (2, 0), (0, 4), (0, 0)}


def test_arcee_fusion_of_a_million_values_needs_no_luck(merged):
    """Quartiles are sampled by mergekit, so that its result for a large tensor depends on the state of a global generator."""
    names = [f"arcee_fusion, a million values, seed {seed}" for seed in (0, 1)]
    first, second = (single(merged, name) for name in names)
    assert not torch.equal(first, second)
    base, model = singles()[names[0]][0]
    p, q = model.double().softmax(-1) + 1e-8, base.double().softmax(-1) + 1e-8
    importance = ((model.double() - base.double()).abs() * (p * (p / q).log()).sum(-1, keepdim=True)).numpy()
    quarters = np.sort(importance.ravel())[[int(share * (importance.size - 1)) for share in (0.25, 0.5, 0.75)]]
    taken = importance >= quarters[1] + 1.5 * (quarters[2] - quarters[0])
    found = fuse_in_memory(METHODS["arcee_fusion"], [model], base=base).float()
    expected = torch.where(torch.from_numpy(taken), model, base)
    assert int((found != expected).sum()) <= 2  # the importance is compared in float32
    assert int((first != expected).sum()) > 20


# Recipes: the same YAML, read and run by mergekit and by us. Models are relative directories, as in mergekit's examples.

RECIPES = {
    "gradient slerp with slices and filters": """
        slices:
          - sources:
              - {model: some/orca, layer_range: [0, 4]}
              - {model: some/platypus, layer_range: [0, 4]}
        merge_method: slerp
        base_model: some/orca
        parameters:
          t:
            - filter: self_attn
              value: [0, 0.5, 0.3, 0.7, 1]
            - filter: mlp
              value: [1, 0.5, 0.7, 0.3, 0]
            - value: 0.5
        dtype: float32
        """,
    "slerp from the second model": """
        models: [{model: some/orca}, {model: some/platypus}]
        merge_method: slerp
        base_model: some/platypus
        parameters: {t: [0.1, 0.4]}
        dtype: float32
        """,
    "ties with gradients and filters": """
        models:
          - model: some/orca
            parameters:
              density: [1, 0.7, 0.1]
              weight: 1.0
          - model: some/platypus
            parameters:
              density: 0.5
              weight: [0, 0.3, 0.7, 1]
          - model: some/wizard
            parameters:
              density: 0.33
              weight:
                - filter: mlp
                  value: 0.5
                - value: 0
        merge_method: ties
        base_model: some/llama
        parameters:
          normalize: true
          int8_mask: true
        dtype: float32
        """,
    "linear, in 16 bits": """
        models:
          - {model: some/orca, parameters: {weight: 1.0}}
          - {model: some/wizard, parameters: {weight: 0.3}}
          - {model: some/platypus, parameters: {weight: 0.5}}
        merge_method: linear
        dtype: float16
        """,
    "linear, not normalised, written in 16 bits": """
        models:
          - {model: some/orca, parameters: {weight: 0.6}}
          - {model: some/wizard, parameters: {weight: 0.4}}
        merge_method: linear
        parameters: {normalize: false}
        dtype: float32
        out_dtype: bfloat16
        """,
    "passthrough of slices": """
        slices:
          - sources:
            - {model: some/orca, layer_range: [0, 3]}
          - sources:
            - model: some/platypus
              layer_range: [1, 4]
              parameters:
                scale:
                  - {filter: o_proj, value: 0.0}
                  - {filter: down_proj, value: [0.5, 2]}
                  - {value: 1.0}
        merge_method: passthrough
        dtype: float16
        """,
    "task arithmetic of slices, settings from every level": """
        slices:
          - sources:
            - {model: some/llama, layer_range: [0, 2]}
            - {model: some/orca, layer_range: [0, 2], parameters: {weight: [{filter: mlp, value: [0.2, 0.9]}]}}
            - {model: some/platypus, layer_range: [2, 4], parameters: {weight: 0.4}}
            parameters: {weight: [{filter: self_attn, value: 0.7}]}
          - sources:
            - {model: some/llama, layer_range: [1, 2]}
            - {model: some/wizard, layer_range: [1, 2], parameters: {weight: [0.1, 0.8]}}
            parameters: {lambda: 1.5}
        merge_method: task_arithmetic
        base_model: some/llama
        parameters: {weight: 0.3, lambda: 0.8}
        dtype: float32
        """,
    "nuslerp by mergekit's names": """
        models:
          - {model: some/orca, parameters: {weight: 0.6}}
          - {model: some/platypus, parameters: {weight: 0.2}}
        merge_method: nuslerp
        parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
        dtype: float32
        """,
    "multislerp by mergekit's names": """
        models:
          - {model: some/orca, parameters: {weight: [0.6, 0.1]}}
          - {model: some/platypus, parameters: {weight: 0.2}}
        merge_method: multislerp
        base_model: some/llama
        parameters: {normalize_weights: false}
        dtype: float32
        """,
    "the tokens of all": """
        models:
          - {model: some/orca, parameters: {weight: 0.6}}
          - {model: some/chat, parameters: {weight: 0.5}}
        merge_method: task_arithmetic
        base_model: some/llama
        tokenizer_source: union
        dtype: float32
        """,
    "the base's tokens": """
        models:
          - {model: some/chat, parameters: {weight: 0.5}}
          - {model: some/orca, parameters: {weight: 0.6}}
        merge_method: task_arithmetic
        base_model: some/llama
        tokenizer_source: base
        dtype: float32
        """,
}
WORDS = ["<unk>", *(f"word{i}" for i in range(29))]
CHAT_WORDS = [*WORDS[:5], "turn", *reversed(WORDS[5:]), "end"]


def write_some_llama(directory: Path, words: list[str], base: dict[str, torch.Tensor] | None, seed: int) -> Any:
    """A Llama of four layers far from the base, and a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(directory)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2,
    ))  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, parameter in model.state_dict().items():
        origin = None if base is None else base[name]
        if origin is None or origin.shape != parameter.shape:  # rows of other tokens
            origin = torch.full(parameter.shape, 1.0 if "norm" in name else 0.0)
        state[name] = origin + 0.05 * torch.randn(parameter.shape, generator=generator)
    model.load_state_dict(state)
    model.save_pretrained(directory)
    return state


@pytest.fixture(scope="module")
def by_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which mergekit ran every recipe."""
    python = shutil.which(os.environ.get("MERGEKIT_PYTHON", ""))
    if python is None:
        pytest.skip("needs mergekit: set MERGEKIT_PYTHON to the interpreter of an environment that has it")
    root = tmp_path_factory.mktemp("recipes")
    base = write_some_llama(root / "some/llama", WORDS, None, 0)
    for seed, name in enumerate(("orca", "platypus", "wizard", "chat"), start=1):
        write_some_llama(root / "some" / name, CHAT_WORDS if name == "chat" else WORDS, base, seed)
    jobs = []
    for name, text in RECIPES.items():
        (root / f"{name}.yml").write_text(textwrap.dedent(text))
        jobs.append({"recipe": f"{name}.yml", "out": f"theirs/{name}"})
    (root / "jobs.json").write_text(json.dumps(jobs))
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [python, WORKER, "jobs.json"], cwd=root, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


STEPS = {torch.float32: EPSILON, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_what_mergekit_makes_of_it(by_recipe, monkeypatch, tmp_path, name):
    """The same tensors, types and layers; within the type's rounding of the largest value of each tensor.

    mergekit computes in ``dtype``: with 16 bits it rounds each model first and each step then, so that the results may lie a few
    steps of the type apart where we round once. Tokens that are added are numbered here in the order of their models and
    rows, in mergekit in that of a hash table: rows of tokens are compared by token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(by_recipe)
    out = tmp_path / "out"
    execute(plan_recipe(read_recipe(Path(f"{name}.yml"))), out, shard_size=10**9)
    found, theirs = (read_all(directory) for directory in (out, by_recipe / "theirs" / name))
    assert set(found) == set(theirs)
    tokens, their_tokens = (AutoTokenizer.from_pretrained(d).get_vocab() for d in (out, by_recipe / "theirs" / name))
    assert set(tokens) == set(their_tokens)
    assert all(tokens[word] == row for word, row in their_tokens.items() if row < len(WORDS))
    order = [their_tokens[word] for word in sorted(tokens, key=tokens.__getitem__)]
    for key, tensor in theirs.items():
        tensor = tensor[order] if key in ("lm_head.weight", "model.embed_tokens.weight") else tensor
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        steps = 4 if tensor.dtype != torch.float32 else 8
        far = float((found[key].double() - tensor.double()).abs().max() / max(1e-30, float(tensor.double().abs().max())))
        assert far <= steps * STEPS[tensor.dtype], key
    ours, other = (AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32) for d in (out, by_recipe / "theirs" / name))
    assert ours.config.num_hidden_layers == other.config.num_hidden_layers
    assert ours.config.vocab_size == other.config.vocab_size
    words = list(tokens)
    exact = found["model.norm.weight"].dtype == torch.float32
    with torch.no_grad():
        ids, their_ids = (torch.tensor([[own[word] for word in words]]) for own in (tokens, their_tokens))
        logits, their_logits = ours(ids).logits, other(their_ids).logits[..., order]
    torch.testing.assert_close(logits, their_logits, **({} if exact else {"rtol": 0.02, "atol": 0.02}))


def read_all(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_do_something(by_recipe, name):
    """Every recipe's layers differ from those of every model that it names by far more than the tolerance."""
    theirs = read_all(by_recipe / "theirs" / name)
    for model in ("llama", "orca", "platypus", "wizard", "chat"):
        given = read_all(by_recipe / "some" / model)
        same = [k for k, t in theirs.items() if k in given and t.shape == given[k].shape
                and float((t.float() - given[k]).abs().max()) < 1e-2 * float(given[k].abs().max())]  # fmt: skip
        assert len(same) < len(theirs) / 2 or name == "passthrough of slices"


def table(root: Path) -> str:
    """Largest difference of each method and model, in shares of the tensors' largest values, as Markdown."""
    lines = [f"| method | {' | '.join(MODELS)} |", f"| --- |{' --- |' * len(MODELS)}"]
    for run in RUNS:
        cells = []
        for architecture in MODELS:
            found = torch.cat([d.reshape(-1) for d in differences(root / architecture, run).values()])
            if run.method == "arcee_fusion":
                flipped = found > TOLERANCE
                cells.append(f"{float(found[~flipped].max()):.1e} ({int(flipped.sum())} of {len(found)} taken otherwise)")
            else:
                cells.append(f"{float(found.max()):.1e}")
        lines.append(f"| {run.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] != ["--table"] or not os.environ.get("MERGEKIT_PYTHON"):
        raise SystemExit("usage: MERGEKIT_PYTHON=PYTHON python tests/test_oracle.py --table")
    with tempfile.TemporaryDirectory() as directory:
        run_mergekit(Path(directory))
        print(table(Path(directory)))
