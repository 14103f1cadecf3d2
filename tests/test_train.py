"""Training that is interrupted, called again, or called again with something else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fuseforget
from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.data import Examples, ShortcutSettings, make_shortcut_data, save_shortcut_data
from fuseforget.errors import InputError, OutputError
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune
from test_models import labelled

THREE = TrainSettings(max_epochs=3, min_epochs=3, learning_rate=1e-3)
NEVER = TrainSettings(max_epochs=3, min_epochs=1, stop_above=1.0, learning_rate=1e-3)
ALWAYS = TrainSettings(max_epochs=3, min_epochs=1, stop_above=-1.0, learning_rate=1e-3)


def train_until(epoch: int, start: Path, out: Path, settings: TrainSettings = THREE, **options: Any) -> Path:
    """Kill a training in an epoch, before that epoch is saved, and return the state that it leaves."""

    def die(line: str) -> None:
        if f"epoch {epoch}," in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(start, labelled(100), out, settings, say=die, **options)
    assert not out.exists()
    return out.parent / f".{out.name}.training"


def same_weights(one: Path, two: Path) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("change", ["start", "data", "settings", "monitor"])
def test_a_state_of_another_training_is_not_gone_on_from(bert, tmp_path, change):
    asked = {"start": bert("start"), "examples": labelled(100), "settings": NEVER, "monitor": labelled(30, seed=5)}
    train_until(2, asked["start"], tmp_path / "m", NEVER, monitor=asked["monitor"])
    asked |= {
        "start": {"start": bert("other", seed=1)},
        "data": {"examples": labelled(100, seed=9)},
        "settings": {"settings": TrainSettings(max_epochs=3, stop_above=1.0, learning_rate=1e-3, seed=1)},
        "monitor": {"monitor": labelled(30, seed=6)},
    }[change]
    fine_tune(**asked, out=tmp_path / "undisturbed")
    lines: list[str] = []
    result = fine_tune(**asked, out=tmp_path / "m", say=lines.append)
    assert [change in line for line in lines if "starting anew" in line] == [True]
    assert len(lines) - 1 == len(result.losses) == len(result.monitored) == result.epochs == 3
    assert same_weights(tmp_path / "m", tmp_path / "undisturbed")


@pytest.mark.parametrize("torn", ["trainer_state.json", "optimizer.pt", "model.safetensors", "scheduler.pt"])
@pytest.mark.parametrize("how", ["absent", "cut"])
def test_a_torn_checkpoint_is_passed_over_and_removed(bert, tmp_path, torn, how):
    start = bert("start")
    state = train_until(3, start, tmp_path / "m")
    whole = state / "checkpoint-8"
    newest = state / "checkpoint-12"
    shutil.copytree(whole, newest)
    content = (whole / torn).read_bytes()
    (newest / torn).unlink()
    if how == "cut":
        (newest / torn).write_bytes(content[: len(content) // 2])
    lines: list[str] = []

    def look(line: str) -> None:
        lines.append(line)
        assert whole.is_dir()
        assert not newest.exists()

    assert fine_tune(start, labelled(100), tmp_path / "m", THREE, say=look).epochs == 3
    assert [line.split(",")[0] for line in lines] == ["m: epoch 3"]
    fine_tune(start, labelled(100), tmp_path / "undisturbed", THREE)
    assert same_weights(tmp_path / "m", tmp_path / "undisturbed")


def test_a_training_goes_on_after_a_full_disk(bert, tmp_path, small_disk):
    def resize(kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", small_disk], check=True)

    start = bert("start")
    resize(250)  # an epoch's state is some 150 KiB: the first fits, the second does not beside it
    with pytest.raises(OutputError, match="a full disk"):
        fine_tune(start, labelled(100), small_disk / "m", THREE)
    assert [path.name for path in (small_disk / ".m.training").glob("checkpoint-*")] == ["checkpoint-4"]
    resize(2000)
    lines: list[str] = []
    assert fine_tune(start, labelled(100), small_disk / "m", THREE, say=lines.append).epochs == 3
    assert [line.split(",")[0] for line in lines] == ["m: epoch 2", "m: epoch 3"]
    fine_tune(start, labelled(100), tmp_path / "undisturbed", THREE)
    assert same_weights(small_disk / "m", tmp_path / "undisturbed")


def test_a_training_that_ended_early_trains_no_epoch_more_when_it_is_called_again(bert, tmp_path, monkeypatch):
    start, monitor = bert("start"), labelled(30, seed=5)
    resumable = sys.modules["fuseforget.train.resumable"]

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resumable, "atomic_directory", die)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(start, labelled(100), tmp_path / "m", ALWAYS, monitor=monitor)
    assert len(list((tmp_path / ".m.training").glob("checkpoint-*"))) == 1
    lines: list[str] = []
    result = fine_tune(start, labelled(100), tmp_path / "m", ALWAYS, monitor=monitor, say=lines.append)
    assert (result.epochs, result.steps, len(result.losses), len(result.monitored), lines) == (1, 4, 1, 1, [])
    fine_tune(start, labelled(100), tmp_path / "undisturbed", ALWAYS, monitor=monitor)
    assert same_weights(tmp_path / "m", tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "start", "undisturbed"]


def test_the_seconds_of_an_interrupted_training_add_up(bert, tmp_path):
    start = bert("start")
    file = train_until(3, start, tmp_path / "m") / "checkpoint-8" / "trainer_state.json"
    saved = json.loads(file.read_text())
    seconds = [entry["seconds"] for entry in saved["log_history"] if "seconds" in entry]
    assert len(seconds) == 2
    assert 0 < seconds[0] < seconds[1]
    saved["log_history"] = [{**entry, "seconds": 1000.0} if "seconds" in entry else entry for entry in saved["log_history"]]
    file.write_text(json.dumps(saved))
    assert 1000 < fine_tune(start, labelled(100), tmp_path / "m", THREE).seconds < 1100


def test_texts_longer_than_the_model_reads_are_counted_and_said(bert, tmp_path):
    short = labelled(30)
    examples = Examples(("good film " * 50, *short.texts, "a " * 39), (1, *short.labels, 0), short.label_names)
    lines: list[str] = []
    result = fine_tune(bert("start"), examples, tmp_path / "m", TrainSettings(max_epochs=1), say=lines.append)
    assert result.cut == json.loads((tmp_path / "m/fuseforget.json").read_text())["result"]["cut"] == 2
    assert lines[0] == "m: 2 of 32 texts cut to the 40 tokens that the model reads"


def shortcut_data(directory: Path) -> Path:
    directory.mkdir()
    settings = ShortcutSettings(rules=("st",))
    save_shortcut_data(make_shortcut_data(labelled(120), labelled(60, seed=1), settings), directory)
    return directory


def test_the_manifest_says_what_a_model_was_made_from(bert, tmp_path):
    base, data = bert("base"), shortcut_data(tmp_path / "data")
    fuseforget.train(base, data, tmp_path / "m", max_epochs=1, init_seed=7)
    made = json.loads((tmp_path / "m/fuseforget.json").read_text())
    assert made["base"] == str(base)
    assert made["base_sha256"] == [file_sha256(file) for file in open_checkpoint(base).files]
    assert (made["init_seed"], made["data"], made["settings"]["seed"]) == (7, str(data), 0)
    assert set(made["versions"]) == {"fuseforget", "torch", "transformers"}
    assert "start" not in made  # it lay in a directory that is gone


def test_a_trained_model_can_be_read_by_whom_the_umask_lets(bert, tmp_path):
    start = bert("start")
    before = os.umask(0o027)
    try:
        fine_tune(start, labelled(40), tmp_path / "m", TrainSettings(max_epochs=1))
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "m").iterdir()} == {oct(0o640)}


@pytest.mark.parametrize("seed", [{"seed": -1}, {"init_seed": -1}, {"seed": 2**32}])
def test_what_is_no_seed_is_refused(tmp_path, seed):
    with pytest.raises(InputError, match="seed: expected 0 to"):
        fuseforget.train(tmp_path, tmp_path, tmp_path / "m", **seed)


def test_the_function_is_what_the_package_exports(tmp_path):
    code = "import fuseforget.train.trainer, fuseforget; assert callable(fuseforget.train); print(fuseforget.train.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "train\n"


def test_neither_base_nor_data_is_ever_replaced(bert, tmp_path):
    base = bert("base")
    data = tmp_path / "data"
    made = make_shortcut_data(labelled(200), labelled(60, seed=1), ShortcutSettings(rules=("op",)))
    data.mkdir()
    save_shortcut_data(made, data)
    for out in (base, data, tmp_path):
        with pytest.raises(InputError, match="a place of its own"):
            fuseforget.train(base, data, out, overwrite=True)
    assert (base / "model.safetensors").is_file()
