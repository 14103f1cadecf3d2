"""Points by any method: the engine's numbers to the bit, in memory; what cannot be a path is refused with the reason."""

from __future__ import annotations

import json

import pytest
import torch

from conftest import make_bert
from fuseforget import path
from fuseforget.checkpoint import open_checkpoint
from fuseforget.cli import main
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace, fuse
from fuseforget.knowledge import Probe
from fuseforget.methods import METHODS
from fuseforget.records import read_run
from fuseforget.report import write_report
from fuseforget.sweep import Resident

PROBE = Probe("task", ("a good film", "a dull film", "the plot is moving", "very bad"), (1, 0, 1, 0))
IN_MEMORY = [name for name, row in METHODS.items() if not row.statistics]
OPTIONS = {"ties": {"density": 0.3}, "dare_ties": {"density": 0.4}, "dare_linear": {"density:2": 0.5}, "della": {"density": 0.5}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A start and three models of it, one of them in bfloat16."""
    from transformers import BertForSequenceClassification

    root = tmp_path_factory.mktemp("models")
    found = [make_bert(root / name, seed=seed) for seed, name in enumerate(("start", "a", "b", "c"))]
    BertForSequenceClassification.from_pretrained(found[3], dtype=torch.bfloat16).save_pretrained(found[3])
    return found


def fit(name: str, models: list) -> tuple[list, dict]:
    """As many models as a method takes, its base and its options."""
    row = METHODS[name]
    given = {"base": models[0]} if row.base != "no" else {}
    return models[1 : 1 + (row.models[1] or 3)], {**given, **({"seed": 5} if row.random else {})}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_point_is_what_fuse_writes_as_float32_to_the_bit(name, models, tmp_path):
    chosen, options = fit(name, models)
    weights = [0.5, 0.3, 0.2] if len(chosen) == 3 else [0.75, 0.25][: len(chosen)]
    weights = None if METHODS[name].weights == "no" else weights
    parameters = OPTIONS.get(name, {})
    fuse(chosen, tmp_path / "out", name, weights, dtype="float32", **options, **parameters)
    written = open_checkpoint(tmp_path / "out")
    resident = Resident(models[1], [PROBE])
    opened = [open_checkpoint(model) for model in chosen]
    base = open_checkpoint(options["base"]) if "base" in options else None
    if weights is not None:  # coming from another point changes nothing
        elsewhere = [1.0, 0.0, 0.0][: len(chosen)]
        resident.set_point(opened, elsewhere, name, base=base, seed=5, parameters=parameters)
    resident.set_point(opened, weights, name, base=base, seed=5, parameters=parameters)
    found = resident.tensors(written)
    assert len(found) > 20
    for tensor in found:
        assert found[tensor].equal(written[tensor]), tensor


def test_a_random_point_depends_on_its_seed(models):
    opened, base = [open_checkpoint(m) for m in models[1:3]], open_checkpoint(models[0])
    resident = Resident(models[1], [PROBE])
    name = "bert.encoder.layer.0.attention.self.query.weight"
    drawn = []
    for seed in (1, 2, 1):
        resident.set_point(opened, [0.5, 0.5], "dare_linear", base=base, seed=seed, parameters={"density": 0.5})
        drawn.append(resident.tensors([*base])[name].clone())
    assert drawn[0].equal(drawn[2])
    assert not drawn[0].equal(drawn[1])


def test_a_base_without_a_head_is_a_base(models, tmp_path):
    """As fuse has it: the head, which the base lacks, is averaged; names without the models' prefix are understood."""
    from transformers import BertModel

    bare = tmp_path / "bare"
    BertModel.from_pretrained(models[0]).save_pretrained(bare)
    fuse(models[1:3], tmp_path / "out", "ties", [0.5, 0.5], base=bare, density=0.5)
    written = open_checkpoint(tmp_path / "out")
    targets = {name: torch.empty(written[name].shape) for name in written}
    InPlace(models[1:3], "ties", base=bare, parameters={"density": 0.5}).into(targets, [0.5, 0.5])
    assert all(targets[name].equal(written[name]) for name in written)


def test_a_path_by_a_method_with_a_base_says_how_it_was_made_and_resumes(models, tmp_path, capsys, monkeypatch):
    (tmp_path / "task.tsv").write_text("sentence\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in zip(*texts(), strict=True)))
    (tmp_path / "probes.yaml").write_text(f"probes:\n  - name: task\n    data: {tmp_path}/task.tsv\n")
    command = [
        "fuseforget", "path", str(models[1]), str(models[2]), "--method", "ties", "--base", str(models[0]), "--param",
        "density=0.3", "--probes", str(tmp_path / "probes.yaml"), "--steps", "2", "-o", str(tmp_path / "run"), "--json",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    run_main()
    printed = json.loads(capsys.readouterr().out)
    assert [r["weights"] for r in printed] == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    settings = read_run(tmp_path / "run")["settings"]
    assert settings["base"]["models"] == [str(models[0])]
    assert len(settings["base"]["model_sha256"][0][0]) == 64
    assert settings["parameters"] == {"density": 0.3}
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert f"--method ties --base {models[0]} --param density=0.3" in page
    before = (tmp_path / "run/records.jsonl").read_bytes()
    run_main()
    assert (tmp_path / "run/records.jsonl").read_bytes() == before
    capsys.readouterr()
    with pytest.raises(InputError, match="parameters"):
        path(models[1:3], tmp_path / "probes.yaml", tmp_path / "run", steps=2, method="ties", base=models[0], density=0.4)


def run_main() -> None:
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def texts() -> tuple[tuple[str, ...], tuple[int, ...]]:
    return PROBE.texts, PROBE.labels


def test_settings_of_a_plain_path_are_those_of_before(models, tmp_path):
    """A run that was begun before there were bases goes on."""
    path(models[1:3], [PROBE], tmp_path / "run", steps=2)
    assert read_run(tmp_path / "run")["settings"].keys() == {"models", "model_sha256", "probes", "steps", "method", "exact"}


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("fisher", {}, "needs a diagonal Fisher for each"),
        ("model_stock", {"base": True}, "takes weights"),
        ("ties", {}, "no base"),
        ("average", {"base": True}, "Leave --base out"),
        ("ties", {"base": True, "density": 2}, "from 0 to 1"),
        ("ties", {"base": True, "densty": 0.5}, "Did you mean density"),
    ],
)
def test_what_cannot_be_a_path_is_refused_with_the_reason(method, options, reason, models, tmp_path):
    chosen = {**options, **({"base": models[0]} if "base" in options else {})}
    with pytest.raises(InputError, match=reason):
        path(models[1:3], [PROBE], tmp_path / "run", steps=2, method=method, **chosen)
    assert not (tmp_path / "run").exists()


def test_three_models_by_a_method_of_two_are_refused(models):
    with pytest.raises(InputError, match="expected 2 models, found 3"):
        path(models[1:4], [PROBE], steps=2, method="slerp")


def test_targets_of_another_shape_are_refused(models):
    with pytest.raises(InputError, match="the models' shapes"):
        InPlace(models[1:2]).into({"classifier.bias": torch.empty(3)})


@pytest.mark.parametrize("name", ["seed", "steps", "densities"])
def test_a_parameter_that_the_method_does_not_have_is_refused_before_anything_is_read(name):
    """Also one that is called like an argument of the function behind the command."""
    from typer.testing import CliRunner

    from fuseforget.cli import app

    done = CliRunner().invoke(
        app, ["path", "a", "b", "--probes", "p.yaml", "-o", "out", "--method", "ties", "--param", f"{name}=1"]
    )
    assert isinstance(done.exception, InputError)
    assert name in str(done.exception)
