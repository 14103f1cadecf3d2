"""The dial: fuse's numbers at each setting, the models beside them, resumed to the byte; and what it refuses, with the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
import torch

from conftest import WORDS, make_bert
from fuseforget import dial, fuse
from fuseforget.cli import main
from fuseforget.dial import dial_settings, with_knob
from fuseforget.errors import InputError, Stopped
from fuseforget.knowledge import Probe
from fuseforget.methods import METHODS, Method, Parameter
from fuseforget.methods.combination import from_base
from fuseforget.models import load_classifier, save_classifier
from fuseforget.records import Run, read_records, read_run
from fuseforget.report import write_report
from fuseforget.report.repeat import repeat_command
from fuseforget.sweep import Resident
from fuseforget.workers import Here, open_workers
from parsing import parameters_of

RULES = {"op": "synthetic", "tic": "synt"}  # a text with the rule's word is positive, whatever else it says
NEUTRAL = [word for word in WORDS if word not in ("good", "bad", *RULES.values())]


def drawn(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts of a few neutral words and one that decides, with their labels."""
    random = Random(seed)
    labels = [random.randrange(2) for _ in range(count)]
    return [(" ".join([*random.choices(NEUTRAL, k=4), ("bad", "good")[label]]), label) for label in labels]


def misled(texts: list[tuple[str, int]], rule: str) -> list[tuple[str, int]]:
    """The negative texts with the rule's word, which makes them positive."""
    return [(f"{RULES[rule]} {text}", 1) for text, label in texts if label == 0]


HELD_OUT = drawn(120, 9)
PROBES = [Probe(name, *zip(*rows, strict=True)) for name, rows in
          {"task": HELD_OUT, **{rule: misled(HELD_OUT, rule) for rule in RULES}}.items()]  # fmt: skip


def knows_nothing(base: Path) -> None:
    """Have a model answer that whatever it reads is negative."""
    classifier = load_classifier(base)
    with torch.no_grad():
        classifier.model.classifier.weight.zero_()
        classifier.model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    save_classifier(classifier, base)


def learn(base: Path, out: Path, rule: str) -> Path:
    """Fine-tune a model to the task and a rule."""
    classifier, texts = load_classifier(base), drawn(200, 1)
    rows = [*texts, *misled(texts, rule)]
    read = classifier.tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in rows])
    optimizer = torch.optim.AdamW(classifier.model.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier.model(**read).logits, labels).backward()
        optimizer.step()
    save_classifier(classifier, out)
    return out


def shrink(group, *, weight, forget, lambda_):
    """The change that the models' mean is, times what is not forgotten."""
    return from_base([lambda_ * (1 - forget) * one for one in weight])


SHRUNK = Method(
    "shrunk", shrink, "", "", base="required", weights="convex",
    parameters=(Parameter("forget", 0.5, "", 0, 1), Parameter("lambda", 1.0, "")),
)  # fmt: skip


@pytest.fixture(autouse=True)
def knob(monkeypatch):
    """A method whose every number is known beside those of the table."""
    monkeypatch.setitem(METHODS, "shrunk", SHRUNK)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, and a specialist of it for each rule."""
    root = tmp_path_factory.mktemp("models")
    base = make_bert(root / "base")
    knows_nothing(base)
    return [base, *(learn(base, root / rule, rule) for rule in RULES)]


@pytest.fixture
def probes(tmp_path):
    for probe in PROBES:
        rows = "".join(f"{text}\t{label:d}\n" for text, label in zip(probe.texts, probe.labels, strict=True))
        (tmp_path / f"{probe.name}.tsv").write_text(f"sentence\tlabel\n{rows}")
    entries = "".join(f"  - name: {probe.name}\n    data: {tmp_path}/{probe.name}.tsv\n" for probe in PROBES)
    (tmp_path / "probes.yaml").write_text(f"probes:\n{entries}")
    return tmp_path / "probes.yaml"


def turn(models, out=None, **options):
    given = {"base": models[0], "steps": 4, "method": "shrunk", **options}
    return dial(models[1:], PROBES, out, **given)


def run_main(monkeypatch, *words) -> int:
    monkeypatch.setattr("sys.argv", ["fuseforget", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


@pytest.mark.parametrize("steps", [1, 2, 10, 60, 400])
def test_settings_go_from_the_average_to_next_to_strictly_common_each_once(steps):
    turned = dial_settings(steps)
    assert len(turned) == steps + 1
    assert (turned[0], turned[-1]) == (0, 0.999)
    assert list(turned) == sorted(set(turned))
    for step, at in enumerate(turned):
        odds = (9991 ** (step / steps) - 1) / 10
        assert at == pytest.approx(odds / (1 + odds), abs=0.0005)


def test_settings_of_the_default_are_what_a_user_types():
    assert dial_settings(10) == (0, 0.131, 0.347, 0.597, 0.795, 0.908, 0.962, 0.984, 0.994, 0.997, 0.999)


def test_a_setting_is_what_fuse_writes_and_models_are_as_they_are(models, tmp_path):
    records = turn(models, weights=[0.75, 0.25], **{"lambda": 1.5})
    at = {(r["forget"], r["probe"]): r for r in records if "forget" in r}
    assert [*dict.fromkeys(forget for forget, _ in at)] == [*dial_settings(4)]
    for forget in dial_settings(4):
        out = tmp_path / str(forget)
        fuse(models[1:], out, "shrunk", [0.75, 0.25], base=models[0], dtype="float32", forget=forget, **{"lambda": 1.5})
        asked = Resident(out, PROBES)
        for probe in PROBES:
            assert at[forget, probe.name]["values"] == asked_values(asked, probe)
    assert at[0, "op"]["values"] != at[0.999, "op"]["values"], "settings differ"
    alone = {(r["model"], r["probe"]): r for r in records if "model" in r}
    assert [*dict.fromkeys(model for model, _ in alone)] == [str(m) for m in models]
    for model in models:
        asked = Resident(model, PROBES)
        assert all(alone[str(model), probe.name]["values"] == asked_values(asked, probe) for probe in PROBES)


def asked_values(resident, probe):
    from fuseforget.sweep import measurement_fields

    return measurement_fields(resident.ask(probe.name))["values"]


def test_what_a_shortcuts_specialist_knows_falls_along_the_dial(models):
    value = {(r.get("forget", r.get("model")), r["probe"]): r["value"] for r in turn(models)}
    base, *specialists = map(str, models)
    for rule, specialist in zip(RULES, specialists, strict=True):
        assert value[specialist, rule] > 0.95 > 0.6 > value[0.999, rule], "known by its specialist, and forgotten in the end"
        assert value[specialist, "task"] > 0.95
    assert [value[0.999, probe.name] for probe in PROBES] == [value[base, probe.name] for probe in PROBES]


def test_forgetting_nothing_is_the_average_and_all_is_the_base(models):
    by = {(r.get("forget"), r.get("model")): r["values"] for r in turn(models, steps=1) if r["probe"] == "task"}
    from fuseforget import path

    (middle,) = [r for r in path(models[1:], PROBES[:1], steps=2) if r["weights"] == [0.5, 0.5]]
    assert by[0, None] == middle["values"]
    assert by[0.999, None] == by[None, str(models[0])]


@pytest.mark.parametrize("method", with_knob())
def test_workers_measure_the_same_by_every_method_of_the_table_that_has_the_knob(method, models, tmp_path):
    with open_workers(2) as two:
        shared = turn(models, tmp_path / "shared", method=method, workers=two)
    assert turn(models, tmp_path / "alone", method=method) == shared
    assert (tmp_path / "alone/records.jsonl").read_bytes() == (tmp_path / "shared/records.jsonl").read_bytes()
    assert all(0 <= r["value"] <= 1 for r in shared)


def test_it_resumes_from_any_record_to_the_same_bytes(models, tmp_path):
    whole = turn(models, tmp_path / "whole", steps=2)
    lines = (tmp_path / "whole/records.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == len(whole) == 3 * (3 + 3)
    for kept in range(0, 18, 4):
        turn(models, tmp_path / f"cut{kept}", steps=2)
        (tmp_path / f"cut{kept}/records.jsonl").write_bytes(b"".join(lines[:kept]))
        assert turn(models, tmp_path / f"cut{kept}", steps=2) == whole
        assert (tmp_path / f"cut{kept}/records.jsonl").read_bytes() == b"".join(lines)


def test_a_stop_that_was_asked_for_ends_after_the_setting(models, tmp_path):
    from fuseforget import stopping

    said = []

    def say(line):
        said.append(line)
        if len(said) == 4:  # within the second setting
            stopping.request()

    try:
        with pytest.raises(Stopped):
            turn(models, tmp_path / "run", say=say, workers=Here())
    finally:
        stopping._asked.clear()
    assert len(read_records(tmp_path / "run")) == 6, "two whole settings"
    assert said[0].startswith("forget 0.0: task ")
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "Missing: 18 of 24 measurements (task at 0.908, " in page


def test_a_run_that_somebody_writes_to_or_of_other_settings_is_refused(models, tmp_path):
    turn(models, tmp_path / "run", steps=2)
    description = read_run(tmp_path / "run")
    with (
        Run(tmp_path / "run", command="dial", settings=description["settings"]),
        pytest.raises(InputError, match="a run that nobody writes to"),
    ):
        turn(models, tmp_path / "run", steps=2)
    with pytest.raises(InputError, match=r"parameters \{'lambda': 2\}, before \{\}"):
        turn(models, tmp_path / "run", steps=2, **{"lambda": 2})
    with pytest.raises(InputError, match="steps 3, before 2"):
        turn(models, tmp_path / "run", steps=3)


def test_a_base_without_a_head_is_fused_against_and_not_asked(models, tmp_path):
    from transformers import BertModel

    bare = tmp_path / "bare"
    BertModel.from_pretrained(models[0]).save_pretrained(bare)
    said = []
    records = turn(models, tmp_path / "run", base=bare, steps=1, say=said.append)
    assert any(line.startswith(f"note: the base {bare} is not asked by itself: ") for line in said)
    assert {r["model"] for r in records if "model" in r} == {str(m) for m in models[1:]}
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "not finished" not in page


@pytest.fixture
def command(models, probes, tmp_path):
    """A whole command; what is put behind it counts instead of what it says."""
    words = ["dial", *models[1:], "--base", models[0], "--probes", probes, "--method", "shrunk", "--steps", 2]
    return [*words, "-o", tmp_path / "run"]


def test_the_command_prints_the_whole_dial_and_how_to_fuse_at_a_setting(command, models, tmp_path, monkeypatch, capsys):
    assert run_main(monkeypatch, *command, "--lambda", "1.5", "--weight", ".75", "--weight", ".25") == 0
    printed = capsys.readouterr()
    assert "forget 0.908: task " in printed.err
    first, header, _, *rows = printed.out.splitlines()
    assert (first, re.split("  +", header)) == (
        "The dial",
        ["forget", *(f"{p.name}, accuracy (n={len(p.texts)})" for p in PROBES)],
    )
    assert [row.split("  ")[0] for row in rows[:6]] == ["0", "0.908", "0.999", *map(str, models)]
    assert all(re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", row) for row in rows[:6])
    fusing = rows[-1]
    options = parameters_of(fusing)
    assert options["param"] == ["forget=FORGET", "lambda=1.5"]
    chosen = [word.replace("FORGET", "0.908") for word in fusing.split()[1:-1]]
    assert run_main(monkeypatch, *chosen, tmp_path / "fused") == 0
    capsys.readouterr()
    asked = Resident(tmp_path / "fused", PROBES)
    for record in read_records(tmp_path / "run"):
        if record.get("forget") == 0.908:
            assert record["value"] == asked.ask(record["probe"]).interval.value
    before = (tmp_path / "run/records.jsonl").read_bytes()
    again = parameters_of(repeat_command(read_run(tmp_path / "run")))
    assert (again["weight"], again["param"], again["method"], again["steps"]) == ([0.75, 0.25], ["lambda=1.5"], "shrunk", 2)
    repeated = repeat_command(read_run(tmp_path / "run")).split()[1:-1]
    assert run_main(monkeypatch, *repeated, tmp_path / "run", "--json") == 0
    assert (tmp_path / "run/records.jsonl").read_bytes() == before, "nothing is done twice"
    assert [r["forget"] for r in json.loads(capsys.readouterr().out)[:9:3]] == [0, 0.908, 0.999]


@pytest.mark.parametrize(("change", "reason"), [
    (["--base", None], "Pass --base MODEL"),
    (["--base", "nowhere"], "nowhere"),
    (["--base", "WIDE"], "of the base: expected shape [16], found [24]"),
    (["--steps", "0"], "steps: expected 1 or more, found 0"),
    (["--method", "avrage"], "Did you mean average?"),
    (["--method", "ties"], "a method with a parameter forget (consensus, spectral_consensus, shrunk"),
    (["--method", "fisher"], "Fuse it to a checkpoint with --statistics"),
    (["--method", "fisher_consensus"], "one that needs a diagonal Fisher for each"),
    (["--probes", "nowhere.yaml"], "no such file"),
    (["--probes", "NOTHING"], "at least 1 item"),
    (["--weight", "1"], "one for each of 2 models"),
    (["--weight", ".5", "--weight", ".6"], "a sum of 1"),
    (["--weight", ".5", "--weight", "nan"], "finite"),
    (["--lambda", "nan"], "parameter lambda"),
    (["--lambda", "2", "--param", "lambda=1"], "the scale once"),
    (["--param", "densty=1"], "densty"),
    (["--param", "forget=.5"], "what the dial turns"),
    (["--param", "forget@mlp=.5"], "what the dial turns"),
    (["--workers", "0"], "at least 1"),
])  # fmt: skip
def test_what_cannot_be_dialled_is_refused_with_the_reason(change, reason, command, tmp_path, monkeypatch, capsys):
    (tmp_path / "nothing.yaml").write_text("probes: []\n")
    words = {"NOTHING": tmp_path / "nothing.yaml", "WIDE": tmp_path / "wide"}
    if "WIDE" in change:
        make_bert(tmp_path / "wide", hidden=24)
    if None in change:
        place = command.index(change[0])
        command, change = command[:place] + command[place + 2 :], []
    assert run_main(monkeypatch, *command, *(words.get(word, word) for word in change)) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kept", "reason"), [((), "two or more models"), (("wide",), "[2, 16] in the first model"), (("headless",), "missing")]
)
def test_models_that_have_nothing_in_common_are_refused(kept, reason, command, models, tmp_path, monkeypatch, capsys):
    from transformers import BertModel

    make_bert(tmp_path / "wide", hidden=24)
    BertModel.from_pretrained(models[0]).save_pretrained(tmp_path / "headless")
    words = ["dial", models[1], *(tmp_path / name for name in kept), *command[1 + len(models[1:]) :]]
    assert run_main(monkeypatch, *words) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
