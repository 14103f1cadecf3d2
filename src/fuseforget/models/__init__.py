"""The one room that touches transformers models: load, prepare, set weights in place, predict, score.

Sequence classifiers and language models, of any architecture that transformers knows.
"""

from fuseforget.models.batches import (
    Batch,
    batch_tokens,
    by_length,
    describe_cut,
    encode_batches,
    max_tokens,
    padded,
    plan_batches,
    tokenise,
)
from fuseforget.models.candidates import candidate_log_probs
from fuseforget.models.classifier import Classifier, label_names, load_classifier, save_classifier
from fuseforget.models.debias import ERASER_NAME, debias, with_eraser
from fuseforget.models.energies import Energies, energies
from fuseforget.models.features import features, features_and_logits, has_bias, head_of
from fuseforget.models.language import (
    LanguageModel,
    encode,
    is_language_model,
    is_masked,
    load_language_model,
    max_positions,
    padding_id,
    save_language_model,
    tokenizer_sha256,
)
from fuseforget.models.masks import Masks, draw_masks
from fuseforget.models.prediction import predict
from fuseforget.models.reader import TextReader, read_text_reader
from fuseforget.models.running import autocast, compute_dtype, cores, device, evaluating, intra_op, quiet, seeded, use_cores
from fuseforget.models.scores import TokenScores, token_scores
from fuseforget.models.starts import add_word_tokens, prepare_start, random_like
from fuseforget.models.vocabulary import UsedVocabulary, used_vocabulary
from fuseforget.models.weights import set_weights, weight_slots

__all__ = [
    "ERASER_NAME",
    "Batch",
    "Classifier",
    "Energies",
    "LanguageModel",
    "Masks",
    "TextReader",
    "TokenScores",
    "UsedVocabulary",
    "add_word_tokens",
    "autocast",
    "batch_tokens",
    "by_length",
    "candidate_log_probs",
    "compute_dtype",
    "cores",
    "debias",
    "describe_cut",
    "device",
    "draw_masks",
    "encode",
    "encode_batches",
    "energies",
    "evaluating",
    "features",
    "features_and_logits",
    "has_bias",
    "head_of",
    "intra_op",
    "is_language_model",
    "is_masked",
    "label_names",
    "load_classifier",
    "load_language_model",
    "max_positions",
    "max_tokens",
    "padded",
    "padding_id",
    "plan_batches",
    "predict",
    "prepare_start",
    "quiet",
    "random_like",
    "read_text_reader",
    "save_classifier",
    "save_language_model",
    "seeded",
    "set_weights",
    "token_scores",
    "tokenise",
    "tokenizer_sha256",
    "use_cores",
    "used_vocabulary",
    "weight_slots",
    "with_eraser",
]
