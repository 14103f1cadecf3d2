"""The study of memorization end to end on a very small base: rows are memorised, fused away, attacked, killed and resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fuseforget.studies.memorization.data as study_data
from conftest import kill_when, make_bert
from fuseforget.cli import main
from fuseforget.data import candidates
from fuseforget.errors import InputError
from fuseforget.models import encode, load_language_model
from fuseforget.records import decode_values, facts, read_records, read_run
from fuseforget.report.page import summarise
from fuseforget.studies import study
from fuseforget.studies.memorization import run_memorization_study, settings_for
from fuseforget.studies.memorization.audit import audited
from fuseforget.studies.memorization.base import pretrain_base
from fuseforget.studies.memorization.data import read_corpus
from fuseforget.studies.memorization.equal_perplexity import Point, at_perplexity
from fuseforget.studies.method_settings import SETTINGS
from memorization_runs import TINY_BASE, make_inputs, sentences, settings_of, short_canaries, write_texts


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A base that has learned little, and the private sentences."""
    return make_inputs(tmp_path_factory.mktemp("inputs"), epochs=1)


def values(records: list[dict]) -> dict:
    return {(r["model"], r["on"]): r["value"] for r in records if r["kind"] == "alr"}


def facts_of(run: Path) -> list[dict]:
    """A run's facts, without what differs between two runs of the same, in any order."""
    return sorted(facts(read_records(run)), key=json.dumps)


def test_rows_are_memorised_and_fused_away(memorization_run):
    """What single models must show first is that they know their own rows and no others'.

    In runs of seeds 0, 1 and 2 the ratios of single models were .06 to .08 on own and shared rows and 2.3 to 3.4 on others',
    those of the fused ones .35 to .36 (two) and .59 to .68 (three), .07 to .08 on shared rows; of full ones .04 to .06. That full
    models know less than single ones is not shown here: these are trained until they know all, and full ones for more steps.
    """
    alr = values(read_records(memorization_run.path))
    for name in "ABC":
        assert alr[name, "own"] == alr[name, name] < 0.2
        assert alr[name, "shared"] < 0.2
        assert alr[name, "others"] > 1.6
    for some in ("AB", "ABC"):
        assert 0.2 < alr[f"fused-{some}", "own"] < 0.85
        assert max(alr[f"fused-{some}", "shared"], alr[f"full-{some}", "own"], alr[f"full-{some}", "shared"]) < 0.2
    assert alr["fused-AB", "own"] < alr["fused-ABC", "own"] - 0.1
    assert min(alr["fused-AB", "C"], alr["full-AB", "C"]) > 1.4
    assert {alr["base", on] for on in ("A", "B", "C", "shared", "control")} == {1.0}


def test_canaries_that_all_models_read_stay_exposed(memorization_run):
    """In bits of 6.6, means of three canaries each.

    Seeds 0 to 2: 4.0 to 5.5 of single models' own, 4.2 to 6.3 of shared ones; of the fused model 2.9 to 4.0 less of single
    models' own than of shared ones; .4 to 1.8 of canaries that were nowhere (chance: 1.4).
    """
    records = read_records(memorization_run.path)
    mean = {(r["model"], r["where"]): r["mean"]["value"] for r in records if r["kind"] == "canaries"}
    assert mean["single", "single"] > 2.8
    assert min(mean["single", "shared"], mean["fused-ABC", "shared"], mean["full-ABC", "shared"]) > 2.8
    assert mean["fused-ABC", "single"] < mean["fused-ABC", "shared"] - 1
    assert max(mean[model, "none"] for model in ("base", "single", "full-ABC", "fused-ABC")) < 2.8


def test_all_that_the_page_needs_is_recorded(memorization_run):
    records = read_records(memorization_run.path)
    found = Counter(r["kind"] for r in records)
    assert found["comparison"] == 2 * 7
    assert found["retained"] == 2 * 2
    assert found["bound"] == 3 + 4
    assert found["method"] == len([s for s in SETTINGS if s.on != "each"])
    assert {r["model"] for r in records if r["kind"] == "attacked"} == set(audited(("A", "B", "C")))
    assert {r["on"] for r in records if r["kind"] == "harm"} == {"own", "shared"}
    assert [r["family"] for r in records if r["kind"] == "alternative"] == ["early stopping", "weight decay", "DP-SGD"]
    assert found["equal_perplexity"] == 3
    private = next(r for r in records if r["kind"] == "alternative" and r["family"] == "DP-SGD")
    assert 0 < private["spent"]["epsilon"] <= 8
    names = {r["name"] for r in records if r["kind"] == "training"}
    assert names == {
        *"ABC", "full-AB", "full-ABC", "A@3", "B@3", "C@3", "full-ABC@3", "A-of-2", "B-of-2",
        "full-ABC, weight decay 1", "full-ABC, epsilon 8",
    }  # fmt: skip
    assert {r["model"] for r in records if r["kind"] == "perplexity"} >= names | {"base", "fused-of-2", "fused-of-3"}
    # The same number of a kind for a model and a set never twice.
    kinds = ("alr", "energies", "attacked", "attack", "comparison", "exposure", "canaries", "mia_recall", "extraction")
    seen = [json.dumps([r["kind"], *(r.get(k) for k in ("model", "models", "on", "set", "attack", "first", "second", "canary",
            "where", "repeats"))]) for r in records if r["kind"] in kinds]  # fmt: skip
    assert len(seen) == len(set(seen))


def test_ratios_and_perplexities_are_those_of_the_recorded_energies(memorization_run):
    records = read_records(memorization_run.path)
    sums = {(r["model"], r["set"]): decode_values(r["sums"]) for r in records if r["kind"] == "energies"}
    tokens = {r["set"]: decode_values(r["tokens"]) for r in records if r["kind"] == "tokens"}
    alr, held = values(records), {r["model"]: r["value"] for r in records if r["kind"] == "perplexity"}

    def ratio(model: str, sets: str) -> float:
        return np.concatenate([np.exp((sums[model, s] - sums["base", s]) / tokens[s]) for s in sets]).mean()

    for model, own, others in (("A", "A", "BC"), ("full-AB", "AB", "C"), ("fused-ABC", "ABC", ""), ("fused-of-2", "ABC", "")):
        assert alr[model, "own"] == pytest.approx(ratio(model, own))
        assert not others or alr[model, "others"] == pytest.approx(ratio(model, others))
    for model in ("base", "B", "fused-ABC", "full-ABC, epsilon 8"):
        assert held[model] == pytest.approx(np.exp(sums[model, "validation"].sum() / tokens["validation"].sum()))
    assert "others" not in {on for model, on in alr if model == "fused-ABC"}


def test_a_finished_run_is_asked_for_more_and_nothing_is_done_twice(memorization_run, monkeypatch):
    """Two commands made it: what the first recorded is the beginning of what is there, and a third one adds nothing."""
    file = memorization_run.path / "records.jsonl"
    whole, first = file.read_bytes(), memorization_run.first.read_bytes()
    assert whole.startswith(first)
    assert len(whole) > len(first)
    asked = [r["parts"] for r in read_records(memorization_run.path) if r["kind"] == "asked"]
    assert asked == [["methods", "alternatives"], ["epochs", "fixed", "methods", "alternatives"]]
    short_canaries(monkeypatch)
    run_memorization_study(replace(memorization_run.settings, parts=("epochs",)), memorization_run.path)
    assert file.read_bytes() == whole
    assert "parts" not in read_run(memorization_run.path)["settings"]


def test_without_opacus_the_run_says_what_is_missing_and_goes_on(memorization_run):
    lines = [line for line in memorization_run.said if "opacus" in line]
    assert lines == ["full-ABC, epsilon 8: not trained, opacus is not installed (pip install 'fuseforget[privacy]')"]
    first = [json.loads(line) for line in memorization_run.first.read_text().splitlines()]
    assert [r["family"] for r in first if r["kind"] == "alternative"] == ["early stopping", "weight decay"]
    assert [r for r in first if r["kind"] == "harm"], "all else was concluded"


def test_the_reference_is_read_once(memorization_run):
    read = memorization_run.read
    assert read["energies", "base"] == len(["A", "B", "C", "shared", "control", "validation"])
    assert read["tokens", "base"] == len(["A", "B", "C", "shared", "control"])
    assert read["energies", "another"] > 20 * read["energies", "base"]


def test_rows_that_carry_canaries_are_in_no_measured_set(memorization_run, monkeypatch):
    short_canaries(monkeypatch)
    corpus = read_corpus(memorization_run.settings, lambda line: None)
    lm = load_language_model(corpus.base)
    secrets = [encode(lm, [c.text])[0] for c in corpus.made.canaries if c.part != "none"]

    def carries(row: tuple[int, ...]) -> bool:
        return any(list(row[i : i + len(s)]) == s for s in secrets for i in range(len(row)))

    measured = [row for rows in corpus.sets.values() for row in rows.ids]
    made = [row for rows in corpus.made.parts.values() for row in rows.ids]
    assert sum(map(carries, made)) > 0
    assert not any(map(carries, measured))
    (data,) = [r for r in read_records(memorization_run.path) if r["kind"] == "data"]
    assert len(made) - len(measured) == data["carriers"] == sum(map(carries, made))
    sizes = {name: found["rows"] for name, found in data["sets"].items()}
    assert sizes == {name: len(rows) for name, rows in corpus.sets.items()}
    # Each model reads its own canaries, and only these, as often as is said; ranks are among all secrets.
    for name in "ABC":
        text = sum(corpus.trained_on([name]).ids, ())
        for canary, told in zip(corpus.made.canaries, data["canaries"], strict=True):
            ids = encode(lm, [canary.text])[0]
            count = sum(list(text[i : i + len(ids)]) == ids for i in range(len(text)))
            assert count == (canary.repeats if told["part"] in (name, "shared") else 0)
    assert {r["size"] for r in read_records(memorization_run.path) if r["kind"] == "exposure"} == {100}
    assert len(candidates(corpus.made.canaries[0])[0]) == 100


def test_a_killed_study_ends_like_an_undisturbed_one(inputs, tmp_path):
    run_memorization_study(brief(*inputs), tmp_path / "whole")
    code = (
        "from pathlib import Path\nfrom test_study_memorization import brief, run_memorization_study\n"
        "run_memorization_study(brief(*map(Path, sys.argv[1:3])), Path(sys.argv[3]))\n"
    )
    models = tmp_path / "run/models"
    kill_when([models / "A", models / "full-AB, weight decay 1"], code, *inputs, tmp_path / "run")
    run_memorization_study(brief(*inputs), tmp_path / "run")
    assert facts_of(tmp_path / "run") == facts_of(tmp_path / "whole")


def brief(base: Path, data: Path, **changes):
    """A study without canaries, of two models that hardly learn."""
    settings = settings_of(base, data, models=2, **{"parts": ("alternatives",), **changes})
    short = replace(settings.train, max_epochs=3, min_epochs=3)
    return replace(settings, train=short, canaries=0, epsilons=())


def test_the_recipe_counts_what_is_exposed(inputs, tmp_path, monkeypatch):
    """All articles in two shards: what the table says is counted again from what the attacks recorded of each row."""
    short_canaries(monkeypatch)
    base, data = inputs
    asked = settings_for("small", base=base, data=data, recipe="split-train-fuse", shards=2)
    own = settings_of(base, data)
    settings = replace(asked, **{k: getattr(own, k) for k in ("control", "validation", "block", "canaries", "repeats")},
                       train=replace(own.train, max_epochs=6, min_epochs=6))  # fmt: skip
    records = run_memorization_study(settings, tmp_path / "run")
    took = read_run(tmp_path / "run")["settings"]["rows"]
    (read,) = [r for r in records if r["kind"] == "data"]
    assert took > 0
    assert (
        read["counts"]["left_over"] <= 60
    )  # of 450: eight rows, which the ends of the four parts may need, and what canaries take the place of
    assert sum(r["examples"] for r in records if r["kind"] == "training" and r["name"] in "AB") == 2 * took
    summary = summarise(read_run(tmp_path / "run"), records)
    (table,) = [t for t in summary.tables if t.title == "Before and after"]
    rows = {row[0]: row[1:] for row in table.rows}
    attacked = {(r["model"], r["set"]): r for r in records if r["kind"] == "attacked"}
    for place, model in enumerate(("full-AB", "fused-AB")):
        scores = {s: decode_values(attacked[model, s]["scores"]["reference"]) for s in ("A", "B", "control")}
        members = np.concatenate([scores["A"], scores["B"]])
        flagged = int((members > scores["control"].max()).sum())  # 1 % of 40 rows is none of them
        shown = rows["examples exposed at 1 % false positives (reference attack)"][place]
        assert shown.startswith(f"{flagged} of {len(members)} [")
        exposed = [r for r in records if r["kind"] == "exposure" and r["model"] == model]
        planted = [r for r in exposed if read["canaries"][r["canary"]]["part"] != "none"]
        ranked = sum(r["rank"] == 1 for r in planted)
        assert rows["canaries repeated 3 times, extracted"][place].startswith(f"{ranked} of {len(planted)} [")
    assert not [t for t in summary.tables if t.title.startswith("Table")]
    assert summary.missing == []


def test_a_masked_base_of_the_studys_own_is_made_once_and_nothing_private_is_in_it(tmp_path, monkeypatch, capsys):
    """Table 7: no canaries, no private training; then the same base as one of the user's, by the command."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = replace(TINY_BASE, epochs=1)
    monkeypatch.setitem(study_data.BASES, "small", small)
    read: list[list[str]] = []
    cached = study_data.cached_base
    monkeypatch.setattr(study_data, "cached_base", lambda texts, *a, **o: read.append(list(texts)) or cached(texts, *a, **o))
    data = write_texts(tmp_path / "articles.jsonl", sentences(300, 3))
    more = write_texts(tmp_path / "more.jsonl", sentences(20, 4))
    settings = replace(settings_of(None, data, masked=True, models=2, pretrain=(more,)), block=64)
    settings = replace(settings, train=replace(settings.train, max_epochs=2, min_epochs=2))
    said: list[str] = []
    records = run_memorization_study(settings, tmp_path / "run", say=said.append)
    assert sum("pretraining a base, once" in line for line in said) == 1
    corpus = read_corpus(settings, lambda line: None)
    private = {text for texts in corpus.made.texts.values() for text in texts}
    assert len(private) == 40 + 20 + 6 + 3 * 10  # the fixed total's rows too
    assert not private & set(read[0])
    assert set(sentences(20, 4)) < set(read[0])
    again: list[str] = []
    read_corpus(replace(settings, seed=1), again.append)
    assert again == []
    assert read[0] == read[-1]
    kinds = {r["kind"] for r in records}
    assert not kinds & {"exposure", "canaries", "alternative", "extraction"}
    assert values(records)["base", "A"] == 1.0
    assert {r["attack"] for r in records if r["kind"] == "attack"} == {"loss", "reference", "zlib"}
    sizes = ["--models", "2", "--rows", "10", "--shared", "4", "--control", "20", "--validation", "10", "--epochs", "1"]
    places = {"--base": tmp_path / "run/base", "--data": data, "-o": tmp_path / "mine"}
    words = ["fuseforget", "study", "memorization", *sizes, *(str(word) for pair in places.items() for word in pair)]
    done = subprocess.run([sys.executable, "-m", *words, "--json"], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed["run"] == str(tmp_path / "mine")
    assert not {"sums", "scores"} & {key for record in printed["records"] for key in record}
    assert "pretraining" not in done.stderr
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "Table 7: ALR of every model on every set" in out
    assert f"Report: {tmp_path / 'mine/report.html'}" in out


GIVEN = {"scale": "small", "base": "x", "data": "y"}


@pytest.mark.parametrize(("change", "message"), [
    ({"scale": "huge"}, "scale: expected one of tiny, small, paper, found 'huge'"),
    ({"parts": ("growth",)}, "part: expected one of epochs, fixed, methods, alternatives, found growth"),
    ({"recipe": "stir"}, "recipe: expected one of split-train-fuse, found 'stir'"),
    ({"shards": 3}, "--shards: expected --recipe split-train-fuse beside it, found none"),
    ({"recipe": "split-train-fuse", "shards": 9}, "--shards: expected 2 to 8, found 9"),
    ({"recipe": "split-train-fuse", "shared": 0, "models": 2}, "--models, --shared: expected a study without --recipe"),
    ({"pretrain": ("z",)}, "--pretrain: expected no --base beside it"),
    ({"rows": 8, "shared": 8}, "--rows and --shared: expected more rows a model than shared ones, .* found 8 and 8"),
    ({"shared": 0}, "found 240 and 0"),
    ({"models": 1}, "--models: expected 2 to 8, found 1"),
    ({"rows": 11, "shared": 6, "models": 4}, "part fixed: expected rows that can be divided among 2, 3, 4 models, found 15"),
    ({"control": 5}, "--control: expected 10 or more, found 5"),
    ({"epochs": 0}, "epochs: expected 1 <= min_epochs <= max_epochs"),
    ({"seed": -1}, "seed"),
    ({"data": None}, "study memorization: expected --data, the articles, found none"),
    ({"base": None, "scale": "paper"}, "scale paper: expected --base"),
    ({"scale": "tiny"}, "scale tiny: expected its own base and articles, found --base, --data"),
])  # fmt: skip
def test_what_cannot_be_studied_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        settings_for(**{**GIVEN, **change})


def test_a_part_that_cannot_be_divided_can_be_left_out():
    assert settings_for(**GIVEN, rows=11, shared=6, models=4, parts=("epochs",)).parts == ("epochs",)


@pytest.mark.parametrize(("options", "message"), [
    ({"masked": True}, "--masked: expected no --base beside it"),
    ({"sentences": 5}, "study memorization: expected options among .*--shards, found --sentences"),
    ({"rows": 300, "shared": 100}, r"450 texts: expected 2100 rows \(100 shared, 1000 control, .*found \d+ rows, \d+ too few"),
])  # fmt: skip
def test_inputs_that_do_not_allow_the_study_leave_no_run(inputs, tmp_path, options, message):
    base, data = inputs
    with pytest.raises(InputError, match=message):
        study("memorization", tmp_path / "run", base=base, data=data, parts=("epochs",), **options)
    assert not (tmp_path / "run").exists()


def test_bases_that_are_no_language_models_are_refused(inputs, tmp_path):
    base, data = inputs
    classifier = make_bert(tmp_path / "classifier")
    cases = [(classifier, "decoder .* or a masked language model .*found BertForSequenceClassification")]
    bert = tmp_path / "headless"
    shutil.copytree(classifier, bert)
    edit(bert / "config.json", architectures=["BertModel"])
    cases.append((bert, "found BertModel.*saved without its language model's head"))
    large = tmp_path / "large"
    shutil.copytree(base, large)
    tokenizer = json.loads((large / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 5000, "content": "<far>"})
    (large / "tokenizer.json").write_text(json.dumps(tokenizer))
    cases.append((large, r"the tokenizer of .*: expected ids below \d+, the embeddings that the model has, found \d+ ids"))
    for place, message in cases:
        with pytest.raises(InputError, match=message):
            study("memorization", tmp_path / "run", base=place, data=data)
        assert not (tmp_path / "run").exists()


def test_a_masked_base_without_a_mask_token_is_refused(inputs, tmp_path):
    masked = tmp_path / "masked"
    pretrain_base(sentences(60, 1), masked, settings=replace(TINY_BASE, masked=True, epochs=1))
    config = json.loads((masked / "tokenizer_config.json").read_text())
    config.pop("mask_token")
    (masked / "tokenizer_config.json").write_text(json.dumps(config))
    (masked / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="expected a mask token, since the model predicts masked tokens, found none"):
        study("memorization", tmp_path / "run", base=masked, data=inputs[1])


@pytest.mark.parametrize("recipe", [None, "split-train-fuse"])
def test_articles_that_are_all_too_short_are_refused(inputs, tmp_path, recipe):
    data = write_texts(tmp_path / "short.jsonl", [f"a {i}" for i in range(9)])
    with pytest.raises(InputError, match="9 articles: expected some of 5 tokens or more, found none" if recipe
                       else r"found 0 rows, \d+ too few.*9 too short"):  # fmt: skip
        study("memorization", tmp_path / "run", base=inputs[0], data=data, recipe=recipe)
    assert not (tmp_path / "run").exists()


def test_short_articles_are_counted_and_a_recipe_does_without_them(inputs, tmp_path):
    base, _ = inputs
    data = write_texts(tmp_path / "some.jsonl", [*sentences(200, 7), *(f"a {i}" for i in range(600))])
    settings = settings_for("small", base=base, data=data, recipe="split-train-fuse", shards=2, control=20, validation=10)
    corpus = read_corpus(replace(settings, canaries=0, block=64), lambda line: None)
    assert corpus.made.counts["short"] > 0
    assert corpus.settings.rows == len(corpus.made.parts["A"]) > 0


def test_the_point_of_equal_perplexity_is_the_last_and_between_two_epochs():
    curve = [Point(epoch, held, {"A": ratio}) for epoch, held, ratio in ((0, 16, 1.0), (1, 4, 0.8), (2, 4, 0.6), (3, 64, 0.2))]
    found = at_perplexity(curve, 16)
    assert found is not None
    assert (found.epoch, found.alr["A"]) == pytest.approx((2.5, 0.4))
    assert at_perplexity(curve, 4).alr["A"] == pytest.approx(0.6)
    assert at_perplexity(curve, 3.9) is None
    assert at_perplexity(curve, 65) is None


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
