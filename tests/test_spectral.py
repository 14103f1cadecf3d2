"""Methods on inner products of matrices against decompositions of the whole matrices, and what counts as a singular direction."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fuseforget.errors import InputError
from fuseforget.fuse import fuse, make_recipe, plan_recipe
from fuseforget.fuse.run import execute
from fuseforget.methods import METHODS, fuse_in_memory
from fuseforget.methods import group as group_module
from fuseforget.methods.group import InMemory
from fuseforget.methods.inner import eigen, inner_products

Array = np.ndarray[Any, np.dtype[np.float64]]
SHAPES = [(9, 7), (7, 9), (12, 12), (40, 3), (3, 40), (2, 2)]


def random(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(shape: Sequence[int], rank: int, seed: int) -> torch.Tensor:
    return random((shape[0], rank), seed) @ random((rank, shape[1]), seed + 1000)


def fused(method: str, models: Sequence[torch.Tensor], **rest: Any) -> torch.Tensor:
    return fuse_in_memory(METHODS[method], models, **rest)


def polar(matrix: Array, floor: float = 1e-6) -> Array:
    """The nearest orthonormal matrix, over the directions that there are: a decomposition of the whole matrix."""
    p, s, qt = np.linalg.svd(matrix, full_matrices=False)
    return (p * (s > floor * s.max())) @ qt


def tsv_of_whole(base: torch.Tensor, models: Sequence[torch.Tensor], weight: Sequence[float], lambda_: float) -> Array:
    rank = max(1, min(base.shape) // len(models))
    us, ss, vts = [np.zeros((base.shape[0], 0))], [np.zeros(0)], [np.zeros((0, base.shape[1]))]
    for model, share in zip(models, weight, strict=True):
        u, s, vt = np.linalg.svd((model - base).numpy(), full_matrices=False)
        kept = min(rank if share else 0, int((s > 1e-7 * s[0]).sum()))
        us.append(u[:, :kept])
        ss.append(share * s[:kept])
        vts.append(vt[:kept])
    values = np.concatenate(ss)
    if not len(values):
        return base.numpy()
    return base.numpy() + lambda_ * (polar(np.hstack(us)) * values) @ polar(np.vstack(vts))


def iso_of_whole(base: torch.Tensor, models: Sequence[torch.Tensor], weight: Sequence[float], lambda_: float) -> Array:
    total = sum(w * (m - base).numpy() for w, m in zip(weight, models, strict=True))
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    return base.numpy() + lambda_ * s.mean() * (u * (s > 1e-7 * s[0])) @ vt


WHOLE = {"tsv_m": tsv_of_whole, "iso_c": iso_of_whole}


def changes(kind: str, shape: tuple[int, int], seed: int) -> list[torch.Tensor]:
    """Three models' changes of a matrix."""
    free = [random(shape, seed + i) for i in (1, 2, 3)]
    one = [low_rank(shape, 1, seed + i) for i in (1, 2, 3)]
    sizes = torch.logspace(0, -3, min(shape), dtype=torch.float64)
    steep = [(u * sizes) @ vt for u, _, vt in (torch.linalg.svd(f, full_matrices=False) for f in free)]
    return {
        "free": free,
        "rank one": one,
        "equal": [free[0]] * 3,
        "one unchanged": [free[0], torch.zeros_like(free[0]), free[2]],
        "unchanged": [torch.zeros_like(free[0])] * 3,
        "nearly parallel": [free[0], free[0] + 1e-3 * free[1], free[0] + 1e-3 * free[2]],
        "one element": [torch.zeros_like(free[0]).index_put((torch.tensor(1), torch.tensor(i % 2)), f[0, 0])
                        for i, f in enumerate(free)],
        "steep": steep,
    }[kind]  # fmt: skip


KINDS = ["free", "rank one", "equal", "one unchanged", "unchanged", "nearly parallel", "one element", "steep"]


@pytest.mark.parametrize("weight", [[1.0, 0.5, 2.0], [0.7, 0.0, -0.4], [0.0, 0.0, 0.0]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
def test_inner_products_give_what_decomposing_whole_matrices_gives(method, kind, weight):
    """The products square the values: of directions a thousandth apart six digits of sixteen go, and as many of steep ones."""
    near = 1e-6 if kind == "nearly parallel" else 1e-8
    for shape in SHAPES:
        base = torch.zeros(shape, dtype=torch.float64) if kind == "one element" else random(shape, 100)
        models = [base + change for change in changes(kind, shape, seed=7)]
        found = fused(method, models, base=base, weight=weight, **{"lambda": 0.3})
        expected = WHOLE[method](base, models, weight, 0.3)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=near, err_msg=str(shape))


@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
@pytest.mark.parametrize("shape", [(70, 30), (30, 70)], ids=str)
def test_panels_of_any_size_give_one_result(monkeypatch, method, shape):
    base = random(shape, 1)
    models = [base + random(shape, i) / 9 for i in (2, 3, 4)]
    whole = fused(method, models, base=base)
    monkeypatch.setattr(group_module, "BLOCK", 1)
    monkeypatch.setattr(group_module, "SPAN", 1)
    assert len(InMemory(models, base, panels=True, transposed=shape[0] < shape[1]).spans()) == 24  # of three rows of 30
    torch.testing.assert_close(fused(method, models, base=base), whole, rtol=1e-11, atol=1e-12)


# What is no singular direction but rounding.


def adapted(shape: tuple[int, int], dtype: torch.dtype, size: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A base with rows of unlike sizes, and a model that differs by a rank of four, both rounded."""
    base = random(shape, seed) * (4 * torch.rand(shape[0], 1, generator=torch.Generator().manual_seed(seed))).exp()
    base = base.to(dtype)
    return base, (base.double() + size * low_rank(shape, 4, seed + 1)).to(dtype)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (300, 40)], ids=str)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 0.01), (torch.float32, 30.0), (torch.bfloat16, 1.0)])
def test_iso_c_of_a_change_of_low_rank_raises_its_directions_alone(shape, dtype, size):
    """The model's rounding makes the change a matrix of full rank. Raised, its 36 or 44 directions would outweigh the four."""
    for seed in range(8):
        base, model = adapted(shape, dtype, size, seed)
        delta = model.double() - base.double()
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
        assert float(s[-1]) > max(shape) * 2.0**-52 * float(s[0])  # there, as far as the change alone can tell
        found = fused("iso_c", [model], base=base, weight=[1.0], dtype=torch.float64) - base.double()
        expected = float(s[:4].sum()) / min(shape) * u[:, :4] @ vt[:4]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * float(s[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_estimated_between_what_it_is_and_its_largest(dtype):
    """Oracle: the spectral norm of the errors themselves, which are known here. The Frobenius norm bounds it, but far off."""
    for seed in range(8):
        for shape in ((64, 48), (300, 40), (30, 700)):
            base = random(shape, seed)
            exact = base + 0.1 * random(shape, seed + 1)
            model = exact.to(dtype)
            group = InMemory([model], base, panels=True, transposed=shape[0] < shape[1])
            _, estimate = inner_products(group, [1.0])
            error = float(torch.linalg.matrix_norm(model.double() - exact, 2))
            assert error < estimate < 6 * error, (seed, shape, error, estimate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_change_of_one_spacing_is_a_change(dtype):
    """A value off by at most half a spacing is not moved by a whole one: what moved is no rounding."""
    for seed in range(8):
        base = random((64, 48), seed).to(dtype)
        model = base.clone()
        model[seed, 5] = torch.nextafter(base[seed, 5], base.new_tensor(math.inf))
        expected = base.double()
        expected[seed, 5] += (model[seed, 5].double() - base[seed, 5].double()) / 48
        found = fused("iso_c", [model], base=base, weight=[1.0], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_tsv_m_leaves_out_directions_of_rounding():
    """A change of rank four has four triplets to give, though twelve may be kept: the other model's are not turned by noise."""
    for seed in range(8):
        base, model = adapted((64, 48), torch.float32, 1.0, seed)
        other = (base.double() + random((64, 48), seed + 50)).float()
        found = fused("tsv_m", [model, other], base=base, dtype=torch.float64)
        wide = base.double()
        u, s, vt = torch.linalg.svd(model.double() - wide, full_matrices=False)
        exact = wide + (u[:, :4] * s[:4]) @ vt[:4]
        np.testing.assert_allclose(found, tsv_of_whole(wide, [exact, other.double()], [1.0, 1.0], 1.0), rtol=0, atol=1e-7)


# RegMean.


def regmean_of_whole(models: Sequence[torch.Tensor], products: Sequence[torch.Tensor], weight: Sequence[float]) -> Array:
    """The least change from the average that solves the normal equations, by the pseudo-inverse."""
    shares = np.array(weight) / sum(weight)
    average = sum(s * m.numpy() for s, m in zip(shares, models, strict=True))
    left = sum(s * g.numpy() for s, g in zip(shares, products, strict=True))
    right = sum(s * (m.numpy() - average) @ g.numpy() for s, m, g in zip(shares, models, products, strict=True))
    return average + right @ np.linalg.pinv(left, rcond=1e-12, hermitian=True)


@pytest.mark.parametrize("input_first", [False, True])
@pytest.mark.parametrize("shape", [(11, 5), (5, 11), (8, 8), (1, 5)], ids=str)
@pytest.mark.parametrize("samples", [2, 30])  # fewer than inputs: singular; or enough
@pytest.mark.parametrize("weight", [[1.0, 0.5, 2.0], [1.0, 0.0, 3.0], [3.0, -0.5, 1.0]], ids=str)
def test_regmean_is_the_least_change_that_solves_the_equations(monkeypatch, shape, samples, weight, input_first):
    monkeypatch.setattr(group_module, "BLOCK", 4)
    models = [random(shape, i) for i in (1, 2, 3)]  # outputs x inputs
    inputs = [random((max(1, samples // 3), shape[1]), i + 10) for i in range(3)]
    for x in inputs:
        x[:, 2] = 0
    products = [x.T @ x for x in inputs]
    stored = [m.T.contiguous() for m in models] if input_first else models
    found = fused("regmean", stored, weight=weight, statistics=products, scale=1.0, input_first=input_first)
    expected = regmean_of_whole(models, products, weight)
    np.testing.assert_allclose((found.T if input_first else found).numpy(), expected, rtol=0, atol=1e-9)


def test_regmean_of_inputs_of_unlike_sizes_is_solved_all_the_same():
    """A millionth of the size is a trillionth in inner products: small, but no accident."""
    models = [random((6, 5), i) for i in (1, 2)]
    size = torch.tensor([1.0, 1e-6, 1e3, 1e-9, 1.0], dtype=torch.float64)
    inputs = [random((30, 5), i + 10) for i in range(2)]
    plain = fused("regmean", models, statistics=[x.T @ x for x in inputs])
    scaled = fused("regmean", [m / size for m in models], statistics=[(x * size).T @ (x * size) for x in inputs])
    torch.testing.assert_close(scaled * size, plain, rtol=1e-10, atol=1e-12)


# The engine.


@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
def test_a_decomposition_of_what_is_not_finite_is_refused(method):
    base, broken = random((6, 5), 1), random((6, 5), 2)
    broken[2, 3] = math.nan
    with pytest.raises(InputError, match="finite values whose squares are finite"):
        fused(method, [broken, base], base=base)


def test_eigenvectors_come_in_the_place_of_the_matrix():
    for seed in range(5):
        rows = random((20, 12), seed)
        whole = rows.T @ rows
        lower = torch.tril(whole)
        values, vectors = eigen(lower, "w")
        assert vectors.data_ptr() == lower.data_ptr()
        np.testing.assert_allclose(values, np.linalg.eigvalsh(whole), rtol=1e-10)
        np.testing.assert_allclose(vectors.T @ torch.diag(values) @ vectors, whole, atol=1e-12)


def test_wide_matrices_are_read_and_written_by_columns(raw, tmp_path, monkeypatch):
    """More than one panel, pieces of a row and of several rows, and the statement of what is read: one result."""
    shape = (24, 100)
    base = random(shape, 1).float()
    tensors = {f"m{i}": {"w": base + 0.1 * random(shape, i).float()} for i in (2, 3)}
    paths = [raw(name, tensors=one) for name, one in tensors.items()]
    root = raw("base", tensors={"w": base})
    expected = {m: fused(m, [t["w"] for t in tensors.values()], base=base).float() for m in WHOLE}
    monkeypatch.setattr(group_module, "BLOCK", 1)
    monkeypatch.setattr(group_module, "SPAN", 1)
    for piece in (1, 250, 10**6):
        monkeypatch.setattr(sys.modules["fuseforget.fuse.streamed"], "PIECE", piece)
        for method, values in expected.items():
            out, seen = tmp_path / f"{method}{piece}", []
            plan = plan_recipe(make_recipe(paths, method, None, {}, base=str(root)))
            execute(plan, out, shard_size=10**9, progress=seen.append)
            assert len(seen) == 34  # panels of three columns, the last of one
            assert abs(sum(seen) - plan.bytes_to_read) <= len(seen)
            from safetensors.torch import load_file

            torch.testing.assert_close(load_file(out / "model.safetensors")["w"], values, rtol=2e-7, atol=1e-8)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
def test_values_that_are_not_finite_are_named_with_their_model(raw, tmp_path, method):
    values = random((8, 6), 1).float()
    broken = values.clone()
    broken[5, 5] = math.inf
    base, good, bad = (raw(n, tensors={"w": t}) for n, t in (("base", values), ("good", values + 1), ("bad", broken)))
    with pytest.raises(InputError, match=r"finite values in .*bad.*found infinity"):
        fuse([good, bad], tmp_path / "out", method, base=base)


def test_statistics_that_are_not_finite_are_named(raw, tmp_path):
    values, products = random((8, 6), 1).float(), torch.eye(6)
    products[5, 5] = math.nan
    models = [raw(n, tensors={"w": values + i}) for i, n in enumerate("ab")]
    statistics = [raw(n, tensors={"w": p}) for n, p in (("s", torch.eye(6)), ("t", products))]
    with pytest.raises(InputError, match=r"finite values in the statistics of .*b.*found NaN"):
        fuse(models, tmp_path / "out", "regmean", statistics=statistics)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c", "regmean", "spectral_consensus"])
def test_memory_is_a_few_squares_of_the_side_and_stays_below_what_is_stated(raw, tmp_path, method):
    """Matrices of 12 MB as float32 and 25 MB in float64, of four models and more than four factors, hold 2 MB a square."""
    shapes = {"tall": (6_000, 512), "wide": (512, 6_000)} if method != "regmean" else {"tall": (6_000, 512)}
    if method == "spectral_consensus":
        shapes["square"] = (1_024, 1_024)  # of which it holds all at once: 8 MB a square
    base = {name: random(shape, 1).float() for name, shape in shapes.items()}
    models = [raw(f"m{i}", tensors={n: t + 0.1 * random(t.shape, i).float() for n, t in base.items()}) for i in (2, 3, 4)]
    others = [raw("base", tensors=base)]
    if method == "regmean":
        inputs = [random((600, 512), i) for i in range(3)]
        others = [raw(f"s{i}", tensors={"tall": (x.T @ x).float()}) for i, x in enumerate(inputs)]
    code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from fuseforget.fuse import *\n"
        "import torch; torch.linalg.eigh(torch.eye(64, dtype=torch.float64))\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon')) * 1024\n"
        "method, out, *paths = sys.argv[1:]\n"
        "extra = dict(statistics=paths[3:]) if method == 'regmean' else dict(base=paths[3])\n"
        "plan = plan_recipe(make_recipe(paths[:3], method, None, {}, **extra))\n"
        "begun, stated, peak, done = anonymous(), memory_needed(plan), [0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(.005): peak[0] = max(peak[0], anonymous())\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "try: execute(plan, Path(out), shard_size=10**10)\n"
        "finally: done.set(); thread.join()\n"
        "print(begun, peak[0], stated)\n"
    )
    args = [sys.executable, "-c", code, method, *(str(p) for p in (tmp_path / "out", *models, *others))]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    begun, peak, stated = map(int, done.stdout.split())
    assert begun < peak < stated
    assert peak - begun < 2.5e8  # four models of 25 MB in float64, and as many factors of each, would be more
