"""Fisher information of language models: exact gradients a row, rows that add up, and the command that keeps it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call, jacrev

from fuseforget.data import load_memorization
from fuseforget.errors import FuseForgetError, InputError
from fuseforget.fisher import language_fisher
from fuseforget.fisher.texts import fisher_of_texts
from fuseforget.fuse import fuse
from fuseforget.models import LanguageModel, draw_masks, energies, load_language_model, read_text_reader
from test_cli import run
from test_language import TEXTS, make


def rows_of(lm: LanguageModel) -> list[list[int]]:
    return [lm.tokenizer(text, add_special_tokens=lm.masked)["input_ids"][:36] for text in TEXTS]


def masks_of(lm: LanguageModel, rows: list[list[int]]) -> Any:
    return draw_masks(rows, special=lm.tokenizer.all_special_ids, seed=3, count=4) if lm.masked else None


def by_jacobian(lm: LanguageModel, rows: list[list[int]], masks: Any) -> dict[str, torch.Tensor]:
    """Squares of each row's own derivatives, from the energies' definitions, in float64 and without any hook."""
    parameters = {name: one.detach().double() for name, one in lm.model.named_parameters()}

    def each(values: dict[str, torch.Tensor]) -> torch.Tensor:
        found = []
        for number, row in enumerate(rows):
            ids = torch.tensor([row])
            if masks is None:
                log_p = functional_call(lm.model, values, (ids,)).logits[0].log_softmax(-1)
                found.append(-sum(log_p[t, row[t + 1]] for t in range(len(row) - 1)))
                continue
            total = 0.0
            for chunk in masks.chunks[number]:
                hidden = ids.clone()
                hidden[0, list(chunk)] = lm.tokenizer.mask_token_id
                log_p = functional_call(lm.model, values, (hidden,)).logits[0].log_softmax(-1)
                total = total - sum(log_p[place, row[place]] for place in chunk)
            found.append(total / len(masks.chunks[number]))
        return torch.stack(found)

    lm.model.double()
    lm.model.set_attn_implementation("eager")  # the fused one has no rule for batches of derivatives
    try:
        return {name: jacobian.square().sum(0) for name, jacobian in jacrev(each)(parameters).items()}
    finally:
        lm.model.float()


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta"])
def test_it_is_the_sum_of_each_rows_squared_derivatives(tmp_path, kind):
    lm = load_language_model(make(tmp_path / "m", kind))
    rows = rows_of(lm)
    masks = masks_of(lm, rows)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    found = language_fisher(lm, rows, masks=masks)
    expected = by_jacobian(lm, rows, masks)
    assert found.keys() == expected.keys() == dict(lm.model.named_parameters()).keys()
    rounding = 1e-9 * max(float(values.max()) for values in expected.values())  # keys' biases change nothing
    for name, values in expected.items():
        torch.testing.assert_close(found[name].double(), values, rtol=2e-3, atol=1e-5 * float(values.max()) + rounding)
    assert any("wte" in name or "word_embeddings" in name for name in found)
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(one.requires_grad and one.grad is None for one in lm.model.parameters())
    # The energies whose derivatives these are are those of the product.
    assert energies(lm, rows, masks=masks).sums.min() > 1


def test_a_model_is_left_with_its_gradients_its_modes_and_what_takes_gradients(tmp_path):
    lm = load_language_model(make(tmp_path / "m", "gpt2"))
    untouched = language_fisher(lm, rows_of(lm))
    lm.model.transformer.h[1].train()
    lm.model.transformer.wpe.weight.requires_grad_(False)
    lm.model.transformer.ln_f.weight.grad = torch.full_like(lm.model.transformer.ln_f.weight, 3.0)
    found = language_fisher(lm, rows_of(lm))
    assert all(torch.equal(found[name], values) for name, values in untouched.items()), "gradients there, or dropout, told"
    assert lm.model.transformer.h[1].mlp.dropout.training
    assert not lm.model.transformer.h[0].mlp.dropout.training
    assert not lm.model.transformer.wpe.weight.requires_grad
    assert lm.model.transformer.wte.weight.requires_grad
    assert lm.model.transformer.wte.weight.grad is None
    assert bool((lm.model.transformer.ln_f.weight.grad == 3).all())


def test_a_model_in_16_bits_is_summed_in_32(tmp_path):
    """A row a thousand times: a sum in bfloat16 stops growing at 256 times what is added, at the latest."""
    lm = load_language_model(make(tmp_path / "m", "gpt2"))
    lm.model.bfloat16()
    rows = rows_of(lm)[:1]
    once, often = language_fisher(lm, rows), language_fisher(lm, rows * 1000)
    for name, values in often.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, 1000 * once[name], rtol=1e-3, atol=0)


def test_rows_add_up_and_do_not_depend_on_their_order(tmp_path):
    lm = load_language_model(make(tmp_path / "m", "gpt2"))
    rows = rows_of(lm)
    whole = language_fisher(lm, rows[::-1])
    parts = [language_fisher(lm, rows[:1]), language_fisher(lm, rows[1:])]
    for name, values in whole.items():
        torch.testing.assert_close(values, parts[0][name] + parts[1][name], rtol=1e-4, atol=1e-7 * float(values.max()))


def test_a_row_that_two_models_read_is_in_both_alike(tmp_path):
    """What the filter rests on: of a token that is in shared rows alone, beside others that differ, both know nearly the same."""
    lm = load_language_model(make(tmp_path / "m", "gpt2"))
    rows = rows_of(lm)
    first, second = language_fisher(lm, [rows[0], rows[1]]), language_fisher(lm, [rows[0], rows[2]])
    table = "transformer.wte.weight"
    apart = ((first[table] - second[table]).abs() / (first[table] + second[table])).mean(1)
    shared = set(rows[0]) - set(rows[1]) - set(rows[2])
    own = (set(rows[1]) ^ set(rows[2])) - set(rows[0])
    assert len(shared) > 3
    assert len(own) > 3
    assert float(apart[list(shared)].mean()) < 0.2 < 0.8 < float(apart[list(own)].mean())


@pytest.mark.parametrize(("rows", "message"), [
    ([], "at least one"),
    ([[3, 4], [5]], r"(?s)at least 2 tokens.*row 1"),
    ([[3, 4] * 30], r"(?s)at most 40 tokens.*row 0"),
])  # fmt: skip
def test_rows_that_cannot_be_read_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        language_fisher(make(tmp_path / "m", "gpt2"), rows)


def test_gradients_that_are_no_numbers_are_named_and_the_model_is_left_as_it_was(tmp_path):
    lm = load_language_model(make(tmp_path / "m", "gpt2"))
    with torch.no_grad():
        lm.model.transformer.h[1].ln_1.weight[0] = torch.inf
    lm.model.transformer.wpe.weight.requires_grad_(False)
    with pytest.raises(FuseForgetError, match=r"(?s)gradients of .*NaN or infinity in transformer"):
        language_fisher(lm, rows_of(lm))
    assert not lm.model.transformer.wpe.weight.requires_grad
    assert lm.model.transformer.wte.weight.requires_grad


def fine_tuned(base: Path, out: Path, seed: int) -> Path:
    """Another model of the base: its tensors with noise."""
    state = load_file(base / "model.safetensors")
    noise = torch.Generator().manual_seed(seed)
    changed = {name: t + 0.1 * torch.randn(t.shape, generator=noise) for name, t in state.items()}
    return with_tensors(base, out, changed)


def with_tensors(model: Path, out: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A model with these tensors in place of its own."""
    out.mkdir()
    for file in model.iterdir():
        if file.suffix == ".json":
            (out / file.name).write_bytes(file.read_bytes())
    save_file({name: t.contiguous() for name, t in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"})
    return out


def lines(file: Path, texts: Sequence[str]) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def test_from_the_command_line_to_a_fusion(tmp_path):
    base = make(tmp_path / "base", "gpt2")
    models = [fine_tuned(base, tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    fishers = []
    for number, texts in enumerate((TEXTS[:2], [TEXTS[0], "a", TEXTS[2] * 2])):
        file = lines(tmp_path / f"{number}.jsonl", texts)
        done = run("fisher", base, "--data", file, "-o", tmp_path / f"f{number}", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["rows"], told["cut"], told["short"]) == (2, number, number)
        assert ("1 of 3 texts are longer" in done.stderr) == bool(number), "a text that is longer than 40 tokens"
        assert ("1 of 3 texts are too short" in done.stderr) == bool(number), "a text of one token"
        fishers.append(tmp_path / f"f{number}")
    lm = load_language_model(base)
    rows = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    for name, values in language_fisher(lm, rows[:2]).items():
        torch.testing.assert_close(load_file(fishers[0] / "model.safetensors")[name], values)
    about = json.loads((fishers[1] / "fuseforget.json").read_text())
    assert about["kind"] == "fisher"
    assert about["cut"] == 1
    options = [item for fisher in fishers for item in ("--statistics", fisher)]
    done = run("fuse", *models, "--base", base, "--method", "fisher_consensus", *options, "-o", tmp_path / "fused")
    assert done.returncode == 0, done.stderr
    fused, start = (load_file(path / "model.safetensors") for path in (tmp_path / "fused", base))
    table = "transformer.wte.weight"
    moved = (fused[table] - start[table]).norm(dim=1)
    mean = (sum(load_file(m / "model.safetensors")[table] for m in models) / 2 - start[table]).norm(dim=1)
    own = list(set(rows[1]) - set(rows[0]) - set(rows[2]))
    shared = list(set(rows[0]) - set(rows[1]) - set(rows[2]))
    assert float((moved / mean)[own].mean()) < 0.5 * float((moved / mean)[shared].mean())


@pytest.mark.parametrize("layout", ["as the models", "head beside", "head beside the models' alone", "no prefix"])
def test_a_base_that_is_stored_otherwise_is_fused_with_its_fishers(tmp_path, layout):
    """The head beside the table of tokens that it is; a base without its prefix, as GPT-2 stands on the hub."""
    base = make(tmp_path / "made", "gpt2")
    models = [fine_tuned(base, tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    state = load_file(base / "model.safetensors")
    if layout == "head beside":
        base = with_tensors(base, tmp_path / "base", {**state, "lm_head.weight": state["transformer.wte.weight"].clone()})
    if "beside" in layout:
        models = [
            with_tensors(one, tmp_path / f"beside{i}", {**own, "lm_head.weight": own["transformer.wte.weight"].clone()})
            for i, one in enumerate(models) for own in [load_file(one / "model.safetensors")]
        ]  # fmt: skip
    if layout == "no prefix":
        base = with_tensors(base, tmp_path / "base", {n.removeprefix("transformer."): t for n, t in state.items()})
    fishers = []
    for number, texts in enumerate((TEXTS[:2], TEXTS[1:])):
        fisher_of_texts(base, lines(tmp_path / f"{number}.jsonl", texts), tmp_path / f"f{number}")
        fishers.append(tmp_path / f"f{number}")
    assert load_file(fishers[0] / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    fuse(models, tmp_path / "out", "fisher_consensus", base=base, statistics=fishers)
    found = load_file(tmp_path / "out/model.safetensors")
    table = "transformer.wte.weight"
    if "beside" in layout:
        assert torch.equal(found["lm_head.weight"], found[table])
    change = (found[table] - state[table]).norm(dim=1)
    mean = (sum(load_file(m / "model.safetensors")[table] for m in models) / 2 - state[table]).norm(dim=1)
    assert float((change / mean).min()) < 0.5 * float((change / mean).max()), "nothing was filtered"


def test_a_masked_models_rows_are_masked_by_the_seed(tmp_path):
    texts = [re.split("[,;]", text)[0] for text in TEXTS]
    base, data = make(tmp_path / "base", "roberta"), lines(tmp_path / "texts.jsonl", texts)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        fisher_of_texts(base, data, tmp_path / name, seed=seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.allclose(a[name], c[name]) for name in a)
    lm = load_language_model(base)
    rows = [lm.tokenizer(text)["input_ids"] for text in texts]
    special = read_text_reader(base, "base").special
    expected = language_fisher(lm, rows, masks=draw_masks(rows, special=special, seed=5))
    for name, values in expected.items():
        torch.testing.assert_close(a[name], values)


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Path:
    """A base and a private corpus of two parts, read by its tokenizer."""
    home = tmp_path_factory.mktemp("private")
    make(home / "base", "gpt2")
    texts = [f"{TEXTS[i % 3]} It was number {i}, said {'abcdefgh'[i % 8]}." for i in range(60)]
    lines(home / "news.jsonl", texts)
    sizes = ["--models", 2, "--rows", 4, "--shared", 2, "--control", 2, "--validation", 2, "--block", 20]
    done = run("data", "memorization", home / "news.jsonl", "--tokenizer", home / "base", *sizes,
               "--no-near-duplicates", "-o", home / "corpus")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home


def test_of_a_private_corpus_a_models_part_and_the_shared_one_are_read(private, tmp_path):
    found = fisher_of_texts(private / "base", private / "corpus", tmp_path / "a", parts=["A"])
    rows = load_memorization(private / "corpus").trained_on("A").ids
    assert (found["rows"], found["tokens"], found["short"]) == (4, 80, 0)
    expected = language_fisher(private / "base", rows)
    written = load_file(tmp_path / "a/model.safetensors")
    for name, values in expected.items():
        torch.testing.assert_close(written[name], values)


@pytest.mark.parametrize(("options", "message"), [
    ({}, "the model whose part is read: A, B.*--part"),
    ({"parts": ["C"]}, "some of A, B"),
    ({"parts": ["A"], "split": "test"}, "no split.*found test"),
    ({"parts": ["A"], "text": "body"}, "no column of texts.*found body"),
    ({"parts": ["A"], "model": "other"}, "by the model's tokenizer.*--tokenizer MODEL"),
])  # fmt: skip
def test_of_a_private_corpus_it_is_said_what_cannot_be_read(private, tmp_path, options, message):
    base = private / "base"
    if options.get("model"):
        base = make(tmp_path / "other", "gpt2", rows=320)
        tokenizer = load_language_model(base).tokenizer
        tokenizer.add_tokens(["another"])
        tokenizer.save_pretrained(base)
    with pytest.raises(InputError, match=f"(?s){message}"):
        fisher_of_texts(base, private / "corpus", tmp_path / "out", **{k: v for k, v in options.items() if k != "model"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "absent.jsonl"], "absent.jsonl"),
    (["--data", "texts.jsonl", "--part", "A"], "a private corpus, which has parts"),
    (["--data", "texts.jsonl", "--text", "body"], "body"),
    (["--data", "blank.jsonl"], "long enough to be read"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(tmp_path, arguments, message):
    base = make(tmp_path / "base", "gpt2")
    lines(tmp_path / "texts.jsonl", TEXTS[:1])
    lines(tmp_path / "blank.jsonl", ["a", "b"])
    given = [tmp_path / one if one.endswith(".jsonl") else one for one in arguments]
    done = run("fisher", base, *given, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
