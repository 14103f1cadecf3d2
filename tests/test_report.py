"""The report says what the records say: claims and verdicts, what is missing, how to repeat it; in HTML and in Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from fuseforget.errors import InputError, OutputError
from fuseforget.knowledge import Probe
from fuseforget.paths import path as walk
from fuseforget.records import Run, read_records, read_run
from fuseforget.report import write_report
from fuseforget.report.repeat import repeat_command
from fuseforget.report.shortcuts import summarise
from fuseforget.report.unfinished import NOT_BEGUN
from parsing import parameters_of

STEPS = 10
ARTICLES = {
    "scale": "tiny", "seed": 0, "base": None, "data": None, "models": 3, "rows": 9, "shared": 1, "total": None, "control": 5,
    "validation": 5, "recipe": None, "masked": False, "pretrain": [], "epochs": [2], "decays": [], "epsilons": [],
    "train": {"max_epochs": 2, "learning_rate": 1e-3},
}  # fmt: skip
TITLES = {"st": "ST", "op": "OP", "tic": "TiC", "or": "OR", "mt": "MT", "lt": "LT"}


@dataclass
class Made:
    """A shortcut study's records, written by hand: ``lines`` gives a path's values by probe, one a point or two ends."""

    rules: tuple[str, ...] = ("op", "tic")
    lines: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    unlearned: tuple[str, ...] = ()
    errors: dict[int, float] = field(default_factory=dict)  # half the task's interval, by point; else .01

    @property
    def description(self) -> dict:
        settings = {
            "scale": "tiny", "seed": 0, "base": None, "data": None, "sentences": None, "ratio": 0.2,
            "rules": list(self.rules), "pairs": [list(pair) for pair in self.lines], "steps": STEPS,
        }  # fmt: skip
        return {"command": "study shortcuts", "settings": settings, "about": {"titles": TITLES}}

    @property
    def records(self) -> list[dict]:
        rules, facts = self.rules, []
        facts += [
            {"kind": "training", "name": name, "examples": 9, "epochs": 1, "losses": [0.1], "monitored": [], "seconds": 1.0,
             "precision": "float32"} for name in (*rules, "control", "full")
        ]  # fmt: skip
        facts.append({"kind": "fusion", "name": "fused"})
        for model in (*rules, "control", "full", "fused"):
            for probe in (*rules, "task"):
                knows = probe == "task" or (model in (probe, "full") and probe not in self.unlearned)
                facts.append(measured(0.95 if probe == "task" else (1.0 if knows else 0.5), probe, model=model))
        for pair, probes in self.lines.items():
            for step in range(STEPS + 1):
                for probe, values in probes.items():
                    value = values[step] if len(values) > 2 else values[0] + (values[1] - values[0]) * step / STEPS
                    error = self.errors.get(step, 0.01) if probe == "task" else 0.01
                    weights = [(STEPS - step) / STEPS, step / STEPS]
                    facts.append(measured(value, probe, error, path="-".join(pair), weights=weights))
        learned = [rule for rule in rules if rule not in self.unlearned]
        facts += [{"kind": "unlearned", "rule": rule, "specialist": 0.51, "control": 0.5} for rule in self.unlearned]
        for model, value in (("fused", 0.1), ("full", 0.9)):
            facts += [interval("retention", value, model=model, rule=rule) for rule in (*learned, *(["mean"] if learned else []))]
        for other in (*rules, "full", "control"):
            facts.append({"kind": "comparison", "first": "fused", "second": other, "difference": 0.01, "p": 0.01, "p_holm": 0.04})
        for probe in (*rules, "task"):
            slack = {"value": 0.1, "low": 0.05, "high": 0.15}
            facts.append({"kind": "bound", "probe": probe, "lowest": 0.5, "highest": 1.0, "slack": slack, "verdict": "holds"})
        return facts

    def write(self, directory):
        with Run(
            directory, command="study shortcuts", settings=self.description["settings"], about=self.description["about"]
        ) as run:
            for record in self.records:
                add(run, record)
        return directory

    def claim(self, start: str) -> list[str]:
        """The row of the claim that begins like this."""
        table = summarise(self.description, self.records).tables[0]
        (row,) = [row for row in table.rows if row[0].startswith(start)]
        return row


def add(run: Run, record: dict) -> None:
    run.add(record["kind"], **{name: value for name, value in record.items() if name != "kind"})


def interval(kind: str, value: float, error: float = 0.01, **where: object) -> dict:
    return {"kind": kind, **where, "value": value, "low": value - error, "high": value + error, "n": 100}


def measured(value: float, probe: str, error: float = 0.01, **where: object) -> dict:
    return interval("measurement", value, error, probe=probe, metric="accuracy", values="", **where)


def valley(middle: float, *, ends: tuple[float, float] = (0.95, 0.95)) -> list[float]:
    """A line between two ends with another value in the middle."""
    return [middle if step == STEPS // 2 else ends[step > STEPS // 2] for step in range(STEPS + 1)]


DOWN = [1.0, 1.0, 0.9, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
UP = DOWN[::-1]
PAIR = {"op": DOWN, "tic": UP, "task": [0.95, 0.95]}


@pytest.mark.parametrize(("change", "verdict"), [
    ({}, "seen"),
    ({"op": [1.0, 1.0]}, "in part"),  # one shortcut stays
    ({"task": valley(0.7)}, "in part"),  # both fall, and so does the task
    ({"op": [1.0, 1.0], "tic": [1.0, 1.0]}, "in part"),  # the task alone is kept
    ({"op": [1.0, 1.0], "tic": [1.0, 1.0], "task": valley(0.7)}, "not seen"),
])  # fmt: skip
def test_a_pair_is_judged_by_its_shortcuts_and_the_task(change, verdict):
    row = Made(lines={("op", "tic"): {**PAIR, **change}}).claim("Fig. 2b, OP to TiC")
    assert row[2] == verdict, row


def test_op_and_st_are_a_pair_like_others():
    lines = {("op", "st"): {"op": DOWN, "st": UP, "task": [0.95, 0.95]}}
    row = Made(rules=("op", "st"), lines=lines).claim("Fig. 2c, OP to ST: midway both shortcuts are forgotten")
    assert row[1:] == ["left midway: OP 0.00 [-0.02, 0.02], ST 0.00 [-0.02, 0.02]; task 0.950 (ends 0.950, 0.950)", "seen"]


@pytest.mark.parametrize(("error", "verdict"), [(0.01, "in part"), (0.03, "seen")])
def test_the_midpoints_own_interval_counts(error, verdict):
    """A dip of .02 is no loss where the midpoint's own interval is wider, whatever those of its neighbours."""
    made = Made(lines={("op", "tic"): {**PAIR, "task": valley(0.93)}}, errors={1: 0.04 - error, 5: error})
    assert made.claim("Fig. 2b")[2] == verdict


@pytest.mark.parametrize("pair", [("tic", "st"), ("st", "tic"), ("st", "mt")])
def test_a_subsumed_shortcut_stays_at_both_ends(pair):
    wide = "mt" if "mt" in pair else "st"
    narrow = next(name for name in pair if name != wide)
    falling = DOWN if pair[0] == wide else UP
    made = Made(rules=pair, lines={pair: {narrow: [1.0, 0.98], wide: falling, "task": [0.95, 0.95]}})
    row = made.claim(f"{'As in Fig. 2' if wide == 'mt' else 'Fig. 2d'}, {TITLES[pair[0]]} to {TITLES[pair[1]]}")
    assert f"{TITLES[narrow]}, which {TITLES[wide]} subsumes, hardly drops at the ends" in row[0]
    assert row[2] == "seen"
    made.lines[pair][narrow] = UP if pair[1] == narrow else DOWN  # the wide one's specialist does not know the narrow rule
    assert made.claim(row[0])[2] == "in part"


@pytest.mark.parametrize(("end", "task", "verdict"), [
    (0.5, 0.52, "seen"), (0.9, 0.5, "in part"), (0.5, 0.9, "in part"), (0.9, 0.9, "not seen")
])  # fmt: skip
def test_the_way_to_the_random_model_is_judged(end, task, verdict):
    lines = {("st", "random"): {"st": [1.0, end], "task": [0.95, task]}}
    row = Made(rules=("st", "op"), lines=lines).claim("Fig. 2a, ST to random")
    assert row[2] == verdict, row


def test_what_was_not_learned_is_named_and_left_out_of_the_mean(tmp_path):
    made = Made(lines={("op", "tic"): PAIR}, unlearned=("op",))
    summary = summarise(made.description, made.records)
    assert summary.missing == []
    assert "Unlearned, not clearly above the control and left out of the mean: OP (0.510, control 0.500)." in summary.headline
    assert any("mean of 1 of 2" in line for line in summary.headline)
    assert made.claim("Fig. 4: the fused model forgets")[1].startswith("mean of 1 of 2 retentions")
    assert "OP not learned" in made.claim("Fig. 2b")[1]
    assert made.claim("Fig. 2b")[2] == "in part"
    page = write_report([made.write(tmp_path / "run")], tmp_path / "page.md").read_text()
    assert "| OP | 0.500 | unlearned | unlearned |" in page
    none = Made(lines={("op", "tic"): PAIR}, unlearned=("op", "tic"))
    assert summarise(none.description, none.records).missing == []
    assert none.claim("Fig. 2b")[2] == "in part"


def test_what_is_missing_is_counted_from_the_settings():
    made = Made(lines={("op", "tic"): PAIR, ("op", "random"): {"op": [1.0, 0.5], "task": [0.95, 0.5]}})
    whole = made.records
    assert summarise(made.description, whole).missing == []
    first = next(i for i, r in enumerate(whole) if r.get("path") == "op-random")
    # All of the first path, one point of the second, no conclusion.
    summary = summarise(made.description, whole[: first + 2])
    path, conclusions = summary.missing
    assert path.startswith("20 of 55 measurements on paths (OP on OP to random at 0.1, task on OP to random at 0.1, ")
    assert conclusions.startswith("13 of 13 conclusions (retention of OP in fused, ")
    assert not any("claims" in table.title for table in summary.tables), "no conclusion, no claim"
    # A path that stops short is no ground for a claim, whatever the rest says.
    broken = [r for r in whole if not (r.get("path") == "op-tic" and r["weights"] == [0.5, 0.5])]
    claims = [row[0] for row in summarise(made.description, broken).tables[0].rows]
    assert [c for c in claims if "Fig. 2" in c or "Fig. 6" in c] == [
        "Fig. 6a, OP to random: the shortcut and the task fall to chance or below"
    ]
    # Nor is a comparison with some of the specialists.
    broken = [r for r in whole if not (r["kind"] == "comparison" and r["second"] == "tic")]
    summary = summarise(made.description, broken)
    assert summary.missing == ["1 of 13 conclusions (the task of fused against TiC)"]
    assert not any("significantly better" in row[0] for row in summary.tables[0].rows)
    assert summarise(made.description, []).missing[0] == "5 of 5 models (OP, TiC, control, full, fused)"


def test_a_page_of_an_unfinished_run_says_so_in_both_formats(tmp_path):
    run = tmp_path / "run"
    made = Made(lines={("op", "tic"): PAIR})
    with Run(run, command="study shortcuts", settings=made.description["settings"]) as opened:
        for record in made.records[:12]:
            add(opened, record)
    for name in ("page.html", "page.md"):
        page = write_report([run], tmp_path / name).read_text()
        assert "This run is not finished. Missing: " in page
        assert "33 of 33 measurements on paths" in page
        assert "8 of 15 measurements of models" in page
        assert "13 of 13 conclusions" in page


def cells(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\\", "").replace("&lt;", "<").replace("&#x27;", "'").replace("&quot;", '"'))


def test_markdown_has_the_content_of_the_page(tmp_path):
    run = Made(lines={("op", "tic"): PAIR}).write(tmp_path / "run")
    before = sorted(p.name for p in run.iterdir())
    text = write_report([run], tmp_path / "out/notes.md").read_text()
    assert sorted(p.name for p in run.iterdir()) == before, "Markdown writes nothing to the run"
    html = write_report([run], tmp_path / "page.html").read_text()
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and set(line) - set("|- ")
    ]
    assert len(rows) > 30
    assert [[cells(c) for c in row] for row in rows] == [[cells(c) for c in row] for row in lines]
    for heading in re.findall(r"<h\d>(.*?)</h\d>|<summary>(.*?)</summary>", html):
        assert re.search(rf"^#+ {re.escape(cells(''.join(heading)))}$", cells_by_line(text), flags=re.MULTILINE), heading
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert links == ["notes-fig4-fused.png", "notes-fig2-op-tic.png"]
    for link in links:
        assert (tmp_path / "out" / link).read_bytes()[:4] == b"\x89PNG"
    assert "fuseforget study shortcuts --scale tiny" in text
    assert write_report([run], tmp_path / "out/notes.md").read_text() == text
    two = write_report([run, run], tmp_path / "out/two.md").read_text()
    assert "two-2-fig4-fused.png" in two


def cells_by_line(text: str) -> str:
    return "\n".join(cells(line) for line in text.splitlines())


def test_markdown_means_what_it_says():
    from fuseforget.report.blocks import Code, Table
    from fuseforget.report.markdown import render_markdown

    text = render_markdown([Table("a_b *", ["p|q"], [["x\ny<z"]]), Code("```")], lambda picture: "")
    assert text == "## a\\_b \\*\n\n| p\\|q |\n| --- |\n| x y&lt;z |\n\n````\n```\n````\n\n"


def test_other_endings_are_refused(tmp_path):
    run = Made(lines={("op", "tic"): PAIR}).write(tmp_path / "run")
    with pytest.raises(InputError, match=r"\.html or \.md"):
        write_report([run], tmp_path / "page.pdf")


@pytest.mark.parametrize("name", ["page.html", "page.md"])
def test_a_full_disk_is_one_message_and_leaves_nothing_half(tmp_path, small_disk, name):
    run = Made(lines={("op", "tic"): PAIR}).write(tmp_path / "run")
    if name == "page.html":
        (run / "figures").symlink_to(small_disk / "figures")
        (small_disk / "figures").mkdir()
    (small_disk / "filler").write_bytes(b"x" * 61_000)
    with pytest.raises(OutputError, match="a full disk"):
        write_report([run], (tmp_path if name == "page.html" else small_disk) / name)
    assert [p for p in small_disk.rglob("*") if p.is_file()] == [small_disk / "filler"]
    assert not (tmp_path / name).exists()


def test_a_run_that_cannot_be_written_is_one_message_with_the_way_out(tmp_path):
    run = Made(lines={("op", "tic"): PAIR}).write(tmp_path / "run")
    (run / "figures").write_text("in the way")  # what a read-only run does, also to root
    with pytest.raises(OutputError, match=r"fig4-fused\.png: .* A report in Markdown"):
        write_report([run], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    assert write_report([run], tmp_path / "page.md").is_file()


def test_a_run_of_mixed_code_says_so(tmp_path):
    made = Made(lines={("op", "tic"): PAIR})
    run = made.write(tmp_path / "run")
    description = read_run(run)
    now = {"code_sha256": "f" * 64, "versions": {**description["versions"], "torch": "9.9"}}
    with Run(run, command="study shortcuts", settings=description["settings"]) as opened:
        opened.add("resumed", **now)
    page = write_report([run], tmp_path / "page.md").read_text()
    assert f"After {len(made.records)} records this run went on with other code or versions: code " in page
    assert "torch " in page
    assert " became 9.9" in page


def test_the_command_that_repeats_a_study_makes_its_settings():
    made = Made(rules=("op", "st"), lines={("op", "st"): PAIR})
    made_again = parameters_of(repeat_command({**made.description, "settings": {**made.description["settings"], "ratio": 5.0}}))
    assert made_again["ratio"] == 5.0
    assert made_again["rule"] == ["op", "st"]
    assert made_again["scale"] == "tiny"


def test_the_command_that_repeats_a_path_makes_it_again(bert, tmp_path):
    models = [bert("a", seed=1), bert("b", seed=2)]
    (tmp_path / "task.tsv").write_text("sentence\tlabel\n" + "good film\t1\nbad film\t0\n" * 10)
    (tmp_path / "my probes.yaml").write_text("probes: [{name: task, data: task.tsv}]")
    records = walk(models, tmp_path / "my probes.yaml", tmp_path / "run", steps=2, method="slerp", exact=True)
    options = parameters_of(repeat_command(read_run(tmp_path / "run")))
    assert options["method"] == "slerp"
    assert options["exact"] is True
    assert options["steps"] == 2
    again = walk(options["models"], options["probes"], tmp_path / "again", steps=2, method="slerp", exact=True)
    assert again == records
    about = read_run(tmp_path / "run")["about"]
    assert about["sources"]["task"]["data"] == str(tmp_path / "task.tsv")
    assert len(about["sources"]["task"]["file_sha256"]) == len(about["probes_file"]["sha256"]) == 64


def test_a_path_that_was_cut_short_says_what_is_missing(bert, tmp_path):
    models = [bert("a", seed=1), bert("b", seed=2), bert("c", seed=3)]
    probes = [Probe(name, ("good film", "bad film") * 5, (1, 0) * 5) for name in ("one", "two")]
    walk(models, probes, tmp_path / "run", steps=2)
    assert "not finished" not in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    file = tmp_path / "run/records.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))
    assert len(read_records(tmp_path / "run")) == 5
    assert "Missing: 7 of 12 measurements" in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()


@pytest.mark.parametrize(("models", "points", "third"), [(2, 3, "0.5, 0.5"), (3, 6, "0.5, 0.5, 0")])
def test_a_path_says_which_points_are_missing(models, points, third, tmp_path):
    names = ["a", "b", "c"][:models]
    settings = {
        "models": names,
        "model_sha256": [],
        "probes": {"p": {}, "q": {}},
        "steps": 2,
        "method": "average",
        "exact": False,
    }
    page = tmp_path / "page.md"
    with Run(tmp_path / "run", command="path", settings=settings) as run:
        text = write_report([tmp_path / "run"], page).read_text()
        first = ", ".join(["1", *["0"] * (models - 1)])
        assert f"Missing: {2 * points} of {2 * points} measurements (p at {first}, q at {first}, p at {third}, " in text
        weights = [1.0, *[0.0] * (models - 1)]
        for probe in "pq":
            add(run, measured(0.5, probe, path="a - b", weights=weights))
        add(run, measured(0.5, "p", path="a - b", weights=[0.5, 0.5, *[0.0] * (models - 2)]))
        # While it is written: what is torn is not there yet.
        with (tmp_path / "run/records.jsonl").open("ab") as stream:
            stream.write(b'{"crc":"0')
        text = write_report([tmp_path / "run"], page).read_text()
    assert f"Missing: {2 * points - 3} of {2 * points} measurements (q at {third}, " in text


def test_a_probe_says_which_models_are_missing(tmp_path):
    settings = {"models": ["a", "b", "a"], "probes": {"p": {}, "q": {}}, "exact": False}
    with Run(tmp_path / "run", command="probe", settings=settings) as run:
        for model, probe in (("a", "p"), ("a", "q"), ("b", "q")):
            add(run, measured(0.5, probe, model=model))
        text = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
        assert "Missing: 1 of 4 measurements (p on b)." in text, "a model that is named twice is measured once"
        add(run, measured(0.5, "p", model="b"))
    assert "Missing" not in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()


@pytest.mark.parametrize("ending", ["html", "md"])
@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        ("study shortcuts", Made().description["settings"], "5 of 5 models (op, tic, control, full, fused); "),
        ("study bias", {"scale": "tiny", "seed": 0, "attributes": ["gender", "age"], "ratio": 0.8}, NOT_BEGUN),
        ("study fisher", {"source": "run", "seed": 0, "rules": ["op", "tic"]}, "1 of 1 pairs (op-tic)"),
        ("study memorization", ARTICLES, "3 of 3 single models (A, B, C); 4 of 4 full and fused models (full-AB, fused-AB, "),
    ],
)
def test_a_run_that_was_killed_before_its_first_record_has_a_page(command, settings, said, ending, tmp_path):
    with Run(tmp_path / "run", command=command, settings=settings):
        pass
    (tmp_path / "run/records.jsonl").unlink()
    page = write_report([tmp_path / "run"], tmp_path / f"page.{ending}").read_text()
    assert f"This run is not finished. Missing: {said}" in page
    if command.split()[1] in ("shortcuts", "memorization"):
        assert NOT_BEGUN in page


def test_a_directory_that_was_killed_before_it_was_a_run_is_called_that(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").touch()
    with pytest.raises(InputError, match="found one that stopped before it began"):
        write_report([tmp_path / "run"], tmp_path / "page.md")
