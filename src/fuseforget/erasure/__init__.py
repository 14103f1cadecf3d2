"""Erase what a linear classifier can read of a concept from features: INLP and LEACE, and heads fitted again."""

from fuseforget.erasure.eraser import Eraser
from fuseforget.erasure.head import Head, Readable, fit_head, readable
from fuseforget.erasure.inlp import Inlp, Step, fit_inlp
from fuseforget.erasure.leace import fit_leace

__all__ = ["Eraser", "Head", "Inlp", "Readable", "Step", "fit_head", "fit_inlp", "fit_leace", "readable"]
