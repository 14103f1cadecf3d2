"""Section 6 and appendix E of the paper: what models memorise of their training data, and what of it their average forgets."""

from fuseforget.studies.memorization.settings import PARTS, RECIPES, SCALES, MemorizationStudy, settings_for
from fuseforget.studies.memorization.study import run_memorization_study

__all__ = ["PARTS", "RECIPES", "SCALES", "MemorizationStudy", "run_memorization_study", "settings_for"]
