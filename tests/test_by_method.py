"""Every method on specialists, beside models that fuse nothing: the baselines by hand, and the whole on tiny models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import make_bert
from fuseforget.checkpoint import open_checkpoint
from fuseforget.data import Examples
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe, mcnemar, sign_flip
from fuseforget.methods import METHODS
from fuseforget.records import Run, decode_values
from fuseforget.report.blocks import Details, Pictures, Table
from fuseforget.report.by_method import by_method_tables, verdict
from fuseforget.report.figures import save
from fuseforget.studies import by_method
from fuseforget.studies.baselines import ensemble, inner, length, task_vector, truncate, truncated_specialist
from fuseforget.studies.by_method import compare_methods
from fuseforget.studies.method_settings import LEFT_OUT, SETTINGS
from fuseforget.sweep import Resident, record_missing
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune

RULES = ("op", "tic", "or")
WORDS_OF = {"op": ("a", "b"), "tic": ("c", "film"), "or": ("plot", "dull"), "task": ("bad", "good")}


def quiet(line: str) -> None:
    return None


def test_every_method_of_the_table_has_a_row_or_a_reason():
    used = {setting.method for setting in SETTINGS}
    assert used | LEFT_OUT.keys() == METHODS.keys()
    assert not used & LEFT_OUT.keys()
    assert {name for name, row in METHODS.items() if row.statistics} <= LEFT_OUT.keys()
    assert len({setting.row for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        row = METHODS[setting.method]
        row.check_models({"all": 7, "pair": 2, "each": 1}[setting.on])
        row.check_base(setting.takes_base)
        row.arguments(setting.parameters, 7)
        assert setting.source


def test_the_ensemble_is_the_mean_of_probabilities():
    """Odds of 3 to 1 and of 1 to 1: .75 and .5 on one side, .625 in the mean; and not the softmax of the mean logits."""
    logits = [np.log([[3.0, 1.0], [1.0, 1.0]]), np.log([[1.0, 1.0], [1.0, 9.0]]) + 1000]
    assert ensemble(logits) == pytest.approx(np.array([[0.625, 0.375], [0.3, 0.7]]))
    # Two hesitant models against a sure one: the mean of the logits would say the other label.
    votes = ensemble([[[0.0, 1.0]], [[0.0, 1.0]], [[4.0, 0.0]]])
    assert votes.argmax() == 0
    assert ensemble([[[0.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]]]).argmax() == 1
    with pytest.raises(InputError, match="one model or more"):
        ensemble([])


def test_truncating_a_diagonal_matrix_keeps_its_largest_values_and_the_norm():
    matrix = torch.zeros(6, 4)
    matrix[range(4), range(4)] = torch.tensor([3.0, 0.0, 5.0, 4.0])
    whole = 50**0.5
    cases = [(5, [5.0]), (41**0.5, [5.0, 4.0]), (whole, [5.0, 4.0, 3.0]), (2, [2.0]), (34**0.5, [5.0, 3.0])]
    for norm, kept in cases:  # in the last two the last triplet holds more than is wanted
        for given in (matrix, matrix.T.contiguous()):
            low, rank = truncate(given, norm / whole)
            assert rank == len(kept)
            assert sorted(low[low.abs() > 1e-6].tolist(), reverse=True) == pytest.approx(kept)
    zeros, rank = truncate(torch.zeros(3, 2), 0.5)
    assert rank == 0
    assert not zeros.any()


@pytest.mark.parametrize("seed", range(3))
def test_truncating_is_that_of_the_singular_value_decomposition(seed):
    matrix = torch.randn(9, 5, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    for rank in range(1, 6):
        share = float(s[:rank].norm() / s.norm())
        low, found = truncate(matrix, share)
        assert found == rank
        torch.testing.assert_close(low.double(), (u[:, :rank] * s[:rank]) @ vt[:rank], atol=1e-6, rtol=1e-5)


def test_a_truncated_specialist_moves_what_is_no_matrix_by_the_share():
    start = {"m": torch.eye(2), "b": torch.ones(3), "ids": torch.arange(4)}
    model = {"m": torch.eye(2) + torch.diag(torch.tensor([3.0, 4.0])), "b": torch.full((3,), 3.0), "ids": torch.arange(4)}
    vector = task_vector(model, start)
    assert vector.keys() == {"m", "b"}
    assert length(vector) == pytest.approx((9 + 16 + 3 * 4) ** 0.5)
    cut = truncated_specialist(start, vector, 0.8)
    assert cut.ranks == {"m": (1, 2)}
    torch.testing.assert_close(cut.tensors["m"], torch.diag(torch.tensor([1.0, 5.0])))
    torch.testing.assert_close(cut.tensors["b"], torch.full((3,), 2.6))
    assert cut.tensors["ids"].equal(start["ids"])


@pytest.mark.parametrize("seed", range(5))
def test_the_sign_flip_of_right_and_wrong_is_mcnemars(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random(300) < 0.7, rng.random(300) < 0.62
    exact = mcnemar(first, second)
    # 10,000 draws: four standard errors of a share.
    error = 4 * (exact * (1 - exact) / 10_000) ** 0.5 + 2e-4
    assert sign_flip([first.astype(float) - second]) == pytest.approx(exact, abs=error)


def test_the_sign_flip_of_nothing_is_one_and_of_everything_is_small():
    assert sign_flip([np.zeros(50), np.zeros(20)]) == 1.0
    assert sign_flip([np.ones(50)]) == pytest.approx(1 / 10_001)
    # Six differences of one sign: 2 of 64 patterns are as extreme, whatever their sizes are in groups.
    assert sign_flip([np.ones(3), np.full(3, 0.5)]) == pytest.approx(2 / 64, abs=0.008)


def asked(rule: str, count: int, seed: int) -> Examples:
    """Texts of a rule: one of its two words, anywhere, is the label; of the task: a good film or a bad one."""
    rng = np.random.default_rng([seed, len(rule)])
    texts, labels = [], []
    for _ in range(count):
        label = int(rng.integers(2))
        words = [*rng.choice(["the", "is", "not", "very", "moving"], size=rng.integers(2, 7)), WORDS_OF[rule][label]]
        if rule != "task":  # an opinion too, that says nothing about the label
            words.append(WORDS_OF["task"][rng.integers(2)])
        texts.append(" ".join(rng.permutation(words)))
        labels.append(label)
    return Examples(tuple(texts), tuple(labels), ("no", "yes"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A start, specialists that learned the task and a rule (or two), a control that learned the task, and probes."""
    root = tmp_path_factory.mktemp("study")
    start = make_bert(root / "start")
    settings = TrainSettings(max_epochs=3, min_epochs=3, learning_rate=5e-3, batch_size=16)
    for name in (*RULES, "control", "tic+op", "tic+or"):
        rules = ["task", *(rule for rule in name.split("+") if rule != "control")]
        parts = [asked(rule, 600 // len(rules), 1) for rule in rules]
        examples = Examples(sum((p.texts for p in parts), ()), sum((p.labels for p in parts), ()), ("no", "yes"))
        fine_tune(start, examples, root / "models" / name, settings)
    held_out = {name: asked(name, 120, 2) for name in (*RULES, "task")}
    return root, start, [Probe(name, one.texts, one.labels) for name, one in held_out.items()]


def compare(bench, out, *, say=quiet, shared=None):
    root, start, probes = bench
    resident = Resident(start, probes)
    models = {name: open_checkpoint(root / "models" / name) for name in RULES}
    names = [p.name for p in probes]
    with Run(out, command="test", settings={}) as run:
        for name in (*RULES, "control"):
            resident.set_point([open_checkpoint(root / "models" / name)], [1.0])
            record_missing(run, resident, names, say=quiet, model=name)
        compare_methods(
            run, start=open_checkpoint(start), specialists=models, resident=resident, probes=names, control="control", seed=3,
            shared=shared, say=say,
        )  # fmt: skip
        return list(run.records)


SHARED = {"models": ("tic+op", "tic+or"), "shared": "tic", "unshared": ("op", "or")}


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    out.mkdir()
    (out / ".lock").touch()
    (out / "models").symlink_to(bench[0] / "models")
    return compare(bench, out, shared=SHARED), out


def test_every_row_is_made_measured_and_judged(whole):
    records, _ = whole
    made = {r["model"]: r for r in records if r["kind"] == "method"}
    measured = {(r["model"], r["probe"]) for r in records if r["kind"] == "measurement"}
    rows = {r["row"] for r in made.values()}
    assert rows == {s.row for s in SETTINGS} | {"shrunk specialist", "truncated specialist", "ensemble of outputs"}
    for setting in SETTINGS:
        if setting.on == "each":
            assert all({(f"by {setting.row}: {r}", r), (f"by {setting.row}: {r}", "task")} <= measured for r in RULES)
        else:
            asked = RULES if setting.on == "all" else ("op", "tic")
            assert {(f"by {setting.row}", probe) for probe in (*asked, "task")} <= measured
    results = {r["row"]: r for r in records if r["kind"] == "method_result"}
    assert results.keys() == rows | {"single specialist"}
    assert {r["method"] for r in records if r["kind"] == "left_out"} == LEFT_OUT.keys()


def test_what_is_known_beforehand_comes_out(whole):
    """Task arithmetic whose weights sum to one is the average, to the rounding; single specialists keep their own."""
    records, _ = whole
    made = {r["model"]: r for r in records if r["kind"] == "method"}
    results = {r["row"]: r for r in records if r["kind"] == "method_result"}
    for model in ("by average", "by task_arithmetic"):
        assert made[model]["norm_to_average"] == pytest.approx(1, rel=1e-6)
        assert made[model]["cosine_with_average"] == pytest.approx(1, rel=1e-6)
    # .3 of each of three is .9 of their average.
    assert made["by task_arithmetic .3"]["norm_to_average"] == pytest.approx(0.9, rel=1e-5)
    single = results["single specialist"]
    assert (single["retention"]["value"], single["retention"]["low"], single["retention"]["high"]) == (1, 1, 1)
    assert [single["difference"][key] for key in ("value", "low", "high")] == [0, 0, 0]
    assert single["retention_of_all"]["value"] < 1
    assert results["average"]["p_task"] is None
    assert results["task_arithmetic"]["p_task_holm"] == 1


def test_retention_is_that_of_the_measurements(whole):
    records, _ = whole
    value = {(r["model"], r["probe"]): r["value"] for r in records if r["kind"] == "measurement"}
    results = {r["row"]: r for r in records if r["kind"] == "method_result"}
    for row in ("ties", "ensemble of outputs", "slerp", "nearswap", "shrunk specialist"):
        own = results[row]["over"]
        each = row in ("nearswap", "shrunk specialist")
        left = [
            (value[f"by {row}: {r}" if each else f"by {row}", r] - value["control", r]) / (value[r, r] - value["control", r])
            for r in own
        ]
        assert len(own) >= 2
        assert results[row]["retention"]["value"] == pytest.approx(np.mean(left))


def test_shortcuts_are_tested_in_units_of_retention(whole):
    """The statistic of the test is the difference in retention that the table shows."""
    records, _ = whole
    values = {(r["model"], r["probe"]): decode_values(r["values"]) for r in records if r["kind"] == "measurement"}
    results = {r["row"]: r for r in records if r["kind"] == "method_result"}
    changes = [
        (values["by ties", rule] - values["by average", rule]) / (values[rule, rule].mean() - values["control", rule].mean())
        for rule in RULES
    ]
    shown = results["ties"]["retention"]["value"] - results["average"]["retention"]["value"]
    assert np.mean([c.mean() for c in changes]) == pytest.approx(shown)
    assert shown != 0
    assert results["ties"]["p_shortcuts"] == sign_flip(changes)
    tested = [r for r in results.values() if r["p_shortcuts"] is not None]
    assert len(tested) == len(results) - 2
    assert all(r["p_shortcuts_holm"] >= r["p_shortcuts"] for r in tested)


def test_shrunk_and_truncated_specialists_are_as_far_from_the_start_as_the_average(whole):
    records, _ = whole
    for r in records:
        if r["kind"] == "method" and r["row"] == "shrunk specialist":
            assert r["norm_to_average"] == pytest.approx(1, rel=1e-5)
            assert r["share"] == pytest.approx(r["norm_to_specialists"], rel=1e-5)
        if r["kind"] == "method" and r["row"] == "truncated specialist":
            assert r["norm_to_average"] == pytest.approx(1, rel=1e-5)
            assert 0 < r["median_rank_share"] < 0.5  # changes by training are of few ranks


def test_the_ensemble_is_measured_on_the_specialists_outputs(whole, bench):
    root, start, probes = bench
    resident = Resident(start, probes)
    shares = []
    for name in RULES:
        resident.set_point([open_checkpoint(root / "models" / name)], [1.0])
        shares.append(torch.from_numpy(resident.logits("or")).double().softmax(1))
    right = torch.stack(shares).mean(0).argmax(1).numpy() == np.array(probes[2].labels)
    found = next(r for r in whole[0] if r.get("model") == "by ensemble of outputs" and r.get("probe") == "or")
    assert decode_values(found["values"]).tolist() == right.tolist()


def test_a_shared_shortcut_is_judged_apart_from_the_others(whole):
    results = [r for r in whole[0] if r["kind"] == "shared_result"]
    assert {r["row"] for r in results} == {s.row for s in SETTINGS if s.on != "each"} - {"average, pair"}
    measured = {(r["model"], r["probe"]): r["value"] for r in whole[0] if r["kind"] == "measurement"}
    average = next(r for r in results if r["row"] == "average")
    assert set(average["learned"]) <= {"tic", "op", "or"}
    if average["kept"] is not None:
        both = (measured["tic+op", "tic"] + measured["tic+or", "tic"]) / 2
        left = (measured["shared by average", "tic"] - measured["control", "tic"]) / (both - measured["control", "tic"])
        assert average["kept"]["value"] == pytest.approx(left)


def test_a_stopped_comparison_goes_on_and_does_nothing_twice(bench, whole, tmp_path, monkeypatch):
    records, _ = whole
    set_point = Resident.set_point
    placed: list[str] = []

    def counting(self, endpoints, weights, method="average", **options):
        placed.append(method)
        return set_point(self, endpoints, weights, method, **options)

    monkeypatch.setattr(Resident, "set_point", counting)
    plain = [r for r in records if "shared" not in r["kind"] and not str(r.get("model", "")).startswith(("shared", "tic+"))]
    monkeypatch.setattr(by_method, "conclude", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(bench, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(Resident, "set_point", counting)
    file = tmp_path / "run/records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if b'"by dare_linear"' in line and b'"measurement"' in line) + 1
    file.write_bytes(b"".join(lines[:cut]))
    placed.clear()
    assert compare(bench, tmp_path / "run") == plain
    assert placed.count("ties") == 0  # finished before
    assert placed.count("dare_linear") == 2  # the one that was begun, and the next row
    before = file.read_bytes()
    placed.clear()
    compare(bench, tmp_path / "run")
    assert file.read_bytes() == before
    assert set(placed) == {"average"}  # the test's own specialists


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_specialists_without_a_probe_are_refused(bench, tmp_path):
    root, start, probes = bench
    with Run(tmp_path / "run", command="test", settings={}) as run, pytest.raises(InputError, match="a probe of its name"):
        compare_methods(
            run, start=open_checkpoint(start), specialists={"xor": open_checkpoint(root / "models/op")},
            resident=Resident(start, probes), probes=["op", "task"], control="control", seed=0,
        )  # fmt: skip


def test_the_report_has_a_row_a_point_and_a_setting_for_each(whole, tmp_path):
    records, _ = whole
    blocks = by_method_tables(records, {"tic": "TiC", "op": "OP", "or": "OR"})
    tables = [b for b in blocks if isinstance(b, Table)]
    results = [r for r in records if r["kind"] == "method_result"]
    assert [row[1] for row in tables[0].rows] == [r["row"] for r in results]
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    assert "TiC + OP and TiC + OR" in tables[1].title
    details = next(b for b in blocks if isinstance(b, Details))
    settings = next(b for b in details.blocks if isinstance(b, Table))
    assert ["ties", "ties", "density 0.2"] in [row[:3] for row in settings.rows]
    pictures = next(b for b in blocks if isinstance(b, Pictures))
    save(pictures.pictures[0].figure, tmp_path / "methods.png")
    drawn = pictures.pictures[0].figure.axes[0]
    assert len(drawn.containers) == sum(r["retention"] is not None for r in results)
    assert by_method_tables([]) == []
    begun = [r for r in records if r["kind"] == "method"][:2]
    assert "2 rows begun" in by_method_tables(begun)[1].lines[0]
    unlearned = [{**r, "retention": None} if r["kind"] == "method_result" else r for r in records]
    blocks = by_method_tables(unlearned)
    assert not any(isinstance(b, Pictures) for b in blocks)
    assert {row[-1] for row in next(b for b in blocks if isinstance(b, Table)).rows} == {"nothing was learned"}


@pytest.mark.parametrize(
    ("left", "task", "change", "said"),
    [
        ((0.0, 0.2), (0.8, 0.9), (-0.02, 0.01), "holds: shortcuts gone, task kept"),
        ((0.3, 0.5), (0.8, 0.9), (-0.02, 0.01), "in part: shortcuts partly left, task kept"),
        ((0.0, 0.2), (0.7, 0.8), (-0.1, -0.02), "in part: shortcuts gone, task lower"),
        ((0.3, 0.5), (0.7, 0.8), (-0.1, -0.02), "no: shortcuts partly left, task lower"),
        ((0.8, 1.0), (0.8, 0.9), (-0.02, 0.01), "no: shortcuts stay, task kept"),
        ((0.0, 0.2), (0.48, 0.55), (-0.4, -0.3), "no: shortcuts gone, task lost"),
    ],
)
def test_a_broken_model_does_not_pass_for_forgetting(left, task, change, said):
    names = ("retention", "task", "difference")
    assert verdict({n: {"low": low, "high": high} for n, (low, high) in zip(names, (left, task, change), strict=True)}) == said


def test_nothing_learned_is_no_retention():
    assert verdict({"retention": None, "task": {"low": 0.8, "high": 0.9}, "difference": {"low": 0, "high": 0}}) == (
        "nothing was learned"
    )
    assert inner({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])}) == 11
