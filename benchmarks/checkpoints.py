"""Seeded Llama-shaped bf16 checkpoints for benchmarks: real shapes, random values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from fuseforget.checkpoint.header import encode_header

__all__ = ["SHAPES", "Shape", "make_checkpoint", "make_sparse"]


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int

    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of every tensor, in file order."""
        head = self.hidden // self.heads
        shapes: dict[str, tuple[int, ...]] = {
            "lm_head.weight": (self.vocabulary, self.hidden),
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            shapes |= {
                f"{layer}input_layernorm.weight": (self.hidden,),
                f"{layer}post_attention_layernorm.weight": (self.hidden,),
                f"{layer}mlp.down_proj.weight": (self.hidden, self.intermediate),
                f"{layer}mlp.gate_proj.weight": (self.intermediate, self.hidden),
                f"{layer}mlp.up_proj.weight": (self.intermediate, self.hidden),
                f"{layer}self_attn.q_proj.weight": (self.heads * head, self.hidden),
                f"{layer}self_attn.k_proj.weight": (self.key_value_heads * head, self.hidden),
                f"{layer}self_attn.v_proj.weight": (self.key_value_heads * head, self.hidden),
                f"{layer}self_attn.o_proj.weight": (self.hidden, self.heads * head),
            }
        return [(name, "BF16", shape) for name, shape in sorted(shapes.items())]

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.hidden, "dtype": "bfloat16",
            "intermediate_size": self.intermediate, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads, "vocab_size": self.vocabulary, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048, "tie_word_embeddings": False, "hidden_act": "silu",
        }  # fmt: skip


SHAPES = {
    "0.1b": Shape(512, 1408, 8, 8, 4, 32000),
    "1.1b": Shape(2048, 5632, 22, 32, 4, 32000),  # TinyLlama's
    "8b": Shape(4096, 14336, 32, 32, 8, 128256),  # Llama 3's
}


def make_checkpoint(directory: Path, shape: Shape, seed: int, *, around: int | None = None, spread: float = 0.002) -> None:
    """Write a checkpoint of normal values of deviation .02; with ``around``, that seed's values plus small differences."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    own = torch.Generator().manual_seed(seed)
    base = torch.Generator().manual_seed(seed if around is None else around)
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(encode_header(shape.tensors()))
        for _, _, size in shape.tensors():
            values = torch.empty(size).normal_(0, 0.02, generator=base)
            if around is not None:
                values += torch.empty(size).normal_(0, spread, generator=own)
            stream.write(values.bfloat16().view(torch.uint8).numpy().data)


def make_sparse(directory: Path, shape: Shape) -> None:
    """Write a checkpoint of zeros that takes no disk: a file with a hole."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    header = encode_header(shape.tensors())
    nbytes = sum(2 * torch.Size(size).numel() for _, _, size in shape.tensors())
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + nbytes)
