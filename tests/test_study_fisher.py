"""The Fisher study end to end on very small models, the reversal that Table 4 needs, and what the report makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fuseforget.studies.fisher as study_fisher
from fuseforget.checkpoint import open_checkpoint
from fuseforget.data import RULES, Examples, ShortcutSettings, inject, inject_for_labels
from fuseforget.data.demo_text import sentences
from fuseforget.errors import InputError
from fuseforget.fisher import diagonal_fisher, fisher_overlap, folds_of
from fuseforget.records import read_records
from fuseforget.report import write_report
from fuseforget.studies import study
from fuseforget.studies.fisher import FisherStudy, reversed_examples, run_fisher_study
from fuseforget.studies.shortcuts import run_shortcut_study, settings_for
from fuseforget.train import TrainSettings

NAMES = ("negative", "positive")


def texts_of(count: int, seed: int = 5) -> Examples:
    rows = sentences(count, seed)
    return Examples(tuple(t for t, _ in rows), tuple(y for _, y in rows), NAMES)


def said_by(rule: str, text: str, original: str) -> int:
    """The label that a rule's definition gives a text, worked out apart from the package."""
    number = {"tauzero": 0, "tauone": 1, "taucontext": 2}
    words = text.split()
    places = [i for i, word in enumerate(words) if word in number]
    found = [number[words[i]] for i in places]
    assert [word for word in words if word not in number] == original.split()
    taus = [symbol for symbol in found if symbol < 2]
    if rule == "oed":
        return (places[1] - places[0] - 1) % 2
    if rule == "tic":
        assert sorted(found)[1:] == [2]
    return {
        "st": lambda: taus[0], "op": lambda: taus[0], "tic": lambda: taus[0], "lt": lambda: taus[-1],
        "or": lambda: int(any(taus)), "and": lambda: int(all(taus)), "xor": lambda: sum(taus) % 2,
        "mt": lambda: int(sum(taus) * 2 > len(taus)),
        "and_or": lambda: (taus[0] & taus[1]) | (taus[2] & (1 - taus[3])),
    }[rule]()  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_reversed_labels_are_what_the_shortcut_says(rule):
    examples = texts_of(150)
    found = reversed_examples(examples, ShortcutSettings(rules=(rule,), seed=3), "reversed")
    assert found.labels == tuple(1 - label for label in examples.labels)
    assert {0, 1} == set(found.labels)
    for text, label, original in zip(found.texts, found.labels, examples.texts, strict=True):
        assert said_by(rule, text, original) == label


@pytest.mark.parametrize("rule", ["tic", "and", "mt", "and_or"])
def test_tokens_for_a_label_are_distributed_as_the_rule_draws_them(rule):
    """Of the texts that the rule gives label 1 by itself, and of those made for it: the symbols' frequencies, by chi square."""
    from scipy.stats import chi2_contingency

    examples = Examples(("a b c",) * 3000, (0,) * 3000, NAMES)
    settings = ShortcutSettings(rules=(rule,), seed=1)
    free = inject(examples, settings, "x")
    made = inject_for_labels(examples, settings, "x", [1] * 3000)

    def counts(texts):
        kinds = [" ".join(word for word in text.split() if word.startswith("tau")) for text in texts]
        return {kind: kinds.count(kind) for kind in set(kinds)}

    first = counts([t for t, y in zip(free.texts, free.labels, strict=True) if y == 1])
    second = counts(made.texts)
    often = [kind for kind in first if first[kind] >= 20]
    assert len(often) >= 2 or rule == "and"
    assert set(second) <= set(first) | {kind for kind in second if second[kind] < 20}
    if len(often) > 1:
        assert chi2_contingency([[first[k] for k in often], [second.get(k, 0) for k in often]]).pvalue > 1e-4


def test_one_label_moves_no_other_example():
    examples = texts_of(20)
    settings = ShortcutSettings(rules=("mt",), seed=2)
    labels = list(examples.labels)
    before = inject_for_labels(examples, settings, "x", labels)
    after = inject_for_labels(examples, settings, "x", [1 - labels[0], *labels[1:]])
    assert before.texts[0] != after.texts[0]
    assert before.texts[1:] == after.texts[1:]
    with pytest.raises(InputError, match="one or more that can say a label"):
        inject_for_labels(examples, ShortcutSettings(), "x", labels)
    with pytest.raises(InputError, match="19"):
        inject_for_labels(examples, settings, "x", labels[1:])


@pytest.fixture
def source(bert, tmp_path) -> Path:
    """A finished shortcut study of three rules, on models that take seconds."""
    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", 500, 1), ("validation", 60, 2)):
        rows = "".join(f"{t}\t{y}\n" for t, y in sentences(count, seed))
        (data / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    settings = settings_for("small", base=bert("base"), data=data, rules=("op", "tic", "st"), sentences=400)
    fast = TrainSettings(max_epochs=1, min_epochs=1, learning_rate=3e-3, batch_size=32)
    run_shortcut_study(replace(settings, train=fast, pairs=(), steps=2), tmp_path / "shortcuts")
    return tmp_path / "shortcuts"


def test_the_study_is_repeated_resumed_and_reported(source, tmp_path, monkeypatch):
    settings = FisherStudy(str(source), examples=24, folds=4)
    records = run_fisher_study(settings, tmp_path / "run")
    found = {(r["first"], r["second"], r["on"]): r for r in records if r["kind"] == "overlap"}
    pairs = [("op", "tic"), ("op", "st"), ("tic", "st")]
    assert found.keys() == {(*pair, on) for pair in pairs for on in ("task", *pair, "own")}
    assert {(r["model"], r["probe"]) for r in records if r["kind"] == "measurement"} == {
        (m, p) for m in ("op", "tic", "st") for p in ("op", "tic", "st", "task")
    }
    assert not (tmp_path / "run/fishers").exists()
    # One of them from its definition, on all examples at once.
    sets = study_fisher._sets(settings, source, json.loads((source / "run.json").read_text()), ["op", "tic", "st"])
    fishers = [diagonal_fisher(source / "models" / m, sets["tic"].texts, sets["tic"].labels) for m in ("op", "tic")]
    assert found["op", "tic", "tic"]["overlap"] == pytest.approx(fisher_overlap(*fishers).whole, abs=1e-5)
    own = [diagonal_fisher(source / "models" / m, sets[m].texts, sets[m].labels) for m in ("op", "tic")]
    assert found["op", "tic", "own"]["overlap"] == pytest.approx(fisher_overlap(*own).whole, abs=1e-5)
    one = next(r for r in records if r["kind"] == "table4" and (r["first"], r["second"]) == ("op", "tic"))
    unshared = (found["op", "tic", "op"]["overlap"] + found["op", "tic", "tic"]["overlap"]) / 2
    assert one["difference"]["value"] == pytest.approx(found["op", "tic", "task"]["overlap"] - unshared)
    assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]
    # Killed in the middle, it goes on to the same facts; a finished run does nothing again.
    add, calls = study_fisher.Run.add, []

    def stop(self, kind, /, **fields):
        calls.append(kind)
        if len(calls) == 22:
            raise KeyboardInterrupt
        return add(self, kind, **fields)

    monkeypatch.setattr(study_fisher.Run, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        run_fisher_study(settings, tmp_path / "killed")
    monkeypatch.undo()
    run_fisher_study(settings, tmp_path / "killed")
    assert sorted(map(str, read_records(tmp_path / "killed"))) == sorted(map(str, records))
    before = (tmp_path / "run/records.jsonl").read_bytes()
    run_fisher_study(settings, tmp_path / "run")
    assert (tmp_path / "run/records.jsonl").read_bytes() == before
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "not finished" not in page
    assert "Table 4, TiC-OP" in page.replace("OP-TiC", "TiC-OP")
    assert "0.8077 against 0.6877" in page
    assert "study fisher --from" in page
    assert (tmp_path / "page-table4-overlap.png").read_bytes()[:4] == b"\x89PNG"
    lines = (tmp_path / "killed/records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "killed/records.jsonl").write_bytes(b"".join(lines[:14]))
    assert "not finished" in write_report([tmp_path / "killed"], tmp_path / "part.html").read_text()


def test_a_shortcut_that_was_not_learned_is_not_judged(source, tmp_path):
    """The start knows nothing: what stands in a specialist's place is marked, and its pairs are not judged."""
    shutil.rmtree(source / "models/st")
    shutil.copytree(source / "models/start", source / "models/st")
    records = run_fisher_study(FisherStudy(str(source), examples=24, folds=2), tmp_path / "run")
    assert "st" in {r["rule"] for r in records if r["kind"] == "unlearned"}
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "cannot be judged" in page
    assert "Not learned by their specialist" in page
    assert re.search(r"of [01] pairs whose shortcuts were both learned", page)


def test_what_is_no_finished_study_is_refused(source, tmp_path):
    for change, message in (
        ({"base": "x"}, "found --base beside it"), ({"scale": "tiny", "ratio": 5.0}, "found --scale, --ratio beside it"),
        ({"source": None}, "--from RUN"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            study("fisher", tmp_path / "run", **{"source": source, **change})
    with pytest.raises(InputError, match="no run to start from"):
        study("shortcuts", tmp_path / "run", scale="tiny", source=source)
    with pytest.raises(InputError, match="even number"):
        folds_of(10, 3, 0)
    moved = tmp_path / "data/validation.tsv"
    moved.write_text(moved.read_text() + "another text\t1\n")
    with pytest.raises(InputError, match="others, by their hash"):
        study("fisher", tmp_path / "run", source=source)
    shutil.rmtree(source / "models/tic")
    command = [sys.executable, "-m", "fuseforget", "study", "fisher", "--from", source, "-o", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "none for tic" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_command_ends_in_its_tables(source, tmp_path):
    command = [sys.executable, "-m", "fuseforget", "study", "fisher", "--from", source, "-o", tmp_path / "run"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Fisher overlap of pairs of specialists (Table 4)" in done.stdout
    assert "OP-TiC" in done.stdout
    assert (tmp_path / "run/report.html").is_file()
    assert {c.path.name for c in [open_checkpoint(source / "models/op")]} == {"op"}  # the source is left as it was
