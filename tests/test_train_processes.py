"""One training by two processes that accelerate launches on this machine, without a GPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fuseforget
from fuseforget.checkpoint import file_sha256
from fuseforget.errors import InputError
from fuseforget.train import TrainSettings
from fuseforget.train.language import fine_tune_language
from fuseforget.train.processes import Processes, is_main, processes
from patience import LONG
from test_language import configure
from test_train import shortcut_data
from test_train_language import draw_rows, start_of
from test_train_steps import NO_DROPOUT, assert_near

LANGUAGE = """
import json, os, signal, sys
from pathlib import Path
from fuseforget.train import TrainSettings
from fuseforget.train.language import fine_tune_language

start, rows, out, dying = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "die"
(out.parent / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))

def watch(epoch, lm):
    print("watched", epoch, flush=True)
    if dying and epoch == 2:
        for pid in (os.getppid(), int((out.parent / "pid1").read_text()), os.getpid()):
            os.kill(pid, signal.SIGKILL)

settings = TrainSettings(max_epochs=3, learning_rate=3e-3, batch_size=4, precision="float32")
fine_tune_language(start, rows, out, settings, watch=watch)
"""


def launch(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Have accelerate launch two processes of a script, or of a module after ``-m``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    # Without a GPU accelerate has the processes talk by gloo.
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*launcher, *map(str, command)], capture_output=True, text=True, env=env, timeout=LONG)


def test_two_processes_train_the_classifier_that_one_trains(bert, tmp_path):
    base, data = bert("base"), shortcut_data(tmp_path / "data")
    configure(base, **NO_DROPOUT)
    options = {"max_epochs": 2, "min_epochs": 2, "learning_rate": 1e-3, "batch_size": 14, "precision": "float32"}
    asked = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    done = launch("-m", "fuseforget", "train", "--base", base, "--data", data, *asked, "-o", tmp_path / "two", "--json")
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)  # printed by one of them
    assert done.stderr.count("two: epoch 1,") == done.stderr.count("two: epoch 2,") == 1
    one = fuseforget.train(base, data, tmp_path / "one", **options)
    assert two["losses"] == pytest.approx(one.losses, rel=1e-5)
    assert (two["steps"], two["tokens"], two["monitored"]) == (one.steps, one.tokens, one.monitored)
    assert one.steps * 14 > 2 * 120  # the last step of an epoch is not full
    assert_near(tmp_path / "one", tmp_path / "two", base_with_head(tmp_path / "one"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "data", "one", "start", "two"]


def base_with_head(trained: Path) -> Path:
    """What a training of the test above started from: its base, with the tokens and the head that are new."""
    from fuseforget.data import load_shortcut_data
    from fuseforget.models import prepare_start

    made = load_shortcut_data(trained.parent / "data")
    out = trained.parent / "start"
    prepare_start(trained.parent / "base", out, tokens=made.settings.tokens, label_names=made.train.label_names, seed=0)
    return out


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_killed_processes_go_on_to_the_language_model_that_one_process_trains(tmp_path, kind):
    start, rows = start_of(tmp_path, kind), draw_rows(13, kind, lengths=(3, 20))
    configure(start, **(NO_DROPOUT if kind == "bert" else {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}))
    script = tmp_path / "script.py"
    script.write_text(LANGUAGE)
    killed = launch(script, start, json.dumps(rows), tmp_path / "m", "die")
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.split() == ["watched", "1", "watched", "2"]
    assert not (tmp_path / "m").exists()
    resumed = launch(script, start, json.dumps(rows), tmp_path / "m", "live")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split() == ["watched", "2", "watched", "3"]
    settings = TrainSettings(max_epochs=3, learning_rate=3e-3, batch_size=4, precision="float32")
    one = fine_tune_language(start, rows, tmp_path / "one", settings)
    result = json.loads((tmp_path / "m" / "fuseforget.json").read_text())["result"]
    assert result["losses"] == pytest.approx(one.losses, rel=1e-5)
    assert_near(tmp_path / "one", tmp_path / "m", start)


def test_processes_with_dropout_go_on_to_the_same_weights(tmp_path):
    start, rows = start_of(tmp_path, "gpt2"), draw_rows(13)
    script = tmp_path / "script.py"
    script.write_text(LANGUAGE)
    assert launch(script, start, json.dumps(rows), tmp_path / "m", "die").returncode == -signal.SIGKILL
    for name in ("m", "whole"):
        done = launch(script, start, json.dumps(rows), tmp_path / name, "live")
        assert done.returncode == 0, done.stderr
    assert file_sha256(tmp_path / "m" / "model.safetensors") == file_sha256(tmp_path / "whole" / "model.safetensors")


def test_an_error_of_the_first_process_ends_all(bert, tmp_path):
    base, data = bert("base"), shortcut_data(tmp_path / "data")
    (tmp_path / ".m.training.lock").mkdir()  # what the first process alone opens
    asked = ["-m", "fuseforget", "train", "--base", base, "--data", data, "-o", tmp_path / "m"]
    done = launch(*asked)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert ".m.training.lock: expected a place that can be written" in done.stderr
    odd = launch(*asked, "--batch-size", "7")
    assert odd.returncode == 1
    assert "batch size: expected a multiple of the 2 processes" in odd.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("name", "found"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_a_model_divided_over_processes_is_refused(monkeypatch, name, found):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=f"each hold the whole model, found {found}"):
        processes()


def test_a_process_alone_is_the_first_and_asks_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == Processes(0, 1)
    assert is_main()
    assert processes().first(lambda: 3) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not is_main()
