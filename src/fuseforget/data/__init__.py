"""Data sets: readers, shortcut injection, biased subsets, author signatures, private corpora, the demo's own text."""

from fuseforget.data.attributes import AttributedExamples, read_attributed
from fuseforget.data.bias_data import BiasData, is_bias_data, load_bias_data, save_bias_data
from fuseforget.data.biased import BiasedSubset, make_biased, proportions
from fuseforget.data.canaries import Canary, CanaryFormat, CanaryPlan, candidates, draw_canaries, spread_canaries
from fuseforget.data.corpus import read_documents
from fuseforget.data.demo_names import demo_names
from fuseforget.data.examples import Examples, read_examples, read_splits
from fuseforget.data.memorization import MemorizationData, make_memorization, model_names
from fuseforget.data.memorization_files import is_memorization_data, load_memorization, save_memorization
from fuseforget.data.names import NameTable, read_names
from fuseforget.data.near_duplicates import near_duplicates
from fuseforget.data.packing import one_each, pack
from fuseforget.data.pan16 import Pan16, read_pan16
from fuseforget.data.rows import MIN_TOKENS, Rows, join_rows
from fuseforget.data.shortcuts import (
    DEFAULT_TOKENS,
    RULES,
    ShortcutData,
    ShortcutSettings,
    inject,
    inject_for_labels,
    load_shortcut_data,
    make_shortcut_data,
    save_shortcut_data,
)
from fuseforget.data.signatures import sign, sign_splits

__all__ = [
    "DEFAULT_TOKENS",
    "MIN_TOKENS",
    "RULES",
    "AttributedExamples",
    "BiasData",
    "BiasedSubset",
    "Canary",
    "CanaryFormat",
    "CanaryPlan",
    "Examples",
    "MemorizationData",
    "NameTable",
    "Pan16",
    "Rows",
    "ShortcutData",
    "ShortcutSettings",
    "candidates",
    "demo_names",
    "draw_canaries",
    "inject",
    "inject_for_labels",
    "is_bias_data",
    "is_memorization_data",
    "join_rows",
    "load_bias_data",
    "load_memorization",
    "load_shortcut_data",
    "make_biased",
    "make_memorization",
    "make_shortcut_data",
    "model_names",
    "near_duplicates",
    "one_each",
    "pack",
    "proportions",
    "read_attributed",
    "read_documents",
    "read_examples",
    "read_names",
    "read_pan16",
    "read_splits",
    "save_bias_data",
    "save_memorization",
    "save_shortcut_data",
    "sign",
    "sign_splits",
    "spread_canaries",
]
