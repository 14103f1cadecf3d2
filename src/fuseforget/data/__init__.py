"""Data sets: readers, shortcut injection, biased subsets, author signatures, the demo's own text."""

from fuseforget.data.attributes import AttributedExamples, read_attributed
from fuseforget.data.bias_data import BiasData, is_bias_data, load_bias_data, save_bias_data
from fuseforget.data.biased import BiasedSubset, make_biased, proportions
from fuseforget.data.demo_names import demo_names
from fuseforget.data.examples import Examples, read_examples, read_splits
from fuseforget.data.names import NameTable, read_names
from fuseforget.data.pan16 import Pan16, read_pan16
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
    "RULES",
    "AttributedExamples",
    "BiasData",
    "BiasedSubset",
    "Examples",
    "NameTable",
    "Pan16",
    "ShortcutData",
    "ShortcutSettings",
    "demo_names",
    "inject",
    "inject_for_labels",
    "is_bias_data",
    "load_bias_data",
    "load_shortcut_data",
    "make_biased",
    "make_shortcut_data",
    "proportions",
    "read_attributed",
    "read_examples",
    "read_names",
    "read_pan16",
    "read_splits",
    "save_bias_data",
    "save_shortcut_data",
    "sign",
    "sign_splits",
]
