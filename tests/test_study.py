"""The shortcut study end to end on a very small base: it learns, it is killed, it resumes, and the report shows it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fuseforget.errors import InputError
from fuseforget.records import read_records
from fuseforget.report import write_report
from fuseforget.studies.shortcuts import SCALES, run_shortcut_study, settings_for
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
    """A run's facts without what differs between two runs of the same: seconds."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_records(run) if r["kind"] != "training"]


def test_a_killed_study_ends_like_an_undisturbed_one(inputs, tmp_path):
    settings = small_settings(*inputs)
    run_shortcut_study(settings, tmp_path / "whole")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from test_study import small_settings, run_shortcut_study\n"
        "run_shortcut_study(small_settings(*sys.argv[2:4]), Path(sys.argv[4]))\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *map(str, inputs), str(tmp_path / "run")]
    for until in ("models/op", "models/fused"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / until).is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
        time.sleep(0.1)
        process.kill()
        process.wait()
    run_shortcut_study(settings, tmp_path / "run")
    assert table(tmp_path / "run") == table(tmp_path / "whole")
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
    for figure in ("fig4-fused", "fig2-op-tic", "fig2-tic-random"):
        assert (run / "figures" / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
        assert (run / "figures" / f"{figure}.pdf").read_bytes()[:4] == b"%PDF"
    assert write_report([run], tmp_path / "again.html").read_text() == page
    file = run / "records.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:12]))
    assert "not finished" in write_report([run], tmp_path / "page.html").read_text()


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
    import torch
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
    from fuseforget.checkpoint import open_checkpoint
    from fuseforget.models import _load

    return _load(open_checkpoint(path), seed=0, labels=("no", "yes"))[0]
