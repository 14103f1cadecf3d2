"""Energies, token scores and candidates against naive loops; what batches, padding, budgets and precision may not change."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from transformers.modeling_outputs import CausalLMOutput

from fuseforget.errors import InputError
from fuseforget.models import LanguageModel, candidate_log_probs, draw_masks, energies, intra_op, lanes, running, token_scores
from fuseforget.models.heads import parts_of

VOCABULARY, LENGTH = 120, 40
SPECIAL = ["<pad>", "<s>", "</s>", "<mask>"]
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": LENGTH, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# Weights larger than by default, so that predictions differ from the uniform and from one another.
WIDE = {"initializer_range": 0.3}
GPT2 = {
    "vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
DECODERS = {
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2, **WIDE)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL, **WIDE)),
    "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SMALL, **WIDE)),
    "gemma2": lambda: t.Gemma2ForCausalLM(
        t.Gemma2Config(**SMALL, **WIDE, head_dim=16, num_key_value_heads=1, final_logit_softcapping=2.0)
    ),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=48,
            max_position_embeddings=LENGTH,
            word_embed_proj_dim=16,
            pad_token_id=0,
            init_std=0.3,
        )
    ),
}
MASKED = {
    "bert": lambda: t.BertForMaskedLM(t.BertConfig(**SMALL, **WIDE)),
    "distilbert": lambda: t.DistilBertForMaskedLM(
        t.DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=48,
            max_position_embeddings=LENGTH,
            initializer_range=0.3,
        )
    ),
    "roberta": lambda: t.RobertaForMaskedLM(t.RobertaConfig(**{**SMALL, **WIDE, "max_position_embeddings": LENGTH + 1})),
}


class ReadsItsInput(t.GPT2LMHeadModel):
    """Logits that depend on the ids directly: its head cannot be told apart."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        said = super().forward(input_ids=input_ids, **options)
        said.logits = said.logits + torch.nn.functional.one_hot(input_ids, VOCABULARY)
        return said


def language_model(model: Any, *, masked: bool = False, pad: str | None = "<pad>") -> LanguageModel:
    from tokenizers import Tokenizer, models

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(VOCABULARY - len(SPECIAL)))])}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": pad} | ({"mask_token": "<mask>"} if masked else {})
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), **names)
    return LanguageModel(model.eval(), tokenizer, "tiny", masked)


def made(name: str, **options: Any) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return language_model((DECODERS | MASKED)[name](), masked=name in MASKED, **options)


def some_rows(count: int = 12, seed: int = 0, least: int = 2) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    sizes = [LENGTH, least, *rng.integers(least, LENGTH, size=count - 2)]
    return [rng.integers(len(SPECIAL), VOCABULARY, size=size).tolist() for size in sizes]


def framed(rows: list[list[int]]) -> list[list[int]]:
    return [[1, *row[: LENGTH - 2], 2] for row in rows]


@torch.no_grad()
def log_softmax_alone(lm: LanguageModel, row: list[int]) -> torch.Tensor:
    """Float64 log-probabilities, tokens x vocabulary, of a row read alone by the whole model."""
    return lm.model(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_energies_are_the_losses_that_transformers_computes(name):
    lm, rows = made(name), some_rows()
    found = energies(lm, rows, exact=True)
    with torch.no_grad():
        losses = [lm.model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() for row in rows]
    np.testing.assert_allclose(found.means, losses, rtol=2e-6)
    np.testing.assert_array_equal(found.tokens, [len(row) - 1 for row in rows])
    assert np.std(losses) > 0.02  # rows differ: their order matters
    assert found.sums.dtype == np.float64
    assert parts_of(lm, rows[0]).split


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_models_energies_are_those_of_a_naive_loop(name):
    lm, rows = made(name), framed(some_rows())
    masks = draw_masks(rows, special=lm.tokenizer.all_special_ids, seed=3)
    expected = []
    for row, chunks in zip(rows, masks.chunks, strict=True):
        sums = []
        for chunk in chunks:
            hidden = [lm.tokenizer.mask_token_id if i in chunk else token for i, token in enumerate(row)]
            log_p = log_softmax_alone(lm, hidden)
            sums.append(-sum(log_p[i, row[i]].item() for i in chunk))
        expected.append(np.mean(sums))
    found = energies(lm, rows, masks=masks, exact=True)
    np.testing.assert_allclose(found.sums, expected, rtol=2e-6)
    np.testing.assert_array_equal(found.tokens, [math.ceil(Fraction(15, 100) * (len(row) - 2)) for row in rows])
    assert np.std(found.means) > 0.02
    assert parts_of(lm, rows[0]).split


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "roberta"])
def test_neither_batches_nor_budgets_change_a_result(name):
    lm, rows = made(name), framed(some_rows())
    masks = draw_masks(rows, special=lm.tokenizer.all_special_ids, seed=3) if lm.masked else None
    expected = energies(lm, rows, masks=masks, exact=True)
    budgets = [(1, 64 << 20), (90, 64 << 20), (4096, 1), (4096, 4 * VOCABULARY * 7), (300, 10_000)]
    for token_budget, logit_budget in budgets:
        found = energies(lm, rows, masks=masks, exact=True, token_budget=token_budget, logit_budget=logit_budget)
        np.testing.assert_allclose(found.sums, expected.sums, rtol=3e-6)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
    back = energies(lm, rows[::-1], masks=masks and draw_masks(rows[::-1], special={0, 1, 2, 3}, seed=3), exact=True)
    np.testing.assert_allclose(back.sums[::-1], expected.sums, rtol=3e-6)


@pytest.mark.parametrize("pad", ["<pad>", "w7", None])
def test_what_fills_rows_up_does_not_change_a_result(pad):
    lm, rows = made("gpt2", pad=pad), some_rows()
    alone = [energies(lm, [row], exact=True).sums[0] for row in rows]
    np.testing.assert_allclose(energies(lm, rows, exact=True).sums, alone, rtol=3e-6)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_cores_and_threads_change_no_bit(kind, monkeypatch):
    lm, rows = made(kind), some_rows(40)
    rows = framed(rows) if kind == "bert" else rows
    masks = draw_masks(rows, special={0, 1, 2, 3}, seed=3) if kind == "bert" else None
    found = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(lanes, "cores", lambda cores=cores: cores)
        with intra_op(cores):
            found.append(energies(lm, rows, masks=masks, token_budget=60).sums)
    assert len(set(found[0])) > 20
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_logits_are_made_of_no_more_positions_than_the_budget_holds_the_longest_rows_first(monkeypatch):
    monkeypatch.setattr(lanes, "cores", lambda: 1)
    lm, rows = made("gpt2"), some_rows(30)
    sizes, widths = [], []
    lm.model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel() * 4))
    lm.model.transformer.register_forward_hook(lambda module, inputs, output: widths.append(output[0].shape[1]))
    budget = 4 * VOCABULARY * 11
    energies(lm, rows, logit_budget=budget, token_budget=200)
    made_of = sizes[2:]  # after the two by which the parts are verified
    assert max(made_of) == budget
    assert sum(made_of) == sum(len(row) - 1 for row in rows) * VOCABULARY * 4
    assert widths[2:] == sorted(widths[2:], reverse=True)
    assert widths[2] == LENGTH
    assert len(widths) > 5


def test_of_a_masked_model_only_masked_places_go_through_the_head():
    lm, rows = made("bert"), framed(some_rows())
    masks = draw_masks(rows, special={0, 1, 2, 3}, seed=0)
    seen = []
    lm.model.cls.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0] * output.shape[1]))
    energies(lm, rows, masks=masks)
    verifying = 16 + 9 + 15  # the whole, with padding, the parts
    assert sum(seen) == verifying + sum(len(chunk) for chunks in masks.chunks for chunk in chunks)


@pytest.mark.parametrize("scale", [1.0, 1e-9], ids=["weights", "hardly any"])
def test_a_model_whose_forward_is_bound_to_it_is_taken_apart_all_the_same(scale):
    """As Accelerate binds it for a training; logits of small weights are near whatever a head makes of anything."""
    lm, rows = made("bert"), framed(some_rows())
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(scale)
    masks = draw_masks(rows, special=lm.tokenizer.all_special_ids, seed=3)
    expected = energies(lm, rows, masks=masks, exact=True).sums
    lm.model.forward = lm.model.forward
    assert parts_of(lm, rows[0]).split
    np.testing.assert_array_equal(energies(lm, rows, masks=masks, exact=True).sums, expected)


class ForgetsItsBody(t.GPT2LMHeadModel):
    """Logits that are the same whatever the body says: a head that never asks it would seem right."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        return CausalLMOutput(logits=torch.ones(*input_ids.shape, VOCABULARY))


def test_a_head_that_does_not_ask_for_hidden_states_is_none():
    lm = language_model(ForgetsItsBody(t.GPT2Config(**GPT2, **WIDE)))
    assert not parts_of(lm, some_rows()[0]).split


def test_a_model_that_cannot_be_taken_apart_is_read_whole_a_row_at_a_time():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = language_model(ReadsItsInput(t.GPT2Config(**GPT2, **WIDE)))
    rows = some_rows()
    assert not parts_of(lm, rows[0]).split
    expected = [-sum(log_softmax_alone(lm, row)[i, token].item() for i, token in enumerate(row[1:])) for row in rows]
    shapes = []
    lm.model.register_forward_hook(lambda module, inputs, output: shapes.append(output.logits.shape[:2]))
    for budget, most in ((1, 1), (4 * VOCABULARY * 50, 50), (64 << 20, 4096)):
        shapes.clear()
        np.testing.assert_allclose(energies(lm, rows, exact=True, logit_budget=budget).sums, expected, rtol=2e-6)
        assert all(count == 1 or count * width <= most for count, width in shapes[1:])


def test_a_head_is_more_than_a_matrix():
    """Gemma2's soft cap is between the last matrix and the logits: without it, energies would be wrong."""
    lm, rows = made("gemma2"), some_rows()
    with torch.no_grad():
        hidden = lm.model.model(torch.tensor([rows[0]]))[0]
        parts = parts_of(lm, rows[0])
        matrix = lm.model.get_output_embeddings()(hidden[0])
        assert (parts.logits(hidden[0]) - matrix).abs().max() > 1
        torch.testing.assert_close(parts.logits(hidden[0]), lm.model(torch.tensor([rows[0]])).logits[0])


def test_a_model_stays_as_it_was_and_weights_that_are_set_in_it_count():
    lm, rows = made("gpt2"), some_rows()
    lm.model.train()
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    modules = list(lm.model.named_modules())
    first = energies(lm, rows, exact=True)
    assert list(lm.model.named_modules()) == modules
    assert all(value.equal(before[name]) for name, value in lm.model.state_dict().items())
    np.testing.assert_array_equal(energies(lm, rows, exact=True).sums, first.sums)  # no dropout
    with torch.no_grad():
        lm.model.transformer.wte.weight.mul_(0.5)
    assert np.abs(energies(lm, rows, exact=True).sums - first.sums).min() > 1e-3
    lm.model.resize_token_embeddings(VOCABULARY + 5, mean_resizing=False)  # another module than before
    assert energies(lm, [[VOCABULARY + 4, VOCABULARY + 3]], exact=True).sums[0] > 0


def test_log_probabilities_are_float32_whatever_the_model_computes_in(monkeypatch):
    monkeypatch.setattr(running, "compute_dtype", lambda: torch.bfloat16)
    rows = some_rows(40)
    for name in ("gpt2", "llama"):
        lm = made(name)
        with torch.no_grad(), torch.autocast(running.device().type, dtype=torch.bfloat16):
            logits = [lm.model(torch.tensor([row])).logits[0, :-1] for row in rows]
        assert logits[0].dtype == torch.bfloat16
        losses = [torch.nn.functional.cross_entropy(a.float(), torch.tensor(r[1:])) for a, r in zip(logits, rows, strict=True)]
        fast, exact = (energies(lm, rows, exact=exact).means for exact in (False, True))
        assert not np.array_equal(fast, exact)
        # Of the same bfloat16 logits but for the order of sums in attention; 8 bits of logits below 16 are 0.03 a token.
        np.testing.assert_allclose(fast, losses, atol=0.03)
        assert np.abs(fast - exact).max() < 0.06
        assert abs((fast - exact).mean()) < 0.01
        assert np.abs(energies(lm, rows).means - exact).max() > 0  # not the rounding of float32 alone
    assert token_scores(lm, rows).log_probs.dtype == np.float32


def test_token_scores_are_the_moments_of_the_prediction():
    for name in ("gpt2", "gemma2"):
        lm, rows = made(name), some_rows()
        found = token_scores(lm, rows, exact=True, token_budget=100, logit_budget=4 * VOCABULARY * 9)
        assert len(found) == len(rows)
        for i, row in enumerate(rows):
            log_p = log_softmax_alone(lm, row)[:-1]
            p, here = log_p.exp(), slice(found.offsets[i], found.offsets[i + 1])
            mean = (p * log_p).sum(-1)
            spread = (p * (log_p - mean[:, None]) ** 2).sum(-1).sqrt()
            wanted = torch.tensor(row[1:])
            np.testing.assert_allclose(found.log_probs[here], log_p.gather(1, wanted[:, None])[:, 0], rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(found.expected[here], mean, rtol=2e-5)
            np.testing.assert_allclose(found.spread[here], spread, rtol=5e-5)
            np.testing.assert_array_equal(found.greedy[here], log_p.argmax(-1) == wanted)
        alone = energies(lm, rows, exact=True)
        np.testing.assert_allclose(found.energies.sums, alone.sums, rtol=2e-6)
        np.testing.assert_array_equal(found.energies.tokens, alone.tokens)
        assert [found.log_probs.dtype, found.expected.dtype, found.spread.dtype] == [np.float32] * 3
        assert found.greedy.dtype == np.bool_


def test_moments_stay_numbers_where_a_model_rules_tokens_out():
    lm, rows = made("gpt2"), some_rows()
    expected = token_scores(lm, rows, exact=True)

    def rule_out(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output, torch.full_like(output[..., :1], torch.finfo(output.dtype).min)], dim=-1)

    lm.model.lm_head.register_forward_hook(rule_out)
    found = token_scores(lm, rows, exact=True)
    for name in ("log_probs", "expected", "spread"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5)


def test_greedy_decoding_gives_a_suffix_exactly_where_all_its_tokens_are_the_likeliest():
    lm = made("gpt2")
    rng = np.random.default_rng(5)
    rows = rng.integers(len(SPECIAL), VOCABULARY, size=(24, 24)).tolist()
    learned = torch.tensor(rows[:16])
    optimizer = torch.optim.Adam(lm.model.parameters(), lr=3e-3)
    for _ in range(160):
        optimizer.zero_grad()
        lm.model(learned, labels=learned).loss.backward()
        optimizer.step()
    for i, k in ((0, 14), (1, 23), (2, 12)):  # learned but for one token of the suffix, at its middle, end and beginning
        rows[i][k] = (rows[i][k] + 1 - len(SPECIAL)) % (VOCABULARY - len(SPECIAL)) + len(SPECIAL)
    scores, prefix = token_scores(lm, rows, exact=True), 12
    extracted = []
    for row in rows:
        said = lm.model.generate(
            torch.tensor([row[:prefix]]), do_sample=False, max_new_tokens=24 - prefix, min_new_tokens=24 - prefix,
            attention_mask=torch.ones(1, prefix, dtype=torch.long), pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        extracted.append(said[0].tolist() == row)
    greedy = scores.greedy.reshape(24, 23)[:, prefix - 1 :]
    np.testing.assert_array_equal(greedy.all(axis=1), extracted)
    assert sum(extracted[3:16]) > 5
    assert not any(extracted[:3])
    assert not any(extracted[16:])
    assert (greedy.sum(axis=1) > 0).sum() > sum(extracted)  # some are right in part


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_candidates_are_as_likely_as_each_alone(name):
    lm, prefix = made(name), [1, 20, 30, 40, 50]
    rng = np.random.default_rng(1)
    mixed = [rng.integers(4, 9, size=size).tolist() for size in rng.integers(1, 6, size=60)]
    mixed += [mixed[0], mixed[7], [*mixed[3], 5]]
    for candidates in (mixed, [list(one) for one in product(range(10, 14), repeat=3)], [[9]]):
        found = candidate_log_probs(lm, prefix, candidates, exact=True, token_budget=60)
        expected = []
        for one in candidates:
            log_p = log_softmax_alone(lm, prefix + one)[len(prefix) - 1 : -1]
            expected.append(sum(log_p[i, token].item() for i, token in enumerate(one)))
        np.testing.assert_allclose(found, expected, rtol=3e-6)
        assert found.dtype == np.float64
    assert candidate_log_probs(lm, [1], [[9]])[0] < 0


def test_ten_thousand_candidates_cost_a_thousand_rows():
    lm = made("gpt2")
    candidates = list(product(range(10, 20), range(20, 30), range(30, 40), range(40, 50)))
    shapes, heads = [], []
    lm.model.transformer.register_forward_hook(lambda module, inputs, output: shapes.append(output[0].shape[:2]))
    lm.model.lm_head.register_forward_hook(lambda module, inputs, output: heads.append(output.shape[1]))
    found = candidate_log_probs(lm, [1, 5, 6], candidates)
    assert sum(count for count, _ in shapes[2:]) == 1000
    assert {width for _, width in shapes[2:]} == {6}  # the last token is predicted, not read
    assert sum(heads[2:]) == 1111  # each context once
    assert len(set(found.tolist())) > 9000
    some = [candidates[i] for i in (0, 777, 9999)]
    np.testing.assert_allclose(candidate_log_probs(lm, [1, 5, 6], some, exact=True), found[[0, 777, 9999]], atol=0.15)


def test_a_rows_masks_depend_on_the_seed_and_its_own_tokens_alone():
    rows = framed(some_rows(20))
    masks = draw_masks(rows, special=SPECIAL_IDS, seed=0)
    assert draw_masks(rows[::-1], special=SPECIAL_IDS, seed=0).chunks[::-1] == masks.chunks
    assert draw_masks([tuple(rows[4])], special=SPECIAL_IDS, seed=0).chunks == masks.chunks[4:5]
    assert draw_masks(np.array([rows[0]]), special=SPECIAL_IDS, seed=0).chunks == masks.chunks[:1]
    other = draw_masks(rows, special=SPECIAL_IDS, seed=1)
    assert all(a != b for a, b, row in zip(masks.chunks, other.chunks, rows, strict=True) if len(row) > 10)
    assert [one[:4] for one in masks.chunks] == list(draw_masks(rows, special=SPECIAL_IDS, seed=0, count=4).chunks)


SPECIAL_IDS = frozenset(range(len(SPECIAL)))


def test_masks_are_sorted_chunks_of_the_exact_size_of_ordinary_tokens():
    for count, share in ((10, 0.15), (3, 0.5), (1, 1.0), (2, 0.001)):
        rows = [[1, *range(4, 4 + size), 2, 0] for size in range(1, 101)]
        masks = draw_masks(rows, special=SPECIAL_IDS, seed=0, count=count, share=share)
        assert len(masks) == 100
        for size, chunks in enumerate(masks.chunks, 1):
            assert len(chunks) == count
            for chunk in chunks:
                assert len(set(chunk)) == len(chunk) == math.ceil(Fraction(str(share)) * size)
                assert list(chunk) == sorted(chunk)
                assert set(chunk) <= set(range(1, size + 1))


def test_every_ordinary_position_is_masked_as_often_as_any_other():
    """Over seeds: each of 20 positions is in a chunk of 3 with probability 0.15, and each pair equally often."""
    row, draws = [1, *range(10, 30), 2], 400 * 10
    chunks = [one for seed in range(400) for one in draw_masks([row], special=SPECIAL_IDS, seed=seed).chunks[0]]
    singles = Counter(place for chunk in chunks for place in chunk)
    assert set(singles) == set(range(1, 21))
    spread = math.sqrt(draws * 0.15 * 0.85)
    assert max(abs(n - draws * 0.15) for n in singles.values()) < 4.5 * spread
    pairs = Counter((a, b) for chunk in chunks for i, a in enumerate(chunk) for b in chunk[i + 1 :])
    expected = draws * 3 / 190
    assert len(pairs) == 190
    assert sum((n - expected) ** 2 / expected for n in pairs.values()) < 300  # chi-squared of 189 degrees: below 300 but for 1e-6


def test_rows_that_cannot_be_read_are_counted_and_named():
    lm = made("gpt2")
    good = some_rows(3)
    with pytest.raises(InputError, match=r"at least 2 tokens.*predicted by nothing, found fewer in 2 of 5 \(row 1, 4\)"):
        energies(lm, [good[0], [5], good[1], good[2], []])
    with pytest.raises(InputError, match=r"at most 40 tokens.*found more in 1 of 4 \(row 3\)"):
        token_scores(lm, [*good, [5] * 41])
    with pytest.raises(InputError, match=r"ids from 0 to 119.*found others in 2 of 5 \(row 0, 4\)"):
        energies(lm, [[5, 120], *good, [-1, 3]])
    masked = made("bert")
    with pytest.raises(InputError, match=r"not special in each, found none in 2 of 3 \(row 1, 2\)"):
        draw_masks([[1, 5, 2], [1, 2], []], special=SPECIAL_IDS, seed=0)
    with pytest.raises(InputError, match=r"at most 40 tokens"):
        energies(masked, [[5] * 41], masks=draw_masks([[5] * 41], special=SPECIAL_IDS, seed=0))
    assert len(energies(lm, [])) == len(token_scores(lm, [])) == len(token_scores(lm, []).energies) == 0
    assert len(energies(masked, [], masks=draw_masks([], special=SPECIAL_IDS, seed=0))) == 0


def test_masks_that_do_not_belong_to_the_rows_are_refused():
    lm, decoder, rows = made("bert"), made("gpt2"), framed(some_rows())
    masks = draw_masks(rows, special=SPECIAL_IDS, seed=0)
    with pytest.raises(InputError, match="for the masked model tiny, found none"):
        energies(lm, rows)
    with pytest.raises(InputError, match="those of 11 rows, found those of 12"):
        energies(lm, rows[1:], masks=masks)
    with pytest.raises(InputError, match="others for 1 rows"):
        energies(lm, [rows[1], *rows[1:]], masks=masks)
    with pytest.raises(InputError, match="none for the decoder tiny, found those of 12 rows"):
        energies(decoder, rows, masks=masks)
    for call in (lambda: token_scores(lm, rows), lambda: candidate_log_probs(lm, [1], [[5]])):
        with pytest.raises(InputError, match="a decoder, found a masked language model"):
            call()
    for options in ({"count": 0}, {"share": 0.0}, {"share": 1.1}):
        with pytest.raises(InputError, match="at least 1 a row"):
            draw_masks(rows, special=SPECIAL_IDS, seed=0, **options)


def test_candidates_that_cannot_be_read_are_refused():
    lm = made("gpt2")
    with pytest.raises(InputError, match="prefix: expected at least one token"):
        candidate_log_probs(lm, [], [[5]])
    with pytest.raises(InputError, match=r"found fewer in 1 of 2 \(row 1\)"):
        candidate_log_probs(lm, [1], [[5], []])
    with pytest.raises(InputError, match="at most 40 tokens"):
        candidate_log_probs(lm, [1] * 39, [[5], [5, 6]])
    with pytest.raises(InputError, match="ids from 0 to 119"):
        candidate_log_probs(lm, [1], [[5, 120]])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_no_numbers_name_their_row(value):
    lm, rows = made("gpt2"), [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    with torch.no_grad():
        lm.model.transformer.wte.weight[21] = value
    lm.model.lm_head.weight = torch.nn.Parameter(lm.model.transformer.wte.weight.detach().nan_to_num(0, 0, 0))
    for call in (energies, token_scores):
        with pytest.raises(InputError, match=r"a finite log-probability of every token, found others in 1 rows \(row 1\)"):
            call(lm, rows)
    with pytest.raises(InputError, match=r"row 2\)"):
        candidate_log_probs(lm, [10], [[11, 12], [11, 20], [21, 12]])


def test_a_decoder_that_looks_ahead_and_a_model_that_sees_padding_are_refused():
    """An encoder under a decoder's head would see what it predicts, and seem to have learned everything by heart."""
    encoder = language_model(t.BertLMHeadModel(t.BertConfig(**SMALL)))
    with pytest.raises(InputError, match="predictions that change with later tokens"):
        energies(encoder, some_rows())
    energies(language_model(t.BertLMHeadModel(t.BertConfig(**SMALL, is_decoder=True))), some_rows())
    config = t.FNetConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, intermediate_size=48, pad_token_id=0)
    rows = framed(some_rows())
    with pytest.raises(InputError, match="padding is hidden from"):
        energies(language_model(t.FNetForMaskedLM(config), masked=True), rows, masks=draw_masks(rows, special={0, 1, 2}, seed=0))
