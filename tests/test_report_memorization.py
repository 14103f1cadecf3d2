"""The page of the study of memorization: from records alone, every claim counted again, and what is missing said."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

import fuseforget.models
from fuseforget.cli import main
from fuseforget.records import decode_values, read_records, read_run
from fuseforget.report.blocks import Details, Pictures, Table
from fuseforget.report.memorization import memorization_blocks, summarise_memorization
from fuseforget.report.memorization_facts import MemorizationFacts
from fuseforget.report.repeat import Grown, repeat_command
from fuseforget.studies import memorization
from fuseforget.studies.memorization import settings_for


@pytest.fixture(scope="module")
def told(memorization_run):
    """The run's description and records."""
    return read_run(memorization_run.path), read_records(memorization_run.path)


def tables(description: dict, records: list[dict]) -> dict[str, Table]:
    """All tables of the page by their titles."""
    blocks = memorization_blocks(description, records, [])
    blocks = [inner for block in blocks for inner in (block.blocks if isinstance(block, Details) else [block])]
    return {block.title: block for block in blocks if isinstance(block, Table)}


def test_the_page_is_written_without_torch(memorization_run, tmp_path):
    shutil.copytree(memorization_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("models", "data", "base"))
    code = (
        "import sys\nfrom fuseforget.report import write_report\n"
        "for page in sys.argv[2:]:\n    write_report([sys.argv[1]], page)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    pages = [tmp_path / "page.md", tmp_path / "page.html"]
    subprocess.run([sys.executable, "-c", code, tmp_path / "run", *pages], check=True)
    plain, html = (page.read_text() for page in pages)
    for text in (plain, html):
        assert "not finished" not in text
        assert "Table 2: ALR of every model on every set" in text
        assert "0.218, 1.483, 0.218, 35.53" in text  # the paper's single models
        assert "fuseforget study memorization" in text
    figures = ("fig9-numbers", "fig11-fixed", "epochs", "alternatives", "methods")
    assert all((tmp_path / f"page-{name}.png").is_file() for name in figures)
    assert html.count("<svg") == len(figures)


def test_every_ratio_of_the_tables_is_that_of_the_recorded_energies(told):
    description, records = told
    sums = {(r["model"], r["set"]): decode_values(r["sums"]) for r in records if r["kind"] == "energies"}
    tokens = {r["set"]: decode_values(r["tokens"]) for r in records if r["kind"] == "tokens"}

    def ratio(model: str, *sets: str) -> float:
        return float(np.concatenate([np.exp((sums[model, s] - sums["base", s]) / tokens[s]) for s in sets]).mean())

    def held(model: str) -> float:
        return float(np.exp(sums[model, "validation"].sum() / tokens["validation"].sum()))

    found = tables(description, records)
    main_rows = found["Table 2: ALR of every model on every set"]
    assert main_rows.header[1:6] == ["A", "B", "C", "shared", "control"]
    assert [row[0] for row in main_rows.rows] == ["base", *"ABC", "fused-AB", "fused-ABC", "full-AB", "full-ABC"]
    for model, *cells in main_rows.rows:
        expected = [f"{ratio(model, s):.3f}" for s in main_rows.header[1:6]]
        expected[2] = f"({expected[2]})" if model in ("fused-AB", "full-AB") else expected[2]
        assert cells[:5] == expected
        assert cells[5].startswith(f"{held(model):.2f} [")
    for row in found["Table 6: by the number of epochs"].rows:
        model = row[1].split("(")[1].rstrip(")")
        own = "ABC" if "-" in model else model[0]
        assert row[2].startswith(f"{ratio(model, *own):.3f} [")
        assert row[5].startswith(f"{held(model):.2f} [")
    assert {row[0] for row in found["Table 6: by the number of epochs"].rows} == {"3", "25"}
    labels = {"fused, 2 models": "fused-of-2", "fused, 3 models": "fused-of-3", "full, one model": "full-ABC"}
    fixed = found["Fig. 11, 12: a fixed total of rows"].rows
    assert [row[0] for row in fixed] == list(labels)
    for label, own, shared, perplexity in fixed:
        assert own.startswith(f"{ratio(labels[label], *'ABC'):.3f} [")
        assert shared.startswith(f"{ratio(labels[label], 'shared'):.3f} [")
        assert perplexity.startswith(f"{held(labels[label]):.2f} [")
    for row in found["Alternatives to fusing"].rows[1:]:
        model = {"early stopping": "full-ABC", "weight decay 1": "full-ABC, weight decay 1"}.get(row[0], "full-ABC, epsilon 8")
        assert row[1:4] == [f"{ratio(model, 'A'):.3f}", f"{ratio(model, 'shared'):.3f}", f"{held(model):.2f}"]
    claim = next(
        row for row in found["The paper's claims, and what this run measured"].rows if "Table 5, 3 models: uns" in row[0]
    )
    single = np.mean([ratio(name, name) for name in "ABC"])
    assert claim[1] == f"single {single:.3f}, full {ratio('full-ABC', *'ABC'):.3f}, fused {ratio('fused-ABC', *'ABC'):.3f}"


def test_verdicts_are_those_of_the_tests(told):
    """A part of a claim holds where the difference has its sign and its corrected p-value is below .05."""
    description, records = told
    compared = {(r["models"], r["first"], r["second"], r["on"]): r for r in records if r["kind"] == "comparison"}

    def lower(*which: str) -> bool:
        return compared[which]["value"] < 0 and compared[which]["p_holm"] < 0.05

    rows = {row[0]: row[2] for row in tables(description, records)["The paper's claims, and what this run measured"].rows}
    for some in ("AB", "ABC"):
        parts = [lower(some, *pair, "own") for pair in (("single", "full"), ("full", "fused"), ("fused", "base"))]
        verdict = "seen" if all(parts) else "in part" if any(parts) else "not seen"
        (said,) = [v for claim, v in rows.items() if claim.startswith(f"Table 5, {len(some)} models: unshared")]
        assert said == verdict
    holm = sorted((r["p"], r["p_holm"]) for r in compared.values())
    expected, highest = [], 0.0
    for place, (p, _) in enumerate(holm):
        highest = max(highest, min(1.0, p * (len(holm) - place)))
        expected.append(highest)
    assert [p for _, p in holm] == pytest.approx(expected)


def test_masked_models_are_held_against_table_7(told):
    """The paper's fused masked models are above single ones in perplexity: not below is not yet above."""
    description, records = told
    masked = {**description, "settings": {**description["settings"], "masked": True}}
    alike = [{**r, "value": -0.1, "p_holm": 0.5} if r["kind"] == "comparison" and r["on"] == "perplexity" else r for r in records]
    rows = tables(masked, alike)["The paper's claims, and what this run measured"].rows
    (row,) = [row for row in rows if row[0].startswith("Table 7, 3 models: the fused model's perplexity is above")]
    assert row[2] == "not seen"
    assert not [row for row in rows if "Fig. 9" in row[0] or "Fig. 10" in row[0]]


def test_a_page_of_an_unfinished_run_says_what_is_missing(told):
    """Cut anywhere, the records make a page; none but the whole is called finished."""
    description, records = told
    last = max(i for i, r in enumerate(records) if r["kind"] == "equal_perplexity")
    step = max(1, len(records) // 25)
    for cut in [*range(0, last, step), *(i for i, r in enumerate(records[: last + 1]) if r["kind"] == "equal_perplexity")]:
        assert summarise_memorization(description, records[:cut]).missing, cut
        for block in memorization_blocks(description, records[:cut], []):
            assert not isinstance(block, Table) or all(len(row) == len(block.header) for row in block.rows)
    assert summarise_memorization(description, records).missing == []
    begun = summarise_memorization(description, records[:3]).missing
    assert "3 of 3 single models (A, B, C)" in begun
    assert "part methods: all" in begun


def test_what_the_first_command_left_out_is_named(memorization_run, told):
    first = [json.loads(line) for line in memorization_run.first.read_text().splitlines()]
    assert summarise_memorization(told[0], first).missing == ["part alternatives: DP-SGD"]


def test_all_figures_are_drawn(told):
    blocks = memorization_blocks(*told, [])
    (pictures,) = [block for block in blocks if isinstance(block, Pictures)]
    assert [p.name for p in pictures.pictures] == ["fig9-numbers", "fig11-fixed", "epochs", "alternatives", "methods"]
    for picture in pictures.pictures:
        assert picture.caption.endswith(".")
        assert picture.figure.axes


def test_the_full_model_of_a_fixed_total_is_the_one_of_all_its_rows():
    def full(**changes: int) -> str:
        settings = asdict(replace(settings_for("small", data="d", base="b"), **changes))
        return MemorizationFacts({"settings": settings}, []).full_of_fixed

    assert full() == "full-ABC"
    assert full(models=2) == "full-of-fixed"
    assert full(rows=3000, shared=1000, total=10_000) == "full-of-fixed"


class Stop(BaseException):
    """Ends a command once its settings are known."""


@pytest.mark.parametrize("asked", [
    {"scale": "small", "base": "b", "data": "d x", "text": "article", "split": "test", "seed": 3},
    {"scale": "small", "base": "b", "data": "d", "rows": 300, "shared": 60, "models": 3, "parts": ("epochs", "methods")},
    {"scale": "small", "base": "b", "data": "d", "control": 50, "validation": 40, "epochs": 2, "learning_rate": 1e-5},
    {"scale": "small", "data": "d", "pretrain": ("p", "q"), "masked": True},
    {"scale": "paper", "base": "b", "data": "d"},
    {"scale": "paper", "base": "b", "data": "d", "masked": True, "models": 2},
    {"scale": "small", "base": "b", "data": "d", "recipe": "split-train-fuse", "shards": 5, "rows": 70},
    {"scale": "tiny", "models": 2},
    {"scale": "tiny", "recipe": "split-train-fuse", "rows": 60},
])  # fmt: skip
def test_the_command_that_repeats_a_run_has_its_settings(asked, monkeypatch):
    settings, found = settings_for(**asked), []

    def stop(settings, out, **_):
        found.append(settings)
        raise Stop

    monkeypatch.setattr(memorization, "run_memorization_study", stop)
    monkeypatch.setattr(fuseforget.models, "is_masked", lambda source: settings.masked)
    description = json.loads(json.dumps({"command": "study memorization", "settings": asdict(settings)}))
    monkeypatch.setattr(sys, "argv", shlex.split(repeat_command(description, Grown(settings.parts))))
    with pytest.raises(Stop):
        main()
    assert found == [settings]
