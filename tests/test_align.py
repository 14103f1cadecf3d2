"""Rows that mean different things are lined up: vocabularies by token, heads by label; what cannot be compared is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import write_raw
from fuseforget import check, fuse
from fuseforget.cli import app
from fuseforget.errors import InputError, MismatchError
from fuseforget.fuse import execute, plan_recipe, read_recipe
from fuseforget.fuse.align import tokens_of

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIDTH = 8


def word_level(vocabulary: dict[str, int], normalizer: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.Whitespace()
    return tokenizer


def word_piece(vocabulary: dict[str, int], normalizer: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def write_tokenizer(directory: Path, words: Sequence[str], kind: Callable[..., Any] = word_level, *, cased: bool = False,
                    added: Sequence[str] = ()) -> int:  # fmt: skip
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    raw = kind({word: i for i, word in enumerate(words)}, None if cased else normalizers.Lowercase())
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask") if f"[{name.upper()}]" in words
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    fast.add_tokens(list(added))
    fast.save_pretrained(directory)
    return len(fast)


def write_bert(directory: Path, words: Sequence[str], seed: int, *, padding: int = 0, cls: str = "BertForMaskedLM",
               tokenizer: dict[str, Any] | None = None, **config: Any) -> Path:  # fmt: skip
    """A tiny BERT with a token for each word (and rows of no token), all parameters random, saved with its tokenizer."""
    import transformers

    size = write_tokenizer(directory, words, **(tokenizer or {})) + padding
    options = {
        "vocab_size": size, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
        "max_position_embeddings": 20, "pad_token_id": list(words).index("[PAD]"),
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, cls)(transformers.BertConfig(**{**options, **config}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


EMBEDDING, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
A_WORDS = [*SPECIAL, "a", "film", "good", "dull"]
B_WORDS = [*SPECIAL[:3], "good", "plot", *SPECIAL[3:], "a", "twist", "film", "dull"]


def by_token(directory: Path, name: str = EMBEDDING) -> dict[str, torch.Tensor]:
    rows = load_file(directory / "model.safetensors")[name]
    with_row = {token: row for token, row in tokens_in(directory).items() if row < len(rows)}
    return {token: rows[row] for token, row in with_row.items()}


def tokens_in(directory: Path) -> dict[str, int]:
    """The tokens of a directory, as transformers reads them."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory).get_vocab()


def check_loads(directory: Path, texts: Sequence[str], cls: str = "BertForMaskedLM") -> None:
    """The model loads, its tokenizer gives known tokens for the texts, and the special tokens are where it says."""
    import transformers

    model, report = getattr(transformers, cls).from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size >= len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids[0]) == text.split()
        assert tokenizer.decode(ids[0]).split() == text.split()
        assert model(ids).logits.isfinite().all()


def check_rows(out: Path, models: Sequence[Path], weights: Sequence[float], name: str) -> None:
    """Each token's row is the weighted mean of its rows; a model that lacks it has the mean of those of the others."""
    rows, given = by_token(out, name), [by_token(model, name) for model in models]
    for token, row in rows.items():
        having = [own[token] for own in given if token in own]
        mean = sum(having[1:], start=having[0]) / len(having)
        expected = sum(w * own.get(token, mean) for w, own in zip(weights, given, strict=True))
        torch.testing.assert_close(row, expected, msg=f"{name} {token}")


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("kind", [word_level, word_piece])
@pytest.mark.parametrize(("choice", "expected"), [("first", A_WORDS), ("union", [*A_WORDS, "plot", "twist"])])
def test_tokens_are_lined_up_by_string(tmp_path, choice, expected, kind, padding):
    a = write_bert(tmp_path / "a", A_WORDS, 1, padding=padding, tokenizer={"kind": kind})
    b = write_bert(tmp_path / "b", B_WORDS, 2, tokenizer={"kind": kind})
    with pytest.raises(MismatchError, match=r"tokenizer: vocabulary"):
        fuse([a, b], tmp_path / "refused")
    fused = fuse([a, b], tmp_path / "out", weights=[0.3, 0.7], tokenizer=choice)
    assert tokens_in(tmp_path / "out") == {token: i for i, token in enumerate(expected)}
    for name in (EMBEDDING, BIAS):
        check_rows(tmp_path / "out", [a, b], [0.3, 0.7], name)
    texts = ["good film", "a dull plot twist"] if choice == "union" else ["a dull film"]
    check_loads(tmp_path / "out", texts)
    size = max(len(A_WORDS) + padding, len(expected))
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == size
    stored = load_file(tmp_path / "out/model.safetensors")
    assert stored[EMBEDDING].shape == (size, WIDTH)
    if padding == 3:  # rows of no token: the first model's
        assert torch.equal(stored[EMBEDDING][size - 1], load_file(a / "model.safetensors")[EMBEDDING][-1])
    added = fused.manifest["added_tokens"]
    assert [(one["token"], one["id"], one["models"]) for one in added] == [
        (token, len(A_WORDS) + i, (str(b),)) for i, token in enumerate(expected[len(A_WORDS) :])
    ]
    body = "bert.encoder.layer.0.output.dense.weight"
    x, y = (load_file(m / "model.safetensors")[body] for m in (a, b))
    torch.testing.assert_close(stored[body], 0.3 * x + 0.7 * y)


def test_the_bases_tokens(tmp_path):
    """Rows, tokenizer and the numbers of special tokens are then the base's."""
    base = write_bert(tmp_path / "base", B_WORDS, 0)
    moved = ["[UNK]", "[PAD]", *A_WORDS[2:]]
    a, b = write_bert(tmp_path / "a", moved, 1), write_bert(tmp_path / "b", [*moved, "plot"], 2)
    assert B_WORDS.index("[PAD]") != moved.index("[PAD]")
    fuse([a, b], tmp_path / "out", "task_arithmetic", [0.5, 2], base=base, tokenizer="base")
    assert tokens_in(tmp_path / "out") == tokens_in(base)
    given = [by_token(m) for m in (base, a, b)]
    for token, row in by_token(tmp_path / "out").items():
        origin = given[0][token]
        # A model without the token did not change it.
        changes = [own.get(token, origin) - origin for own in given[1:]]
        torch.testing.assert_close(row, origin + 0.5 * changes[0] + 2 * changes[1], msg=token)
    check_loads(tmp_path / "out", ["good plot twist"])


def test_what_the_base_lacks_is_taken_from_the_models_that_have_it(tmp_path):
    """A token that one fine-tune added stays as that one has it: half of its task vector would be of nothing."""
    base = write_bert(tmp_path / "base", A_WORDS, 0)
    a, b = write_bert(tmp_path / "a", A_WORDS, 1), write_bert(tmp_path / "b", [*A_WORDS, "plot"], 2)
    fuse([a, b], tmp_path / "out", "task_arithmetic", [0.5, 0.5], base=base, tokenizer="union")
    torch.testing.assert_close(by_token(tmp_path / "out")["plot"], by_token(b)["plot"])
    origin, x, y = (by_token(m)["film"] for m in (base, a, b))
    torch.testing.assert_close(by_token(tmp_path / "out")["film"], origin + 0.5 * (x - origin) + 0.5 * (y - origin))


def test_a_base_whose_tokens_stand_elsewhere_is_refused(tmp_path):
    """The models agree, and the shapes fit; but each row of the base is another token."""
    a, b = (write_bert(tmp_path / name, A_WORDS, seed) for seed, name in enumerate("ab"))
    base = write_bert(tmp_path / "base", [*A_WORDS[:5], *reversed(A_WORDS[5:])], 2)
    with pytest.raises(InputError, match=r"4 in other rows: 'a' 5 and 8, .*Pass --tokenizer first"):
        fuse([a, b], tmp_path / "out", "ties", base=base)
    found = [str(d) for d in check([a, b], base) if d.blocks]
    assert len(found) == 1
    assert "4 in other rows: 'a' 5 and 8, " in found[0]
    assert not any(d.blocks for d in check([a, b], a))
    fuse([a, b], tmp_path / "average")  # which takes no base
    fuse([a, b], tmp_path / "out", "task_arithmetic", [1, 0], base=base, tokenizer="first")
    for token, row in by_token(tmp_path / "out").items():
        torch.testing.assert_close(row, by_token(a)[token], msg=token)


def test_a_base_with_fewer_tokens_is_named_with_what_to_do(tmp_path):
    base = write_bert(tmp_path / "base", A_WORDS, 0)
    a, b = (write_bert(tmp_path / name, [*A_WORDS, "plot"], seed) for seed, name in enumerate("ab", start=1))
    with pytest.raises(InputError, match=r"expected shape \[10, 8\], found \[9, 8\]. If .* pass --tokenizer first"):
        fuse([a, b], tmp_path / "out", "ties", base=base)
    fuse([a, b], tmp_path / "out", "task_arithmetic", [0.5, 0.5], base=base, tokenizer="first")
    torch.testing.assert_close(by_token(tmp_path / "out")["plot"], (by_token(a)["plot"] + by_token(b)["plot"]) / 2)


@pytest.mark.parametrize("choice", ["first", "union"])
def test_the_same_tokens_in_another_order(tmp_path, choice):
    """Equal models but for the order of their tokens give the first back."""
    a = write_bert(tmp_path / "a", A_WORDS, 1)
    order = [2, 0, 5, 8, 1, 3, 4, 7, 6]
    b = write_bert(tmp_path / "b", [A_WORDS[i] for i in order], 1)
    tensors = load_file(a / "model.safetensors")
    permuted = {n: t[order] if n in (EMBEDDING, BIAS) else t for n, t in tensors.items()}
    save_file({n: t.contiguous() for n, t in permuted.items()}, b / "model.safetensors", metadata={"format": "pt"})
    fused = fuse([a, b], tmp_path / "out", tokenizer=choice)
    out = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(t, out[n]) for n, t in tensors.items())
    assert fused.manifest["added_tokens"] == []
    check_loads(tmp_path / "out", ["a good film"])


def test_positions_of_as_many_rows_as_tokens_stay(tmp_path):
    size = len(A_WORDS)
    a = write_bert(tmp_path / "a", A_WORDS, 1, max_position_embeddings=size)
    b = write_bert(tmp_path / "b", [*A_WORDS[:5], *reversed(A_WORDS[5:])], 2, max_position_embeddings=size)
    fuse([a, b], tmp_path / "out", tokenizer="first")
    name = "bert.embeddings.position_embeddings.weight"
    x, y, out = (load_file(m / "model.safetensors")[name] for m in (a, b, tmp_path / "out"))
    torch.testing.assert_close(out, (x + y) / 2)


def test_blocks_that_end_within_a_row_do_not_matter(tmp_path, monkeypatch):
    from fuseforget.methods import group

    a, b = write_bert(tmp_path / "a", A_WORDS, 1), write_bert(tmp_path / "b", B_WORDS, 2)
    fuse([a, b], tmp_path / "one", tokenizer="union")
    monkeypatch.setattr(group, "BLOCK", 5)
    monkeypatch.setattr(group, "SPAN", 2)
    fuse([a, b], tmp_path / "many", tokenizer="union")
    one, many = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "many"))
    assert all(torch.equal(t, many[n]) for n, t in one.items())


# Byte-level BPE, heads of language models.


def byte_level(vocabulary: Any, normalizer: Any) -> Any:
    """A byte-level BPE without merges: every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return tokenizer


def write_lm(directory: Path, added: Sequence[str], seed: int, *, tied: bool, padding: int = 0) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = write_tokenizer(directory, [], byte_level, added=added) + padding
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(
            vocab_size=size, hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=tied,
        )).save_pretrained(directory)  # fmt: skip
    return directory


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 5])
def test_added_tokens_of_a_byte_level_bpe(tmp_path, tied, padding):
    """Chat tokens that fine-tunes added in another order; a vocabulary padded to a round number has room for them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    a = write_lm(tmp_path / "a", ["<user>", "<end>"], 1, tied=tied, padding=padding)
    b = write_lm(tmp_path / "b", ["<end>", "<tool>", "<user>"], 2, tied=tied)
    fused = fuse([a, b], tmp_path / "out", tokenizer="union")
    assert [(t["token"], t["id"]) for t in fused.manifest["added_tokens"]] == [("<tool>", 258)]
    names = ["model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])]
    for name in names:
        check_rows(tmp_path / "out", [a, b], [0.5, 0.5], name)
    assert ("lm_head.weight" in load_file(tmp_path / "out/model.safetensors")) == (not tied)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("hé<user>x<tool><end>", return_tensors="pt")["input_ids"]
    assert ids[0, -2:].tolist() == [258, 257]
    assert tokenizer.decode(ids[0]) == "hé<user>x<tool><end>"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == max(259, 258 + padding)
    assert model(ids).logits.shape[-1] == model.config.vocab_size


def test_two_bpes_cannot_be_united_but_by_added_tokens(tmp_path):
    a, b = write_lm(tmp_path / "a", [], 1, tied=True), write_lm(tmp_path / "b", [], 2, tied=True)
    content = json.loads((b / "tokenizer.json").read_text())
    content["model"]["vocab"]["ab"] = 256
    content["model"]["merges"] = [["a", "b"]]
    (b / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"another merges, vocabulary \(union can add only added tokens"):
        fuse([a, b], tmp_path / "out", tokenizer="union")
    fuse([a, b], tmp_path / "out", tokenizer="first")
    assert tokens_in(tmp_path / "out") == tokens_in(a)


# What the user sees.


def test_the_command_prints_the_table_of_added_tokens_and_the_manifest_makes_it_again(tmp_path):
    a, b = write_bert(tmp_path / "a", A_WORDS, 1), write_bert(tmp_path / "b", B_WORDS, 2)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["fuse", str(a), str(b), "-o", str(out), "--tokenizer", "union"])
    assert done.exit_code == 0, done.output
    table = done.output[done.output.index("added token") :].splitlines()
    assert [line.split()[:2] for line in table[2:4]] == [["'plot'", "9"], ["'twist'", "10"]]
    assert all(str(b) in line for line in table[2:4])
    execute(plan_recipe(read_recipe(out / "fuseforget.json")), tmp_path / "again", shard_size=10**9)
    for file in out.iterdir():
        if file.name != "fuseforget.json":
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
    first, again = (json.loads((tmp_path / n / "fuseforget.json").read_text()) for n in ("out", "again"))
    assert first["added_tokens"] == again["added_tokens"]
    assert [one["token"] for one in again["added_tokens"]] == ["plot", "twist"]


# Refusals.


@pytest.mark.parametrize(("options", "message"), [
    ({"kind": word_piece}, r"another .*decoder, kind of tokenizer.*pre_tokenizer"),
    ({"cased": True}, "another normalizer"),
])  # fmt: skip
@pytest.mark.parametrize("choice", ["first", "union"])
def test_tokenizers_that_take_text_apart_differently_are_refused(tmp_path, options, message, choice):
    a, b = write_bert(tmp_path / "a", A_WORDS, 1), write_bert(tmp_path / "b", B_WORDS, 2, tokenizer=options)
    with pytest.raises(InputError, match=message):
        fuse([a, b], tmp_path / "out", tokenizer=choice)
    assert not (tmp_path / "out").exists()


def test_tokenizers_that_are_not_there_or_not_readable_are_refused(tmp_path):
    a, b = write_bert(tmp_path / "a", A_WORDS, 1), write_bert(tmp_path / "b", B_WORDS, 2)
    with pytest.raises(InputError, match="--tokenizer base: expected a base"):
        fuse([a, b], tmp_path / "out", tokenizer="base")
    content = (b / "tokenizer.json").read_text()
    (b / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"tokenizer\.json: expected a tokenizer of the tokenizers library"):
        fuse([a, b], tmp_path / "out", tokenizer="first")
    (b / "tokenizer.json").write_text(content[:50])
    with pytest.raises(InputError, match="unreadable JSON"):
        fuse([a, b], tmp_path / "out", tokenizer="first")
    (b / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"a tokenizer that can be compared .*found none"):
        fuse([a, b], tmp_path / "out", tokenizer="first")


def test_plain_vocabularies_are_compared_too(tmp_path):
    """vocab.txt and vocab.json, as slow tokenizers have them: their rows are lined up; no token can be added to them."""
    rows = torch.arange(8.0).view(4, 2)
    for name, words in (("a", "wxyz"), ("b", "zyxw")):
        write_raw(tmp_path / name, {"emb.weight": rows if name == "a" else rows.flip(0)}, vocab_size=4)
        (tmp_path / name / "vocab.txt").write_text("\n".join(words) + "\n")
    assert tokens_of_directory(tmp_path / "b") == {"z": 0, "y": 1, "x": 2, "w": 3}
    fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "out", tokenizer="first")
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["emb.weight"], rows)
    (tmp_path / "b/vocab.txt").write_text("z\ny\nx\nv\n")
    with pytest.raises(InputError, match=r"expected tokenizer\.json, to add tokens to"):
        fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "union", tokenizer="union")
    (tmp_path / "b/vocab.txt").rename(tmp_path / "b/vocab.json")
    (tmp_path / "b/vocab.json").write_text('{"z": 0, "y": 1, "x": 2, "w": 3}')
    with pytest.raises(InputError, match="another kind of tokenizer"):
        fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "mixed", tokenizer="first")


def tokens_of_directory(directory: Path) -> dict[str, int]:
    from fuseforget.checkpoint import open_checkpoint

    return tokens_of(open_checkpoint(directory))


# Labels.


def write_classifier(directory: Path, labels: Sequence[str], seed: int, **config: Any) -> Path:
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return write_bert(directory, A_WORDS, seed, cls="BertForSequenceClassification", **names, **config)


ORDER, OTHER = ["anger", "joy", "fear"], ["fear", "anger", "joy"]
TO_FIRST = [1, 2, 0]  # the row of OTHER for each label of ORDER


def test_heads_are_lined_up_by_label(tmp_path):
    """As many token types as labels: their embeddings are another thing, and stay."""
    a = write_classifier(tmp_path / "a", ORDER, 1, type_vocab_size=3)
    b = write_classifier(tmp_path / "b", OTHER, 2, type_vocab_size=3)
    fuse([a, b], tmp_path / "out", weights=[0.25, 0.75])
    x, y, out = (load_file(m / "model.safetensors") for m in (a, b, tmp_path / "out"))
    for name, tensor in out.items():
        other = y[name][TO_FIRST] if name.startswith("classifier") else y[name]
        torch.testing.assert_close(tensor, 0.25 * x[name] + 0.75 * other, msg=name)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["id2label"] == {"0": "anger", "1": "joy", "2": "fear"}
    assert config["label2id"] == {"anger": 0, "joy": 1, "fear": 2}
    check_loads(tmp_path / "out", ["good film"], "BertForSequenceClassification")


def test_a_fused_head_predicts_the_labels_of_both(tmp_path):
    """One model twice, the second time with its labels in another order: the same probabilities of the same names."""
    from transformers import BertForSequenceClassification

    a, b = write_classifier(tmp_path / "a", ORDER, 1), write_classifier(tmp_path / "b", OTHER, 1)
    tensors = load_file(a / "model.safetensors")
    back = [ORDER.index(label) for label in OTHER]
    moved = {n: t[back].contiguous() if n.startswith("classifier") else t for n, t in tensors.items()}
    save_file(moved, b / "model.safetensors", metadata={"format": "pt"})
    fuse([b, a], tmp_path / "out")
    found = {}
    for directory in (a, b, tmp_path / "out"):
        model = BertForSequenceClassification.from_pretrained(directory).eval()
        scores = model(torch.tensor([[5, 7, 6]])).logits[0].detach()
        found[directory] = {model.config.id2label[i]: float(score) for i, score in enumerate(scores)}
    assert found[a] == pytest.approx(found[b]) == found[tmp_path / "out"]
    assert len({round(score, 4) for score in found[a].values()}) == 3


@pytest.mark.parametrize(("labels", "rows"), [(OTHER, TO_FIRST), (["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2])])
def test_a_bases_head_is_lined_up_where_it_names_the_classes(tmp_path, labels, rows):
    base = write_classifier(tmp_path / "base", labels, 0)
    a, b = write_classifier(tmp_path / "a", ORDER, 1), write_classifier(tmp_path / "b", OTHER, 2)
    fuse([a, b], tmp_path / "out", "task_arithmetic", [0.5, 2], base=base)
    o, x, y, out = (load_file(m / "model.safetensors") for m in (base, a, b, tmp_path / "out"))
    for name in ("classifier.weight", "classifier.bias"):
        origin = o[name][rows]
        torch.testing.assert_close(out[name], origin + 0.5 * (x[name] - origin) + 2 * (y[name][TO_FIRST] - origin))


def test_a_base_without_a_head_does_not_matter(tmp_path):
    base = write_bert(tmp_path / "base", A_WORDS, 0, cls="BertModel")
    a, b = write_classifier(tmp_path / "a", ORDER, 1), write_classifier(tmp_path / "b", OTHER, 2)
    fused = fuse([a, b], tmp_path / "out", "task_arithmetic", [0.5, 2], base=base)
    x, y, out = (load_file(m / "model.safetensors") for m in (a, b, tmp_path / "out"))
    torch.testing.assert_close(out["classifier.weight"], (x["classifier.weight"] + y["classifier.weight"][TO_FIRST]) / 2)
    assert any("classifier.weight" in note for note in fused.manifest["notes"])


@pytest.mark.parametrize("labels", [["anger", "joy", "disgust"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["anger", "joy", "joy"]])
def test_other_labels_are_refused(tmp_path, labels):
    a, b = write_classifier(tmp_path / "a", ORDER, 1), write_classifier(tmp_path / "b", labels, 2)
    for pair in ([a, b], [b, a]):
        with pytest.raises(MismatchError, match="label order: id2label"):
            fuse(pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_as_many_classes_as_the_width_are_refused_in_another_order(tmp_path):
    """The pooler has then the shape of the head, and no one can say which of them has a row for each class."""
    labels = [f"class {i}" for i in range(WIDTH)]
    a, b = write_classifier(tmp_path / "a", labels, 1), write_classifier(tmp_path / "b", labels[::-1], 2)
    with pytest.raises(InputError, match=r"8 classes like the width of .*bert\.pooler\.dense\.weight"):
        fuse([a, b], tmp_path / "out")
    c = write_classifier(tmp_path / "c", labels, 3)
    fuse([a, c], tmp_path / "same order")


def test_labels_and_tokens_are_lined_up_together(tmp_path):
    a = write_classifier(tmp_path / "a", ORDER, 1)
    names = {"id2label": dict(enumerate(OTHER)), "label2id": {label: i for i, label in enumerate(OTHER)}}
    b = write_bert(tmp_path / "b", B_WORDS, 2, cls="BertForSequenceClassification", **names)
    fuse([a, b], tmp_path / "out", tokenizer="union")
    check_rows(tmp_path / "out", [a, b], [0.5, 0.5], EMBEDDING)
    x, y, out = (load_file(m / "model.safetensors")["classifier.bias"] for m in (a, b, tmp_path / "out"))
    torch.testing.assert_close(out, (x + y[TO_FIRST]) / 2)


# Statistics.


def fishers_of(models: Sequence[Path]) -> list[Path]:
    """A diagonal Fisher of each model, of random values, beside it."""
    found = []
    for number, model in enumerate(models):
        shapes = {name: t.shape for name, t in load_file(model / "model.safetensors").items()}
        noise = torch.Generator().manual_seed(number)
        tensors = {name: torch.rand(shape, generator=noise) + 0.1 for name, shape in shapes.items()}
        found.append(write_raw(model.parent / f"fisher of {model.name}", tensors))
    return found


def test_fishers_of_heads_are_lined_up_with_the_heads(tmp_path):
    a, b = write_classifier(tmp_path / "a", ORDER, 1), write_classifier(tmp_path / "b", OTHER, 2)
    fishers = fishers_of([a, b])
    fuse([a, b], tmp_path / "out", "fisher", statistics=fishers)
    x, y, f, g, out = (load_file(m / "model.safetensors") for m in (a, b, *fishers, tmp_path / "out"))
    for name in ("classifier.weight", "classifier.bias", "bert.pooler.dense.weight"):
        moved = name.startswith("classifier")
        other, its = (one[name][TO_FIRST] if moved else one[name] for one in (y, g))
        torch.testing.assert_close(out[name], (f[name] * x[name] + its * other) / (f[name] + its))


@pytest.mark.parametrize(("labels", "rows"), [(OTHER, 2), (OTHER, 4), (ORDER, 2)])
def test_a_fisher_of_another_shape_is_named(tmp_path, labels, rows):
    a, b = write_classifier(tmp_path / "a", ORDER, 1), write_classifier(tmp_path / "b", labels, 2)
    fishers = fishers_of([a, b])
    tensors = load_file(fishers[1] / "model.safetensors")
    tensors["classifier.weight"] = torch.ones(rows, WIDTH)
    save_file(tensors, fishers[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"(?s)statistics of classifier\.weight in .*fisher of b.*\[3, 8\].*\[{rows}, 8\]"):
        fuse([a, b], tmp_path / "out", "fisher", statistics=fishers)


def test_fishers_whose_names_have_more_in_front_are_found_and_none_at_all_are_refused(tmp_path):
    a, b = write_bert(tmp_path / "a", A_WORDS, 1), write_bert(tmp_path / "b", A_WORDS, 2)
    fishers = fishers_of([a, b])
    fuse([a, b], tmp_path / "out", "fisher", statistics=fishers)
    longer, other, fewer = [], [], []
    for one in fishers:
        tensors = load_file(one / "model.safetensors")
        longer.append(write_raw(tmp_path / f"longer {one.name}", {f"model.{name}": t for name, t in tensors.items()}))
        other.append(write_raw(tmp_path / f"other {one.name}", {f"{name}.other": t for name, t in tensors.items()}))
        fewer.append(write_raw(tmp_path / f"fewer {one.name}", {n: t for n, t in tensors.items() if n != EMBEDDING}))
    fuse([a, b], tmp_path / "again", "fisher", statistics=longer)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "out"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(InputError, match=r"(?s)statistics of .*models' names.*none, but .*\.other"):
        fuse([a, b], tmp_path / "none", "fisher", statistics=other)
    notes = fuse([a, b], tmp_path / "some", "fisher", statistics=fewer).manifest["notes"]
    assert f"statistics: have no {EMBEDDING}; fused without" in notes


def test_fishers_of_tables_are_not_lined_up_by_token(tmp_path):
    a, b, c = (
        write_bert(tmp_path / n, words, i) for i, (n, words) in enumerate({"a": A_WORDS, "b": B_WORDS, "c": A_WORDS}.items())
    )
    f, g, h = fishers_of([a, b, c])
    with pytest.raises(InputError, match=r"(?s)statistics of .*same tokens.*not lined up by token.*--tokenizer first"):
        fuse([a, b], tmp_path / "out", "fisher", statistics=[f, g], tokenizer="first")
    assert not (tmp_path / "out").exists()
    fuse([a, c], tmp_path / "same", "fisher", statistics=[f, h], tokenizer="first")
