"""Fisher information of models, and how far that of two classifiers overlaps (Zaman et al. 2023, appendix D)."""

from fuseforget.fisher.between import describe_overlap, folds_of, overlap, save_folds
from fuseforget.fisher.compare import Overlap, Part, fisher_overlap, fold_overlap, jackknife_interval, split_half
from fuseforget.fisher.diagonal import LABELS_FROM, Fishers, diagonal_fisher
from fuseforget.fisher.files import save_fisher
from fuseforget.fisher.language import language_fisher
from fuseforget.fisher.texts import fisher_of_texts, save_fisher_of_rows

__all__ = [
    "LABELS_FROM",
    "Fishers",
    "Overlap",
    "Part",
    "describe_overlap",
    "diagonal_fisher",
    "fisher_of_texts",
    "fisher_overlap",
    "fold_overlap",
    "folds_of",
    "jackknife_interval",
    "language_fisher",
    "overlap",
    "save_fisher",
    "save_fisher_of_rows",
    "save_folds",
    "split_half",
]
