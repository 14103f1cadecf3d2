"""Reach: whatever transformers saves is fused by its state dict alone, loads again, and computes what fusing in memory does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import write_raw
from fuseforget import fuse
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError, MismatchError

Inputs = dict[str, torch.Tensor]


def ids(count: int = 7) -> torch.Tensor:
    return torch.arange(3, 3 + count)[None]


def kinds() -> dict[str, tuple[str, Callable[[], Any], Callable[[], Inputs]]]:
    """By name: a class of transformers, a tiny configuration, inputs."""
    import transformers as t

    small = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    whisper = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
               "encoder_ffn_dim": 12, "decoder_ffn_dim": 12}  # fmt: skip

    def text() -> Inputs:
        return {"input_ids": ids()}

    def both() -> Inputs:
        return {"input_ids": ids(), "decoder_input_ids": ids(4)}

    def image() -> Inputs:
        return {"pixel_values": torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)}

    return {
        "bert classifier": ("BertForSequenceClassification", lambda: t.BertConfig(**small, num_labels=3), text),
        "bert masked LM, tied": ("BertForMaskedLM", lambda: t.BertConfig(**small), text),
        "bert pretraining": ("BertForPreTraining", lambda: t.BertConfig(**small), text),
        "roberta classifier": (
            "RobertaForSequenceClassification", lambda: t.RobertaConfig(**small, max_position_embeddings=20), text,
        ),
        "distilbert tokens": (
            "DistilBertForTokenClassification",
            lambda: t.DistilBertConfig(vocab_size=30, dim=8, n_layers=2, n_heads=2, hidden_dim=12, num_labels=4), text,
        ),
        "gpt2, tied": (
            "GPT2LMHeadModel", lambda: t.GPT2Config(vocab_size=30, n_positions=20, n_embd=8, n_layer=2, n_head=2), text,
        ),
        "llama": ("LlamaForCausalLM", lambda: t.LlamaConfig(**small, num_key_value_heads=1), text),
        "llama, tied": ("LlamaForCausalLM", lambda: t.LlamaConfig(**small, tie_word_embeddings=True), text),
        "mixtral": (
            "MixtralForCausalLM",
            lambda: t.MixtralConfig(**small, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2), text,
        ),
        "t5": (
            "T5ForConditionalGeneration",
            lambda: t.T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_decoder_layers=1, num_heads=2), both,
        ),
        "bart": (
            "BartForConditionalGeneration",
            lambda: t.BartConfig(vocab_size=30, max_position_embeddings=20, **whisper), both,
        ),
        "vit": (
            "ViTForImageClassification",
            lambda: t.ViTConfig(
                hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
                num_labels=3,
            ),
            image,
        ),
        "whisper": (
            "WhisperForConditionalGeneration",
            lambda: t.WhisperConfig(
                vocab_size=30, **whisper, num_mel_bins=4, max_source_positions=6, max_target_positions=8, pad_token_id=0,
                bos_token_id=1, eos_token_id=1, decoder_start_token_id=2,
            ),
            lambda: {"input_features": torch.linspace(-1, 1, 48).view(1, 4, 12), "decoder_input_ids": ids(4)},
        ),
        "wav2vec2": (
            "Wav2Vec2ForCTC",
            lambda: t.Wav2Vec2Config(
                **small, conv_dim=(8, 8), conv_stride=(2, 2), conv_kernel=(3, 3), num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2, num_feat_extract_layers=2,
            ),
            lambda: {"input_values": torch.linspace(-1, 1, 80)[None]},
        ),
        "clip": (
            "CLIPModel",
            lambda: t.CLIPConfig(
                text_config={**small, "max_position_embeddings": 12, "eos_token_id": 9, "bos_token_id": 1, "pad_token_id": 0},
                vision_config={**small, "image_size": 8, "patch_size": 4}, projection_dim=6,
            ),
            lambda: {"input_ids": ids(), **image()},
        ),
    }  # fmt: skip


KINDS = ["bert classifier", "bert masked LM, tied", "bert pretraining", "roberta classifier", "distilbert tokens", "gpt2, tied",
         "llama", "llama, tied", "mixtral", "t5", "bart", "vit", "whisper", "wav2vec2", "clip"]  # fmt: skip


def random_model(kind: str, seed: int) -> Any:
    import transformers

    name, config, _ = kinds()[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, name)(config())
        with torch.no_grad():
            for parameter in model.parameters():  # norms and biases too
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def outputs(model: Any, kind: str) -> list[torch.Tensor]:
    """Every floating output of a model, logits among them."""
    with torch.no_grad():
        found = model.eval()(**kinds()[kind][2](), return_dict=True)
    names = [n for n in found if "logits" in n or n.endswith("_embeds")]
    assert names
    return [found[n] for n in names]


def load(directory: Path) -> Any:
    """The model of the class that the configuration names; nothing may be missing or left over."""
    import transformers

    (name,) = json.loads((directory / "config.json").read_text())["architectures"]
    model, report = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    return model


def mean(models: list[Any], weights: list[float]) -> Any:
    """The first model with the weighted mean of all state dicts, in memory."""
    states = [model.state_dict() for model in models]
    fused = {
        n: sum(w * s[n].double() for w, s in zip(weights, states, strict=True)).to(t.dtype) if t.is_floating_point() else t
        for n, t in states[0].items()
    }
    models[0].load_state_dict(fused)
    return models[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_checkpoint_gives_the_logits_of_fusing_in_memory(tmp_path, kind):
    models = [random_model(kind, seed) for seed in (1, 2)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / str(i), max_shard_size="2KB" if i else "5GB")  # one file, and many
    ends = [outputs(model, kind) for model in models]
    assert len(list((tmp_path / "1").glob("*.safetensors"))) > 2
    fuse([tmp_path / "0", tmp_path / "1"], tmp_path / "out", weights=[0.3, 0.7])
    found, wanted = outputs(load(tmp_path / "out"), kind), outputs(mean(models, [0.3, 0.7]), kind)
    for a, b, *rest in zip(found, wanted, *ends, strict=True):
        torch.testing.assert_close(a, b)
        assert all((a - end).abs().max() > 1e-3 for end in rest)  # neither of the two models


@pytest.mark.parametrize("kind", ["bert masked LM, tied", "t5", "vit", "wav2vec2"])
def test_task_vectors_of_any_architecture(tmp_path, kind):
    base, a, b = (random_model(kind, seed) for seed in (0, 1, 2))
    for name, model in (("base", base), ("a", a), ("b", b)):
        model.save_pretrained(tmp_path / name)
    fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "out", "task_arithmetic", [0.4, 0.5], base=tmp_path / "base")
    for x, y in zip(outputs(load(tmp_path / "out"), kind), outputs(mean([base, a, b], [0.1, 0.4, 0.5]), kind), strict=True):
        torch.testing.assert_close(x, y)


def test_a_base_saved_without_its_head_of_any_architecture(tmp_path):
    """A task's head is new, and the base's names lack the first part: both are seen from the names."""
    from transformers import BertModel, ViTModel

    for kind, body, head in (("bert classifier", BertModel, "classifier.bias"), ("vit", ViTModel, "classifier.bias")):
        place = tmp_path / kind
        a, b = (random_model(kind, seed) for seed in (1, 2))
        a.save_pretrained(place / "a")
        b.save_pretrained(place / "b")
        body.from_pretrained(place / "a").save_pretrained(place / "base")  # the body of a: its task vector is zero
        fused = fuse([place / "a", place / "b"], place / "out", "task_arithmetic", [5, 0.25], base=place / "base")
        out, first, second = (open_checkpoint(place / n) for n in ("out", "a", "b"))
        for name in first:
            shares = [0.5, 0.5] if name.startswith("classifier") else [0.75, 0.25]
            torch.testing.assert_close(out[name], shares[0] * first[name] + shares[1] * second[name], msg=name)
        assert any(head in note for note in fused.manifest["notes"])


# Types.

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "E4": torch.float8_e4m3fn, "E5": torch.float8_e5m2}


@pytest.mark.parametrize(("given", "expected"), [
    (("F32", "F16", "BF16"), "F32"), (("F16", "BF16"), "F32"), (("BF16", "E4"), "BF16"), (("E4", "E5"), "F16"),
    (("E4", "E4"), "E4"), (("F32", "E5"), "F32"), (("F16", "F16", "E4"), "F16"),
])  # fmt: skip
def test_models_of_several_types_are_fused_in_the_widest(tmp_path, given, expected):
    """The result is the mean of what each file holds, rounded once."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(6, 5, generator=generator).to(TYPES[name]) for name in given]
    models = [write_raw(tmp_path / str(i), {"w": v, "n": torch.arange(3)}) for i, v in enumerate(values)]
    fuse(models, tmp_path / "out")
    out = load_file(tmp_path / "out/model.safetensors")
    exact = sum(v.double() for v in values) / len(values)
    assert out["w"].dtype == TYPES[expected]
    step = {"F32": 2**-23, "F16": 2**-10, "BF16": 2**-7, "E4": 2**-3}[expected]
    # Half a step of the type; below its normal numbers the steps do not get smaller.
    smallest = 2.0**-9 if expected == "E4" else 2.0**-24 if expected == "F16" else 0.0
    assert ((out["w"].double() - exact).abs() <= step / 2 * exact.abs() + smallest / 2 + 1e-12).all()
    assert torch.equal(out["n"], torch.arange(3))
    if expected != "E4":
        fuse(models, tmp_path / "half", dtype="float16")
        assert load_file(tmp_path / "half/model.safetensors")["w"].dtype == torch.float16


def test_a_model_of_mixed_types_loads_and_predicts(tmp_path):
    models = [random_model("gpt2, tied", seed) for seed in (1, 2, 3)]
    types = [torch.float32, torch.float16, torch.bfloat16]
    for i, (model, dtype) in enumerate(zip(models, types, strict=True)):
        model.to(dtype).save_pretrained(tmp_path / str(i))
    fuse([tmp_path / str(i) for i in range(3)], tmp_path / "out")
    out = load(tmp_path / "out")
    assert out.dtype == torch.float32
    wanted = mean([model.float() for model in models], [1 / 3] * 3)
    torch.testing.assert_close(outputs(out, "gpt2, tied")[0], outputs(wanted, "gpt2, tied")[0])


@pytest.mark.parametrize("kind", ["llama", "clip"])
def test_the_type_asked_for_is_the_one_that_loads(tmp_path, kind):
    """Also where a configuration has parts with types of their own."""
    for seed in (1, 2):
        random_model(kind, seed).save_pretrained(tmp_path / str(seed))
    fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "out", dtype="bfloat16")
    import transformers

    model = getattr(transformers, kinds()[kind][0]).from_pretrained(tmp_path / "out", dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# Tied weights.


def store_twice(directory: Path, name: str, twin: str) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, twin: tensors[name].clone()}, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("kind", "name", "twin"), [
    ("gpt2, tied", "transformer.wte.weight", "lm_head.weight"),
    ("llama, tied", "model.embed_tokens.weight", "lm_head.weight"),
    ("t5", "shared.weight", "encoder.embed_tokens.weight"),
    ("bert masked LM, tied", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
])  # fmt: skip
@pytest.mark.parametrize("which", ["first", "second", "both"])
def test_tied_weights_may_be_stored_once_or_twice(tmp_path, kind, name, twin, which):
    models = [random_model(kind, seed) for seed in (1, 2)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / str(i))
    for i in {"first": [0], "second": [1], "both": [0, 1]}[which]:
        store_twice(tmp_path / str(i), name, twin)
    fuse([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert (twin in stored) == (which == "both")
    wanted = outputs(mean(models, [0.5, 0.5]), kind)
    for a, b in zip(outputs(load(tmp_path / "out"), kind), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_copy_that_is_none_is_refused(tmp_path):
    """An untied head beside models whose head is the embedding would be lost."""
    for seed in (1, 2):
        random_model("gpt2, tied", seed).save_pretrained(tmp_path / str(seed))
    tensors = load_file(tmp_path / "2/model.safetensors")
    untied = tensors["transformer.wte.weight"].clone()
    untied[3, 4] += 1e-3
    save_file({**tensors, "lm_head.weight": untied}, tmp_path / "2/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"extra: lm_head.weight is absent"):
        fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    with pytest.raises(MismatchError, match=r"missing: lm_head.weight"):
        fuse([tmp_path / "2", tmp_path / "1"], tmp_path / "out")


def test_an_embedding_that_models_store_under_different_names_is_not_lost(tmp_path):
    for seed in (1, 2):
        random_model("t5", seed).save_pretrained(tmp_path / str(seed))
    tensors = load_file(tmp_path / "2/model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, tmp_path / "2/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"(?s)missing: shared.weight.*extra: encoder.embed_tokens.weight"):
        fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "out")


# Buffers of whole numbers, names of files, what is unlike in parts.


def test_buffers_of_every_whole_type_are_kept(tmp_path):
    buffers = {str(d).removeprefix("torch."): torch.tensor([0, 1, 1], dtype=d)
               for d in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)}  # fmt: skip
    models = [write_raw(tmp_path / str(i), {"w": torch.full((2,), float(i)), **buffers}) for i in range(2)]
    fuse(models, tmp_path / "out", dtype="bfloat16")
    out = load_file(tmp_path / "out/model.safetensors")
    assert all(out[n].dtype == t.dtype and torch.equal(out[n], t) for n, t in buffers.items())
    assert out["w"].tolist() == [0.5, 0.5]
    for name, tensor in buffers.items():
        other = write_raw(tmp_path / f"other {name}", {"w": torch.zeros(2), **buffers, name: 1 - tensor.int().to(tensor.dtype)
                                                       if tensor.dtype != torch.bool else ~tensor})  # fmt: skip
        with pytest.raises(InputError, match=f"tensor {name} .*whole numbers cannot be averaged"):
            fuse([models[0], other], tmp_path / "refused")


def test_parts_that_compute_differently_are_refused(tmp_path):
    """The same tensors with other heads of attention are another function; parts of a model say so in parts of its config."""
    for seed in (1, 2):
        random_model("clip", seed).save_pretrained(tmp_path / str(seed))
    config = json.loads((tmp_path / "2/config.json").read_text())
    config["text_config"]["num_attention_heads"] = 4
    (tmp_path / "2/config.json").write_text(json.dumps(config))
    with pytest.raises(MismatchError, match=r"config: text_config.num_attention_heads is 2 in the first model, 4 in"):
        fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "out")


def test_processors_go_with_the_model(tmp_path):
    """A vision model without its preprocessor_config.json cannot be used."""
    from transformers import ViTImageProcessor

    for seed in (1, 2):
        random_model("vit", seed).save_pretrained(tmp_path / str(seed))
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "1")
    fuse([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    assert ViTImageProcessor.from_pretrained(tmp_path / "out").size["height"] == 8
