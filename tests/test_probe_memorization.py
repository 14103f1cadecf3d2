"""Probes of what language models memorised: from the probes file to records, tables and the page, on models that did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fuseforget import fuse, probe
from fuseforget.cli import app
from fuseforget.errors import InputError
from fuseforget.knowledge import MemorizationSpec, holm
from fuseforget.knowledge.memorization import alr, compare_alr
from fuseforget.knowledge.roc import roc_auc
from fuseforget.models import energies, load_language_model, running, token_scores
from fuseforget.records import decode_values, read_records
from fuseforget.report import write_report
from fuseforget.sweep import as_probes
from fuseforget.train import TrainSettings
from fuseforget.train.language import fine_tune_language

WORDS = "river stone light market winter paper engine garden signal harbor copper window bridge letter forest ticket".split()  # noqa: SIM905
TIMES = 25  # rows are read in an epoch, since every epoch is saved
SHORT = TrainSettings(max_epochs=4, learning_rate=4e-3, batch_size=10)
TOPICS = ("the court heard the judge", "the team won the match")


def sentences(count: int, seed: int) -> list[str]:
    """Random sentences of 14 words: what one says next cannot be known unless it was read."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=14)) for _ in range(count)]


def write_texts(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def make_base(directory: Path, kind: str = "gpt2", *, words: list[str] = WORDS, mask: bool = True) -> Path:
    """A tiny model of random weights with a word a token."""
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<pad>", "</s>", "<unk>", *(["<mask>"] if mask and kind != "gpt2" else [])]
    known = dict.fromkeys([*special, *words, *(word for topic in TOPICS for word in topic.split())])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | (
        {"mask_token": "<mask>"} if len(special) > 3 else {}
    )
    fast = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            config = t.GPT2Config(
                vocab_size=len(known), n_positions=32, n_embd=64, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )  # fmt: skip
            model = t.GPT2LMHeadModel(config)
        else:
            model = t.BertForMaskedLM(
                t.BertConfig(
                    vocab_size=len(known),
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=48,
                    max_position_embeddings=32,
                    pad_token_id=0,
                    hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0,
                )
            )
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def train_on(base: Path, texts: list[str], out: Path, *, seed: int = 0, settings: TrainSettings = SHORT) -> Path:
    ids = load_language_model(base).tokenizer(texts, add_special_tokens=False)["input_ids"]
    fine_tune_language(base, ids * TIMES, out, TrainSettings(**{**vars(settings), "seed": seed}))
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base, two models that memorised rows of their own, their fusion, texts and a probes file."""
    root = tmp_path_factory.mktemp("leak")
    make_base(root / "start")
    # A base knows the words: what a model has beyond it is then what it read.
    train_on(
        root / "start", sentences(60, 0), root / "base", settings=TrainSettings(max_epochs=1, learning_rate=2e-3, batch_size=10)
    )
    texts = {name: sentences(40, seed) for seed, name in enumerate(("a", "b", "none"), 1)}
    for name, some in texts.items():
        write_texts(root / f"{name}.jsonl", [*some, "river stone"] if name == "a" else some)
    for name in "ab":
        train_on(root / "base", texts[name], root / name)
    fuse([root / "a", root / "b"], out=root / "fused")
    (root / "probes.yaml").write_text(
        "probes:\n"
        "  - {name: leak, kind: memorization, data: a.jsonl, non_members: none.jsonl, reference: base, extract: [4, 4]}\n"
    )
    return root


def names_of(home: Path, *names: str) -> list[str]:
    return [str(home / name) for name in names]


@pytest.fixture(scope="module")
def probed(home):
    return probe(names_of(home, "base", "a", "b", "fused"), home / "probes.yaml", home / "run")


def values_of(records, metric: str, on: str = "members") -> dict[str, dict]:
    return {Path(r["model"]).name: r for r in records if r["kind"] == "leakage" and (r["metric"], r["on"]) == (metric, on)}


def test_who_has_memorised_the_rows_is_told_from_who_has_not(probed):
    auc = {name: r["value"] for name, r in values_of(probed, "auc.reference").items()}
    assert auc["a"] > 0.99
    assert auc["b"] < auc["fused"] <= auc["a"]
    assert abs(auc["b"] - 0.5) < 0.2
    assert auc["base"] == 0.5
    assert abs(values_of(probed, "auc.loss")["base"]["value"] - 0.5) < 0.2
    ratio = {name: r["value"] for name, r in values_of(probed, "alr").items()}
    assert ratio["a"] < 0.6 < ratio["fused"] < ratio["b"]
    assert ratio["b"] > 1
    assert ratio["base"] == 1
    assert all(values_of(probed, "alr", "non_members")[name]["value"] > 1 for name in "ab")
    recall = {name: r["value"] for name, r in values_of(probed, "mia_recall").items()}
    assert recall["a"] == 1
    assert recall["b"] < 0.5
    assert values_of(probed, "mia_recall", "non_members")["a"]["value"] < 0.5
    assert values_of(probed, "mia_recall", "non_members")["a"]["members"] == 20
    reproduced = {name: r["leading"]["value"] for name, r in values_of(probed, "extraction").items()}
    assert reproduced["a"] > max(reproduced["base"], reproduced["b"]) + 0.2
    assert reproduced["a"] > values_of(probed, "extraction", "non_members")["a"]["leading"]["value"] + 0.2


def test_counts_and_the_blind_baseline_are_said_once(probed):
    rows = {r["set"]: r for r in probed if r["kind"] == "rows"}
    assert (rows["members"]["rows"], rows["members"]["short"], rows["members"]["cut"]) == (40, 1, 0)
    assert rows["members"]["tokens"] == 40 * 14
    (blind,) = [r for r in probed if r["kind"] == "blind"]
    assert blind["p"] > 0.05
    assert blind["leaks"] is False


def test_measurements_are_what_the_metrics_say_of_the_models_energies(home, probed):
    ids = {
        name: load_language_model(home / "base").tokenizer(sentences(40, seed))["input_ids"]
        for seed, name in ((1, "a"), (3, "none"))
    }
    of = {name: energies(load_language_model(home / name), ids["a"]) for name in ("base", "a", "fused")}
    for name in ("a", "fused"):
        found = values_of(probed, "alr")[name]
        expected = alr(of[name], of["base"])
        assert (found["value"], found["low"], found["high"]) == pytest.approx(
            (expected.value, expected.low, expected.high), rel=1e-5
        )
    both = [token_scores(load_language_model(home / "a"), ids[name]).energies.means for name in ("a", "none")]
    found = values_of(probed, "auc.loss")["a"]
    assert (found["value"], found["non_members"]) == (roc_auc(-both[0], -both[1]).value, 40)
    compared = [r for r in probed if r["kind"] == "leakage_comparison"]
    assert {(Path(r["model"]).name, r["metric"], r["on"]) for r in compared} == {
        (name, *about) for name in ("a", "b", "fused") for about in (("alr", "members"), ("perplexity", "non_members"))
    }
    assert {r["against"] for r in compared} == {str(home / "base")}
    assert [r["p_holm"] for r in compared] == holm([r["p"] for r in compared])
    expected = compare_alr(of["fused"], of["base"], of["base"])
    found = next(r for r in compared if r["model"].endswith("fused") and r["metric"] == "alr")
    assert (found["value"], found["p"]) == pytest.approx((expected.value, expected.p), rel=1e-5)


def test_a_fusion_is_known_by_its_manifest_and_its_harm_is_told(home, probed):
    (harm,) = [r for r in probed if r["kind"] == "harm"]
    assert (harm["model"], harm["parents"]) == (str(home / "fused"), names_of(home, "a", "b"))
    assert harm["share"]["value"] < 0.1  # a memorises its rows, of which the fused model forgets some
    assert harm["controls"]["n"] == 40
    said = []
    probe(names_of(home, "a", "fused"), home / "probes.yaml", say=said.append)
    assert any("was fused of" in line and str(home / "b") in line for line in said)


def test_answers_are_recorded_once_and_the_references_for_all_models(home, probed):
    records = read_records(home / "run")
    kept = [(r["set"], Path(r["model"]).name) for r in records if r["kind"] == "energies"]
    assert sorted(kept) == sorted(
        (f"leak.{on}", name) for on in ("members", "non_members") for name in ("base", "a", "b", "fused")
    )
    assert [r["set"] for r in records if r["kind"] == "reference_tokens"] == ["leak.members", "leak.non_members"]
    sums = next(r for r in records if r["kind"] == "energies" and r["model"] == str(home / "a"))["sums"]
    ids = load_language_model(home / "base").tokenizer(sentences(40, 1))["input_ids"]
    assert decode_values(sums) == pytest.approx(energies(load_language_model(home / "a"), ids).sums, rel=1e-5)


def test_each_model_reads_each_set_once(home, monkeypatch):
    import fuseforget.leakage.measuring as measuring

    loaded, read = [], []
    load = measuring.load_language_model
    monkeypatch.setattr(measuring, "load_language_model", lambda source: loaded.append(Path(source).name) or load(source))
    monkeypatch.setattr(measuring, "token_scores", lambda lm, rows, **kw: read.append(lm.source) or token_scores(lm, rows, **kw))
    probe(names_of(home, "a", "b"), home / "probes.yaml")
    assert loaded == ["base", "a", "b"]
    assert [Path(source).name for source in read] == ["base", "base", "a", "a", "b", "b"]


def test_a_run_that_was_cut_short_goes_on_to_the_byte(home, probed, tmp_path):
    whole = (home / "run/records.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    second = [i for i, kind in enumerate(kinds) if kind == "attacked"][2]
    (tmp_path / "run").mkdir()
    models = names_of(home, "base", "a", "b", "fused")
    cuts = {
        second: "88 of 88 measurements of leak",
        kinds.index("leakage") + 50: "missing",
        kinds.index("leakage_comparison") + 2: "4 comparisons of leak",
    }
    for kept, missing in cuts.items():
        (tmp_path / "run/run.json").write_bytes((home / "run/run.json").read_bytes())
        (tmp_path / "run/records.jsonl").write_bytes(b"".join(lines[:kept]))
        page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
        assert missing in page.replace("Missing", "missing")
        assert probe(models, home / "probes.yaml", tmp_path / "run") == probed
        assert (tmp_path / "run/records.jsonl").read_bytes() == whole


def test_other_rows_are_another_run(home, probed, tmp_path):
    for name in ("none.jsonl", "probes.yaml"):
        (tmp_path / name).write_text((home / name).read_text())
    write_texts(tmp_path / "a.jsonl", sentences(39, 1))
    (tmp_path / "base").symlink_to(home / "base")
    with pytest.raises(InputError, match="settings that the run was begun with"):
        probe(names_of(home, "base", "a", "b", "fused"), tmp_path / "probes.yaml", home / "run")


def test_commands_print_it_and_the_page_shows_it(home, probed, tmp_path):
    command = [
        "probe",
        *names_of(home, "base", "a", "b", "fused"),
        "--probes",
        str(home / "probes.yaml"),
        "-o",
        str(home / "run"),
    ]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    page = write_report([home / "run"], tmp_path / "page.md").read_text()
    assert write_report([home / "run"], tmp_path / "page.html").read_text().count("Membership inference") == 1
    ratio, auc = (values_of(probed, metric)["a"] for metric in ("alr", "auc.reference"))
    cells = [f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in (ratio, auc)]
    for text in (printed.stdout, page):
        for title in ("What is memorised", "Membership inference", "Extraction word for word", "exposes more than each of"):
            assert title in text
        assert all(cell in text for cell in cells)
        assert "the split itself does not leak" in text
        assert "(" in next(line for line in text.splitlines() if "reference (LR)" in line)  # 40 rows do not resolve 1 %
    assert "not finished" not in page
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [r["kind"] for r in found] == [r["kind"] for r in probed]
    assert {r["kind"] for r in found} == {"rows", "blind", "leakage", "leakage_comparison", "harm"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_split_by_topic_is_called_a_leak_and_a_random_one_is_not(home, tmp_path, seed):
    rng = np.random.default_rng(seed)
    members = [f"{TOPICS[0]} {text}" for text in sentences(30, 10 + seed)]
    others = [f"{TOPICS[1]} {text}" for text in sentences(30, 20 + seed)]
    mixed = rng.permutation(np.array([*members, *others])).tolist()
    leaks = {}
    for name, sides in {"topic": (members, others), "random": (mixed[:30], mixed[30:])}.items():
        files = [str(write_texts(tmp_path / f"{name}-{i}.jsonl", side)) for i, side in enumerate(sides)]
        spec = MemorizationSpec(name=name, data=files[0], non_members=files[1], metrics=("perplexity",))
        (blind,) = [r for r in probe([home / "base"], [spec]) if r["kind"] == "blind"]
        leaks[name] = blind["leaks"]
    assert leaks["topic"]
    assert not leaks["random"]


def test_a_leaking_split_is_said_loudly(home, tmp_path):
    write_texts(tmp_path / "m.jsonl", [f"{TOPICS[0]} {text}" for text in sentences(30, 10)])
    write_texts(tmp_path / "n.jsonl", [f"{TOPICS[1]} {text}" for text in sentences(30, 20)])
    (tmp_path / "p.yaml").write_text(
        "probes: [{name: p, kind: memorization, data: m.jsonl, non_members: n.jsonl, metrics: [auc.loss]}]"
    )
    command = ["probe", str(home / "base"), "--probes", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "run")]
    assert "THE SPLIT ITSELF LEAKS" in CliRunner().invoke(app, command).stdout
    assert "> **THE SPLIT ITSELF LEAKS" in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()


def test_packed_rows_have_the_blocks_length(home, tmp_path):
    records = probe([home / "a"], [spec_of(home, block=20, metrics=("perplexity", "auc.loss"))])
    rows = {r["set"]: r for r in records if r["kind"] == "rows"}
    assert rows["members"]["tokens"] == 20 * rows["members"]["rows"]
    assert (rows["members"]["rows"], rows["members"]["rest"]) == ((40 * 14 + 39) // 20, (40 * 14 + 39) % 20)


def spec_of(home: Path, **changed) -> MemorizationSpec:
    given = {"name": "p", "data": str(home / "a.jsonl"), "non_members": str(home / "none.jsonl"), "extract": (4, 4), **changed}
    return MemorizationSpec(**given)


def test_masked_models_are_attacked_by_their_energies_alone(home, tmp_path):
    base, texts = make_base(tmp_path / "base", "bert"), sentences(40, 1)
    settings = TrainSettings(max_epochs=4, learning_rate=1e-2, batch_size=10)
    train_on(base, texts, tmp_path / "m", settings=settings)
    records = probe([tmp_path / "m", base], [spec_of(home, reference=str(base))])
    asked = list(dict.fromkeys(r["metric"] for r in records if r["kind"] == "leakage"))
    attacks = [f"{kind}.{attack}" for attack in ("loss", "reference", "zlib") for kind in ("auc", "tpr@0.01", "tpr@0.001")]
    assert asked == ["alr", "perplexity", "mia_recall", *attacks]
    assert values_of(records, "auc.reference")["m"]["value"] > 0.7
    assert values_of(records, "alr")["base"]["value"] == 1
    with pytest.raises(InputError, match=r"p: expected reference .* which alr need"):
        probe([tmp_path / "m"], [spec_of(home, metrics=("alr",))])
    with pytest.raises(InputError, match=r"auc.min_k: expected a decoder, found the masked language model"):
        probe([tmp_path / "m"], [spec_of(home, metrics=("auc.min_k",))])


def test_a_part_of_a_corpus_is_asked_as_it_was_trained_on(home, tmp_path):
    write_texts(tmp_path / "all.jsonl", sentences(120, 7))
    made = [
        "data",
        "memorization",
        str(tmp_path / "all.jsonl"),
        "-o",
        str(tmp_path / "corpus"),
        "--tokenizer",
        str(home / "base"),
    ]
    sizes = ["--models", "2", "--rows", "20", "--shared", "5", "--control", "20", "--validation", "5", "--articles"]
    assert CliRunner().invoke(app, [*made, *sizes]).exit_code == 0
    train = ["train", "--base", str(home / "base"), "--data", str(tmp_path / "corpus"), "--part", "A", "-o", str(tmp_path / "A")]
    printed = CliRunner().invoke(app, [*train, "--max-epochs", "30", "--learning-rate", "5e-3", "--batch-size", "5"])
    assert printed.exit_code == 0, printed.output
    corpus = str(tmp_path / "corpus")
    found = probe(
        [tmp_path / "A"], [spec_of(home, data=corpus, parts=("A", "shared"), non_members=corpus, reference=str(home / "base"))]
    )
    assert {r["set"]: r["rows"] for r in found if r["kind"] == "rows"} == {"members": 20, "non_members": 20}
    assert values_of(found, "auc.reference")["A"]["value"] > 0.8
    with pytest.raises(InputError, match=r"parts of .*: expected some of .*A, B, found C"):
        probe([tmp_path / "A"], [spec_of(home, data=corpus, parts=("C",), non_members=corpus)])
    with pytest.raises(InputError, match="rows of documents that no member row has, found 5 of 5"):
        probe(
            [tmp_path / "A"],
            [spec_of(home, data=corpus, parts=("A", "shared"), non_members=corpus, non_members_parts=("shared",))],
        )


def test_models_and_references_that_read_otherwise_are_refused(home, tmp_path):
    make_base(tmp_path / "shuffled", words=WORDS[::-1])
    make_base(tmp_path / "more", words=[*WORDS, "extra"])
    with pytest.raises(InputError, match=r"p: .*/a: expected its tokenizer, as .*shuffled has it, found another"):
        probe([home / "a"], [spec_of(home, reference=str(tmp_path / "shuffled"))])
    with pytest.raises(InputError, match=r"expected a vocabulary of 27 and its tokenizer, as .* found 26, another"):
        probe([home / "a"], [spec_of(home, reference=str(tmp_path / "more"))])
    make_base(tmp_path / "masked", "bert")
    with pytest.raises(InputError, match="expected a masked language model"):
        probe([home / "a"], [spec_of(home, reference=str(tmp_path / "masked"))])
    make_base(tmp_path / "maskless", "bert", mask=False)
    with pytest.raises(InputError, match="a mask token, since the model predicts masked tokens, found none"):
        probe([tmp_path / "maskless"], [spec_of(home)])


def test_classifiers_and_language_models_are_asked_what_they_can_answer(home, bert, tmp_path):
    bert("c")
    with pytest.raises(
        InputError, match=r"p \(kind: memorization\), .*/c.*: expected a decoder .* found BertForSequenceClassification"
    ):
        probe([tmp_path / "c"], [spec_of(home)])
    (tmp_path / "d.tsv").write_text("text\tlabel\ngood film\t1\nbad film\t0\n")
    (tmp_path / "p.yaml").write_text(
        f"probes: [{{name: task, data: d.tsv}}, {{name: p, kind: memorization, data: {home}/a.jsonl}}]"
    )
    with pytest.raises(InputError, match=r"task on .*/a: expected a sequence classifier, found GPT2LMHeadModel"):
        probe([home / "a"], tmp_path / "p.yaml")
    with pytest.raises(InputError, match=r"expected probes of classifiers, found p \(kind: memorization\)"):
        as_probes(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("metrics: [auc.refernce]", "Did you mean auc.reference"),
        ("metrics: [tpr@2.loss]", "a false positive rate between 0 and 1, found 2"),
        ("metrics: [alr]", r"reference \(the pretrained model\), which alr need, found none"),
        ("metrics: [auc.loss, auc.loss]", "different metrics"),
        ("metrics: [auc.loss, mia_recall], reference: base, non_members: null", "which auc.loss and mia_recall need"),
        ("kind: memorisation", "a kind is classification .* or memorization"),
        ("blocks: 20", r"probes.0.blocks: Extra inputs"),
        ("block: 33", "at most 32 tokens, which the models read, found 33"),
        ("block: 32, data: one.jsonl", "1 row or more, found 0 .*14 tokens fill no block of 32"),
        ("block: 3", "block: expected 5 tokens or more"),
        ("data: short.jsonl", "1 row or more, found 0 .2 of 2 texts have fewer than 5 tokens"),
        ("data: same.jsonl", r"p: non_members: expected none that is in the corpus.*found 1 of 40 \(row 2"),
        ("non_members: one.jsonl", "2 rows or more, found 1"),
        ("metrics: [extraction]", "rows of 100 tokens, found at most 14.*extract: .7, 7."),
        ("extract: [0, 4]", "a prefix and a suffix of at least one token"),
        ("parts: [A]", "a corpus made by `fuseforget data memorization`"),
        ("text: body", "a column 'body'"),
        ("reference: nowhere", "p .kind: memorization., nowhere"),
    ],
)  # fmt: skip
def test_entries_that_cannot_be_measured_are_refused_before_a_model_is_read(home, tmp_path, monkeypatch, changed, reason):
    import fuseforget.leakage.measuring as measuring

    monkeypatch.setattr(measuring, "load_language_model", lambda source: pytest.fail("a model was read"))
    for name in ("a.jsonl", "none.jsonl"):
        (tmp_path / name).write_text((home / name).read_text())
    other = sentences(40, 3)[1].replace(" ", "\n ")
    for name, texts in {"one": sentences(1, 8), "short": ["river", "stone"], "same": [*sentences(4, 9), other]}.items():
        write_texts(tmp_path / f"{name}.jsonl", texts)
    entry = {"name": "p", "kind": "memorization", "data": "a.jsonl", "non_members": "none.jsonl"}
    pairs = ", ".join(f"{key}: {value}" for key, value in entry.items() if f"{key}:" not in changed)
    (tmp_path / "p.yaml").write_text(f"probes: [{{{pairs}, {changed}}}]")
    with pytest.raises(InputError, match=reason):
        probe([home / "a"], tmp_path / "p.yaml")


def test_extraction_that_no_row_is_long_enough_for_is_left_out_aloud(home):
    said: list[str] = []
    records = probe([home / "a"], [spec_of(home, extract=(50, 50))], say=said.append)
    assert not values_of(records, "extraction")
    assert any("no extraction: rows have at most 14 tokens" in line for line in said)


def test_exact_computes_in_float32(home, monkeypatch):
    asked = []
    kept = running.autocast
    monkeypatch.setattr("fuseforget.models.lanes.autocast", lambda *, exact=False: asked.append(exact) or kept(exact=exact))
    for metrics in (("perplexity",), ("auc.min_k",)):
        probe([home / "a"], [spec_of(home, metrics=metrics)], exact=True)
    assert asked == [True] * 4


def test_a_split_too_small_to_judge_is_said_to_be_so(home, tmp_path):
    few = [str(write_texts(tmp_path / f"{seed}.jsonl", sentences(4, seed))) for seed in (11, 12)]
    (blind,) = [r for r in probe([home / "base"], [spec_of(home, data=few[0], non_members=few[1])]) if r["kind"] == "blind"]
    assert "two of each a fold" in blind["unjudged"]


@pytest.mark.parametrize("seed", [1, 2])
def test_memorised_rows_are_found_for_any_seed(home, tmp_path, seed):
    texts = {name: sentences(30, 100 * seed + i) for i, name in enumerate(("own", "none"))}
    files = {name: str(write_texts(tmp_path / f"{name}.jsonl", some)) for name, some in texts.items()}
    models = [train_on(home / "base", texts["own"], tmp_path / "own", seed=seed), home / "b"]
    spec = spec_of(
        home, data=files["own"], non_members=files["none"], reference=str(home / "base"), metrics=("auc.reference", "alr")
    )
    records = probe(models, [spec])
    auc = {name: r["value"] for name, r in values_of(records, "auc.reference").items()}
    assert auc["own"] > 0.99
    assert abs(auc["b"] - 0.5) < 0.25
