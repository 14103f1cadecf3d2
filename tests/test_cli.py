"""The command line as its users and their scripts see it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import make_bert
from fuseforget import models, studies
from fuseforget.cli import app, study
from fuseforget.methods import METHODS


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuseforget", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models, one of another shape, a data set and a probes file."""
    path = tmp_path_factory.mktemp("home")
    for i, name in enumerate(("a", "b")):
        make_bert(path / name, seed=i)
    make_bert(path / "wide", hidden=20)
    make_bert(path / "three", labels=3)
    rng = np.random.default_rng(0)
    for split, count in (("train", 240), ("validation", 60)):
        labels = rng.integers(2, size=count)
        rows = [("good film" if y else "bad film") + " the a"[: 2 * int(rng.integers(3))] for y in labels]
        (path / f"{split}.tsv").write_text(
            "sentence\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in zip(rows, labels, strict=True))
        )
    (path / "probes.yaml").write_text("probes: [{name: task, data: validation.tsv}]")
    return path


def test_fuse_prints_what_it_did_and_json_alone_on_stdout(home, tmp_path):
    done = run("fuse", home / "a", home / "b", "-o", tmp_path / "out", "--weight", 0.25, "--weight", 0.75)
    assert done.returncode == 0, done.stderr
    assert "average of 2 models" in done.stdout
    assert "0.7500" in done.stdout
    assert "reads" in done.stderr
    assert "free), holds at most" in done.stderr
    done = run("fuse", home / "a", home / "b", "-o", tmp_path / "json", "--json")
    assert json.loads(done.stdout)["method"] == "average"


def test_fuse_takes_methods_parameters_and_recipes_from_the_command_line(home, tmp_path):
    options = ["--base", home / "a", "--method", "dare_ties", "--seed", 7, "--param", "density=.9,.5", "--param", "density:2=.7",
               "--param", "lambda@attention=.5", "--param", "lambda=2", "--weight", 1, "--weight", "0,1"]  # fmt: skip
    done = run("fuse", home / "a", home / "b", "-o", tmp_path / "out", *options, "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["recipe"]["slices"]
    assert one["weights"] == [1, [0, 1]]
    assert one["parameters"]["density"] == {"each": [[0.9, 0.5], 0.7]}
    assert one["parameters"]["lambda"] == [{"filter": "attention", "value": 0.5}, {"value": 2}]
    again = run("fuse", "--recipe", tmp_path / "out/fuseforget.json", "-o", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_fuse_tells_what_a_method_found_in_the_models(home, tmp_path):
    options = ["--base", home / "b", "--method", "spectral_consensus", "-o", tmp_path / "out"]
    done = run("fuse", home / "a", home / "a", *options)
    assert done.returncode == 0, done.stderr
    noted = [line.removeprefix("note: ") for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert noted == json.loads((tmp_path / "out/fuseforget.json").read_text())["notes"]
    assert noted[0].startswith("100% of the models' changes is in common")
    assert "note" not in done.stdout


def test_methods_and_check(home):
    listed = {m["name"]: m for m in json.loads(run("methods", "--json").stdout)}
    assert list(listed) == list(METHODS)
    assert [p["name"] for p in listed["ties"]["parameters"]] == ["density", "normalize", "rescale", "lambda"]
    assert "Yadav" in listed["ties"]["docstring"]
    assert "--param density=1" in run("methods").stdout
    assert run("check", home / "a", home / "b").stdout == "2 models can be fused\n"
    differing = run("check", home / "a", home / "wide", home / "three", "--json")
    assert differing.returncode == 2
    found = json.loads(differing.stdout)
    assert not found["can_be_fused"]
    assert {d["kind"] for d in found["differences"]} >= {"shape", "config"}


def test_the_whole_way_from_text_to_a_path(home, tmp_path):
    for rule in ("op", "tic"):
        done = run("data", "shortcuts", home, "--rule", rule, "-o", tmp_path / f"data-{rule}")
        assert done.returncode == 0, done.stderr
        assert "240 to train, 10 synthetic and 50 original to validate" in done.stdout
        done = run("train", "--base", home / "a", "--data", tmp_path / f"data-{rule}", "-o", tmp_path / rule,
                   "--max-epochs", 1, "--learning-rate", 1e-3, "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["epochs"] == 1
    probed = run("probe", tmp_path / "op", "--probes", home / "probes.yaml", "--json")
    assert json.loads(probed.stdout)[0]["n"] == 60, probed.stderr
    command = ["path", tmp_path / "op", tmp_path / "tic", "--probes", home / "probes.yaml", "-o", tmp_path / "run", "--steps", 2]
    walked = run(*command)
    assert walked.stdout.count("accuracy") == 3, walked.stderr
    assert run(*command).stdout == walked.stdout
    page = run("report", tmp_path / "run", "-o", tmp_path / "page.html")
    assert page.returncode == 0, page.stderr
    assert "Measurements" in (tmp_path / "page.html").read_text()
    page = run("report", tmp_path / "run", tmp_path / "run", "-o", tmp_path / "page.md")
    assert page.stdout.strip() == str(tmp_path / "page.md"), page.stderr
    assert (tmp_path / "page.md").read_text().count("| task | accuracy |") == 6
    refused = run("report", tmp_path / "run", "-o", "/proc/forbidden/page.md")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: /proc/forbidden/page.md: expected a place that can be written")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["fuse", "{home}/gone", "-o", "{out}"], 2, "nothing at that path"),
    (["fuse", "{home}/probes.yaml", "-o", "{out}"], 2, "found a file"),
    (["fuse", "{home}/a", "{home}/wide", "-o", "{out}"], 2, "bert.embeddings.word_embeddings.weight"),
    (["fuse", "{home}/a", "{home}/b", "-o", "{out}", "--weight", "0.5", "--weight", "nan"], 2, "finite"),
    (["fuse", "{home}/a", "{home}/b", "-o", "{out}", "--weight", "0.5", "--weight", "0.6"], 2, "--normalize"),
    (["fuse", "{home}/a", "{home}/b", "-o", "{home}/b"], 2, "a directory that is an input"),
    (["fuse", "{home}/a", "-o", "{home}/b"], 2, "--overwrite"),
    (["fuse", "-o", "{out}"], 2, "1 or more models"),
    (["fuse", "{home}/a", "-o", "{out}", "--param", "density"], 2, "NAME=VALUE"),
    (["fuse", "{home}/a", "-o", "{out}", "--weight", "[1"], 2, "a number, a list, or YAML"),
    (["fuse", "{home}/a", "-o", "{out}", "--as-adapter", "-3"], 2, "a rank (1 or more), or sum"),
    (["fuse", "{home}/a", "-o", "{out}", "--as-adapter", "4"], 2, "adapters alone"),
    (["fuse", "{home}/a", "-o", "{out}", "--device", "cuda"], 2, "as fast as the disk"),
    (["fuse", "--recipe", "{home}/none.yml", "-o", "{out}"], 2, "No such file"),
    (["fuse", "--recipe", "{home}/probes.yaml", "-o", "{out}"], 2, "merge_method"),
    (["fuse", "--recipe", "{home}/none.yml", "-o", "{out}", "--dtype", "float16"], 2, "options beside it"),
    (["data", "shortcuts", "{home}", "--rule", "opp", "-o", "{out}"], 2, "one of st, op"),
    (["data", "shortcuts", "{home}", "--label", "gold", "-o", "{out}"], 2, "column 'gold'"),
    (["train", "--base", "{home}/a", "--data", "{home}", "-o", "{out}"], 2, "dataset.json"),
    (["probe", "{home}/a", "--probes", "{home}/none.yaml"], 2, "no such file"),
    (["report", "{home}", "-o", "{out}.html"], 2, "expected a run"),
    (["report", "{home}", "-o", "{out}.pdf"], 2, "ending in .html or .md"),
    (["study", "shortcuts", "-o", "{out}", "--scale", "tiny", "--ratio", "-1"], 2, "ratio: expected a positive number"),
    (["study", "shortcuts", "-o", "{out}", "--scale", "huge"], 2, "tiny, small, paper"),
    (["study", "shortcuts", "-o", "{out}", "--scale", "small"], 2, "--base and --data"),
    (["study", "biases", "-o", "{out}"], 2, "one of shortcuts"),
    (["fuse", "{home}/a", "-o", "/proc/forbidden/out"], 1, "/proc/forbidden/out"),
])  # fmt: skip
def test_bad_input_is_one_message_and_leaves_nothing(home, tmp_path, arguments, code, message):
    before = sorted(p.name for p in home.iterdir())
    done = run(*(a.format(home=home, out=tmp_path / "out") for a in arguments))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
    assert sorted(p.name for p in home.iterdir()) == before


@pytest.mark.parametrize("arguments", [
    ["data", "shortcuts", "{home}", "--rule", "st", "--sentences", "100", "-o", "{out}", "--seed", "-1"],
    ["train", "--base", "{home}/a", "--data", "{home}", "-o", "{out}", "--seed", "-1"],
    ["train", "--base", "{home}/a", "--data", "{home}", "-o", "{out}", "--init-seed", "-1"],
    ["study", "shortcuts", "-o", "{out}", "--base", "{home}/a", "--data", "{home}", "--seed", "-1"],
    ["demo", "-o", "{out}", "--seed", "-1"],
    ["demo", "-o", "{out}", "--seed", "4294967296"],
])  # fmt: skip
def test_what_is_no_seed_is_refused_by_every_command(home, tmp_path, arguments):
    done = run(*(a.format(home=home, out=tmp_path / "out") for a in arguments))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: seed: expected 0 to 4294967295, found ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def damage(home, path):
    """A model and data that are damaged in the ways that files are."""
    for name, file, content in (
        ("tokenizer", "tokenizer.json", '{"model": {'),
        ("labels", "config.json", (home / "a/config.json").read_text().replace("{", '{"id2label": {"no": "0"},', 1)),
        ("index", "model.safetensors.index.json", '{"weight_map": {"x": 3}}'),
    ):
        shutil.copytree(home / "a", path / name)
        (path / name / file).write_text(content)
    (path / "index/model.safetensors").unlink()
    header = b'{"x":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}'
    shutil.copytree(home / "a", path / "dtype")
    (path / "dtype/model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (path / "parquet").mkdir()
    for split in ("train", "validation"):
        (path / "parquet" / f"{split}.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    (path / "datasets").mkdir()
    (path / "datasets/dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    (path / "ids").mkdir()
    for split in ("train", "validation"):
        (path / "ids" / f"{split}.tsv").write_text("text\tlabel\n" + "".join(f"good\tid{i}\n" for i in range(200)))


@pytest.mark.parametrize(("arguments", "message"), [
    (["probe", "{bad}/tokenizer", "--probes", "{home}/probes.yaml"], "a model and tokenizer that transformers can load"),
    (["probe", "{bad}/labels", "--probes", "{home}/probes.yaml"], "a model and tokenizer that transformers can load"),
    (["check", "{bad}/index", "{home}/a"], "a weight_map of tensor names to files"),
    (["check", "{bad}/dtype", "{home}/a"], "a known dtype for tensor 'x'"),
    (["data", "shortcuts", "{bad}/parquet", "-o", "{out}"], "a parquet table"),
    (["data", "shortcuts", "{bad}/datasets", "-o", "{out}"], "a directory saved by datasets"),
    (["data", "shortcuts", "{bad}/ids", "-o", "{out}"], "a column of identifiers"),
    (["data", "shortcuts", "{home}/train.tsv", "-o", "{out}"], "one table, which would be both"),
    (["data", "shortcuts", "{home}", "--held-out", "test", "-o", "{out}"], "expected test{{.tsv"),
])  # fmt: skip
def test_damaged_input_is_one_message(home, tmp_path, arguments, message):
    damage(home, tmp_path / "bad")
    done = run(*(a.format(home=home, bad=tmp_path / "bad", out=tmp_path / "out") for a in arguments))
    assert done.returncode == 2, done.stderr
    assert message.format() in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("file", "arguments"), [
    ("a/config.json", ["check", "{home}/a", "{home}/b"]),
    ("a/model.safetensors", ["check", "{home}/a", "{home}/b"]),
    ("a/tokenizer.json", ["check", "{home}/a", "{home}/b"]),
    ("validation.tsv", ["probe", "{home}/a", "--probes", "{home}/probes.yaml"]),
    ("train.tsv", ["data", "shortcuts", "{home}", "-o", "{home}/out"]),
])  # fmt: skip
def test_a_file_that_may_not_be_read_is_one_message(home, tmp_path, file, arguments):
    shutil.copytree(home, tmp_path / "home")
    secret = tmp_path / "home" / file
    secret.chmod(0)
    drop = []
    if os.access(secret, os.R_OK):  # by the right of the superuser
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to do without the superuser's rights")
        drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    command = [*drop, sys.executable, "-m", "fuseforget", *(a.format(home=tmp_path / "home") for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {secret}: expected ")
    assert "found Permission denied" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_an_error_of_the_system_that_no_room_foresaw_is_one_message(monkeypatch, capsys):
    from fuseforget import cli

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error", "/some/file")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the test's own process keeps its handlers
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    message = "error: /some/file: expected a file that can be read or written, found Input/output error.\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(("asked", "count"), [((), 3), (("--workers", "2"), 2)])
def test_the_demo_trains_on_all_cores_unless_told_otherwise(asked, count, monkeypatch, tmp_path):
    had = []
    monkeypatch.setattr(models, "cores", lambda: 3)
    monkeypatch.setattr(studies, "study", lambda *args, workers, **options: had.append(workers.count))
    monkeypatch.setattr(study, "_show", lambda run, as_json: None)
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), *asked])
    assert (done.exit_code, had) == (0, [count]), done.output
