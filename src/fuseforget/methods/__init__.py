"""Fusion methods: pure functions on aligned tensors, and one table of them.

Adding a method is one function (from a :class:`~fuseforget.methods.group.Group` to a function of a block) and one row here.
Importing this does not import torch.
"""

from __future__ import annotations

import difflib

from fuseforget.errors import InputError
from fuseforget.methods.arcee import arcee_fusion
from fuseforget.methods.consensus import consensus, fisher_consensus, spectral_consensus
from fuseforget.methods.group import Block, Group, InMemory, fuse_in_memory, survey_in_memory
from fuseforget.methods.lengths import remarks_on
from fuseforget.methods.linear import average, fisher, geometric_mean, nearswap, negmerge, passthrough, ram, task_arithmetic
from fuseforget.methods.method import DIAGONAL_FISHER, Method, Parameter, Surveyed, Value
from fuseforget.methods.regmean import regmean
from fuseforget.methods.spectral import iso_c, tsv_m
from fuseforget.methods.sphere import karcher, model_stock, multislerp, nuslerp, slerp
from fuseforget.methods.task_vectors import breadcrumbs, breadcrumbs_ties, dare_linear, dare_ties, della, della_linear, sce, ties

__all__ = [
    "METHODS",
    "Block",
    "Group",
    "InMemory",
    "Method",
    "Parameter",
    "Surveyed",
    "Value",
    "fuse_in_memory",
    "get_method",
    "survey_in_memory",
]

LAMBDA = Parameter("lambda", 1.0, "scale of the fused change")
DENSITY = Parameter("density", 1.0, "share of each task vector that is kept", 0, 1, per_model=True)
GAMMA = Parameter("gamma", 0.01, "share of largest values that is dropped", 0, 1, per_model=True)
STRICTLY = Parameter("forget", 0.97, "how strictly: 0 keeps the mean change, near 1 only what is common", 0, 1)
EPSILON = Parameter("epsilon", 0.15, "how far the chance to be kept varies around the density", 0, 1, per_model=True)


def _normalize(default: bool) -> Parameter:
    return Parameter("normalize", default, "divide by the sum of the weights (of the models that take part)")


def _rescale(default: bool) -> Parameter:
    return Parameter("rescale", default, "scale up what is kept to make up for what is dropped")


METHODS = {
    method.name: method
    for method in (
        Method(
            "average", average, "weighted mean of the parameters: sum_i alpha_i theta_i",
            "Wortsman et al. 2022 (arXiv 2203.05482); Zaman et al. 2023, Eq. 1 (arXiv 2311.07682)",
            weights="convex",
        ),
        Method(
            "geometric_mean", geometric_mean, "weighted geometric mean of magnitudes; zero where signs differ",
            "classical", weights="convex",
        ),
        Method(
            "slerp", slerp, "two models, along the arc between each pair of tensors; the second weight is the position t",
            "Shoemake 1985, Animating rotation with quaternion curves", (2, 2), weights="convex",
        ),
        Method(
            "nuslerp", nuslerp, "slerp with free weights, by tensor or by row, of task vectors where a base is given",
            "mergekit (NuSLERP)", (2, 2), rows=True, base="optional",
            parameters=(
                Parameter("flatten", True, "take each tensor as one vector, not row by row"),
                Parameter("row_wise", False, "with flatten off: vectors along the first dimension"),
            ),
        ),
        Method(
            "multislerp", multislerp, "barycentric interpolation on the sphere, of any number of models",
            "Goddard 2025 (mergekit)", base="optional",
            parameters=(Parameter("normalize", True, "divide the weights by their sum"),),
        ),
        Method(
            "karcher", karcher, "Riemannian centre of mass of the directions, with the mean length",
            "Karcher 1977; arXiv 2603.04972", weights="convex",
            parameters=(
                Parameter("max_iter", 100, "most steps", 1),
                Parameter("tol", 1e-10, "length of a step at which to stop, radians", 0),
            ),
        ),
        Method(
            "task_arithmetic", task_arithmetic, "base plus the weighted sum of task vectors",
            "Ilharco et al. 2023 (arXiv 2212.04089)", base="required", parameters=(_normalize(False), LAMBDA),
        ),
        Method(
            "ties", ties, "trim task vectors, elect signs, average what agrees",
            "Yadav et al. 2023 (arXiv 2306.01708)", base="required",
            parameters=(DENSITY, _normalize(True), _rescale(False), LAMBDA),
        ),
        Method(
            "dare_linear", dare_linear, "drop values of task vectors at random, rescale, add",
            "Yu et al. 2024 (arXiv 2311.03099)", base="required", random=True,
            parameters=(DENSITY, _normalize(False), _rescale(True), LAMBDA),
        ),
        Method(
            "dare_ties", dare_ties, "drop at random and rescale, then elect signs as TIES does",
            "Yu et al. 2024 (arXiv 2311.03099)", base="required", random=True,
            parameters=(DENSITY, _normalize(False), _rescale(True), LAMBDA),
        ),
        Method(
            "della", della, "drop small values more often than large ones, rescale, elect signs, average",
            "Deep et al. 2024 (arXiv 2406.11617)", rows=True, base="required", random=True,
            parameters=(DENSITY, EPSILON, _normalize(True), _rescale(True), LAMBDA),
        ),
        Method(
            "della_linear", della_linear, "DELLA's dropping, then task arithmetic",
            "Deep et al. 2024 (arXiv 2406.11617)", rows=True, base="required", random=True,
            parameters=(DENSITY, EPSILON, _normalize(False), _rescale(True), LAMBDA),
        ),
        Method(
            "breadcrumbs", breadcrumbs, "drop the smallest values and the largest outliers of task vectors, add",
            "Davari and Belilovsky 2024 (arXiv 2312.06795)", base="required",
            parameters=(DENSITY, GAMMA, _normalize(False), _rescale(False), LAMBDA),
        ),
        Method(
            "breadcrumbs_ties", breadcrumbs_ties, "Breadcrumbs' dropping with TIES' election of signs",
            "Davari and Belilovsky 2024 (arXiv 2312.06795)", base="required",
            parameters=(DENSITY, GAMMA, _normalize(False), _rescale(False), LAMBDA),
        ),
        Method(
            "sce", sce, "keep what varies most among task vectors, weight models by its energy, elect signs",
            "Wan et al. 2024 (arXiv 2408.07990)", base="required", weights="no",
            parameters=(Parameter("select_topk", 1.0, "share of varying values that is kept", 0, 1),),
        ),
        Method(
            "model_stock", model_stock, "between the base and the mean, by the angle between task vectors",
            "Jang et al. 2024 (arXiv 2403.19522)", (2, None), rows=True, base="required", weights="no",
            parameters=(Parameter("filter_wise", False, "an angle for each output unit"),),
        ),
        Method(
            "nearswap", nearswap, "move each value of the base towards the model by at most t",
            "alchemonaut 2024 (mergekit)", (1, 1), base="required", weights="no",
            parameters=(Parameter("t", 0.001, "the farthest move, in units of the parameters", 0),),
        ),
        Method(
            "arcee_fusion", arcee_fusion, "take from the model what is important, by change and divergence",
            "mergekit (Arcee Fusion)", (1, 1), rows=True, base="required", weights="no",
        ),
        Method(
            "ram", ram, "keep whole what one model alone changed, average what several changed",
            "arXiv 2601.13572", base="required", weights="no",
            parameters=(
                Parameter("epsilon", 1e-5, "the smallest change that counts, in units of the parameters", 0),
                Parameter("r", 0.0, "RAM+: how much changes of one model alone are raised", 0),
                Parameter("alpha", 0.2, "RAM+: the largest ratio that raises", 0),
            ),
        ),
        Method(
            "passthrough", passthrough, "the one model, times a scale: for recipes that stack slices",
            "mergekit", (1, 1), weights="no", parameters=(Parameter("scale", 1.0, "a factor"),),
        ),
        Method(
            "fisher", fisher, "mean weighted by each model's Fisher information",
            "Matena and Raffel 2022 (arXiv 2111.09832)", statistics=DIAGONAL_FISHER,
        ),
        Method(
            "regmean", regmean, "least squares on what the layers' inputs were",
            "Jin et al. 2023 (arXiv 2212.09849)", statistics="inner products of layer inputs",
            whole="inputs", squares=3,
            parameters=(
                Parameter("scale", 0.9, "factor of the off-diagonal inner products", 0, 1),
                Parameter("input_first", False, "matrices are stored inputs x outputs (Conv1D)"),
            ),
        ),
        Method(
            "tsv_m", tsv_m, "first singular vectors of each task, made orthogonal to one another",
            "Gargiulo et al. 2025 (arXiv 2412.00081)", base="required", default_weight="sum", whole="shorter", squares=5,
            parameters=(LAMBDA,),
        ),
        Method(
            "iso_c", iso_c, "sum of task vectors with all singular values made equal",
            "Marczak et al. 2025 (arXiv 2502.04959)", base="required", default_weight="sum", whole="shorter", squares=3,
            parameters=(LAMBDA,),
        ),
        Method(
            "consensus", consensus, "the average, or what every model has at least: smallest changes where signs agree",
            "fuseforget (docs/methods/spectral-consensus.md)", base="required", weights="convex",
            parameters=(Parameter("forget", 1.0, "from the average, 0, to what all models have, 1", 0, 1), LAMBDA),
        ),
        Method(
            "spectral_consensus", spectral_consensus, "mean change of each matrix without what the models disagree about",
            "fuseforget (docs/methods/spectral-consensus.md)", base="required", weights="convex", whole="shorter", squares=9,
            kernels=True, surveys=True, remarks=remarks_on,
            parameters=(
                STRICTLY,
                LAMBDA,
                Parameter("embeddings", False, "filter tables of tokens and positions too, row by row"),
            ),
        ),
        Method(
            "fisher_consensus", fisher_consensus, "spectral_consensus, tables of tokens filtered by Fisher information",
            "fuseforget (docs/methods/spectral-consensus.md)", base="required", weights="convex", whole="shorter", squares=9,
            kernels=True, surveys=True, remarks=remarks_on, statistics=DIAGONAL_FISHER, parameters=(STRICTLY, LAMBDA),
        ),
        Method(
            "negmerge", negmerge, "unlearning: take from the base what all models changed in one direction",
            "Kim et al. 2024 (arXiv 2410.05583)", base="required", parameters=(LAMBDA,),
        ),
    )
}  # fmt: skip


def get_method(name: str) -> Method:
    """Return the row of a method, or raise InputError with the nearest name."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `fuseforget methods`."
    raise InputError("method", expected=f"one of {', '.join(METHODS)}", found=repr(name), action=hint)
