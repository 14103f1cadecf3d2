"""Per-example gradients against ordinary backward passes, on several architectures; overlaps against their definition."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fuseforget
from fuseforget.checkpoint.groups import is_numbered, kinds_of, layers_of
from fuseforget.errors import FuseForgetError, InputError
from fuseforget.fisher import (
    Fishers,
    diagonal_fisher,
    fisher_overlap,
    fold_overlap,
    jackknife_interval,
    save_fisher,
    split_half,
)
from fuseforget.fisher.parts import Dense, Use, add_squares, parts_of
from fuseforget.models import Classifier, load_classifier

TEXTS = [
    "a good film", "the plot is dull", "not very moving the film is a bad bad film", "good", "bad",
    "the the the film", "a moving plot is not a bad plot", "very very good film synt", "dull b c a",
]  # fmt: skip
LABELS = [1, 0, 0, 2, 0, 1, 2, 1, 0]
COMMON = {"vocab_size": 30, "num_labels": 3, "pad_token_id": 0}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 42,
}
ARCHITECTURES = {
    "Bert": BERT,
    "Roberta": {**BERT, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1},
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 42},
    "Electra": {**BERT, "embedding_size": 8},
    "Albert": {**BERT, "embedding_size": 8},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 42, "bos_token_id": 2, "eos_token_id": 3},
    "Llama": {**BERT, "num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": 3},
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "eos_token_id": 3, "decoder_start_token_id": 0},
}  # fmt: skip


@pytest.fixture
def tokenizer(bert):
    return load_classifier(bert("words")).tokenizer


def build(architecture: str, tokenizer, seed: int = 0, dtype: torch.dtype = torch.float32) -> Classifier:
    import transformers

    config = getattr(transformers, f"{architecture}Config")(**{**COMMON, **ARCHITECTURES[architecture]})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{architecture}ForSequenceClassification")(config)
        for parameter in model.parameters():  # biases and norms of their own, and no tiny weights
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    tokenizer.pad_token_id = config.pad_token_id
    return Classifier(model.to(dtype), tokenizer, architecture)


def oracle(classifier: Classifier, weights: list[list[float]], texts=TEXTS) -> dict[str, torch.Tensor]:
    """A backward pass for each example and label."""
    model = classifier.model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for text, of_labels in zip(texts, weights, strict=True):
        ids = torch.tensor([classifier.tokenizer(text)["input_ids"]])
        for label, weight in enumerate(of_labels):
            model.zero_grad()
            model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.log_softmax(-1)[0, label].backward()
            for name, p in model.named_parameters():
                if p.grad is not None and weight:
                    total[name] += weight * p.grad.square() / len(texts)
    model.zero_grad()
    return total


def one_hot(labels):
    return [[float(label == y) for label in range(3)] for y in labels]


def assert_same(found, expected, tolerance, rounding):
    """Equal to a share of each tensor's largest value; gradients that are zero but for rounding (a key's bias), of all."""
    largest = max(float(v.max()) for v in expected.values())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        error = float((found[name] - values).abs().max())
        assert error <= tolerance * float(values.max()) + rounding * largest, (name, error, float(values.max()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_the_loop_of_backward_passes(architecture, tokenizer):
    for seed in range(2):
        for dtype, tolerance, rounding in ((torch.float32, 1e-5, 1e-12), (torch.float64, 1e-10, 1e-28)):
            classifier = build(architecture, tokenizer, seed, dtype)
            expected = oracle(classifier, one_hot(LABELS))
            found = diagonal_fisher(classifier, TEXTS, LABELS, token_budget=40)
            assert all(values.dtype == dtype for values in found.values())
            assert_same(found, expected, tolerance, rounding)
            assert sum(float(v.sum()) for v in expected.values()) > 1e-3


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "DistilBert", "Electra", "Albert", "GPT2", "Llama"])
def test_layers_need_no_pass_an_example(architecture, tokenizer):
    with Fishers(build(architecture, tokenizer), TEXTS, LABELS) as fishers:
        assert fishers.slow == ()


@pytest.mark.parametrize("architecture", ["Bert", "GPT2", "T5"])
def test_batches_and_padding_change_nothing(architecture, tokenizer):
    classifier = build(architecture, tokenizer, dtype=torch.float64)
    alone = diagonal_fisher(classifier, TEXTS, LABELS, token_budget=1)
    for budget in (30, 10_000):
        assert_same(diagonal_fisher(classifier, TEXTS, LABELS, token_budget=budget), alone, 1e-10, 1e-28)
    order = [4, 2, 0, 8, 6, 1, 3, 5, 7]
    shuffled = diagonal_fisher(classifier, [TEXTS[i] for i in order], [LABELS[i] for i in order])
    assert_same(shuffled, alone, 1e-10, 1e-28)


def test_the_expected_fisher_weighs_every_label_and_the_sampled_one_tends_to_it(tokenizer):
    classifier = build("Bert", tokenizer, dtype=torch.float64)
    classifier.model.eval()
    with torch.no_grad():
        p = [
            classifier.model(input_ids=torch.tensor([classifier.tokenizer(t)["input_ids"]])).logits[0].softmax(-1).tolist()
            for t in TEXTS
        ]
    expected = diagonal_fisher(classifier, TEXTS, labels_from="expected")
    assert_same(expected, oracle(classifier, p), 1e-10, 1e-28)
    traces = [
        sum(float(v.sum()) for v in diagonal_fisher(classifier, TEXTS, labels_from="sampled", seed=seed).values())
        for seed in range(60)
    ]
    error = np.std(traces, ddof=1) / np.sqrt(len(traces))
    assert abs(np.mean(traces) - sum(float(v.sum()) for v in expected.values())) < 4 * error
    assert len(set(traces)) > 10
    again = [diagonal_fisher(classifier, TEXTS, labels_from="sampled", seed=3, token_budget=budget) for budget in (1, 1000)]
    assert_same(again[0], again[1], 1e-10, 1e-28)


def test_a_model_is_left_as_it_was(tokenizer):
    classifier = build("Bert", tokenizer)
    model = classifier.model.train()
    model.classifier.bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = diagonal_fisher(classifier, TEXTS, LABELS)  # its dropout would make the numbers others
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["classifier.bias"]
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules())
    model.requires_grad_()
    assert_same(found, oracle(classifier, one_hot(LABELS)), 1e-5, 1e-12)


class Scaled(nn.Module):
    """A layer around another, with a parameter of its own and one that it uses past the other's call."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.inner(x) * self.scale + nn.functional.linear(x, self.inner.weight)


class Mixing(nn.Module):
    """A leaf whose output has the examples first, but reads them all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((16,), 0.3))

    def forward(self, x):
        return x * self.weight


def test_what_hooks_cannot_see_takes_an_ordinary_pass(tokenizer):
    """Parameters of a module that is no leaf, a weight used without its module, one tied across sorts of modules."""
    classifier = build("Bert", tokenizer, dtype=torch.float64)
    layers = classifier.model.bert.encoder.layer
    layers[0].output.dense_again = None
    layers[0].attention.output.dense = Scaled(layers[0].attention.output.dense).double()
    layers[1].attention.self.key.weight = layers[1].attention.self.query.weight  # tied, both linear: stays fast
    layers[1].output.LayerNorm.weight = layers[1].attention.self.query.bias  # tied across sorts, both sums over tokens
    layers[0].output.LayerNorm = nn.Sequential(layers[0].output.LayerNorm, Mixing().double())
    with Fishers(classifier, TEXTS, LABELS) as fishers:
        assert fishers.slow == (
            "bert.encoder.layer.0.attention.output.dense.inner.weight",
            "bert.encoder.layer.0.attention.output.dense.scale",
        )
    assert_same(diagonal_fisher(classifier, TEXTS, LABELS, token_budget=60), oracle(classifier, one_hot(LABELS)), 1e-10, 1e-28)


@pytest.mark.parametrize(
    "module", [nn.Conv1d(6, 4, 1), nn.Linear(5, 4), nn.LayerNorm(5), nn.GroupNorm(3, 6), nn.Bilinear(5, 5, 4)]
)
def test_any_leaf_is_differentiated_example_by_example(module):
    torch.manual_seed(1)
    module = module.double()
    inputs = [torch.randn(7, 6, 5, dtype=torch.float64) for _ in range(2 if isinstance(module, nn.Bilinear) else 1)]
    output = module(*inputs)
    gradient = torch.randn_like(output)
    with torch.no_grad():
        parts = parts_of(Use(module, tuple(inputs), {}, gradient))
    for name, parameter in module.named_parameters():
        expected = torch.zeros_like(parameter)
        for row in range(7):
            one = (module(*(x[row : row + 1] for x in inputs)) * gradient[row : row + 1]).sum()
            expected += torch.autograd.grad(one, parameter)[0].square()
        found = torch.zeros_like(parameter)
        with torch.no_grad():
            add_squares(found, [parts[name]])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_uses_of_one_example_are_added_before_they_are_squared():
    total = torch.zeros(2)
    once = Dense(lambda first, end: torch.ones(end - first, 2), 3)
    add_squares(total, [once, once])
    assert total.tolist() == [12.0, 12.0]


def test_bad_input_is_refused(tokenizer):
    classifier = build("Bert", tokenizer)
    for labels, message in (
        ([0] * 8, "one for each of 9 texts, found 8"),
        ([0] * 8 + [3], "0 to 2, the model's, found 3"),
        (None, "found none"),
    ):
        with pytest.raises(InputError, match=message):
            diagonal_fisher(classifier, TEXTS, labels)
    with pytest.raises(InputError, match="at least one"):
        diagonal_fisher(classifier, [], [])
    with pytest.raises(InputError, match="given, sampled, expected, found 'guessed'"):
        diagonal_fisher(classifier, TEXTS, LABELS, labels_from="guessed")
    classifier.model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = torch.nan
    with pytest.raises(FuseForgetError, match=r"NaN or infinity in bert\.embeddings"):
        diagonal_fisher(classifier, TEXTS, LABELS)
    classifier.model.config.problem_type = "multi_label_classification"
    with pytest.raises(InputError, match="one of several labels a text, found 3 labels, multi_label"):
        diagonal_fisher(classifier, TEXTS, LABELS)


def random_fisher(seed, zero=()):
    generator = torch.Generator().manual_seed(seed)
    names = {
        "m.embed.weight": (5, 3),
        "m.layers.0.q.weight": (3, 3),
        "m.layers.1.q.weight": (3, 3),
        "m.layers.1.q.bias": (3,),
        "head.weight": (2, 3),
    }
    return {n: torch.zeros(s) if n in zero else torch.rand(s, generator=generator) ** 4 for n, s in names.items()}


def test_an_overlap_is_one_minus_the_frechet_distance():
    for seed in range(5):
        first, second = random_fisher(seed), random_fisher(seed + 100)
        a, b = (torch.cat([v.double().flatten() for v in f.values()]) for f in (first, second))
        a, b = a / a.sum(), b / b.sum()
        distance = 0.5 * (a + b - 2 * (a * b).sqrt()).sum()
        found = fisher_overlap(first, second)
        assert found.whole == pytest.approx(1 - float(distance), rel=1e-12)
        assert found.whole == fisher_overlap(second, first).whole
        assert fisher_overlap(first, {n: 7 * v for n, v in first.items()}).whole == pytest.approx(1, rel=1e-7)
        for parts in (found.by_layer, found.by_kind):
            assert sum(p.first_share for p in parts.values()) == pytest.approx(1)
            whole = sum(p.overlap * (p.first_share * p.second_share) ** 0.5 for p in parts.values())
            assert whole == pytest.approx(found.whole)
    left = random_fisher(1, zero=("m.embed.weight", "head.weight"))
    right = random_fisher(2, zero=("m.layers.0.q.weight", "m.layers.1.q.weight", "m.layers.1.q.bias"))
    disjoint = fisher_overlap(left, right)
    assert disjoint.whole == 0
    assert disjoint.by_layer["embeddings"].overlap is None
    with pytest.raises(InputError, match="zeros alone"):
        fisher_overlap(left, {n: torch.zeros_like(v) for n, v in left.items()})
    with pytest.raises(InputError, match="none negative"):
        fisher_overlap(left, {n: -v for n, v in right.items()})
    with pytest.raises(InputError, match=r"head\.weight: \(2, 3\) and None"):
        fisher_overlap(left, {n: v for n, v in right.items() if n != "head.weight"})


def test_folds_are_weighed_by_their_examples_and_left_out_in_turn():
    first, second, counts = [random_fisher(i) for i in range(4)], [random_fisher(i + 9) for i in range(4)], [3, 1, 2, 2]

    def mean(fishers, keep):
        return {n: sum(counts[i] * fishers[i][n].double() for i in keep) for n in fishers[0]}

    found = fold_overlap(first, second, counts)
    assert found.whole == pytest.approx(fisher_overlap(mean(first, range(4)), mean(second, range(4))).whole)
    for out in range(4):
        keep = [i for i in range(4) if i != out]
        assert found.leave_out[out] == pytest.approx(fisher_overlap(mean(first, keep), mean(second, keep)).whole)
    assert split_half(first, counts) == pytest.approx(fisher_overlap(mean(first, (0, 2)), mean(first, (1, 3))).whole)


def test_a_jackknife_covers_a_mean_as_often_as_it_says():
    """Of a mean the delete-a-group interval is the t interval of group means: it covers in 95 % of samples."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        groups = rng.normal(0.5, 0.1, 8)
        low, high = jackknife_interval(groups.mean(), [(groups.sum() - g) / 7 for g in groups])
        covered += low <= 0.5 <= high
    assert 0.935 < covered / 2000 < 0.965


def test_layers_and_kinds_are_read_off_names():
    names = ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.3.attention.self.query.bias",
             "bert.encoder.layer.11.output.LayerNorm.weight", "bert.pooler.dense.weight", "classifier.bias"]  # fmt: skip
    assert list(layers_of(names).values()) == ["embeddings", "layer 3", "layer 11", "pooler", "classifier"]
    kinds = ["embeddings.word_embeddings", "attention.self.query", "output.LayerNorm", "pooler.dense", "classifier"]
    assert list(kinds_of(names).values()) == kinds
    llama = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "score.weight"]
    assert list(layers_of(llama).values()) == ["embeddings", "layer 0", "norm", "score"]
    query, cross = "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.block.0.layer.1.EncDecAttention.q.weight"
    t5 = [f"transformer.{name}" for name in ("shared.weight", query, cross, "encoder.final_layer_norm.weight")]
    assert list(layers_of(t5).values()) == ["embeddings", "encoder.block.0", "decoder.block.0", "final_layer_norm"]
    assert kinds_of(t5)[t5[1]] == "layer.SelfAttention.q"
    for given, expected in ((names, [False, True, True, False, False]), (t5, [False, True, True, False])):
        assert [is_numbered(layer) for layer in layers_of(given).values()] == expected
    assert layers_of(["conv2d.weight", "model.layers.12.experts.3.w1"])["conv2d.weight"] == "conv2d", "a number within a word"


def test_a_saved_fisher_weighs_a_fusion(bert, tmp_path):
    """From the command line, end to end: overlap -o writes checkpoints that `fuse --method fisher --statistics` takes."""
    models = [bert("one", seed=1), bert("two", seed=2)]
    data = tmp_path / "data.tsv"
    data.write_text("text\tlabel\n" + "".join(f"{t}\t{y % 2}\n" for t, y in zip(TEXTS, LABELS, strict=True)))
    run = [sys.executable, "-m", "fuseforget"]
    options = ["--data", data, "--folds", "4", "-o", tmp_path / "fishers", "--json"]
    done = subprocess.run([*run, "overlap", *models, *options], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["n"] == 9
    assert 0 <= found["low"] <= found["overlap"] <= found["high"] <= 1
    fishers = [tmp_path / "fishers" / name for name in ("first", "second")]
    stored = [load_file(fisher / "model.safetensors") for fisher in fishers]
    for model, values in zip(models, stored, strict=True):
        assert_same(values, diagonal_fisher(model, TEXTS, [y % 2 for y in LABELS]), 1e-5, 1e-12)
    assert found["overlap"] == pytest.approx(fisher_overlap(*stored).whole, abs=1e-6)
    assert json.loads((fishers[0] / "fuseforget.json").read_text())["kind"] == "fisher"
    given = [item for fisher in fishers for item in ("--statistics", str(fisher))]
    command = [*run, "fuse", *map(str, models), "--method", "fisher", *given, "-o", str(tmp_path / "fused")]
    subprocess.run(command, check=True, capture_output=True)
    fused, sources = load_file(tmp_path / "fused/model.safetensors"), [load_file(m / "model.safetensors") for m in models]
    for name in fused:
        (f, g), (a, b) = ([part[name].double() for part in parts] for parts in (stored, sources))
        expected = torch.where(f + g > 0, (f * a + g * b) / torch.where(f + g > 0, f + g, 1), (a + b) / 2)
        torch.testing.assert_close(fused[name].double(), expected, rtol=1e-5, atol=1e-7)
    plain = subprocess.run([*run, "overlap", *models, *options[:4]], check=True, capture_output=True, text=True)
    assert f"overlap {found['overlap']:.4f}" in plain.stdout
    assert "attention.self.query" in plain.stdout
    odd = subprocess.run([*run, "overlap", *models, "--data", data, "--folds", "3"], capture_output=True, text=True)
    assert odd.returncode == 2
    assert "even number" in odd.stderr


def test_models_of_other_tensors_have_no_overlap(bert, tmp_path):
    with pytest.raises(InputError, match="classifier"):
        fuseforget.overlap(bert("one"), bert("two", labels=3), tmp_path / "absent.tsv")


def test_a_fisher_goes_by_its_checkpoints_names(bert, tmp_path):
    """Names of the first BERTs; a parameter of two names."""
    from safetensors.torch import save_file

    place = bert("old")
    tensors = load_file(place / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for n, v in tensors.items()
    }
    save_file(old, place / "model.safetensors", metadata={"format": "pt"})
    classifier = load_classifier(place)
    save_fisher(diagonal_fisher(classifier, TEXTS, [0] * 9), classifier, tmp_path / "fisher")
    assert load_file(tmp_path / "fisher/model.safetensors").keys() == old.keys()
