"""Data sets: readers, shortcut injection, the demo's own text."""

from fuseforget.data.examples import Examples, read_examples, read_splits
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

__all__ = [
    "DEFAULT_TOKENS",
    "RULES",
    "Examples",
    "ShortcutData",
    "ShortcutSettings",
    "inject",
    "inject_for_labels",
    "load_shortcut_data",
    "make_shortcut_data",
    "read_examples",
    "read_splits",
    "save_shortcut_data",
]
