"""Erase what a linear classifier can read of a concept from features: INLP and LEACE, and heads fitted again."""

from fuseforget.erasure.eraser import Eraser
from fuseforget.erasure.head import Head, Readable, fit_head, readable
from fuseforget.erasure.inlp import Inlp, Step, fit_inlp
from fuseforget.erasure.leace import fit_leace
from fuseforget.erasure.methods import ERASURES, fit_eraser, require_erasure

__all__ = [
    "ERASURES",
    "Eraser",
    "Head",
    "Inlp",
    "Readable",
    "Step",
    "fit_eraser",
    "fit_head",
    "fit_inlp",
    "fit_leace",
    "readable",
    "require_erasure",
]
