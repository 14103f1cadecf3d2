"""Adapters: fused by what they add to their base, whole or as one adapter again. The oracle is peft's own merging."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import make_bert
from fuseforget import fuse
from fuseforget.checkpoint import open_checkpoint, open_model
from fuseforget.cli import app
from fuseforget.errors import InputError
from fuseforget.fuse import execute, plan_recipe, read_recipe
from fuseforget.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
Tensors = dict[str, torch.Tensor]

TEXT = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}


def families() -> dict[str, tuple[str, str, Any]]:
    """By name: the class of the base, the class that is adapted, a tiny configuration."""
    import transformers as t

    return {
        "bert": ("BertForSequenceClassification", "BertForSequenceClassification", t.BertConfig(**TEXT, num_labels=3)),
        "headless bert": ("BertModel", "BertForSequenceClassification", t.BertConfig(**TEXT)),
        "headless roberta": (
            "RobertaModel", "RobertaForSequenceClassification", t.RobertaConfig(**TEXT, max_position_embeddings=20),
        ),
        "roberta with a language model's head": (
            "RobertaForMaskedLM", "RobertaForSequenceClassification", t.RobertaConfig(**TEXT, max_position_embeddings=20),
        ),
        "gpt2": (
            "GPT2LMHeadModel", "GPT2LMHeadModel", t.GPT2Config(vocab_size=30, n_positions=20, n_embd=8, n_layer=2, n_head=2),
        ),
        "llama": ("LlamaForCausalLM", "LlamaForCausalLM", t.LlamaConfig(**TEXT, num_key_value_heads=1)),
        "tied llama": ("LlamaForCausalLM", "LlamaForCausalLM", t.LlamaConfig(**TEXT, tie_word_embeddings=True)),
        "t5": (
            "T5ForConditionalGeneration", "T5ForConditionalGeneration",
            t.T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2),
        ),
    }  # fmt: skip


def write_base(directory: Path, family: str, seed: int = 0) -> Path:
    import transformers

    name, _, config = families()[family]
    # The class that is adapted says whether the body has a pooler.
    options = {"add_pooling_layer": False} if name == "RobertaModel" else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        getattr(transformers, name)(config, **options).save_pretrained(directory)
    return directory


def adapted(base: Path, family: str, seed: int, labels: int | None = None, **settings: Any) -> Any:
    """A base in peft with an adapter whose values are random: also those that start as zero or one."""
    import transformers
    from peft import LoraConfig, get_peft_model

    options = {} if labels is None else {"num_labels": labels}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, families()[family][1]).from_pretrained(base, **options)
        model = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 5, **settings}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn_like(parameter)
                    parameter.copy_(parameter * (1 + 0.2 * noise) if "magnitude" in name else parameter + 0.3 * noise)
    return model


def merged(model: Any) -> tuple[Any, Tensors]:
    """What peft's merging gives: the model, and its tensors."""
    whole = model.merge_and_unload().eval()
    return whole, {name: tensor.detach().clone() for name, tensor in whole.state_dict().items()}


def logits(model: Any) -> torch.Tensor:
    inputs = {"input_ids": torch.arange(3, 9)[None]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.arange(4)[None]
    with torch.no_grad():
        return model.eval()(**inputs).logits


def load(directory: Path) -> Any:
    import transformers

    (name,) = json.loads((directory / "config.json").read_text())["architectures"]
    model, report = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model


# Name, family, settings of the adapter, number of labels.
CASES: list[tuple[str, str, dict[str, Any], int | None]] = [
    ("LoRA", "bert", {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}, None),
    ("rsLoRA", "bert", {"target_modules": ["query", "dense"], "use_rslora": True}, None),
    ("DoRA", "bert", {"target_modules": ["query", "dense"], "use_dora": True}, None),
    ("DoRA, rsLoRA", "llama", {"target_modules": ["q_proj", "up_proj"], "use_dora": True, "use_rslora": True}, None),
    ("ranks by pattern", "llama", {
        "target_modules": ["q_proj", "k_proj", "down_proj"], "task_type": "CAUSAL_LM",
        "rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 4}, "alpha_pattern": {"k_proj": 7, "down_proj": 1},
    }, None),
    ("ranks by pattern, rsLoRA", "llama", {
        "target_modules": ["q_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"^model.layers.0.mlp.down_proj": 1},
    }, None),
    ("all matrices, and the head of a language model", "llama", {"target_modules": "all-linear", "modules_to_save": ["lm_head"]},
     None),
    ("embeddings", "bert", {"target_modules": ["word_embeddings", "query"]}, None),
    ("embeddings with DoRA", "bert", {"target_modules": ["word_embeddings", "query"], "use_dora": True}, None),
    ("tied embeddings", "tied llama", {"target_modules": ["embed_tokens", "v_proj"]}, None),
    ("Conv1D", "gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}, None),
    ("Conv1D with DoRA", "gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}, None),
    ("biases too", "bert", {"target_modules": ["query"], "bias": "all"}, None),
    ("biases of what is adapted", "bert", {"target_modules": ["query", "classifier"], "bias": "lora_only"}, None),
    ("some layers", "bert", {"target_modules": ["value"], "layers_to_transform": [1]}, None),
    ("a new head", "headless bert", {"target_modules": ["query"], "task_type": "SEQ_CLS"}, 4),
    ("a new head of two layers", "headless roberta", {"target_modules": ["query"], "task_type": "SEQ_CLS"}, 5),
    ("a new head instead of a language model's", "roberta with a language model's head",
     {"target_modules": ["query"], "task_type": "SEQ_CLS"}, 3),
    ("another head", "bert", {"target_modules": ["query"], "modules_to_save": ["classifier", "pooler"]}, None),
    ("an encoder-decoder", "t5", {"target_modules": ["q", "v", "wo"], "task_type": "SEQ_2_SEQ_LM"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "family", "settings", "labels"), CASES, ids=[case[0] for case in CASES])
def test_an_adapter_is_what_peft_merges(tmp_path, name, family, settings, labels):
    base = write_base(tmp_path / "base", family)
    model = adapted(base, family, 1, labels, **settings)
    model.save_pretrained(tmp_path / "adapter")
    before = logits(load(base)) if families()[family][0] == families()[family][1] else None
    whole, expected = merged(model)
    fuse([tmp_path / "adapter"], tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert set(found) <= set(expected)
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], rtol=2e-6, atol=2e-7, msg=key)
    loaded = load(tmp_path / "out")
    torch.testing.assert_close(logits(loaded), logits(whole))
    assert before is None or (logits(whole) - before).abs().max() > 1e-4
    assert type(loaded) is type(whole)


def test_an_adapter_with_tokens_of_its_own(tmp_path):
    """A chat adapter: the tokenizer with the new tokens lies beside it, the larger embedding and head in it, whole."""
    import transformers
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(30)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="w0")
    base = write_base(tmp_path / "base", "llama")
    tokenizer.save_pretrained(base)
    wholes = []
    for seed, name in enumerate("ab", start=1):
        model = transformers.LlamaForCausalLM.from_pretrained(base)
        torch.manual_seed(seed)
        model.resize_token_embeddings(32)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter) if parameter.requires_grad else 0)
        own = transformers.AutoTokenizer.from_pretrained(base)
        own.add_tokens(["<user>", "<end>"])
        model.save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
        wholes.append(merged(model)[1])
    fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    found = load(tmp_path / "out")
    assert found.config.vocab_size == 32
    for key, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, (wholes[0][key] + wholes[1][key]) / 2, msg=key)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokens("w3 <user><end>")["input_ids"] == [3, 30, 31]
    assert not (tmp_path / "out/adapter_config.json").exists()
    fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "ties", "ties", tokenizer="first")
    assert load(tmp_path / "ties").config.vocab_size == 32
    with pytest.raises(InputError, match="pass --tokenizer first"):
        fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "refused", "ties")


def test_blocks_of_rows_do_not_change_an_adapter(tmp_path, monkeypatch):
    """Also where a block ends within a row, and where lengths of columns are found in several passes."""
    from fuseforget.fuse import adapted as adapted_module
    from fuseforget.methods import group

    base = write_base(tmp_path / "base", "gpt2")
    for name, dora in (("plain", False), ("dora", True)):
        adapted(base, "gpt2", 1, target_modules=["c_attn", "c_fc", "wte"], fan_in_fan_out=True, use_dora=dora).save_pretrained(
            tmp_path / name
        )
    models = [tmp_path / "plain", tmp_path / "dora"]
    fuse(models, tmp_path / "one")
    monkeypatch.setattr(group, "BLOCK", 5)
    monkeypatch.setattr(group, "SPAN", 3)
    monkeypatch.setattr(adapted_module, "ROWS_AT_ONCE", 7)
    fuse(models, tmp_path / "many")
    one, many = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "many"))
    for key, tensor in one.items():
        # A product of fewer rows is summed in another order.
        torch.testing.assert_close(many[key], tensor, rtol=1e-6, atol=1e-7, msg=key)


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, list[Path], list[Path]]:
    """A base of BERT, three adapters of it (LoRA, rsLoRA, LoRA of other matrices), and what peft merges them to."""
    base = write_base(tmp_path / "base", "bert")
    settings = [
        {"target_modules": ["query", "value"], "modules_to_save": ["classifier"]},
        {"target_modules": ["query", "dense"], "use_rslora": True, "r": 2},
        {"target_modules": ["value", "dense", "word_embeddings"], "lora_alpha": 2},
    ]
    adapters, wholes = [], []
    for seed, one in enumerate(settings, start=1):
        model = adapted(base, "bert", seed, **one)
        model.save_pretrained(tmp_path / f"adapter{seed}")
        merged(model)[0].save_pretrained(tmp_path / f"whole{seed}")
        adapters.append(tmp_path / f"adapter{seed}")
        wholes.append(tmp_path / f"whole{seed}")
    return base, adapters, wholes


COMPARED = [name for name, row in METHODS.items() if not row.statistics]


@pytest.mark.parametrize("method", COMPARED)
def test_fusing_adapters_is_fusing_the_models_that_they_make(three, tmp_path, method):
    base, adapters, wholes = three
    row = METHODS[method]
    # No value is changed by all three in one direction.
    count = row.models[1] or (1 if method in ("negmerge", "consensus") else 3)
    options: dict[str, Any] = {"base": base} if row.base == "required" else {}
    # No trimming by rank: peft's float32 rounding would decide which of two nearly equal values is kept.
    fuse(adapters[:count], tmp_path / "a", method, seed=4, **options)
    fuse(wholes[:count], tmp_path / "w", method, seed=4, **options)
    found, expected = (load_file(tmp_path / n / "model.safetensors") for n in "aw")
    assert set(found) == set(expected)
    largest = 0.0
    for key, tensor in found.items():
        far = (tensor - expected[key]).abs()
        # Signs are elected, and importance is compared, between values that may be equal up to rounding.
        share = float((far > 1e-5 * max(1.0, float(expected[key].abs().max()))).double().mean())
        assert share <= (0.02 if method in ("arcee_fusion", "ram", "nearswap") else 0.0), key
        largest = max(largest, float((expected[key] - load_file(base / "model.safetensors")[key]).abs().max()))
    assert largest > 1e-3


def test_an_adapter_and_a_full_checkpoint_are_fused_into_a_full_checkpoint(three, tmp_path):
    _, adapters, wholes = three
    fuse([adapters[0], wholes[1]], tmp_path / "mixed", weights=[0.25, 0.75])
    found = load_file(tmp_path / "mixed/model.safetensors")
    first, second = (load_file(w / "model.safetensors") for w in wholes[:2])
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, 0.25 * first[key] + 0.75 * second[key], rtol=2e-6, atol=2e-7, msg=key)
    with pytest.raises(InputError, match=r"adapters alone.*whole2"):
        into_adapter([adapters[0], wholes[1]], tmp_path / "out", None)


def test_the_base_is_what_the_adapters_name_or_what_is_given(three, tmp_path):
    base, adapters, _ = three
    fused = fuse(adapters, tmp_path / "named", "ties", density=0.5)
    assert fused.manifest["recipe"]["base"] == str(base)
    shutil.copytree(base, tmp_path / "elsewhere")
    for adapter in adapters:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match=r"base of adapter .*Pass --base MODEL"):
        fuse(adapters, tmp_path / "out", "ties")
    fuse(adapters, tmp_path / "given", "ties", density=0.5, base=tmp_path / "elsewhere")
    fuse(adapters, tmp_path / "average", base=tmp_path / "elsewhere")  # which average itself has no use for
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("named", "given"))
    assert all(torch.equal(t, b[k]) for k, t in a.items())


# Into one adapter.


def into_adapter(models: list[Path], out: Path, rank: int | None, method: str = "average", weights: Any = None, **options: Any):
    return fuse(models, out, method, weights, as_adapter="sum" if rank is None else rank, **options)


def changes(adapter: Path, base: Path) -> Tensors:
    """What an adapter adds to each matrix that it adapts, dense, in float64, straight from its files."""
    opened: Any = open_model(adapter, base)
    stored = load_file(adapter / "adapter_model.safetensors")
    found = {}
    for name, part in opened.low_rank.items():
        a, b = (
            stored[info.name if info.name in stored else f"base_model.model.{info.name}"].double() for info in (part.a, part.b)
        )
        found[name] = part.scale * ((b @ a).T if part.transposed else b @ a)
    return found


SHARES = [0.2, 0.3, 0.5]


@pytest.mark.parametrize(("method", "weights", "options", "factors"), [
    ("average", SHARES, {}, SHARES),
    ("task_arithmetic", [0.5, -1, 2], {"lambda": 0.5}, [0.25, -0.5, 1]),
    ("task_arithmetic", [1, 1, 2], {"normalize": True}, [0.25, 0.25, 0.5]),
])  # fmt: skip
def test_a_concatenated_adapter_is_exact(three, tmp_path, method, weights, options, factors):
    base, adapters, _ = three
    fused = into_adapter(adapters, tmp_path / "out", None, method, weights, **options)
    assert fused.manifest["truncation"]["error"] == 0
    dense, parts = changes(tmp_path / "out", base), [changes(adapter, base) for adapter in adapters]
    assert set(dense) == set().union(*parts)
    for name, change in dense.items():
        expected = sum(f * p[name] for f, p in zip(factors, parts, strict=True) if name in p)
        torch.testing.assert_close(change, expected, rtol=1e-6, atol=1e-6, msg=name)
        assert fused.manifest["truncation"]["tensors"][name] == {
            "rank": sum({0: 3, 1: 2, 2: 3}[i] for i, p in enumerate(parts) if name in p), "error": 0.0,
        }  # fmt: skip
    fuse([tmp_path / "out"], tmp_path / "merged")
    fuse(adapters, tmp_path / "whole", method, weights, **options)
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("merged", "whole"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=2e-6, atol=2e-7, msg=name)


@pytest.mark.parametrize(("method", "options"), [
    ("average", {}), ("task_arithmetic", {"lambda": 0.7}), ("ties", {"density": 0.5}),
    ("dare_linear", {"density": 0.5, "seed": 3}), ("tsv_m", {}), ("model_stock", {}), ("arcee_fusion", {}),
])  # fmt: skip
@pytest.mark.parametrize("rank", [1, 4])
def test_a_cut_adapter_is_the_nearest_of_its_rank_and_says_what_it_lost(three, tmp_path, method, options, rank):
    """Oracle: the singular value decomposition of the dense fused change (Eckart and Young)."""
    base, adapters, _ = three
    adapters = adapters[: METHODS[method].models[1]]
    fused = into_adapter(adapters, tmp_path / "out", rank, method, **options)
    fuse(adapters, tmp_path / "whole", method, **options)
    origin, whole = (load_file(p / "model.safetensors") for p in (base, tmp_path / "whole"))
    found, truncation = changes(tmp_path / "out", base), fused.manifest["truncation"]
    lost, norms = [], []
    for name, change in found.items():
        dense = whole[name].double() - origin[name].double()
        u, s, vt = torch.linalg.svd(dense, full_matrices=False)
        best = u[:, :rank] * s[:rank] @ vt[:rank]
        # The oracle's fused matrices are float32 sums of the base and its change.
        rounding = 1e-5 * float(origin[name].abs().max() + dense.abs().max())
        gap = float(s[rank - 1] - s[rank]) if rank < len(s) else float(s[rank - 1])
        if gap > 0.01 * float(s[0]):  # else more than one matrix is as near
            torch.testing.assert_close(change, best, rtol=0, atol=rounding / max(gap, 0.01) * float(s[0]), msg=name)
        left = float((change - dense).norm())
        assert left == pytest.approx(float(s[rank:].norm()), abs=10 * rounding), name
        assert truncation["tensors"][name]["rank"] <= min(rank, *dense.shape)
        share = left / float(dense.norm()) if dense.any() else 0.0  # Model Stock goes nowhere where one model alone moved
        assert truncation["tensors"][name]["error"] == pytest.approx(share, abs=1e-4), name
        lost.append(left)
        norms.append(float(dense.norm()))
    assert truncation["error"] == pytest.approx(math.hypot(*lost) / math.hypot(*norms), abs=1e-4)
    assert rank > 1 or truncation["error"] > 0.01


def test_a_cut_above_the_sum_of_ranks_loses_nothing(three, tmp_path):
    _, adapters, _ = three
    fused = into_adapter(adapters, tmp_path / "out", 50)
    assert fused.manifest["truncation"]["error"] == 0
    fused = into_adapter(adapters, tmp_path / "ties", 50, "ties", density=0.5)
    assert fused.manifest["truncation"]["error"] < 1e-12


@pytest.mark.parametrize("rank", [None, 2])
def test_the_fused_adapter_loads_in_peft_and_predicts_like_the_fused_model(three, tmp_path, rank):
    import transformers
    from peft import PeftModel

    base, adapters, _ = three
    into_adapter(adapters, tmp_path / "out", rank)
    fuse([tmp_path / "out"], tmp_path / "merged")
    origin = transformers.BertForSequenceClassification.from_pretrained(base)
    model = PeftModel.from_pretrained(origin, tmp_path / "out")
    keys = set(load_file(tmp_path / "out/adapter_model.safetensors"))
    from peft import get_peft_model_state_dict

    assert keys == set(get_peft_model_state_dict(model))  # every tensor has its place, and every place its tensor
    torch.testing.assert_close(logits(model), logits(load(tmp_path / "merged")))
    if rank is None:
        fuse(adapters, tmp_path / "whole")
        torch.testing.assert_close(logits(model), logits(load(tmp_path / "whole")))


@pytest.mark.parametrize(("family", "settings", "labels"), [
    ("gpt2", [{"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}] * 2, None),
    ("headless roberta", [{"target_modules": ["query"], "task_type": "SEQ_CLS"}] * 2, 3),
    ("bert", [{"target_modules": ["query"], "bias": "lora_only"}, {"target_modules": ["key"]}], None),
    ("tied llama", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["v_proj"], "exclude_modules": ["embed_tokens"]}],
     None),
])  # fmt: skip
def test_one_adapter_of_other_kinds_loads_in_peft(tmp_path, family, settings, labels):
    import transformers
    from peft import PeftModel

    base = write_base(tmp_path / "base", family)
    for i, one in enumerate(settings):
        adapted(base, family, i + 1, labels, **one).save_pretrained(tmp_path / str(i))
    models = [tmp_path / str(i) for i in range(len(settings))]
    into_adapter(models, tmp_path / "out", None)
    fuse(models, tmp_path / "whole")
    options = {} if labels is None else {"num_labels": labels}
    origin = getattr(transformers, families()[family][1]).from_pretrained(base, **options)
    # Merged: before that peft's tied heads do not have what the embeddings are given.
    model = PeftModel.from_pretrained(origin, tmp_path / "out").merge_and_unload()
    torch.testing.assert_close(logits(model), logits(load(tmp_path / "whole")))


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_type_of_a_fused_adapter(three, tmp_path, dtype, expected):
    _, adapters, _ = three
    into_adapter(adapters, tmp_path / "out", 2, dtype=dtype)
    assert {t.dtype for t in load_file(tmp_path / "out/adapter_model.safetensors").values()} == {expected}


@pytest.mark.parametrize("rank", ["sum", "2"])
def test_the_command_makes_adapters_and_their_manifests_make_them_again(three, tmp_path, rank):
    _, adapters, _ = three
    runner = CliRunner()
    done = runner.invoke(app, ["fuse", *map(str, adapters), "-o", str(tmp_path / "out"), "--as-adapter", rank])
    assert done.exit_code == 0, done.output
    truncation = json.loads((tmp_path / "out/fuseforget.json").read_text())["truncation"]
    lost = "nothing is lost" if rank == "sum" else f"lost by the cut: {truncation['error']:.2%} of the change's norm"
    assert lost in done.output
    done = runner.invoke(app, ["fuse", "--recipe", str(tmp_path / "out/fuseforget.json"), "-o", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "again").iterdir())
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    wrong = runner.invoke(app, ["fuse", *map(str, adapters), "-o", str(tmp_path / "no"), "--as-adapter", "many"])
    assert isinstance(wrong.exception, InputError)
    assert not (tmp_path / "no").exists()


def test_a_manifest_of_adapters_makes_the_full_checkpoint_again(three, tmp_path):
    _, adapters, _ = three
    fuse(adapters, tmp_path / "out", "ties", density=0.7)
    execute(plan_recipe(read_recipe(tmp_path / "out/fuseforget.json")), tmp_path / "again", shard_size=10**9)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("out", "again"))
    assert all(torch.equal(t, b[k]) for k, t in a.items())
    tensors = load_file(adapters[1] / "adapter_model.safetensors")
    save_file({n: t + 1 for n, t in tensors.items()}, adapters[1] / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"another content of adapter_model\.safetensors"):
        execute(plan_recipe(read_recipe(tmp_path / "out/fuseforget.json")), tmp_path / "changed", shard_size=10**9)


# Refusals.


def spoil(adapter: Path, tensors: Tensors | None = None, **settings: Any) -> Path:
    """Change an adapter's settings, and add tensors to it."""
    told = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**told, **settings}))
    if tensors:
        file = adapter / "adapter_model.safetensors"
        save_file({**load_file(file), **tensors}, file)
    return adapter


PRE = "base_model.model.bert.encoder.layer.0.attention.self"


@pytest.mark.parametrize(("settings", "tensors", "message"), [
    ({"peft_type": "IA3"}, {}, "a LoRA adapter .*found peft_type 'IA3'"),
    ({"init_lora_weights": "pissa_niter_4"}, {}, "a base changed by init_lora_weights 'pissa_niter_4'"),
    ({"init_lora_weights": "OLoRA"}, {}, "init_lora_weights 'olora'"),
    ({"alora_invocation_tokens": [1, 2]}, {}, "can be merged into its base, found alora_invocation_tokens"),
    ({"layer_replication": [[0, 1], [0, 2]]}, {}, "layer_replication"),
    ({"r": 5}, {}, "factors of rank 5 for bert"),
    ({"base_model_name_or_path": None}, {}, "neither. Pass --base MODEL"),
    ({}, {f"{PRE}.query.lora_B.bias": torch.zeros(8)}, r"found bert\.encoder.*query\.lora_B\.bias"),
    ({}, {f"{PRE}.qeury.lora_A.weight": torch.zeros(3, 8)}, r"found bert\..*qeury\.lora_A\.weight"),
    ({}, {f"{PRE}.key.lora_A.weight": torch.zeros(3, 8)}, "both factors for .*key.weight, found one"),
    ({}, {"base_model.model.bert.embeddings.word_embeddings.token_adapter.trainable_tokens_delta": torch.zeros(2, 8)},
     "trainable_tokens_delta"),
    ({}, {"base_model.model.prompt_encoder.weight": torch.zeros(2, 8)}, "found prompt_encoder.weight"),
])  # fmt: skip
def test_what_is_no_lora_is_refused(three, tmp_path, settings, tensors, message):
    _, adapters, _ = three
    spoil(adapters[0], tensors, **settings)
    with pytest.raises(InputError, match=message):
        fuse(adapters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_a_convolution_is_refused(tmp_path):
    from conftest import write_raw

    base = write_raw(tmp_path / "base", {"conv.weight": torch.zeros(4, 3, 2, 2)})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    factors = {"conv.lora_A.weight": torch.zeros(1, 3, 2, 2), "conv.lora_B.weight": torch.zeros(4, 1, 1, 1)}
    save_file({f"base_model.model.{n}": t for n, t in factors.items()}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": str(base)})
    )
    with pytest.raises(InputError, match=r"factors that are matrices for conv\.weight"):
        open_model(adapter)


def test_pickled_weights_and_other_bases_are_refused(three, tmp_path):
    base, adapters, _ = three
    with pytest.raises(InputError, match="factors of rank 3 for"):
        fuse(adapters, tmp_path / "out", base=write_wide(tmp_path / "wide"))
    spoil(adapters[1], base_model_name_or_path=str(write_base(tmp_path / "second", "bert", seed=9)))
    with pytest.raises(InputError, match=r"adapters: expected one base, found .*base, .*second"):
        fuse(adapters, tmp_path / "out")
    fuse(adapters, tmp_path / "given", base=base)
    (adapters[0] / "adapter_model.safetensors").rename(adapters[0] / "adapter_model.bin")
    with pytest.raises(InputError, match=r"expected adapter_model\.safetensors"):
        fuse(adapters, tmp_path / "out")


def write_wide(directory: Path) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(BertConfig(**{**TEXT, "hidden_size": 16}, num_labels=3)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("method", "rank", "options", "message"), [
    ("average", 0, {}, "as_adapter: expected a rank"),
    ("average", -3, {}, "as_adapter: expected a rank"),
    ("ties", None, {}, "method ties: expected a rank"),
    ("slerp", 2, {}, "average or a method on task vectors"),
    ("karcher", 2, {}, "average or a method on task vectors"),
])  # fmt: skip
def test_what_has_no_low_rank_is_refused(three, tmp_path, method, rank, options, message):
    _, adapters, _ = three
    with pytest.raises(InputError, match=message):
        into_adapter(adapters[: METHODS[method].models[1]], tmp_path / "out", rank, method, **options)
    assert not (tmp_path / "out").exists()


def test_dora_has_no_form_as_one_adapter(three, tmp_path):
    base, adapters, _ = three
    adapted(base, "bert", 7, target_modules=["query"], use_dora=True).save_pretrained(tmp_path / "dora")
    with pytest.raises(InputError, match=r"found DoRA: .*dora. Fuse them into a full checkpoint"):
        into_adapter([adapters[0], tmp_path / "dora"], tmp_path / "out", None)
    fuse([adapters[0], tmp_path / "dora"], tmp_path / "full")
    assert open_checkpoint(tmp_path / "full")


def test_factors_that_are_not_finite_are_named(three, tmp_path):
    _, adapters, _ = three
    tensors = load_file(adapters[0] / "adapter_model.safetensors")
    name = f"{PRE}.query.lora_A.weight"
    tensors[name][0, 0] = math.nan
    save_file(tensors, adapters[0] / "adapter_model.safetensors")
    for rank in (None, 2):
        with pytest.raises(InputError, match=r"query\.lora_A\.weight: expected finite values"):
            into_adapter(adapters, tmp_path / "out", rank)
    with pytest.raises(InputError, match=r"query\.weight.*NaN"):
        fuse(adapters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_that_adapters_have_whole_are_fused_with_the_scale_of_all_matrices(tmp_path):
    """The head has fewer rows than columns; its scale is that of the whole model, as in a full checkpoint."""
    base = make_bert(tmp_path / "base", labels=3)
    paths = []
    for seed in (1, 2):
        model = adapted(base, "bert", seed, labels=3, target_modules=["query"], modules_to_save=["classifier", "pooler"])
        model.save_pretrained(tmp_path / f"adapter{seed}")
        paths.append(tmp_path / f"adapter{seed}")
    # Of random changes, which have nothing in common, a strict filter would leave nothing to compare.
    whole = fuse(paths, tmp_path / "full", "spectral_consensus", base=base, forget=0.5)
    one = into_adapter(paths, tmp_path / "one", 16, "spectral_consensus", base=base, forget=0.5)
    assert one.manifest["notes"] == whole.manifest["notes"] != []
    full = load_file(tmp_path / "full/model.safetensors")
    found = load_file(tmp_path / "one/adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    for name in ("classifier.weight", "bert.pooler.dense.weight"):
        (stored,) = (tensor for key, tensor in found.items() if key.endswith(name))
        assert float((full[name] - before[name]).abs().max()) > 0.1
        torch.testing.assert_close(stored, full[name], rtol=1e-5, atol=1e-5)
