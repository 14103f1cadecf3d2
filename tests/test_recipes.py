"""Recipes: mergekit's YAML and our manifests say what is fused; what they say and cannot be done is refused with its name."""

from __future__ import annotations

import json
import textwrap
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import random_tensors, write_raw
from fuseforget import fuse
from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.cli.fuse import parse_parameters
from fuseforget.errors import InputError, MismatchError
from fuseforget.fuse import Fused, execute, plan_recipe, read_recipe
from fuseforget.fuse.settings import Depth, Setting

# Settings: numbers, gradients, filters. The oracle is what mergekit documents, computed with fractions.


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_gradients_are_interpolated_linearly_from_the_first_layer_to_the_last(values, last, data):
    layer = data.draw(st.integers(0, last))
    position = Fraction(layer, last) * (len(values) - 1)
    before = position.numerator // position.denominator
    after = min(before + 1, len(values) - 1)
    expected = values[before] + (position - before) * (values[after] - values[before])
    found = Setting.of([float(v) for v in values], "t").at("any", layer / last, "t")
    assert found == pytest.approx(float(expected), abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.floats(0, 1))
def test_of_what_is_no_number_the_one_at_the_depth_is_taken(values, depth):
    assert Setting.of(values, "rescale").at("any", depth, "rescale") is values[int(depth * (len(values) - 1))]


PARTS = st.sampled_from(["mlp", "self_attn", "layers.1.", "q_proj", "*", None])


@given(st.lists(st.tuples(PARTS, st.integers(0, 9)), min_size=1, max_size=4), st.sampled_from([
    "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight",
]))  # fmt: skip
def test_the_first_filter_that_fits_counts(entries, name):
    setting = Setting.of([{"value": v} if f is None else {"filter": f, "value": v} for f, v in entries], "t")
    expected = [v for f, v in entries if f in (None, "*") or f in name]
    if expected:
        assert setting.at(name, 0.5, "t") == expected[0]
    else:
        with pytest.raises(InputError, match="Add an entry without filter"):
            setting.at(name, 0.5, "t")


ENTRY = st.fixed_dictionaries({"value": st.floats(-2, 2)}, optional={"filter": st.text("abz._*?[]3", min_size=1)})
FORMS = st.one_of(
    st.floats(-2, 2), st.lists(st.floats(-2, 2), min_size=1, max_size=3), st.lists(ENTRY, min_size=1, max_size=3)
)  # fmt: skip


@given(FORMS)
def test_a_setting_is_what_its_plain_form_says(form):
    setting = Setting.of(form, "t")
    assert Setting.of(json.loads(json.dumps(setting.plain())), "t") == setting


@pytest.mark.parametrize("form", [[], {}, {"filter": "mlp"}, [0.5, {"value": 1}], [{"value": []}], [[1, 2]], None, {"value": {}},
                                  {"filter": 3, "value": 1}, {"filter": "a", "value": 1, "wieght": 2}])  # fmt: skip
def test_malformed_settings_are_refused_by_name(form):
    with pytest.raises(InputError, match="density of the third"):
        Setting.of(form, "density of the third")


def test_depth_counts_each_stack_by_itself():
    depth = Depth.of(["encoder.block.0.w", "encoder.block.4.w", "decoder.block.0.w", "decoder.block.2.w", "only.0.w", "shared.w"])
    names = ["encoder.block.1.w", "decoder.block.1.w", "decoder.block.2.w", "only.0.w", "shared.w"]
    assert [depth(name) for name in names] == [0.25, 0.5, 1, 1, 0]


# mergekit's own examples, unchanged (arcee-ai/mergekit, examples/).

EXAMPLES = {
    "arcee_fusion": """
        models:
          - model: model_a
          - model: model_b
        merge_method: arcee_fusion
        base_model: model_a
        dtype: bfloat16
        """,
    "bio-merge": """
        models:
          - model: mistralai/Mistral-7B-Instruct-v0.2
            parameters:
              density: 0.5
              weight: 0.5
          - model: BioMistral/BioMistral-7B
            parameters:
              density: 0.5
              weight: 0.5
        merge_method: ties
        base_model: mistralai/Mistral-7B-v0.1
        parameters:
          normalize: false
          int8_mask: true
        dtype: float16
        """,
    "gradient-slerp": """
        slices:
          - sources:
              - model: psmathur/orca_mini_v3_13b
                layer_range: [0, 40]
              - model: garage-bAInd/Platypus2-13B
                layer_range: [0, 40]
        # or, the equivalent models: syntax:
        # models:
        #   - model: psmathur/orca_mini_v3_13b
        #   - model: garage-bAInd/Platypus2-13B
        merge_method: slerp
        base_model: psmathur/orca_mini_v3_13b
        parameters:
          t:
            - filter: self_attn
              value: [0, 0.5, 0.3, 0.7, 1]
            - filter: mlp
              value: [1, 0.5, 0.7, 0.3, 0]
            - value: 0.5 # fallback for rest of tensors
        dtype: float16
        """,
    "linear": """
        models:
          - model: psmathur/orca_mini_v3_13b
            parameters:
              weight: 1.0
          - model: WizardLM/WizardLM-13B-V1.2
            parameters:
              weight: 0.3
          - model: garage-bAInd/Platypus2-13B
            parameters:
              weight: 0.5
        merge_method: linear
        dtype: float16
        """,
    "orcamini-platy-44layer": """
        slices:
          - sources:
            - model: psmathur/orca_mini_v3_13b
              layer_range: [0, 24]
          - sources:
            - model: garage-bAInd/Platypus2-13B
              layer_range: [20, 40]
        merge_method: passthrough
        dtype: float16
        """,
    "ties": """
        models:
          - model: psmathur/orca_mini_v3_13b
            parameters:
              density: [1, 0.7, 0.1] # density gradient
              weight: 1.0
          - model: garage-bAInd/Platypus2-13B
            parameters:
              density: 0.5
              weight: [0, 0.3, 0.7, 1] # weight gradient
          - model: WizardLM/WizardMath-13B-V1.0
            parameters:
              density: 0.33
              weight:
                - filter: mlp
                  value: 0.5
                - value: 0
        merge_method: ties
        base_model: TheBloke/Llama-2-13B-fp16
        parameters:
          normalize: true
          int8_mask: true
        dtype: float16
        """,
}
LAYERS = 40
ORCA, PLATYPUS = "psmathur/orca_mini_v3_13b", "garage-bAInd/Platypus2-13B"


def llama(directory: Path, layers: int, seed: int) -> Path:
    """A checkpoint of a tiny Llama with random parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1
    )
    return save(LlamaForCausalLM, config, directory, seed)


def save(kind: Any, config: Any, directory: Path, seed: int) -> Path:
    """A model of transformers, all parameters random (also norms and biases), saved."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def write_recipe(directory: Path, text: str) -> Path:
    file = directory / "recipe.yml"
    file.write_text(textwrap.dedent(text))
    return file


def carry_out(recipe: Path, out: Path, **options: Any) -> Fused:
    return execute(plan_recipe(read_recipe(recipe)), out, shard_size=10**9, **options)


def logits(directory: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(3, 9)[None]).logits


@pytest.mark.parametrize("name", EXAMPLES)
def test_mergekits_examples_run_unchanged(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(write_recipe(tmp_path, EXAMPLES[name]))
    for seed, source in enumerate(dict.fromkeys(recipe.sources)):
        llama(tmp_path / source, LAYERS, seed)
    fused = execute(plan_recipe(recipe), tmp_path / "out", shard_size=10**9)
    config = json.loads((tmp_path / "out/config.json").read_text())
    layers = 44 if name == "orcamini-platy-44layer" else LAYERS
    assert config["num_hidden_layers"] == layers
    wanted = torch.bfloat16 if name == "arcee_fusion" else torch.float16
    assert {t.dtype for t in open_checkpoint(tmp_path / "out").values()} == {wanted}
    assert logits(tmp_path / "out").isfinite().all()
    again = execute(plan_recipe(read_recipe(tmp_path / "out/fuseforget.json")), tmp_path / "again", shard_size=10**9)
    assert file_sha256(tmp_path / "out/model.safetensors") == file_sha256(tmp_path / "again/model.safetensors")
    assert again.manifest["recipe"] == fused.manifest["recipe"]


def test_the_examples_settings_are_read_as_they_stand(tmp_path):
    """By hand, at a few names and depths."""

    def plan_of(name):
        recipe = read_recipe(write_recipe(tmp_path, EXAMPLES[name]))
        return recipe, recipe.slices[0]

    recipe, whole = plan_of("ties")
    assert (recipe.method, recipe.base, recipe.dtype, recipe.normalize) == ("ties", "TheBloke/Llama-2-13B-fp16", "float16", False)
    density = [s.at("layers.1.mlp.w", 0.25, "density") for s in whole.settings["density"]]
    assert density == pytest.approx([0.85, 0.5, 0.33])
    weight = [s.at("layers.1.mlp.w", 0.5, "weight") for s in whole.weights]
    assert weight == pytest.approx([1, 0.5, 0.5])
    assert whole.weights[2].at("layers.1.self_attn.w", 0.5, "weight") == 0
    assert whole.settings["normalize"].at("x", 0, "normalize") is True

    recipe, arc = plan_of("gradient-slerp")
    assert (recipe.models, arc.layers) == ((ORCA, PLATYPUS), ((0, 40), (0, 40)))
    for part, depth, t in (("self_attn", 0.125, 0.25), ("mlp", 0.125, 0.75), ("norm", 0.9, 0.5)):
        pair = [w.at(f"model.layers.3.{part}.weight", depth, "t") for w in arc.weights]
        assert pair == pytest.approx([1 - t, t])

    recipe, mean = plan_of("linear")
    assert (recipe.method, recipe.normalize) == ("average", True)
    assert [w.form for w in mean.weights] == [1.0, 0.3, 0.5]
    recipe, _ = plan_of("arcee_fusion")
    assert (recipe.models, recipe.base) == (("model_b",), "model_a")
    recipe, _ = plan_of("orcamini-platy-44layer")
    assert [(one.models, one.layers) for one in recipe.slices] == [((0,), ((0, 24),)), ((1,), ((20, 40),))]


# Levels: a model's in its slice, the slice's, the recipe's, the default.


def test_what_filters_leave_open_comes_from_the_wider_level_and_at_last_from_the_default(tmp_path):
    text = """
        slices:
          - sources:
              - {model: a, layer_range: [0, 1], parameters: {density: [{filter: mlp, value: 0.1}], weight: 0.7}}
              - {model: b, layer_range: [0, 1]}
            parameters: {density: [{filter: attn, value: 0.2}], weight: [{filter: mlp, value: 0.4}, {value: 0.5}]}
        parameters: {density: [{filter: norm, value: 0.3}], lambda: 2}
        merge_method: ties
        base_model: base
        """
    (one,) = read_recipe(write_recipe(tmp_path, text)).slices
    names = ("mlp", "attn", "norm", "embed")
    found = [[s.at(name, 0.5, "density") for name in names] for s in one.settings["density"]]
    assert found == [[0.1, 0.2, 0.3, 1.0], [1.0, 0.2, 0.3, 1.0]]
    assert [[w.at(name, 0.5, "weight") for name in names] for w in one.weights] == [[0.7] * 4, [0.4, 0.5, 0.5, 0.5]]
    assert one.settings["lambda"].form == 2


def test_passthrough_scales_what_the_filters_name(tmp_path, monkeypatch):
    """The usual recipe for deeper models: repeated layers whose output projections are zero, so that they change nothing."""
    monkeypatch.chdir(tmp_path)
    llama(tmp_path / "a", 3, 0)
    text = """
        slices:
          - sources: [{model: a, layer_range: [0, 3]}]
          - sources:
              - model: a
                layer_range: [1, 3]
                parameters:
                  scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}]
        merge_method: passthrough
        """
    carry_out(write_recipe(tmp_path, text), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["num_hidden_layers"] == 5
    torch.testing.assert_close(logits(tmp_path / "out"), logits(tmp_path / "a"))


RENAMED = [
    ("nuslerp", "nuslerp_flatten: false, nuslerp_row_wise: true", {"flatten": False, "row_wise": True}),
    ("multislerp", "normalize_weights: false", {"normalize": False}),
    ("ramplus_tl", "alpha: 0.3", {"r": 0.1, "alpha": 0.3}),
    ("ram", "r: 0.5", {"r": 0.5}),
]


@pytest.mark.parametrize(("method", "given", "expected"), RENAMED, ids=[case[0] for case in RENAMED])
def test_mergekits_names_of_parameters_are_known(tmp_path, method, given, expected):
    text = f"models: [{{model: a}}, {{model: b}}]\nmerge_method: {method}\nbase_model: base\nparameters: {{{given}}}\n"
    recipe = read_recipe(write_recipe(tmp_path, text))
    assert {name: setting.form for name, setting in recipe.slices[0].settings.items()} == expected
    assert (recipe.models, recipe.base) == (("a", "b"), "base")


@pytest.mark.parametrize(("method", "listed", "models", "base"), [
    ("ties", "[a, base, b]", ("a", "b"), "base"),  # the base's task vector would be zero
    ("slerp", "[a, base]", ("base", "a"), None),  # t counts from the base
    ("slerp", "[a]", ("base", "a"), None),  # it takes part, listed or not
    ("karcher", "[a, b]", ("a", "b", "base"), None),
    ("model_stock", "[a, b]", ("a", "b"), "base"),
])  # fmt: skip
def test_where_the_base_stands(tmp_path, method, listed, models, base):
    entries = ", ".join(f"{{model: {name}}}" for name in listed.strip("[]").split(", "))
    text = f"models: [{entries}]\nmerge_method: {method}\nbase_model: base\n"
    recipe = read_recipe(write_recipe(tmp_path, text + ("parameters: {t: 0.3}\n" if method == "slerp" else "")))
    assert (recipe.models, recipe.base) == (models, base)
    if method == "slerp":
        assert [w.form for w in recipe.slices[0].weights] == [0.7, 0.3]


@pytest.mark.parametrize(("method", "source", "expected"), [
    ("ties", "union", "union"), ("ties", "base", "base"), ("ties", "a", "first"),
    ("slerp", "base", "first"), ("linear", None, "same"),
])  # fmt: skip
def test_whose_tokens(tmp_path, method, source, expected):
    base = {"ties": "base_model: base\n", "slerp": "base_model: a\nparameters: {t: 0.3}\n", "linear": ""}[method]
    text = f"models: [{{model: a}}, {{model: b}}]\nmerge_method: {method}\n{base}"
    recipe = read_recipe(write_recipe(tmp_path, text + (f"tokenizer_source: {source}\n" if source else "")))
    assert recipe.tokenizer == expected


# What cannot be read, or cannot be done.


def test_everything_unknown_is_named_at_once_with_what_may_have_been_meant(tmp_path):
    text = """
        models:
          - model: a
            paramaters: {}
            parameters: {densty: 0.5, normalize: true}
        merge_method: ties
        base_modle: b
        chat_template: auto
        parameters: {lamda: 1}
        """
    with pytest.raises(InputError) as error:
        read_recipe(write_recipe(tmp_path, text))
    for part in ("base_modle (did you mean base_model?)", "chat_template", "parameters.lamda (did you mean lambda?)",
                 "models[0].paramaters (did you mean parameters?)", "models[0].parameters.densty (did you mean density?)",
                 "models[0].parameters.normalize (it is one for all models"):  # fmt: skip
        assert part in str(error.value)
    text = """
        slices:
          - sources: [{model: a, layer_rnge: [0, 1]}]
            residual_weight: 1
            parameters: {scael: 1}
        merge_method: passthrough
        """
    with pytest.raises(InputError) as error:
        read_recipe(write_recipe(tmp_path, text))
    for part in ("slices[0].sources[0].layer_rnge (did you mean layer_range?)", "slices[0].residual_weight",
                 "slices[0].parameters.scael (did you mean scale?)"):  # fmt: skip
        assert part in str(error.value)


REFUSED = [
    ("models: [{model: a}", "a recipe in JSON or YAML"),
    ("- a\n- b\n", "found list"),
    ("", "found NoneType"),
    ("models: [{model: a}]\n", "expected merge_method"),
    ("models: [{model: a}]\nmerge_method: tie\nbase_model: b\n", "Did you mean ties"),
    ("merge_method: linear\n", "either models or slices, found neither"),
    ("models: [{model: a}]\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\nmerge_method: linear\n", "found both"),
    ("models: 3\nmerge_method: linear\n", "a list with an entry"),
    ("models: []\nmerge_method: linear\n", "a list with an entry"),
    ("models: {model: a}\nmerge_method: linear\n", "a list with an entry"),
    ("models: [a, b]\nmerge_method: linear\n", r"models\[0\] is str, not a mapping; models\[1\] is str"),
    ("models: [{parameters: {weight: 1}}]\nmerge_method: linear\n", "a directory or a hub id in every entry"),
    ("models: [{model: {path: a}}]\nmerge_method: linear\n", "a directory or a hub id in every entry"),
    ("models: [{model: a, parameters: [1]}]\nmerge_method: linear\n", "parameters is list, not a mapping"),
    ("models: [{model: a, parameters: {weight: 1}}, {model: b}]\nmerge_method: linear\n", "one for each model, found 1 without"),
    ("models: [{model: a, parameters: {weight: []}}]\nmerge_method: linear\n", "an empty list"),
    ("models: [{model: a}]\nmerge_method: linear\ndtype: int8\n", "dtype in .*expected bfloat16, float16, float32"),
    ("models: [{model: a}]\nmerge_method: linear\ntokenizer_source: elsewhere\n", "union, base, or the first model"),
    ("models: [{model: a}, {model: b}]\nmerge_method: slerp\nparameters: {t: 1}\n", "a base_model, from which t counts"),
    ("models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\n", "expected the parameter t"),
    ("models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: {filter: x}}\n", "filter and value"),
    ("models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: half}\n", "a number from 0 to 1"),
    ("models: [{model: a}]\nmerge_method: ties\nbase_model: a\n", "a model beside the base_model"),
    ("slices: 1\nmerge_method: passthrough\n", "slices in .*a list with an entry"),
    ("slices: [{sources: 1}]\nmerge_method: passthrough\n", "sources in .*a list with an entry"),
    ("slices: [{sources: [{layer_range: [0, 1]}]}]\nmerge_method: passthrough\n", "a directory or a hub id in every entry"),
    ("slices: [{sources: [{model: a}]}]\nmerge_method: passthrough\n", "two layer numbers, found None"),
    ("slices: [{sources: [{model: a, layer_range: [0]}]}]\nmerge_method: passthrough\n", "two layer numbers"),
    ("slices: [{sources: [{model: a, layer_range: [0, 1.5]}]}]\nmerge_method: passthrough\n", "two layer numbers"),
    ("slices: [{base_model: x, sources: [{model: a, layer_range: [0, 1]}]}]\nmerge_method: passthrough\n", "one base_model"),
    ("slices: [{sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [1, 2]}]}]\n"
     "merge_method: ties\nbase_model: b\n", "that of the first model"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_means_nothing_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_recipe(write_recipe(tmp_path, text))


def test_a_recipe_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_recipe(tmp_path / "none.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="a recipe in JSON or YAML"):
        read_recipe(tmp_path / "binary.yml")


def planned(directory: Path, slices: str, method: str = "passthrough") -> Any:
    return plan_recipe(read_recipe(write_recipe(directory, f"merge_method: {method}\nslices:\n{slices}")))


@pytest.mark.parametrize(("span", "message"), [
    ("[0, 4]", "a range within 0 to 3, found 0 to 4"), ("[-1, 2]", "found -1 to 2"), ("[2, 2]", "found 2 to 2"),
    ("[2, 1]", "found 2 to 1"),
])  # fmt: skip
def test_layers_that_are_not_there_are_refused(tmp_path, monkeypatch, span, message):
    monkeypatch.chdir(tmp_path)
    llama(tmp_path / "a", 3, 0)
    with pytest.raises(InputError, match=message):
        planned(tmp_path, f"  - sources: [{{model: a, layer_range: {span}}}]")


def test_slices_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llama(tmp_path / "a", 3, 0)
    llama(tmp_path / "b", 3, 1)
    both = "  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]"
    with pytest.raises(InputError, match="as many layers of each model"):
        planned(tmp_path, both, "linear")
    with pytest.raises(InputError, match="expected 1 models, found 2"):
        planned(tmp_path, both.replace("[0, 3]", "[0, 2]"))
    write_raw(tmp_path / "flat", random_tensors(0))
    with pytest.raises(InputError, match="numbered layers to slice"):
        planned(tmp_path, "  - sources: [{model: flat, layer_range: [0, 1]}]")


def test_slices_of_models_with_other_tensors_are_refused(tmp_path, monkeypatch):
    """A tensor that only some models have must not be lost: neither in a layer nor outside of them."""
    monkeypatch.chdir(tmp_path)
    tensors = {f"layers.{i}.w": torch.zeros(2, 2) for i in range(2)} | {"head.weight": torch.zeros(2, 2)}
    write_raw(tmp_path / "a", tensors)
    write_raw(tmp_path / "bias", {**tensors, "layers.1.b": torch.zeros(2)})
    write_raw(tmp_path / "head", {**tensors, "head.bias": torch.zeros(2)})
    pair = "  - sources: [{{model: a, layer_range: [0, 2]}}, {{model: {}, layer_range: [0, 2]}}]"
    with pytest.raises(InputError, match=r"layer layers.1\.\* of bias: expected tensors as in .*, found b"):
        planned(tmp_path, pair.format("bias"), "linear")
    with pytest.raises(MismatchError, match=r"extra: head.bias"):
        planned(tmp_path, pair.format("head"), "linear")


def test_an_encoder_decoder_is_not_sliced(tmp_path, monkeypatch):
    """It has two stacks, and a layer_range does not say which is meant."""
    monkeypatch.chdir(tmp_path)
    tensors = {f"{part}.block.{i}.w": torch.zeros(2) for part in ("encoder", "decoder") for i in range(2)}
    write_raw(tmp_path / "a", tensors, num_layers=2, num_decoder_layers=2)
    with pytest.raises(InputError, match=r"one stack of layers to slice, found decoder\.block\.\*, encoder\.block\.\*"):
        planned(tmp_path, "  - sources: [{model: a, layer_range: [0, 1]}]")


# Stacked slices.


def stacked_kinds() -> dict[str, tuple[Any, Any, str, str]]:
    """By name: class, configuration of so many layers, prefix of its layers, the key with their number."""
    import transformers as t

    small = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    few = {**small, "num_key_value_heads": 1, "head_dim": 4}

    def kinds(layers: int) -> list[str]:
        return ["sliding_attention" if i % 2 else "full_attention" for i in range(layers)]

    return {
        "llama": (
            t.LlamaForCausalLM, lambda n: t.LlamaConfig(**small, num_hidden_layers=n), "model.layers.", "num_hidden_layers",
        ),
        "gpt2": (
            t.GPT2LMHeadModel, lambda n: t.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=n, n_head=2),
            "transformer.h.", "n_layer",
        ),
        "gemma2": (
            t.Gemma2ForCausalLM,
            lambda n: t.Gemma2Config(**few, num_hidden_layers=n, layer_types=kinds(n), sliding_window=2, query_pre_attn_scalar=4),
            "model.layers.", "num_hidden_layers",
        ),
        "qwen2": (
            t.Qwen2ForCausalLM,
            lambda n: t.Qwen2Config(
                **small, num_key_value_heads=1, num_hidden_layers=n, layer_types=kinds(n), use_sliding_window=True,
                sliding_window=2,
            ),
            "model.layers.", "num_hidden_layers",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
def test_stacked_slices_give_a_model_of_these_layers(tmp_path, monkeypatch, kind):
    """Oracle: transformers' model of five layers, its parameters set from those of the layers asked for."""
    monkeypatch.chdir(tmp_path)
    cls, config, prefix, key = stacked_kinds()[kind]
    for seed, name in enumerate("ab"):
        save(cls, config(4), tmp_path / name, seed)
    text = """
        slices:
          - sources: [{model: a, layer_range: [0, 3]}]
          - sources: [{model: b, layer_range: [1, 2]}]
          - sources: [{model: b, layer_range: [1, 2]}]
        merge_method: passthrough
        """
    fused = carry_out(write_recipe(tmp_path, text), tmp_path / "out")
    told = json.loads((tmp_path / "out/config.json").read_text())
    assert told[key] == 5
    a, b = (cls.from_pretrained(tmp_path / name) for name in "ab")
    taken = [(a, 0), (a, 1), (a, 2), (b, 1), (b, 1)]
    expected_config = config(5)
    if "layer_types" in told:
        expected_config.layer_types = [model.config.layer_types[i] for model, i in taken]
        assert told["layer_types"] == expected_config.layer_types
        assert told["layer_types"] != config(5).layer_types
    before = ("embed_tokens", "wte", "wpe")
    state = {n: (a if any(part in n for part in before) else b).state_dict()[n] for n in a.state_dict() if prefix not in n}
    for number, (model, layer) in enumerate(taken):
        start = f"{prefix}{layer}."
        state |= {f"{prefix}{number}.{n[len(start) :]}": t for n, t in model.state_dict().items() if n.startswith(start)}
    if a.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    oracle = cls(expected_config)
    missing, unexpected = oracle.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    oracle.tie_weights()
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        wanted = oracle.eval()(ids).logits
        found = cls.from_pretrained(tmp_path / "out").eval()(ids).logits
    torch.testing.assert_close(found, wanted)
    assert [one["layers"] for one in fused.manifest["recipe"]["slices"]] == [[[0, 3]], [[1, 2]], [[1, 2]]]


def test_a_configuration_of_parts_gets_its_number_of_layers(tmp_path, monkeypatch):
    """A vision-language model says the depth of its language model in ``text_config``."""
    monkeypatch.chdir(tmp_path)
    tensors = {f"language_model.layers.{i}.w": torch.full((2,), float(i)) for i in range(3)}
    tensors |= {"vision.layers.0.w": torch.zeros(2), "vision.layers.1.w": torch.zeros(2)}
    text_config = {"num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}
    config = {"text_config": text_config, "vision_config": {"num_hidden_layers": 2}, "eos_token_id": [1, 2, 3]}
    write_raw(tmp_path / "a", tensors, **config)
    carry_out(write_recipe(tmp_path, """
        merge_method: passthrough
        slices:
          - sources: [{model: a, layer_range: [0, 2]}]
          - sources: [{model: a, layer_range: [1, 3]}]
        """), tmp_path / "out")  # fmt: skip
    told = json.loads((tmp_path / "out/config.json").read_text())
    assert told["text_config"] == {"num_hidden_layers": 4, "layer_types": ["x", "y", "y", "z"]}
    assert told["vision_config"] == {"num_hidden_layers": 2}
    assert told["eos_token_id"] == [1, 2, 3]
    assert [float(open_checkpoint(tmp_path / "out")[f"language_model.layers.{i}.w"][0]) for i in range(4)] == [0, 1, 1, 2]


def test_gradients_run_over_each_slice(tmp_path, monkeypatch):
    """As in mergekit: a slice of one layer counts as its last."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 0.0), ("b", 1.0)):
        tensors = {f"layers.{i}.w": torch.full((2,), value) for i in range(4)}
        write_raw(tmp_path / name, {**tensors, "embed.weight": torch.full((2,), value), "head.weight": torch.full((2,), value)})
    carry_out(write_recipe(tmp_path, """
        merge_method: slerp
        base_model: a
        parameters: {t: [0.25, 0.75]}
        slices:
          - sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]
          - sources: [{model: a, layer_range: [3, 4]}, {model: b, layer_range: [0, 1]}]
            parameters: {t: [0, 0.5, 1]}
        """), tmp_path / "out")  # fmt: skip
    out = load_file(tmp_path / "out/model.safetensors")
    assert [float(out[f"layers.{i}.w"][0]) for i in range(4)] == [0.25, 0.5, 0.75, 1]
    assert (float(out["embed.weight"][0]), float(out["head.weight"][0])) == (0.25, 0)


# Manifests.


def replayed(out: Path, directory: Path) -> Fused:
    """Make a manifest's output again; it must be the same to the bit, and so must its manifest."""
    before = json.loads((out / "fuseforget.json").read_text())
    again = carry_out(out / "fuseforget.json", directory)
    for file in sorted(out.iterdir()):
        if file.name != "fuseforget.json":
            assert file_sha256(file) == file_sha256(directory / file.name), file.name
    after = json.loads((directory / "fuseforget.json").read_text())
    assert {**before, "created": ""} == {**after, "created": ""}
    return again


def test_a_manifest_of_slices_makes_them_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b", "base")):
        llama(tmp_path / name, 3, seed)
    text = """
        merge_method: dare_ties
        base_model: base
        slices:
          - sources:
              - {model: a, layer_range: [0, 2], parameters: {weight: [0.2, 0.8], density: 0.5}}
              - {model: b, layer_range: [0, 2], parameters: {weight: 0.5, density: [{filter: mlp, value: [0.3, 0.9]}]}}
          - sources:
              - {model: b, layer_range: [1, 3], parameters: {weight: [{filter: attn, value: 1}, {value: 0}]}}
        parameters: {normalize: false, lambda: 1.5}
        dtype: bfloat16
        """
    carry_out(write_recipe(tmp_path, text), tmp_path / "out")
    replayed(tmp_path / "out", tmp_path / "again")


def test_a_manifest_of_parameters_by_model_and_name_makes_it_again(raw, tmp_path):
    models, base = [raw(f"m{i}", i) for i in range(3)], raw("base", 9)
    parameters = parse_parameters(["density=0.5", "density:2=0.9,0.1", "density:3@a=0.2", "density:3=0.7", "lambda@b.bias=2",
                                   "lambda=1"])  # fmt: skip
    fuse(models, tmp_path / "out", "ties", [0.2, [0.3, 0.1], [{"filter": "b.", "value": 1}, {"value": 0.5}]], base=base,
         seed=7, dtype="float16", **parameters)  # fmt: skip
    fused = replayed(tmp_path / "out", tmp_path / "again")
    assert fused.manifest["recipe"]["slices"][0]["parameters"]["density"] == {
        "each": [0.5, [0.9, 0.1], [{"filter": "a", "value": 0.2}, {"value": 0.7}]]
    }


def test_a_manifest_with_statistics_makes_it_again(raw, tmp_path):
    models = [raw(f"m{i}", i) for i in range(2)]
    positive = {n: t.abs() + 0.1 for n, t in random_tensors(5).items() if t.is_floating_point()}
    statistics = [raw("s0", tensors=positive), raw("s1", tensors={n: 2 * t for n, t in positive.items()})]
    fuse(models, tmp_path / "out", "fisher", statistics=statistics)
    replayed(tmp_path / "out", tmp_path / "again")


def test_what_is_no_manifest_is_refused(raw, tmp_path):
    fuse([raw("a", 1)], tmp_path / "out")
    whole = json.loads((tmp_path / "out/fuseforget.json").read_text())
    for spoil in (
        lambda m: m["recipe"].pop("models"), lambda m: m.pop("inputs"), lambda m: m["recipe"].update(slices=[{}]),
        lambda m: m["recipe"].update(mehtod="average"), lambda m: m.update(recipe=[]), lambda m: m["inputs"][0].pop("blake3"),
    ):  # fmt: skip
        spoiled = json.loads(json.dumps(whole))
        spoil(spoiled)
        (tmp_path / "spoiled.json").write_text(json.dumps(spoiled))
        with pytest.raises(InputError, match=r"the manifest of a fusion"):
            read_recipe(tmp_path / "spoiled.json")
