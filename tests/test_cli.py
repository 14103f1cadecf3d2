"""The command line as its users and their scripts see it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import make_bert


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
    done = run("fuse", home / "a", home / "b", "-o", tmp_path / "json", "--json")
    assert json.loads(done.stdout)["method"] == "average"


def test_methods_and_check(home):
    names = [m["name"] for m in json.loads(run("methods", "--json").stdout)]
    assert names == ["average", "slerp"]
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
