"""The shortcut study: Zaman et al. 2023, section 4, Figures 2 and 4.

Specialists that each learned the task and one shortcut, a control that learned no shortcut, and a full model trained on all
their data start from one checkpoint. The specialists are fused, pairs of them are interpolated, and every model is asked
for every shortcut and for the task. Each finished step is a record, so that a killed study goes on where it was.
"""

from fuseforget.studies.shortcuts.settings import SCALES, ShortcutStudy, settings_for
from fuseforget.studies.shortcuts.study import run_shortcut_study

__all__ = ["SCALES", "ShortcutStudy", "run_shortcut_study", "settings_for"]
