"""Make what docs/fusing.md fuses, from the models of the demo: two LoRA adapters and a model with two more words.

python examples/make_models.py runs/demo made
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def make_adapter(base: Path, out: Path, seed: int) -> None:
    """Save an adapter of rank 8 with random values: what it says does not matter here."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.save_pretrained(out)


def make_wider(model: Path, out: Path) -> None:
    """Save a model with two more words than it had."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["hamlet", "yorick"])
    wider = AutoModelForSequenceClassification.from_pretrained(model)
    wider.resize_token_embeddings(len(tokenizer))
    wider.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    run, made = Path(sys.argv[1]), Path(sys.argv[2])
    for seed, name in enumerate(("lora-a", "lora-b")):
        make_adapter(run / "models/start", made / name, seed)
    make_wider(run / "models/tic", made / "wider")
