"""The audit of classifiers by a protected attribute: from the probes file to records, tables and the page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from conftest import make_bert
from fuseforget import path, probe
from fuseforget.cli import app
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe, holm, measure, read_probes_file
from fuseforget.knowledge.fairness import Grouped, compare_fairness, fairness, group_rows
from fuseforget.knowledge.probes_file import AUDIT
from fuseforget.models import encode_batches, load_classifier, predict
from fuseforget.records import decode_values, read_records, read_run
from fuseforget.report import write_report
from fuseforget.sweep import as_probes

WORDS = ("good film", "bad film", "a dull story", "the plot is moving", "very good", "not bad")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models of two labels, one of three, texts by 40 authors, and a probes file."""
    root = tmp_path_factory.mktemp("audit")
    for seed, name in enumerate(("a", "b"), 1):
        make_bert(root / name, seed=seed)
    rng = np.random.default_rng(0)
    lines = ["text\tlabel\tgender\tregion\tauthor"]
    for row in range(240):
        text = " ".join(rng.choice(WORDS, 3))
        author = row % 40
        lines.append(f"{text}\t{rng.integers(0, 2)}\t{'fm'[author % 2]}\t{'neswxyz'[author % 3]}\tauthor {author}")
    (root / "people.tsv").write_text("\n".join(lines) + "\n")
    make_three(root)
    (root / "probes.yaml").write_text(
        "probes:\n"
        "  - {name: task, data: people.tsv}\n"
        "  - {name: people, data: people.tsv, attribute: gender, unit: author}\n"
        "  - {name: places, data: people.tsv, attribute: region, metrics: [demographic_parity, ece]}\n"
        "  - {name: parity, data: people.tsv, attribute: gender, metric: demographic_parity}\n"
    )
    return root


def make_three(root) -> None:
    """A model of three labels that answers the third, which no text has, to half of them."""
    classifier = load_classifier(make_bert(root / "three", seed=3, labels=3))
    logits = predict(classifier.model, encode_batches(classifier, columns(root)["text"]))
    with torch.no_grad():
        classifier.model.classifier.bias[2] += float(np.median(logits[:, :2].max(axis=1) - logits[:, 2]))
    classifier.model.save_pretrained(root / "three")


@pytest.fixture(scope="module")
def audited(home):
    models = [home / "a", home / "b"]
    return probe(models, home / "probes.yaml", home / "run")


def columns(home) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in (home / "people.tsv").read_text().splitlines()]
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}


def told(home, model: str, attribute: str, *, units: bool) -> tuple[Grouped, np.ndarray, np.ndarray]:
    """What the audit should have found, computed beside it: the set, a model's answers and its confidences."""
    data = columns(home)
    classifier = load_classifier(home / model)
    logits = predict(classifier.model, encode_batches(classifier, data["text"])).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    names, codes = np.unique(data[attribute], return_inverse=True)
    authors = np.unique(data["author"], return_inverse=True)[1] if units else None
    found = Grouped(np.array(data["label"], dtype=int), codes, ("LABEL_0", "LABEL_1"), tuple(names), units=authors)
    return found, logits.argmax(axis=1), (odds.max(axis=1) / odds.sum(axis=1)).astype(np.float32)


def test_an_audit_is_what_the_metrics_say_of_the_models_answers(home, audited):
    measured = {(r["model"], r["probe"]): r for r in audited if r["kind"] == "measurement"}
    asked = ["task", *(f"people.{m}" for m in AUDIT), "places.demographic_parity", "places.ece", "parity"]
    assert [name for model, name in measured if model == str(home / "a")] == asked
    by_model = {}
    for model in ("a", "b"):
        data, answers, sure = by_model[model] = told(home, model, "gender", units=True)
        for metric in AUDIT:
            record = measured[str(home / model), f"people.{metric}"]
            found = fairness(metric, data, answers, confidences=sure)
            assert (record["value"], record["low"], record["high"]) == (found.value, found.low, found.high), metric
            assert (record["n"], record["attribute"], record["answers"]) == (240, "gender", ["LABEL_0", "LABEL_1"])
            assert decode_values(record["values"]).tolist() == answers.tolist()
        assert decode_values(measured[str(home / model), "people.ece"]["confidences"]) == pytest.approx(sure, abs=1e-7)
        rows = group_rows(data, answers, confidences=sure)
        groups = [r for r in audited if r["kind"] == "group" and r["model"] == str(home / model) and r["probe"] == "people"]
        assert [(r["group"], r["n"], r["accuracy"]["value"]) for r in groups] == [
            (row.group, row.n, row.accuracy.value) for row in rows
        ]
        assert groups[0]["tpr"]["LABEL_1"]["low"] == rows[0].tpr["LABEL_1"].low
        assert groups[1]["ece"]["value"] == rows[1].ece.value
    compared = [r for r in audited if r["kind"] == "comparison"]
    assert [r["probe"] for r in compared] == asked[1:]
    assert {(r["model"], r["against"]) for r in compared} == {(str(home / "b"), str(home / "a"))}
    assert [r["p_holm"] for r in compared] == holm([r["p"] for r in compared])
    (data, first, sure), (_, second, less_sure) = by_model["b"], by_model["a"]
    for record in compared[: len(AUDIT)]:
        expected = compare_fairness(record["metric"], data, first, second, confidences=(sure, less_sure))
        assert (record["value"], record["low"], record["p"]) == (expected.value, expected.low, expected.p), record["metric"]


def test_units_make_intervals_of_their_own(audited):
    with_units, without = (next(r for r in audited if r["probe"] == name) for name in ("people.demographic_parity", "parity"))
    assert with_units["value"] == without["value"]
    assert with_units["high"] != without["high"]


def test_texts_that_several_metrics_share_are_read_once(home, monkeypatch):
    from fuseforget.sweep import resident

    read = []
    monkeypatch.setattr(resident, "predict", lambda *args, **kw: read.append(1) or predict(*args, **kw))
    probe([home / "a"], home / "probes.yaml")
    assert len(read) == 1


def test_an_audit_that_was_cut_short_goes_on_to_the_byte(home, audited, tmp_path):
    whole = (home / "run/records.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "run").mkdir()
    cut = {5: "25 of 30 measurements", 33: "the groups of parity; the groups of places; 14 comparisons"}
    for kept, missing in {**cut, len(lines) - 3: "3 comparisons"}.items():
        (tmp_path / "run/run.json").write_bytes((home / "run/run.json").read_bytes())
        (tmp_path / "run/records.jsonl").write_bytes(b"".join(lines[:kept]))
        page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
        assert f"Missing: {missing}." in page
        assert probe([home / "a", home / "b"], home / "probes.yaml", tmp_path / "run") == audited
        assert (tmp_path / "run/records.jsonl").read_bytes() == whole


def test_other_groups_are_another_run(home, audited, tmp_path):
    changed = as_probes(home / "probes.yaml")
    groups = tuple(1 - g for g in changed[1].groups)
    swapped = [p if p.attribute != "gender" else replace(p, groups=groups) for p in changed]
    with pytest.raises(InputError, match="settings that the run was begun with"):
        probe([home / "a", home / "b"], swapped, home / "run")


def test_runs_without_an_attribute_are_as_they_were(home, tmp_path):
    (tmp_path / "plain.yaml").write_text(f"probes: [{{name: task, data: {home}/people.tsv}}]")
    (record,) = probe([home / "a"], tmp_path / "plain.yaml", tmp_path / "run")
    assert record.keys() == {"kind", "model", "probe", "metric", "value", "low", "high", "n", "values", "cut"}
    description = read_run(tmp_path / "run")
    assert description["settings"]["probes"]["task"].keys() == {"metric", "n", "sha256"}
    # What runs of before say of these texts and labels.
    data = columns(home)
    content = json.dumps([data["text"], [int(y) for y in data["label"]]])
    assert description["settings"]["probes"]["task"]["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert description["about"]["sources"]["task"].keys() == {"data", "split", "text", "label", "file_sha256"}


def test_commands_print_the_audit_and_the_page_shows_it(home, audited, tmp_path):
    command = ["probe", str(home / "a"), str(home / "b"), "--probes", str(home / "probes.yaml"), "-o", str(home / "run")]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    page = write_report([home / "run"], tmp_path / "page.md").read_text()
    row = next(r for r in audited if r["kind"] == "group" and r["group"] == "f")
    cells = [f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for x in (row["accuracy"], row["tpr"]["LABEL_1"], row["ece"])]
    pair = next(r for r in audited if r["kind"] == "comparison" and r["metric"] == "tpr_gap")
    for text in (printed.stdout, page):
        for title in ("people, by gender", "places, by region", "parity, by gender"):
            assert title in text
        assert all(cell in text for cell in cells)
        assert f"{pair['value']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]" in text
        assert f"Less {home / 'a'}" in text
        assert text.count("task") >= 2  # the plain measurements have their table
    assert "not finished" not in page
    assert "may be none" in page
    printed = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(printed.stdout)
    assert [r["kind"] for r in found] == [r["kind"] for r in audited]
    assert not any("values" in r or "confidences" in r for r in found)


def test_a_model_of_more_labels_can_be_audited_and_compared(home, audited):
    records = probe([home / "three", home / "a"], home / "probes.yaml")
    data, answers, _ = told(home, "a", "gender", units=True)
    classifier = load_classifier(home / "three")
    of_three = predict(classifier.model, encode_batches(classifier, columns(home)["text"])).argmax(axis=1)
    assert set(of_three) - {0, 1}  # it does answer what no text has as its label
    wide = replace(data, other_answers=("LABEL_2",))
    found = {r["probe"]: r for r in records if r["kind"] == "measurement" and r["model"] == str(home / "three")}
    assert found["people.equalized_odds"]["answers"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert found["people.equalized_odds"]["value"] == fairness("equalized_odds", wide, of_three).value
    compared = next(r for r in records if r["kind"] == "comparison" and r["probe"] == "people.f1")
    assert compared["value"] == compare_fairness("f1", wide, answers, of_three).value
    shown = next(r for r in records if r["kind"] == "group" and r["model"] == str(home / "three"))
    assert list(shown["selection"]) == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_the_models_numbering_of_the_labels_does_not_matter(home):
    """The last label is the data's last, not the model's."""
    from fuseforget.knowledge.probes import in_labels_of

    data = columns(home)
    names, groups = tuple(np.unique(data["gender"])), tuple(int(g == "m") for g in data["gender"])
    logits = np.random.default_rng(1).normal(size=(240, 2))
    labels = tuple(int(y) for y in data["label"])
    asked = Probe("p", tuple(data["text"]), labels, "fpr_gap", ("no", "yes"), True, "gender", groups, names)
    straight = measure(in_labels_of(asked, "m", ("NO", "YES")), logits)
    turned = measure(in_labels_of(asked, "m", ("yes", "no")), logits[:, ::-1])
    assert straight.interval == turned.interval
    assert straight.values.tolist() == turned.values.tolist()
    assert (straight.answers, turned.answers) == (("NO", "YES"), ("no", "yes"))


def test_a_path_measures_them_too(home, tmp_path):
    records = path([home / "a", home / "b"], home / "probes.yaml", tmp_path / "run", steps=1)
    assert {r["kind"] for r in read_records(tmp_path / "run")} == {"measurement"}
    ends = {tuple(r["weights"]): r["value"] for r in records if r["probe"] == "people.tpr_gap"}
    for weights, model in {(1.0, 0.0): "a", (0.0, 1.0): "b"}.items():
        data, answers, _ = told(home, model, "gender", units=True)
        assert ends[weights] == fairness("tpr_gap", data, answers).value
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert sum(line.startswith("|") and "people.tpr" in line for line in page.splitlines()) == 2
    command = ["path", str(home / "a"), str(home / "b"), "--probes", str(home / "probes.yaml"), "-o", str(tmp_path / "run")]
    assert CliRunner().invoke(app, [*command, "--steps", "1"]).stdout.count("people.tpr_gap") == 2


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("attribute: gander", "a column 'gander'"),
        ("attribute: same", "two values or more, found 'x' in every row"),
        ("attribute: gender, values: [f, d]", "column 'gender': expected one of d, f, found 'm'"),
        ("attribute: onesided", "p.accuracy, onesided: groups.*u has no row of label LABEL_1"),
        ("attribute: gender, values: [f, m, x]", "x has no row of label LABEL_0"),
        ("attribute: gender, metrics: [tpr_gaps]", "Did you mean tpr_gap"),
        ("attribute: gender, metric: tpr_gap, metrics: [f1]", "metric or metrics, found both"),
        ("attribute: gender, metrics: [f1, f1]", "different metrics"),
        ("attribute: gender, metrics: []", "metrics"),
        ("attribute: gender, unit: writer", "a column 'writer'"),
        ("metric: tpr_gap", "an attribute, which tpr_gap needs, found none"),
        ("metrics: [accuracy, ece]", "an attribute, which ece needs, found none"),
        ("metric: acuracy", "Did you mean accuracy"),
        ("unit: author", "an attribute, which unit need"),
        ("attribute: label", "column of its own"),
    ],
)
def test_entries_that_cannot_be_measured_are_refused_before_a_model_is_read(entry, reason, tmp_path):
    rows = [(f"text {i}", i % 2, "fm"[i // 2 % 2], "x", "uv"[i % 2], f"author {i}") for i in range(20)]
    header = "text\tlabel\tgender\tsame\tonesided\tauthor\n"
    (tmp_path / "d.tsv").write_text(header + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    (tmp_path / "p.yaml").write_text(f"probes: [{{name: p, data: d.tsv, {entry}}}]")
    with pytest.raises(InputError, match=reason):
        as_probes(tmp_path / "p.yaml")


def test_entries_and_probes_have_names_of_their_own(tmp_path):
    one = "{name: p, data: d.tsv, attribute: gender, metrics: [f1]}"
    (tmp_path / "p.yaml").write_text(f"probes: [{one}, {{name: p.f1, data: d.tsv}}]")
    with pytest.raises(InputError, match="different names"):
        read_probes_file(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"groups": (0, 1, 0)}, "groups: expected one a label"),
        ({"attribute": "", "metric": "accuracy"}, "the name of the attribute"),
        ({"units": (1, 2)}, "units: expected one a label"),
        ({"metric": "nll"}, "a metric among"),
        ({"attribute": "", "groups": (), "group_names": (), "metric": "tpr_gap"}, "an attribute, which tpr_gap needs"),
    ],
)
def test_probes_that_cannot_be_measured_are_refused(fields, reason):
    given = {"metric": "f1", "attribute": "gender", "groups": (0, 0, 1, 1), "group_names": ("f", "m"), **fields}
    with pytest.raises(InputError, match=reason):
        Probe("p", ("a", "b", "c", "d"), (0, 1, 0, 1), **given)


def test_two_entries_of_one_name_are_refused(home):
    one = {"attribute": "gender", "groups": (0, 0, 1, 1), "group_names": ("f", "m")}
    probes = [
        Probe("p.f1", ("a", "b", "c", "d"), (0, 1, 0, 1), "f1", **one),
        Probe("p.accuracy", ("a", "b", "c", "d"), (0, 1, 0, 1), "accuracy", **{**one, "groups": (1, 1, 0, 0)}),
    ]
    with pytest.raises(InputError, match=r"probes p.f1 and p.accuracy: expected the same data"):
        probe([home / "a"], probes)
