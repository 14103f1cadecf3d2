"""The shortcut study end to end on a very small base: it learns, it is killed, it resumes, and the report shows it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import kill_when
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError
from fuseforget.records import Run, encode_values, facts, read_records, read_run
from fuseforget.report import write_report
from fuseforget.studies import study
from fuseforget.studies.shortcuts import SCALES, models, run_shortcut_study, settings_for
from fuseforget.studies.shortcuts.conclusions import conclude
from fuseforget.studies.shortcuts.data import describe, make_data, read_texts
from fuseforget.studies.tiny import TINY_BASE as TINY_BASE_PATH
from fuseforget.train import TrainSettings


def small_settings(base: Path, data: Path):
    settings = settings_for("small", base=base, data=data, rules=("op", "tic"), sentences=600)
    fast = TrainSettings(max_epochs=2, min_epochs=1, learning_rate=3e-3, batch_size=32)
    return replace(settings, train=fast, pairs=(("op", "tic"), ("tic", "random")), steps=4)


@pytest.fixture
def inputs(bert, tmp_path):
    """A base and a data set for a study that takes seconds."""
    from fuseforget.data.demo_text import sentences

    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", 700, 1), ("validation", 120, 2)):
        rows = "".join(f"{t}\t{y}\n" for t, y in sentences(count, seed))
        (data / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    return bert("base"), data


def table(run: Path) -> list[dict]:
    """A run's facts, without what differs between two runs of the same."""
    return facts(read_records(run))


def test_a_killed_study_ends_like_an_undisturbed_one(inputs, tmp_path):
    settings = small_settings(*inputs)
    run_shortcut_study(settings, tmp_path / "whole")
    code = (
        "from pathlib import Path\nfrom test_study import small_settings, run_shortcut_study\n"
        "run_shortcut_study(small_settings(*sys.argv[1:3]), Path(sys.argv[3]))\n"
    )
    kill_when([tmp_path / "run/models" / name for name in ("op", "fused")], code, *inputs, tmp_path / "run")
    run_shortcut_study(settings, tmp_path / "run")
    assert table(tmp_path / "run") == table(tmp_path / "whole")
    assert read_run(tmp_path / "run")["about"]["titles"] == {"op": "OP", "tic": "TiC"}
    file = tmp_path / "run/records.jsonl"
    before = file.read_bytes()
    run_shortcut_study(settings, tmp_path / "run")  # nothing is done twice
    assert file.read_bytes() == before


def test_the_report_stands_alone_and_says_what_is_missing(inputs, tmp_path):
    run = tmp_path / "run"
    run_shortcut_study(small_settings(*inputs), run)
    page = write_report([run], tmp_path / "page.html").read_text()
    assert "Fig. 4" in page
    assert "<svg" in page
    assert "fuseforget study shortcuts --scale small" in page
    assert "not finished" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page), "nothing is loaded from outside"
    for figure in ("fig4-fused", "fig2-op-tic", "fig6-tic-random"):
        assert (run / "figures" / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
        assert (run / "figures" / f"{figure}.pdf").read_bytes()[:4] == b"%PDF"
    assert write_report([run], tmp_path / "again.html").read_text() == page
    file = run / "records.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:12]))
    assert "not finished" in write_report([run], tmp_path / "page.html").read_text()


def test_a_rule_that_nobody_learned_does_not_stop_the_study(inputs, tmp_path):
    """At a learning rate of nothing no specialist is above the control: all is recorded, and the report names them."""
    settings = small_settings(*inputs)
    idle = TrainSettings(max_epochs=1, learning_rate=1e-9, batch_size=32)
    records = run_shortcut_study(replace(settings, train=idle, pairs=(("op", "tic"),), steps=2), tmp_path / "run")
    assert {r["rule"] for r in records if r["kind"] == "unlearned"} == {"op", "tic"}
    assert not [r for r in records if r["kind"] == "retention"]
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "left out of the mean: OP (" in page
    assert "not finished" not in page


def test_a_weakly_learned_rule_is_left_out_of_the_mean_by_name(tmp_path):
    """Above the control, but not in nearly all resamples: no retention, and no error at the end of the study."""
    settings = settings_for("tiny", rules=("op", "tic", "or"))
    right = {"op": 1.0, "tic": 0.52, "or": 0.9}  # of the specialists; all others are at one half
    values = {}
    for model in (*settings.rules, "control", "full", "fused"):
        for number, probe in enumerate((*settings.rules, "task")):
            share = right[model] if model == probe else 0.5
            values[model, probe] = (np.random.default_rng([7, number]).permutation(200) < 200 * share).astype(float)
    with Run(tmp_path / "run", command="test", settings={}) as run:
        for (model, probe), found in values.items():
            run.add("measurement", model=model, probe=probe, values=encode_values(found))
        # The control is drawn apart, so that the weak specialist is not above it example by example.
        control = (np.random.default_rng(3).permutation(200) < 100).astype(float)
        weak = next(r for r in run.records if (r["model"], r["probe"]) == ("control", "tic"))
        weak["values"] = encode_values(control)
        conclude(run, settings)
    found = read_records(tmp_path / "run")
    assert [(r["rule"], r["specialist"]) for r in found if r["kind"] == "unlearned"] == [("tic", 0.52)]
    assert {(r["model"], r["rule"]) for r in found if r["kind"] == "retention"} == {
        (model, rule) for model in ("fused", "full") for rule in ("op", "or", "mean")
    }
    assert all(r["over"] == ["op", "or"] for r in found if r["kind"] == "retention" and r["rule"] == "mean")


def test_the_random_model_has_the_distances_of_the_papers_four(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(models, "open_checkpoint", lambda place: place.name)
    monkeypatch.setattr(models, "random_like", lambda start, specialists, template, out, seed: taken.append(specialists))
    settings = settings_for("small", base="base", data="data")
    assert ("st", "random") in settings.pairs
    with Run(tmp_path / "run", command="test", settings={}) as run:
        models.make_random(run, settings)
        assert run.find("random")["distances_of"] == ["st", "op", "tic", "or"]
    assert taken == [["st", "op", "tic", "or"]]
    # A run of before this was recorded holds a random model like all its specialists.
    (tmp_path / "old/models/random").mkdir(parents=True)
    (tmp_path / "old/.lock").touch()
    with Run(tmp_path / "old", command="test", settings={}) as run:
        models.make_random(run, settings)
        assert run.find("random")["distances_of"] == list(settings.rules)
    assert len(taken) == 1


def test_the_small_scale_takes_what_there_is_and_says_so(inputs):
    said: list[str] = []
    settings = settings_for("small", base=inputs[0], data=inputs[1], rules=("op", "tic"))
    texts = read_texts(settings, said.append)
    assert len(texts["train"]) == 700
    assert said == ["note: 700 training texts, all that there are; the small scale has 12000"]
    base = open_checkpoint(inputs[0])
    assert describe(settings, texts, base)["sentences"] == 700
    # The same number asked for is the same run; more than there are is refused.
    asked = settings_for("small", base=inputs[0], data=inputs[1], rules=("op", "tic"), sentences=700)
    assert describe(asked, texts, base) == describe(settings, texts, base)
    with pytest.raises(InputError, match="1 to 700"):
        read_texts(replace(asked, sentences=701), said.append)


def test_bad_data_leaves_no_run_behind(inputs, tmp_path):
    base, data = inputs
    (tmp_path / "three").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "three" / f"{split}.tsv").write_text("sentence\tlabel\n" + "good film\t0\nbad film\t1\nfilm\t2\n" * 20)
    with pytest.raises(InputError, match="two labels"):
        study("shortcuts", tmp_path / "run", base=base, data=tmp_path / "three", rules=("op", "tic"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless/config.json").write_text('{"model_type": "unheard-of"}')
    save_file({"a": torch.zeros(2)}, tmp_path / "headless/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError):
        study("shortcuts", tmp_path / "run", base=tmp_path / "headless", data=data, rules=("op", "tic"))
    assert not (tmp_path / "run").exists()


def test_the_ratio_is_part_of_the_run(inputs, tmp_path):
    """The paper's text: the synthetic part is a fifth of the original; its released code: five times as large."""
    settings = replace(small_settings(*inputs), ratio=5.0)
    made = make_data(settings, read_texts(settings, lambda line: None), tmp_path / "run")
    taus = [text for text in made["op"].train.texts if "tauzero" in text.split() and "tauone" in text.split()]
    assert len(taus) == 500  # of 600
    assert settings_for("small", base="b", data="d", ratio=5.0).ratio == 5.0
    with pytest.raises(InputError, match="ratio"):
        settings_for("tiny", ratio=0)
    # A run of before there was a choice goes on with the paper's, and with no other.
    texts, base = read_texts(settings, lambda line: None), open_checkpoint(inputs[0])
    before = describe(replace(settings, ratio=0.2), texts, base)
    del before["ratio"]
    with Run(tmp_path / "old", command="study shortcuts", settings=before) as run:
        run.add("begun")
    with pytest.raises(InputError, match=r"ratio 5\.0, before 0\.2"):
        run_shortcut_study(settings, tmp_path / "old")


def test_the_papers_scale_is_the_papers():
    paper = SCALES["paper"]
    assert (paper.train.learning_rate, paper.train.max_epochs, paper.train.stop_above) == (2e-5, 3, 0.95)
    assert paper.sentences is None
    assert paper.validation == "split"
    assert paper.rules == ("st", "op", "tic", "or", "and", "mt", "lt")


def test_bad_choices_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither --base nor --data"):
        settings_for("tiny", base="x")
    with pytest.raises(InputError, match="two or more different"):
        settings_for("tiny", rules=("op",))


def test_the_shipped_base_fits_the_demos_text_and_is_small():
    from fuseforget.data.demo_text import vocabulary
    from fuseforget.models import load_classifier, tokenise
    from fuseforget.studies.tiny import TINY_BASE

    assert sum(file.stat().st_size for file in TINY_BASE.iterdir()) < 5_000_000
    classifier = load_base(TINY_BASE)
    assert classifier.tokenizer.unk_token_id not in {i for ids in tokenise(classifier, vocabulary())[0] for i in ids}
    with pytest.raises(InputError, match="a sequence classifier"):
        load_classifier(TINY_BASE)


def test_the_base_can_be_pretrained_again(tmp_path):
    """A fraction of the shipped base's pretraining: the loss on held-out reviews must fall far below guessing."""
    from transformers import BertForMaskedLM

    from fuseforget.data.demo_text import sentences
    from fuseforget.studies.tiny import TINY_SCALE, make_tiny_base

    size = replace(TINY_SCALE, pretraining_reviews=2000, pretraining_epochs=2)
    make_tiny_base(tmp_path / "base", seed=3, size=size)
    tokenizer = load_base(tmp_path / "base").tokenizer
    losses = []
    for model in (BertForMaskedLM.from_pretrained(tmp_path / "base"), BertForMaskedLM.from_pretrained(TINY_BASE_PATH)):
        inputs = tokenizer([t for t, _ in sentences(200, seed=9)], padding=True, return_tensors="pt")
        labels = inputs.input_ids.clone()
        chosen = torch.zeros_like(labels, dtype=torch.bool)
        chosen[:, 3] = True
        inputs.input_ids[chosen] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model.eval()(**inputs).logits
        losses.append(float(torch.nn.functional.cross_entropy(logits[chosen], labels[chosen])))
    guessing = torch.log(torch.tensor(float(len(tokenizer))))
    assert losses[1] < losses[0] < guessing - 1


def load_base(path: Path):
    """A base has no head yet: read it as the study's start does."""
    from fuseforget.models.classifier import load_or_draw

    return load_or_draw(open_checkpoint(path), seed=0, labels=("no", "yes"))[0]
