"""Imported once by the server whose forks tests kill: everything that takes long to import, and nothing that computes."""

import datasets
import torch
import transformers
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import fuseforget.paths
import fuseforget.train.trainer

__all__ = [
    "BertForSequenceClassification", "DataCollatorWithPadding", "PreTrainedTokenizerFast", "Trainer", "TrainingArguments",
    "datasets", "fuseforget", "torch", "transformers",
]  # fmt: skip
