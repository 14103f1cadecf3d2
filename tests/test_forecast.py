"""Forecasts: their formulas, their truth on a toy where it is known, their statistics, the command and the validation."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr

import fuseforget
from conftest import make_bert
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError
from fuseforget.forecast import PREDICTORS, forecast, layer_survival, mean_of_others
from fuseforget.geometry import compare_task_vectors
from fuseforget.knowledge import Probe, measure
from fuseforget.knowledge import ranks as ranks_module
from fuseforget.knowledge.ranks import pair_correlation, separation, spearman
from fuseforget.records import MemoryRun, Run, read_records
from fuseforget.report import write_report
from fuseforget.report.forecast import TITLES, forecast_blocks
from fuseforget.report.html import render_html
from fuseforget.studies.forecast import validate_forecast
from fuseforget.sweep import Answer, Answers, Sweep
from test_report import Made

SEEDS = range(5)


def vectors(raw, rows, prefix="m"):
    """Checkpoints of one vector each, and a base of zeros."""
    models = [raw(f"{prefix}{i}", tensors={"w": torch.tensor(np.asarray(row, dtype=np.float32))}) for i, row in enumerate(rows)]
    return models, raw(f"{prefix}-base", tensors={"w": torch.zeros(len(rows[0]))})


# ---- formulas


def test_predictions_by_hand(raw):
    models, base = vectors(raw, [[2, 1], [0, 3]])
    fishers = [{"w": torch.tensor([1.0, 4.0])}, {"w": torch.tensor([5.0, 2.0])}]
    found = forecast(models, base, fishers=fishers).predictions
    assert found["survival"] == (4 / 5, 6 / 9)  # tau_fused = (1, 2)
    assert found["cosine"] == pytest.approx([3 / (math.sqrt(5) * 3)] * 2)
    assert found["agreement"] == (1, 1)
    assert found["fisher_survival"] == pytest.approx((10 / 8, 12 / 18))
    assert found["fisher_likelihood"] == pytest.approx((math.exp(-2.5), math.exp(-3.5)))
    assert found.keys() < PREDICTORS.keys()


def test_without_fishers_there_is_no_predictor_that_needs_them(raw):
    models, base = vectors(raw, [[2, 1], [0, 3]])
    names = set(forecast(models, base).predictions)
    assert names == {name for name, row in PREDICTORS.items() if row.needs == "weights"}


def test_the_layers_count_alike(raw):
    first = {"layer.0.w": torch.tensor([8.0, 0.0]), "layer.1.w": torch.tensor([0.0, 1.0]), "head": torch.ones(3)}
    tensors = [first, {"layer.0.w": first["layer.0.w"], "layer.1.w": -first["layer.1.w"], "head": -first["head"]}]
    models = [raw(f"m{i}", tensors=one) for i, one in enumerate(tensors)]
    base = raw("base", tensors={name: torch.zeros_like(value) for name, value in tensors[0].items()})
    found = forecast(models, base)
    assert found.predictions["layer_survival"] == (0.5, 0.5)  # 1 in the first layer, 0 in the second, whatever their lengths
    assert found.predictions["survival"] == pytest.approx([64 / 68] * 2)
    assert found.survival_by_layer() == {"layer 0": (1, 1), "layer 1": (0, 0), "head": (0, 0)}
    unchanged = compare_task_vectors(*vectors(raw, [[2, 1], [0, 3]], "u"))
    assert np.isnan(layer_survival(unchanged.by_layer(), [0.5, 0.5])).all(), "no tensor has a number"


def test_the_mean_of_others_leaves_out_the_model_itself_and_those_without_weight():
    values = np.array([[9, 1, 4], [2, 9, 8], [math.nan, 6, 9]])
    assert mean_of_others(values, [0.5, 0.5, 0]).tolist() == pytest.approx([1, 2, math.nan], nan_ok=True)
    assert mean_of_others(np.nan_to_num(values), [0.2, 0.2, 0.6]).tolist() == pytest.approx([(0.2 + 2.4) / 0.8, 6.5, 3])
    assert math.isnan(mean_of_others(values, [1, 0, 0])[0])


def test_weights_and_blind_fishers_are_refused(raw):
    models, base = vectors(raw, [[2, 1], [0, 3]])
    with pytest.raises(InputError, match="a sum of 1"):
        forecast(models, base, weights=[0.7, 0.7])
    blind = [{"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([1.0, 0.0])}]  # where the second changed nothing
    with pytest.raises(InputError, match="some curvature where"):
        forecast(models, base, fishers=blind)


# ---- truth on linear classifiers


@pytest.mark.parametrize("seed", SEEDS)
def test_survival_ranks_what_linear_models_keep(raw, seed):
    """Probe A is Gaussian around +-tau_A, so that the fusion's accuracy is a normal integral of the cosine to tau_A."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((3, 60))
    changes = rng.standard_normal((7, 60)) + 1.5 * rng.standard_normal((7, 3)) @ shared
    changes /= np.linalg.norm(changes, axis=1, keepdims=True)
    models, base = vectors(raw, changes)
    geometry = compare_task_vectors(models, base)
    forecasts, accuracies = [], []
    for a in range(7):
        for b in set(range(7)) - {a}:
            weights = [0.5 if i in (a, b) else 0.0 for i in range(7)]
            fused = changes[[a, b]].mean(axis=0)
            forecasts.append(geometry.whole.survival(weights)[a])
            accuracies.append(norm.cdf(2 * fused @ changes[a] / np.linalg.norm(fused)))
    assert spearmanr(forecasts, accuracies).statistic > 0.99


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rise_of_the_loss_is_that_of_logistic_regression(raw, seed):
    """One-hot texts make the Fisher diagonal; A is the best on its probe: near it the expansion is the loss."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.2, 0.8, 30)  # of label 1 among the texts that have feature k alone
    a = np.log(share / (1 - share))
    b = a + 0.3 * rng.standard_normal(30)
    models, base = vectors(raw, [a, b])
    fishers = [{"w": torch.tensor(share * (1 - share) / 30, dtype=torch.float32)}] * 2

    def loss(theta):
        return np.mean(share * np.log1p(np.exp(-theta)) + (1 - share) * np.log1p(np.exp(theta)))

    likelihood = forecast(models, base, fishers=fishers).predictions["fisher_likelihood"][0]
    true_rise = loss((a + b) / 2) - loss(a)
    assert -math.log(likelihood) == pytest.approx(true_rise, rel=0.05)
    # A hundredth of the way is a ten-thousandth of the loss, and the expansion's own error is smaller still.
    near = forecast(models, base, weights=[0.98, 0.02], fishers=fishers).predictions["fisher_likelihood"][0]
    assert -math.log(near) == pytest.approx(loss(0.98 * a + 0.02 * b) - loss(a), rel=0.01)


# ---- statistics of cases that share members


def simulated(rng, members: int, link: float, load: float) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts and outcomes whose members have effects of their own, and whose true correlation is that of many members."""

    def effects():
        row, column = rng.standard_normal((2, members))
        return load * (row[:, None] + column[None, :]) + rng.standard_normal((members, members))

    x, rest = effects(), effects()
    return x, link * x + math.sqrt(1 - link**2) * rest


def test_spearman_is_scipys_also_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 5, 30), rng.integers(0, 9, 30)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert math.isnan(spearman([0.1, 0.1, 0.1], [1, 2, 3]))


def test_the_p_value_is_that_of_all_relabellings():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 5, 5))
    cases = list(permutations(range(5), 2))
    rho = spearmanr([x[c] for c in cases], [y[c] for c in cases]).statistic
    strong = [
        abs(spearmanr([x[o[a], o[b]] for a, b in cases], [y[c] for c in cases]).statistic) >= abs(rho) - 1e-12
        for o in permutations(range(5))
    ]
    found = pair_correlation(x, y)
    assert found.value == pytest.approx(rho)
    assert found.p == pytest.approx(np.mean(strong))
    assert (found.cases, found.members) == (20, 5)


def test_a_perfect_forecast_and_one_upside_down():
    x = np.random.default_rng(1).standard_normal((7, 7))
    up, down = pair_correlation(x, np.exp(x)), pair_correlation(x, -x)
    assert up.value == pytest.approx(1)
    assert down.value == pytest.approx(-1)
    assert up.p == pytest.approx(1 / 5040)
    assert up.low > 0.9
    assert separation(x, x, threshold=0).auc == 1
    assert separation(-x, x, threshold=0).auc == 0
    told = separation(x, x, threshold=0)
    assert told.right > 0.9 > told.guess


@pytest.mark.parametrize(("members", "load"), [(5, 1.0), (7, 0.0), (7, 3.0)])
def test_intervals_cover_and_tests_hold_their_level(monkeypatch, members, load):
    """Of 300 simulations: 95 % intervals cover in at least 91 % (three standard errors below), p < .05 in at most 9 %."""
    monkeypatch.setattr(ranks_module, "EXACT", 0)
    monkeypatch.setattr(ranks_module, "RESAMPLES", 199)
    rng = np.random.default_rng(members)
    for link in (0.0, 0.6):
        off = ~np.eye(40, dtype=bool)
        truth = np.mean([spearman(x[off], y[off]) for x, y in (simulated(rng, 40, link, load) for _ in range(60))])
        found = [pair_correlation(*simulated(rng, members, link, load)) for _ in range(300)]
        assert np.mean([one.low <= truth <= one.high for one in found]) > 0.91
        if link == 0:
            assert np.mean([one.p < 0.05 for one in found]) < 0.09


def test_a_forecast_that_says_nothing_separates_nothing(monkeypatch):
    """Also where rules are mostly kept or mostly forgotten, and have forecasts much like each other's."""
    monkeypatch.setattr(ranks_module, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    found = [separation(*simulated(rng, 7, 0.0, 2.0), threshold=0) for _ in range(200)]
    known = [one for one in found if one.auc is not None]
    assert len(known) > 190
    assert np.mean([one.auc for one in known]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([one.low <= 0.5 <= one.high for one in known]) > 0.85
    assert np.mean([one.right for one in known]) < 0.6


def test_cases_without_an_outcome_are_left_out_and_one_sort_has_no_auc():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((2, 7, 7))
    y[2] = math.nan
    assert pair_correlation(x, y).cases == 36
    one_sort = separation(x, np.abs(y) + 1)
    assert (one_sort.auc, one_sort.kept, one_sort.forgotten) == (None, 36, 0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.eye(3), np.eye(3), "4 or more"),
        (np.ones((5, 5)), np.arange(25.0).reshape(5, 5), "that vary"),
        (np.full((5, 5), math.nan), np.eye(5), "a finite number"),
        (np.ones((5, 4)), np.ones((5, 4)), "square"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        pair_correlation(x, y)


# ---- the command


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("forecast")
    for seed, name in enumerate(("base", "a", "b")):
        make_bert(path / name, seed=seed)
    make_bert(path / "wide", hidden=20)
    return path


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fuseforget", "forecast", *map(str, arguments)], capture_output=True, text=True)


def test_the_command_prints_tables_and_json(home):
    shown = command(home / "a", home / "b", "--base", home / "base", "--layers", "--weight", ".3", "--weight", ".7")
    assert shown.returncode == 0, shown.stderr
    for words in ("signs in conflict", "0.3", "Survival by layer", "not what the model knows"):
        assert words in shown.stdout
    found = json.loads(command(home / "a", home / "b", "--base", home / "base", "--json").stdout)
    mine = fuseforget.forecast([home / "a", home / "b"], home / "base")
    assert found["predictions"]["survival"] == pytest.approx(mine.predictions["survival"])
    assert found["weights"] == [0.5, 0.5]
    assert found["whole"]["cosine"][0][1] == pytest.approx(mine.geometry.whole.cosine[0, 1])
    assert set(found["by_layer"]) >= {"embeddings", "layer 0", "layer 1", "classifier"}
    assert None in found["by_kind"]["embeddings.LayerNorm"]["survival"], "unchanged: no number, and JSON all the same"


def test_a_fisher_is_a_checkpoint(home, raw):
    shapes = {name: value.shape for name, value in open_checkpoint(home / "a").items()}
    fishers = [raw(f"f{i}", tensors={n: torch.full(s, 0.5 + i) for n, s in shapes.items()}) for i in range(2)]
    found = json.loads(
        command(home / "a", home / "b", "--base", home / "base", "--fisher", fishers[0], "--fisher", fishers[1], "--json").stdout
    )["predictions"]
    assert found["fisher_survival"] == pytest.approx(found["survival"]), "a Fisher that is the same everywhere"
    one = command(home / "a", home / "b", "--base", home / "base", "--fisher", fishers[0])
    assert one.returncode == 2
    assert "Fishers: expected one for each of 2 models, found 1" in one.stderr


def test_bad_input_is_one_message(home):
    for arguments, message in (
        ((home / "a", home / "wide", "--base", home / "base"), "checkpoints of one architecture"),
        ((home / "a", home / "base", "--base", home / "base"), "no change that could survive"),
        ((home / "a", "--base", home / "base"), "two or more"),
    ):
        result = command(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr


# ---- the validation


class LinearSweep(Sweep):
    """Answers probes by the sign of the inner product of a point's weights with a text's numbers."""

    def __init__(self, probes: dict[str, Probe], numbers: dict[str, np.ndarray], stop_after: float = math.inf) -> None:
        self.probes, self.numbers, self.left = probes, numbers, stop_after

    def answers(self, points):
        for point in points:
            if self.left <= 0:
                raise KeyboardInterrupt
            self.left -= 1
            models = [open_checkpoint(model)["w"].numpy().astype(float) for model in point.models]
            w = sum(weight * model for weight, model in zip(point.weights, models, strict=True))
            yield point, Answers({name: self.answer(name, w) for name in point.probes}, ())

    def answer(self, name, w):
        score = self.numbers[name] @ w
        logits = np.stack([-score, score], axis=1)
        return Answer(logits, measure(self.probes[name], logits), 0, "")


@pytest.fixture
def world(raw):
    """Five rules, of which some share a direction, their models, and probes around what each model learned; the last is noise."""
    rng = np.random.default_rng(11)
    rules = ["r0", "r1", "r2", "r3", "r4"]
    changes = rng.standard_normal((5, 40))
    changes[1] += 2 * changes[0]
    changes[3] -= changes[2]
    changes *= 6 / np.linalg.norm(changes, axis=1, keepdims=True)
    numbers, probes = {}, {}
    for rule, change in zip([*rules, "task"], [*changes[:4], np.zeros(40), changes.sum(axis=0)], strict=True):
        labels = rng.integers(2, size=10_000)
        numbers[rule] = rng.standard_normal((10_000, 40)) + np.outer(
            2 * labels - 1, 1.3 * change / max(float(np.linalg.norm(change)), 1)
        )
        probes[rule] = Probe(rule, ("text",) * 10_000, tuple(map(int, labels)))
    # The control's direction is none of theirs, or chance would not be where a rule that nobody learned is.
    aside = np.linalg.svd(changes)[2][-1]
    (start, control), _ = vectors(raw, [np.zeros(40), 1e-3 * aside], "root")
    models, _ = vectors(raw, changes)
    fishers = {(m, p): {"w": torch.tensor(rng.random(40), dtype=torch.float32)} for m in rules for p in rules}
    return {
        "sweep": lambda **options: LinearSweep(probes, numbers, **options),
        "arguments": {
            "start": open_checkpoint(start),
            "specialists": {rule: open_checkpoint(model) for rule, model in zip(rules, models, strict=True)},
            "control": open_checkpoint(control),
            "fisher_of": lambda model, probe: fishers[model, probe],
        },
    }


def test_the_validation_records_forecasts_before_it_looks(world):
    run = MemoryRun()
    records = validate_forecast(run, sweep=world["sweep"](), **world["arguments"])
    kinds = [("midpoint" if "path" in r else "model") if r["kind"] == "measurement" else r["kind"] for r in records]
    last_forecast = len(kinds) - 1 - kinds[::-1].index("forecast")
    assert last_forecast < kinds.index("midpoint")
    assert kinds.count("forecast") == 20 * (len(PREDICTORS) - 1)
    assert [r["rule"] for r in records if r["kind"] == "unlearned"] == ["r4"]
    kept = [r for r in records if r["kind"] == "midpoint_retention"]
    assert len(kept) == 16, "four rules were learned, each fused with four others"
    judged = {r["predictor"]: r for r in records if r["kind"] == "rank_correlation"}
    assert [r["predictor"] for r in records if r["kind"] == "undefined"] == ["layer_survival"], "no tensor has a number"
    assert judged.keys() == PREDICTORS.keys() - {"layer_survival"}
    assert all(r["p"] <= r["p_holm"] for r in judged.values())
    assert judged["survival"]["value"] > 0.8, "linear models lose what is not along their change"
    survival = {(tuple(r["pair"]), r["rule"]): r["value"] for r in records if r.get("predictor") == "survival" and "pair" in r}
    models = world["arguments"]["specialists"]
    direct = forecast([models["r1"], models["r3"]], world["arguments"]["start"]).predictions["survival"]
    assert [survival[("r1", "r3"), rule] for rule in ("r1", "r3")] == pytest.approx(direct)


def test_an_interrupted_validation_ends_like_an_undisturbed_one(world, tmp_path):
    def attempt(name: str, stop_after: float = math.inf) -> list[dict]:
        with Run(tmp_path / name, command="study forecast", settings={}) as run:
            return validate_forecast(run, sweep=world["sweep"](stop_after=stop_after), **world["arguments"])

    whole = attempt("whole")
    for stop_after in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            attempt("run", stop_after)
    assert attempt("run") == whole
    before = (tmp_path / "run/records.jsonl").read_bytes()
    attempt("run", 0)  # nothing is asked again
    assert (tmp_path / "run/records.jsonl").read_bytes() == before
    assert read_records(tmp_path / "run") == whole


def test_what_the_run_measured_before_is_not_measured_again(world):
    done = MemoryRun()
    validate_forecast(done, sweep=world["sweep"](), **world["arguments"])
    run = MemoryRun()
    run.records = [dict(r, path="r3-r1") if r.get("path") == "r1-r3" else r for r in done.records if r["kind"] == "measurement"]
    validate_forecast(run, sweep=world["sweep"](stop_after=0), **world["arguments"])
    assert [r for r in run.records if r["kind"] == "rank_correlation"] == [
        r for r in done.records if r["kind"] == "rank_correlation"
    ]


def test_without_fishers_the_validation_goes_without_them(world):
    arguments = {**world["arguments"], "fisher_of": None}
    records = validate_forecast(MemoryRun(), sweep=world["sweep"](), **arguments)
    assert not any("fisher" in r["predictor"] for r in records if r["kind"] == "rank_correlation")
    run = MemoryRun()
    validate_forecast(run, sweep=world["sweep"](), **arguments)
    with pytest.raises(InputError, match="new ones: fisher_likelihood, fisher_overlap"):
        validate_forecast(run, sweep=world["sweep"](), **world["arguments"])
    few = dict(list(arguments["specialists"].items())[:3])
    with pytest.raises(InputError, match="4 or more"):
        validate_forecast(MemoryRun(), sweep=world["sweep"](), **{**arguments, "specialists": few})


def test_the_report_says_what_the_records_say(world):
    assert TITLES.keys() == PREDICTORS.keys()
    records = validate_forecast(MemoryRun(), sweep=world["sweep"](), **world["arguments"])
    blocks = forecast_blocks(records, {"r0": "Rule nought"})
    drawn = []
    page = render_html(blocks, lambda picture: drawn.append(picture.name) or "")
    best = max((r for r in records if r["kind"] == "rank_correlation"), key=lambda r: r["value"])
    assert drawn == [f"forecast-{best['predictor']}", "forecast-fisher_overlap"]
    assert f"{best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}]" in page
    assert "Rule nought" in page
    assert page.count("<tr>") >= len(PREDICTORS) + 1 + 16
    assert forecast_blocks([r for r in records if r["kind"] != "rank_correlation"], {}) == []


def test_a_studys_page_has_its_forecasts(world, tmp_path):
    plain = write_report([Made().write(tmp_path / "run")], tmp_path / "plain.md").read_text()
    assert "forecast" not in plain
    with Run(tmp_path / "run", command="study shortcuts", settings=Made().description["settings"]) as run:
        for record in validate_forecast(MemoryRun(), sweep=world["sweep"](), **world["arguments"]):
            if record["kind"] != "measurement":  # the run has its own of some of these models
                run.add(record["kind"], **{name: value for name, value in record.items() if name != "kind"})
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "Can it be forecast what fusing keeps?" in page
    assert (tmp_path / "page-forecast-fisher_overlap.png").read_bytes()[:4] == b"\x89PNG"
