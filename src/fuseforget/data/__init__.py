"""Data sets: readers, shortcut injection, biased subsets, author signatures, the demo's own text."""

from fuseforget.data.attributes import AttributedExamples, read_attributed
from fuseforget.data.biased import BiasedSubset, make_biased, proportions
from fuseforget.data.examples import Examples, read_examples, read_splits
from fuseforget.data.names import NameTable, read_names
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
    "BiasedSubset",
    "Examples",
    "NameTable",
    "ShortcutData",
    "ShortcutSettings",
    "inject",
    "inject_for_labels",
    "load_shortcut_data",
    "make_biased",
    "make_shortcut_data",
    "proportions",
    "read_attributed",
    "read_examples",
    "read_names",
    "read_splits",
    "save_shortcut_data",
    "sign",
    "sign_splits",
]
