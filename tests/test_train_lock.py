"""One process at a time trains a model; a training that is asked to stop does so after a saved epoch; what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from fuseforget import stopping
from fuseforget.cli import app
from fuseforget.errors import InputError, OutputError, Stopped
from fuseforget.train import Timing, lock
from fuseforget.train.lock import held
from fuseforget.train.trainer import fine_tune
from test_models import labelled
from test_train import NEVER, THREE, same_weights, shortcut_data

HOLDER = """
import sys, time
from pathlib import Path
from fuseforget.train.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of the training of ``m``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / ".m.training.lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_of_the_same_model_is_refused_with_who_holds_it(bert, tmp_path, other, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    start = bert("start")
    with pytest.raises(InputError, match=rf"found process {other.pid} on {socket.gethostname()} since 20.*: "):
        fine_tune(start, labelled(30), tmp_path / "m", THREE)
    assert fine_tune(start, labelled(30), tmp_path / "n", THREE).epochs == 3


def test_whoever_replaces_a_killed_process_waits_for_it(bert, tmp_path, other):
    threading.Timer(0.5, other.send_signal, [signal.SIGKILL]).start()
    assert fine_tune(bert("start"), labelled(30), tmp_path / "m", THREE).epochs == 3
    assert other.wait() == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "start"]


def test_many_who_wait_hold_it_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 60.0)
    inside, most, done = 0, 0, []

    def work(number: int) -> None:
        nonlocal inside, most
        with held(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1
            done.append(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(done), most) == (list(range(8)), 1)
    assert not (tmp_path / "lock").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a place that can be written"), held(tmp_path / "file" / "lock"):
        raise AssertionError


@pytest.fixture
def asked():
    """Whatever asks to stop in a test asks nobody afterwards."""
    with stopping.finishing(lambda line: None):
        yield


def test_a_training_stops_after_a_saved_epoch_and_goes_on_to_the_same_weights(bert, tmp_path, asked):
    start, monitor = bert("start"), labelled(30, seed=5)

    def stop(line: str) -> None:
        if "epoch 2," in line:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match=r"m: stopped after epoch 2 of 3: .* The same command goes on"):
        fine_tune(start, labelled(100), tmp_path / "m", NEVER, monitor=monitor, say=stop)
    assert [path.name for path in (tmp_path / ".m.training").glob("checkpoint-*")] == ["checkpoint-8"]
    assert not (tmp_path / ".m.training.lock").exists()
    with stopping.finishing(lambda line: None):
        lines: list[str] = []
        resumed = fine_tune(start, labelled(100), tmp_path / "m", NEVER, monitor=monitor, say=lines.append)
        whole = fine_tune(start, labelled(100), tmp_path / "whole", NEVER, monitor=monitor)
    assert [line.split(",")[0] for line in lines] == ["m: epoch 3"]
    assert same_weights(tmp_path / "m", tmp_path / "whole")
    repeated = [{**asdict(result), "timing": None} for result in (resumed, whole)]
    assert repeated[0] == repeated[1]


def test_a_training_that_is_asked_to_stop_in_its_last_epoch_ends(bert, tmp_path, asked):
    def stop(line: str) -> None:
        if "epoch 3," in line:
            stopping.request()

    assert fine_tune(bert("start"), labelled(100), tmp_path / "m", THREE, say=stop).epochs == 3
    assert (tmp_path / "m").is_dir()


def test_what_repeats_is_told_apart_from_what_does_not(bert, tmp_path):
    start, texts = bert("start"), labelled(100)
    result = fine_tune(start, texts, tmp_path / "m", THREE)
    made = json.loads((tmp_path / "m" / "fuseforget.json").read_text())
    assert made["result"] == asdict(result)
    assert Timing.of(made["result"]) == result.timing
    assert Timing.of({"seconds": 3.5, "steps": 4}) == Timing(seconds=3.5)  # an old manifest
    from fuseforget.models import load_classifier, tokenise

    ids, _ = tokenise(load_classifier(start), texts.texts)
    assert result.tokens == 3 * sum(map(len, ids))
    assert 0 < result.padding < 0.5
    assert result.seconds == result.timing.seconds > 0
    assert result.timing.tokens_per_second > result.tokens / result.seconds
    assert 0 < result.timing.peak_share < 1
    again = fine_tune(start, texts, tmp_path / "n", THREE)
    assert {**asdict(again), "timing": None} == {**asdict(result), "timing": None}


def test_the_command_says_how_fast_it_was(bert, tmp_path):
    base, data = bert("base"), shortcut_data(tmp_path / "data")
    command = ["train", "--base", str(base), "--data", str(data), "--max-epochs", "1", "-o", str(tmp_path / "m")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "m" / "fuseforget.json").read_text())["result"]
    assert (
        f"\n{made['tokens']:,} tokens, {made['timing']['tokens_per_second']:,.0f} a second in {made['precision']}, "
        in done.output
    )
    assert f"of the matrix peak; {made['padding']:.1%} of what was computed was padding" in done.output
